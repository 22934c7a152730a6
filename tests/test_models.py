"""Networks: normalisation exchanged, everything else as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.models.build import build_model, skip_reason
from benchmark.models.normalisation import NORMALISATIONS, InstanceBatchNorm, normalise

NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def count(model: nn.Module) -> dict[str, int]:
    kinds = [type(m).__name__ for m in model.modules() if isinstance(m, NORMS)]
    return {kind: kinds.count(kind) for kind in set(kinds)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # stem 1 + 8 blocks × 2 + 3 shortcuts = 20; IBN-a: bn1 of the 6 blocks of stages 1-3
        ("bn", {"BatchNorm2d": 20}),
        ("gn", {"GroupNorm": 20}),
        ("in", {"InstanceNorm2d": 20}),
        ("ibn_a", {"BatchNorm2d": 20, "InstanceNorm2d": 6}),
    ],
)
def test_resnet18_holds_the_normalisations_its_name_says(name: str, expected: dict) -> None:
    model = build_model("resnet18", name, {}, classes=5, image_size=64, seed=0)
    assert count(model) == expected


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_forward_and_backward_are_finite(name: str) -> None:
    model = build_model("resnet10t", name, {}, classes=5, image_size=48, seed=0)
    model(torch.randn(4, 3, 48, 48)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_initial_convolutions_are_paired_across_normalisations_and_follow_the_seed() -> None:
    def weights(name: str, seed: int) -> list[torch.Tensor]:
        model = build_model("resnet10t", name, {}, 5, 48, seed)
        return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]

    for name in NORMALISATIONS:
        assert all(
            torch.equal(a, b) for a, b in zip(weights("bn", 1), weights(name, 1), strict=True)
        )
    assert not torch.equal(weights("bn", 1)[0], weights("bn", 2)[0])


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model("resnet10t", "bn", {}, 5, 48, seed=9)
    assert torch.equal(torch.rand(1), expected)


def test_affine_parameters_are_carried_slices_for_ibn() -> None:
    bn = nn.BatchNorm2d(6)
    nn.init.uniform_(bn.weight)
    nn.init.uniform_(bn.bias)
    ibn = InstanceBatchNorm(bn)
    assert torch.equal(torch.cat([ibn.IN.weight, ibn.BN.weight]), bn.weight)
    assert torch.equal(torch.cat([ibn.IN.bias, ibn.BN.bias]), bn.bias)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), bn)
    normalise(model, "gn", {"groups": 4})
    assert model[1].num_groups == 3  # the largest number up to 4 that divides 6
    assert torch.equal(model[1].weight, bn.weight)


def test_ibn_normalises_its_first_half_per_image_and_the_rest_per_batch() -> None:
    ibn = InstanceBatchNorm(nn.BatchNorm2d(4)).train()
    x = torch.randn(8, 4, 5, 5) * 3 + torch.arange(8.0)[:, None, None, None]
    y = ibn(x)
    assert torch.allclose(y[:, :2].mean(dim=(2, 3)), torch.zeros(8, 2), atol=1e-5)
    assert torch.allclose(y[:, 2:].mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert y[:, 2:].mean(dim=(2, 3)).abs().max() > 0.5  # single images keep their offset there


def test_activations_that_timm_fuses_into_its_norm_layers_stay() -> None:
    plain = build_model("efficientnet_b0", "bn", {}, 5, 64, 0)
    converted = build_model("efficientnet_b0", "gn", {}, 5, 64, 0)

    def activations(model: nn.Module) -> int:
        return sum(isinstance(m, nn.SiLU) for m in model.modules())

    assert activations(converted) == activations(plain) > 0
    assert count(converted).keys() == {"GroupNorm"}


def test_a_combination_without_sense_is_skipped_with_a_reason() -> None:
    assert "no batch normalisation" in skip_reason("vit_tiny_patch16_224", "gn", {}, 64)
    assert "residual blocks" in skip_reason("vgg11_bn", "ibn_a", {}, 64)
    assert skip_reason("resnet18", "ibn_a", {}, 64) is None


def test_unknown_names_and_parameters_are_one_line_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown backbone 'resnet81' \(timm\); did you mean 'resnet18'"
    ):
        build_model("resnet81", "bn", {}, 5, 48, 0)
    with pytest.raises(UserError, match="unknown parameter 'group'; did you mean 'groups'"):
        build_model("resnet10t", "gn", {"group": 4}, 5, 48, 0)
    with pytest.raises(UserError, match="unknown parameter 'x'; it takes none"):
        build_model("resnet10t", "in", {"x": 4}, 5, 48, 0)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_state_round_trips_and_evaluation_does_not_depend_on_the_batch(name: str) -> None:
    model = build_model("resnet10t", name, {}, 5, 48, 0)
    model.train()(torch.randn(8, 3, 48, 48))
    twin = build_model("resnet10t", name, {}, 5, 48, 1)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(6, 3, 48, 48)
    with torch.no_grad():
        together, alone = twin.eval()(x), torch.cat([model.eval()(x[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-4)
