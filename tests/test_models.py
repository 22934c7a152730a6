"""Networks: built by name, normalisation exchanged, everything else as it was."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UserError
from benchmark.models.build import build_model, skip_reason
from benchmark.models.heads import classifier_name, features_and_logits
from benchmark.models.normalisation import NORMALISATIONS, Skip, norm_layers, normalise
from benchmark.settings import Weights

BACKBONES = {  # those of the published systems: their own normalisation, how many layers of it
    "resnet18": ("bn", 20),
    "resnet34": ("bn", 36),
    "resnet50": ("bn", 53),
    "resnet152": ("bn", 155),
    "resnext50_32x4d": ("bn", 53),
    "regnety_040": ("bn", 71),
    "regnety_080": ("bn", 56),
    "vgg16": ("none", 0),
    "vgg16_bn": ("bn", 13),
    "densenet121": ("bn", 121),
    "mobilenetv3_large_100": ("bn", 46),
    "efficientnet_b0": ("bn", 49),
    "inception_v3": ("bn", 94),
    "legacy_xception": ("bn", 40),
    "squeezenet1_1": ("none", 0),
    "resnet50_gn": ("gn", 53),
    "resnetv2_50d_gn": ("gn", 51),
    "resnetv2_50d_evos": ("evonorm", 51),
    "convnext_tiny": ("ln", 23),
    "vit_tiny_patch16_224": ("ln", 25),
    "vit_small_patch16_224": ("ln", 25),
    "vit_base_patch16_224": ("ln", 25),
    "swin_tiny_patch4_window7_224": ("ln", 29),
    "swin_small_patch4_window7_224": ("ln", 53),
    "crossformer_tiny": ("ln", 85),
    "crossformer_small": ("ln", 65),
    "crossformer_base": ("ln", 125),
    "resnet50+lstm": ("bn", 53),
}
KINDS = {"bn": "batch", "gn": "group", "ln": "layer", "evonorm": "evonorm"}
SMALL = dict.fromkeys(NORMALISATIONS, "resnet10t") | {
    "ln": "convnext_atto",
    "evonorm": "resnetv2_50d_evos",
}


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A file of resnet10t whose statistics have seen images, for `bn_frozen`."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model = build_model("resnet10t", "bn", {}, 3, 48, seed=7).train()
    for parameter in (p for n, p in model.named_parameters() if "bn" in n):
        nn.init.uniform_(parameter, 0.5, 1.5)
    for _ in range(20):
        model(torch.randn(8, 3, 48, 48))
    save_file(model.state_dict(), path)
    return Weights(file=str(path))


@pytest.fixture
def small(small_weights: Weights):
    """Build the small network of a normalisation for images of 48 pixels."""

    def build(normalisation: str, seed: int = 0) -> nn.Module:
        weights = small_weights if normalisation == "bn_frozen" else Weights()
        backbone = SMALL[normalisation]
        return build_model(backbone, normalisation, {}, 5, 48, seed, weights=weights)

    return build


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_of_the_published_systems_has_its_normalisation_and_one_classifier(
    name: str,
) -> None:
    own, layers = BACKBONES[name]
    with torch.device("meta"):
        model = build_model(name, own, {}, 5, 96, seed=0)
        features, logits = features_and_logits(model, torch.empty(2, 3, 96, 96))
        assert norm_layers(model) == ({KINDS[own]: layers} if layers else {})
        assert features.shape == (2, model.get_submodule(classifier_name(model)).weight.shape[1])
        assert logits.shape == (2, 5)
        if own == "bn":
            normalise(model, "gn", {})
            own = "gn"
            assert norm_layers(model) == {"group": layers}
        for other in NORMALISATIONS.keys() - {own}:
            with pytest.raises(Skip, match="no batch normalisation to exchange"):
                normalise(model, other, {})


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_forward_and_backward_are_finite(name: str, small) -> None:
    model = small(name).train()
    model(torch.randn(4, 3, 48, 48)).square().mean().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(torch.isfinite(p.grad).all() for p in trained)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_autocast_to_bf16_predicts_near_fp32(name: str, small) -> None:
    model = small(name).eval()
    x = torch.randn(4, 3, 48, 48)
    with torch.inference_mode():
        full = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x).float()
    # bfloat16 holds 8 bits; errors of 10 to 50 layers add up to a few per cent of the spread.
    assert (half - full).abs().max() < 0.1 * full.abs().max()


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_initial_weights_follow_the_seed(name: str, small) -> None:
    one, again, other = (small(name, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_initial_convolutions_are_paired_across_normalisations(small) -> None:
    def weights(name: str) -> list[torch.Tensor]:
        return [m.weight for m in small(name, 1).modules() if isinstance(m, nn.Conv2d)]

    expected = weights("bn")
    for name in ("gn", "in", "ibn_a", "ibn_b", "ibn_literal", "none"):
        assert all(torch.equal(a, b) for a, b in zip(expected, weights(name), strict=True))


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_state_round_trips_and_evaluation_does_not_depend_on_the_batch(name: str, small) -> None:
    model = small(name).train()
    with torch.no_grad():
        model(torch.randn(8, 3, 48, 48))
    twin = small(name, seed=1)
    twin.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 48, 48)
    with torch.no_grad():
        together, alone = twin.eval()(x), torch.cat([model.eval()(x[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model("resnet10t", "bn", {}, 5, 48, seed=9)
    assert torch.equal(torch.rand(1), expected)


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
