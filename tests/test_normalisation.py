"""Normalisation layers: what they compute, where they stand, whose names they carry."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from draw_normalisation import READINGS, placements, save_picture
from PIL import Image
from torch import nn

from benchmark.models.build import build_model, create, skip_reason
from benchmark.models.normalisation import (
    NORMALISATIONS,
    ChannelAffine,
    InstanceBatchNorm,
    Skip,
    check_statistics,
    norm_layers,
    normalise,
    official_ibn_name,
)
from benchmark.settings import Weights

PICTURE = Path(__file__).parents[1] / "docs" / "normalisation.png"
REFERENCE = (
    Path(os.environ["WBC_MIRROR"]).parent / "reference" if "WBC_MIRROR" in os.environ else None
)


def drawn_bn(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation none of whose values is at its start."""
    bn = nn.BatchNorm2d(channels)
    for values in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
        nn.init.uniform_(values, 0.5, 2)
    return bn


def places(model: nn.Module, kind: type[nn.Module]) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, kind)}


def test_affine_parameters_are_carried_slices_for_ibn() -> None:
    bn = drawn_bn(6)
    ibn = InstanceBatchNorm(bn)
    assert torch.equal(torch.cat([ibn.IN.weight, ibn.BN.weight]), bn.weight)
    assert torch.equal(torch.cat([ibn.IN.bias, ibn.BN.bias]), bn.bias)
    assert torch.equal(ibn.BN.running_mean, bn.running_mean[3:])
    assert torch.equal(ibn.BN.running_var, bn.running_var[3:])


@pytest.mark.parametrize("name", ["gn", "in", "none"])
def test_affine_parameters_are_carried_whole_elsewhere(name: str) -> None:
    bn = drawn_bn(6)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), bn)
    normalise(model, name, {})
    assert model[1] is not bn
    assert torch.equal(model[1].weight, bn.weight)
    assert torch.equal(model[1].bias, bn.bias)


def test_group_norm_takes_the_largest_number_of_groups_that_divides_the_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
    normalise(model, "gn", {"groups": 4})
    assert model[1].num_groups == 3


def test_ibn_normalises_its_first_half_per_image_and_the_rest_per_batch() -> None:
    ibn = InstanceBatchNorm(nn.BatchNorm2d(4)).train()
    x = torch.randn(8, 4, 5, 5) * 3 + torch.arange(8.0)[:, None, None, None]
    y = ibn(x)
    assert torch.allclose(y[:, :2].mean(dim=(2, 3)), torch.zeros(8, 2), atol=1e-5)
    assert torch.allclose(y[:, 2:].mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert y[:, 2:].mean(dim=(2, 3)).abs().max() > 0.5  # single images keep their offset there


def test_none_scales_and_shifts_each_channel_by_hand_computed_values() -> None:
    layer = ChannelAffine(2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([2.0, 0.0]))
        layer.bias.copy_(torch.tensor([1.0, -3.0]))
    x = torch.tensor([4.0, 5.0]).view(1, 2, 1, 1)
    assert layer(x).flatten().tolist() == [9.0, -3.0]


def test_a_frozen_batch_norm_stays_as_it_is_through_training_and_copies() -> None:
    bn = drawn_bn(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), bn)
    x = torch.randn(8, 3, 5, 5) * 9
    expected = model.eval()(x)
    before = {name: value.clone() for name, value in bn.state_dict().items()}
    normalise(model, "bn_frozen", {})
    for frozen in (model, copy.deepcopy(model)):
        frozen.train()
        y = frozen(x)
        y.sum().backward()
        assert torch.equal(y, expected)
        assert frozen[0].weight.grad is not None
        assert not frozen[1].training
        assert frozen[1].weight.grad is None
        assert frozen[1].bias.grad is None
        assert all(torch.equal(before[n], v) for n, v in frozen[1].state_dict().items())
    assert norm_layers(model) == {"frozen batch": 1}


def test_frozen_statistics_of_random_weights_are_skipped() -> None:
    assert "give it weights" in skip_reason("resnet10t", "bn_frozen", {}, 48)


@pytest.mark.parametrize("name", ["gn", "in", "none", "bn_frozen"])
def test_activations_that_timm_fuses_into_its_norm_layers_stay(name: str) -> None:
    with torch.device("meta"):
        model = create("efficientnet_b0", 64, num_classes=5)
        before = sum(isinstance(m, nn.SiLU) for m in model.modules())
        normalise(model, name, {})
    assert sum(isinstance(m, nn.SiLU) for m in model.modules()) == before > 0


def test_a_fused_activation_acts_after_the_new_normalisation() -> None:
    with torch.device("meta"):
        block = create("regnety_002", 64).s1.b1.conv1
    block = block.to_empty(device="cpu")
    nn.init.normal_(block.conv.weight)
    block.bn.reset_parameters()
    normalise(block, "in", {})
    assert block(torch.randn(2, block.conv.in_channels, 6, 6)).min() == 0  # its ReLU


@pytest.mark.parametrize(
    ("backbone", "blocks", "norm1", "norm2", "act"),
    [
        # stages and their blocks; names of the norms and of the activation after the addition
        ("resnet34", (3, 4, 6, 3), "layer{}.{}.bn1", "layer{}.{}.bn2", "layer{}.{}.act2"),
        ("resnet50", (3, 4, 6, 3), "layer{}.{}.bn1", "layer{}.{}.bn2", "layer{}.{}.act3"),
        ("resnext50_32x4d", (3, 4, 6, 3), "layer{}.{}.bn1", "layer{}.{}.bn2", "layer{}.{}.act3"),
        ("regnety_002", (1, 1, 4, 7), "s{}.b{}.conv1.bn", "s{}.b{}.conv2.bn", "s{}.b{}.act3"),
        (
            "resnet18+lstm",
            (2, 2, 2, 2),
            "cnn.layer{}.{}.bn1",
            "cnn.layer{}.{}.bn2",
            "cnn.layer{}.{}.act2",
        ),
    ],
)
def test_each_reading_of_ibn_stands_where_it_says(
    backbone: str, blocks: tuple[int, ...], norm1: str, norm2: str, act: str
) -> None:
    first = 1 if "regnet" in backbone else 0
    fused = ".0" if "regnet" in backbone else ""  # beside the activation that timm fuses

    def at(pattern: str, stages: range) -> set[str]:
        return {pattern.format(s, first + b) for s in stages for b in range(blocks[s - 1])}

    def built(name: str) -> nn.Module:
        with torch.device("meta"):
            return build_model(backbone, name, {}, 5, 96, seed=0)

    ibn_a, ibn_b, literal = built("ibn_a"), built("ibn_b"), built("ibn_literal")
    assert places(ibn_a, InstanceBatchNorm) == {n + fused for n in at(norm1, range(1, 4))}
    stem = "stem.bn.0" if fused else norm1.split("layer")[0] + "bn1"
    ends = {act.format(stage, first + blocks[stage - 1] - 1) + ".IN" for stage in (1, 2)}
    assert places(ibn_b, nn.InstanceNorm2d) == {stem} | ends
    assert places(literal, InstanceBatchNorm) == {n + fused for n in at(norm1, range(1, 5))}
    whole = {n for n in places(literal, nn.InstanceNorm2d) if not n.endswith(".IN")}
    assert whole == {n + fused for n in at(norm2, range(1, 5))}


def test_ibn_b_normalises_the_sum_of_both_branches_before_the_activation() -> None:
    model = build_model("resnet10t", "ibn_b", {}, 5, 48, seed=0).train()
    seen = {}
    block = model.layer1[-1]
    block.act2.IN.register_forward_hook(lambda _, x, y: seen.update(sum=x[0], normed=y.clone()))
    block.register_forward_hook(lambda _, x, y: seen.update(out=y))
    model(torch.randn(2, 3, 48, 48))
    mean = seen["sum"].mean((2, 3), keepdim=True)
    spread = seen["sum"].var((2, 3), keepdim=True, correction=0).add(1e-5).sqrt()
    expected = ((seen["sum"] - mean) / spread).relu()  # scale 1, offset 0 at the start
    assert torch.allclose(seen["out"], expected, atol=1e-4)


@pytest.mark.skipif(REFERENCE is None, reason="WBC_MIRROR is not set: no reference lists beside it")
@pytest.mark.parametrize(
    ("backbone", "name"), [("resnet34", "ibn_a"), ("resnet34", "ibn_b"), ("resnet50", "ibn_a")]
)
def test_names_and_shapes_are_those_of_the_official_release(backbone: str, name: str) -> None:
    with torch.device("meta"):
        model = build_model(backbone, name, {}, 1000, 224, seed=0)
    ours = {
        official_ibn_name(key): "x".join(map(str, value.shape)) or "scalar"
        for key, value in model.state_dict().items()
    }
    official = pd.read_csv(REFERENCE / f"{backbone}_{name}_state.csv", dtype=str)
    assert ours == dict(zip(official["name"], official["shape"], strict=True))


def test_a_combination_without_sense_is_skipped_with_a_reason() -> None:
    assert "it has layer normalisation" in skip_reason("vit_tiny_patch16_224", "gn", {}, 64)
    assert "it has none at all" in skip_reason("vgg11", "bn", {}, 64)
    assert "it has evonorm" in skip_reason("resnetv2_50d_evos", "gn", {}, 64)
    assert "never put in" in skip_reason("resnet10t", "ln", {}, 64)
    for name in ("ibn_a", "ibn_b", "ibn_literal"):
        assert f"{name} is defined on the residual blocks" in skip_reason("vgg11_bn", name, {}, 64)


def test_instance_normalisation_of_a_single_pixel_is_skipped() -> None:
    reason = skip_reason("resnet18", "in", {}, 32)
    assert "layer4.0.bn1 sees a map of 1 × 1 pixel at image size 32" in reason
    assert "layer4.0.bn1.IN" in skip_reason("resnet18", "ibn_literal", {}, 32)
    assert skip_reason("resnet18", "ibn_a", {}, 32) is None  # no instance part in stage 4
    assert skip_reason("resnet18", "in", {}, 64) is None


FAMILIES = [
    "resnet18", "resnet50_gn", "resnetv2_50d_evos", "regnety_002", "vgg11_bn", "densenet121",
    "mobilenetv3_small_050", "efficientnet_b0", "nf_resnet50", "convnextv2_atto",
    "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "crossformer_tiny",
    "efficientformer_l1", "mobilevitv2_050", "levit_128s", "levit_conv_128s", "repvit_m1",
    "efficientvit_m0", "nextvit_small", "shvit_s1",
]  # fmt: skip
CLAIMED = {
    "gn": {"group"}, "in": {"instance"}, "none": set(), "ln": {"layer"}, "evonorm": {"evonorm"},
}  # fmt: skip
"""Normalisations that speak for the whole network, and the kinds of layers that they leave."""


@pytest.mark.parametrize("backbone", FAMILIES)
def test_batchnorm1d_left_every_layer_is_what_the_name_says_or_the_network_is_skipped(
    backbone: str,
) -> None:
    with torch.device("meta"):
        built = create(backbone, 224, num_classes=5)
        as_built = norm_layers(built)
        for name in NORMALISATIONS:
            model = copy.deepcopy(built)
            try:
                normalise(model, name, {})
                check_statistics(model, 224)
            except Skip:
                continue
            kinds = norm_layers(model)
            if name in CLAIMED:
                assert set(kinds) == CLAIMED[name], name
                assert kinds.total() == (as_built.total() if CLAIMED[name] else 0), name
            elif name == "bn":
                assert kinds == as_built
            elif name == "bn_frozen":
                assert kinds["frozen batch"] == as_built["batch"] > 0
                assert "batch" not in kinds
            else:
                assert kinds["instance"] > 0, name
                assert kinds["batch"] > 0, name


@pytest.mark.parametrize(
    ("backbone", "skipped"),
    [
        ("levit_128s", {"gn": "normalises single tokens", "in": "normalises no maps"}),
        ("repvit_m1", {"in": "head.head.bn normalises no maps"}),
        ("efficientvit_m0", {"in": "head.bn normalises no maps"}),
        ("levit_conv_128s", {"in": "head.bn normalises no maps"}),
        ("nextvit_small", {"in": "e_mhsa.norm normalises no maps"}),
        ("shvit_s1", {"in": "normalises no maps", "none": "group normalisation beside that of"}),
        ("efficientformer_l1", dict.fromkeys(("gn", "in", "none"), "layer normalisation beside")),
        ("mobilevitv2_050", dict.fromkeys(("in", "none"), "group normalisation beside")),
        ("skresnet18", {"gn": "groups of a single value", "in": "a map of 1 × 1 pixel"}),
        ("hrnet_w18_small", {"ibn_a": "four stages", "ibn_b": "four", "ibn_literal": "four"}),
        ("resnet18", {}),
    ],
)
def test_batchnorm1d_left_what_a_network_cannot_be_given_is_told(
    backbone: str, skipped: dict[str, str]
) -> None:
    names = ["gn", "in", "none"] + [n for n in skipped if n.startswith("ibn")]
    for name in names:
        reason = skip_reason(backbone, name, {}, 224)
        assert (reason is None) == (name not in skipped), (name, reason)
        assert skipped.get(name, "") in (reason or "")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("repvit_m1", "gn"),
        ("repvit_m1", "none"),
        ("levit_128s", "none"),
        ("shvit_s1", "gn"),
        ("nextvit_small", "gn"),
        ("resnet10t", "in"),
    ],
)
def test_batchnorm1d_left_without_statistics_of_batches_no_image_moves_the_answer_on_another(
    backbone: str, name: str
) -> None:
    model = build_model(backbone, name, {}, 5, 64, seed=0).train()
    for module in model.modules():
        if type(module).__name__.startswith("Drop"):
            module.eval()
    torch.manual_seed(0)
    image, *others = torch.randn(3, 1, 3, 64, 64)
    with torch.no_grad():
        first, second = (model(torch.cat([image, other]))[0] for other in others)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_a_batch_normalisation_without_scale_is_exchanged_and_is_not_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False))
    assert norm_layers(model) == {"batch": 1}
    normalise(model, "gn", {"groups": 3})
    assert norm_layers(model) == {"group": 1}


def test_what_adapts_statistics_of_batches_runs_wherever_a_layer_keeps_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frozen ones too, and under a name of one's own: told by the network, not by its name."""
    weights = Weights(timm="tv_in1k")
    for name, kept in (("bn", True), ("bn_frozen", True), ("ibn_a", True), ("in", False)):
        reason = skip_reason("resnet18", name, {}, 64, weights=weights, batch_statistics=True)
        assert (reason is None) == kept, name
    assert "no layer keeps statistics of batches" in reason
    monkeypatch.setitem(NORMALISATIONS, "mine", lambda model: None)
    assert skip_reason("resnet18", "mine", {}, 64, batch_statistics=True) is None


def test_a_model_with_two_normalisations_of_its_own_is_no_pure_one() -> None:
    mixed = nn.Sequential(nn.GroupNorm(1, 4), nn.LayerNorm(4))
    for name in ("gn", "ln", "none"):
        with pytest.raises(Skip, match="it has group and layer"):
            normalise(mixed, name, {})


def test_the_picture_of_the_docs_shows_networks_as_they_are_built(tmp_path: Path) -> None:
    shown = {reading: placements(reading) for reading in READINGS}
    assert {n for n, kind in shown["ibn_b"].items() if kind == "IN"} == {
        "bn1", "layer1.2.act2", "layer2.3.act2",
    }  # fmt: skip
    assert [list(shown[reading].values()).count("IBN") for reading in READINGS] == [13, 0, 16]
    assert [list(shown[reading].values()).count("IN") for reading in READINGS] == [0, 3, 16]
    save_picture(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as ours, Image.open(PICTURE) as kept:
        assert ours.size == kept.size
        # Fonts may be laid out a pixel apart elsewhere.
        difference = np.abs(np.asarray(ours.convert("L"), int) - np.asarray(kept.convert("L"), int))
    assert (difference > 64).mean() < 0.02
