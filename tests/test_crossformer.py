"""CrossFormer: the release's names, weights and logits; loops over tokens; every image size."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.models.architectures.crossformer import Block, CrossFormer, PatchEmbed, PatchMerging

MICRO = {"embed_dim": 16, "depths": (1, 2, 2, 1), "num_heads": (1, 2, 4, 8)}


def micro(seed: int = 0, classes: int = 10, **options: object) -> CrossFormer:
    torch.manual_seed(seed)
    return CrossFormer(classes, **MICRO, **options)


def reference(name: str) -> Path:
    if not (mirror := os.environ.get("WBC_MIRROR")):
        pytest.skip("WBC_MIRROR is not set: the reference weights lie beside the mirror")
    return Path(mirror).parent / "reference" / name


def scattered(module: nn.Module) -> nn.Module:
    """The module with parameters so large that every term of a formula shows in the result."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.eval()


# ------------------------------------------------------------------------------- the release


@pytest.mark.parametrize(("size", "parameters"), [("tiny", 27_776_794), ("small", 30_657_394)])
def test_names_and_shapes_are_those_of_the_release(size: str, parameters: int) -> None:
    listed = pd.read_csv(reference(f"crossformer_{size}_state.csv"), dtype=str)
    with torch.device("meta"):
        model = timm.create_model(f"crossformer_{size}")
    state = {name: "x".join(map(str, v.shape)) for name, v in model.state_dict().items()}
    assert state == dict(zip(listed["name"], listed["shape"], strict=True))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_weights_of_the_release_load_strictly_and_give_its_logits() -> None:
    state = load_file(reference("crossformer_micro.safetensors"))
    images, logits = state.pop("reference.input"), state.pop("reference.logits")
    model = micro().eval()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(images), logits, atol=1e-4, rtol=0)


def test_constants_that_the_release_saved_at_224_pixels_are_left_out() -> None:
    donor, model = micro(1), micro(2)
    state = donor.state_dict()
    state["layers.0.blocks.0.attn.biases"] = torch.zeros(169, 2)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49).long()
    model.load_state_dict(state, strict=True)
    torch.testing.assert_close(model.state_dict(), donor.state_dict())
    with pytest.raises(RuntimeError, match="unknown"):
        model.load_state_dict(state | {"layers.0.unknown": torch.zeros(1)}, strict=True)


def test_a_checkpoint_loads_through_timm_and_another_classifier_starts_anew(tmp_path: Path) -> None:
    donor = micro(1, classes=1000)
    save_file(donor.state_dict(), tmp_path / "released.safetensors")
    model = timm.create_model(
        "crossformer_tiny",
        pretrained=True,
        num_classes=5,
        pretrained_cfg_overlay={"file": str(tmp_path / "released.safetensors")},
        **MICRO,
    )
    torch.testing.assert_close(model.layers.state_dict(), donor.layers.state_dict())
    assert model.head.weight.shape == (5, 128)


# ------------------------------------------------------------------- loops over every token


def convolve(x: Tensor, convolution: nn.Conv2d, stride: int, height: int, width: int) -> Tensor:
    """[C, H, W] → [out, height, width], one window at a time; zero outside the image."""
    kernel = convolution.kernel_size[0]
    before = (kernel - stride) // 2
    out = torch.zeros(convolution.out_channels, height, width)
    for i in range(height):
        for j in range(width):
            window = torch.zeros(x.shape[0], kernel, kernel)
            for a in range(kernel):
                for b in range(kernel):
                    row, column = i * stride - before + a, j * stride - before + b
                    if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                        window[:, a, b] = x[:, row, column]
            out[:, i, j] = (convolution.weight * window).sum((1, 2, 3)) + convolution.bias
    return out


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True)
    return centred / (spread + 1e-5).sqrt() * norm.weight + norm.bias


@pytest.mark.parametrize(("height", "width", "grid"), [(12, 8, (3, 2)), (9, 6, (3, 2))])
@torch.no_grad()
def test_a_token_joins_four_patches_centred_on_it(
    height: int, width: int, grid: tuple[int, int]
) -> None:
    embed = scattered(PatchEmbed(3, 16))
    assert [(c.kernel_size[0], c.out_channels) for c in embed.projs] == [
        (4, 8),
        (8, 4),
        (16, 2),
        (32, 2),
    ]
    images = torch.randn(2, 3, height, width)
    for tokens, image in zip(embed(images), images, strict=True):
        scales = torch.cat([convolve(image, c, 4, *grid) for c in embed.projs])
        expected = layer_norm(scales.permute(1, 2, 0), embed.norm)
        torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width", "grid"), [(4, 6, (2, 3)), (7, 3, (4, 2))])
@torch.no_grad()
def test_tokens_merge_over_two_scales_and_an_odd_grid_counts_as_one_wider(
    height: int, width: int, grid: tuple[int, int]
) -> None:
    merging = scattered(PatchMerging(8))
    tokens = torch.randn(1, height, width, 8)
    normalised = layer_norm(tokens[0], merging.norm).permute(2, 0, 1)
    scales = torch.cat([convolve(normalised, c, 2, *grid) for c in merging.reductions])
    torch.testing.assert_close(merging(tokens)[0], scales.permute(1, 2, 0), atol=1e-4, rtol=1e-4)


def attend(x: Tensor, block: Block, interval: int | None) -> Tensor:
    """Tokens [H, W, D] → the same, query by query and head by head, over real tokens only."""
    height, width, dim = x.shape
    attention, heads = block.attn, block.attn.heads
    size = dim // heads
    long = interval is not None and min(height, width) > 7
    side = min(7, height, width)
    grid = [(r, c) for r in range(height) for c in range(width)]
    qkv = {t: attention.qkv.weight @ x[t] + attention.qkv.bias for t in grid}

    @cache
    def position(row: float, column: float) -> Tensor:
        pos = attention.pos
        h = pos.pos_proj.weight @ torch.tensor([row, column]) + pos.pos_proj.bias
        for norm, _, linear in (pos.pos1, pos.pos2, pos.pos3):
            h = linear.weight @ layer_norm(h, norm).clamp(min=0) + linear.bias
        return h

    out = torch.zeros_like(x)
    for r, c in grid:
        if long:
            field = 7 * interval
            group = [t for t in grid if t[0] // field == r // field and t[1] // field == c // field]
            group = [t for t in group if t[0] % interval == r % interval]
            group = [t for t in group if t[1] % interval == c % interval]
            step = interval
        else:
            group = [t for t in grid if t[0] // side == r // side and t[1] // side == c // side]
            step = 1
        bias = [position((r - k[0]) / step, (c - k[1]) / step) for k in group]
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            query = qkv[r, c][:dim][part]
            keys = torch.stack([qkv[k][dim : 2 * dim][part] for k in group])
            values = torch.stack([qkv[k][2 * dim :][part] for k in group])
            logits = keys @ query / size**0.5 + torch.stack([b[head] for b in bias])
            weights = (logits - logits.max()).exp()
            mixed.append(weights @ values / weights.sum())
        out[r, c] = attention.proj.weight @ torch.cat(mixed) + attention.proj.bias
    return out


@pytest.mark.parametrize(
    ("height", "width", "interval"),
    [
        (3, 9, None),  # three groups of side 3
        (7, 14, None),  # two groups of neighbours
        (9, 8, None),  # padded to 14 × 14
        (4, 5, None),  # smaller than a group: groups of side 4, the second padded
        (8, 8, 4),  # 16 groups of 2 × 2 tokens, 4 apart
        (9, 11, 4),  # padded to 12 × 12
        (8, 9, 8),  # as stage 1 lays out: padded to 8 × 16, most groups hold one token
        (7, 8, 4),  # a long-distance block whose grid is one group
        (16, 16, 2),  # 256 pixels: four fields of at most 14 × 14, padded to 28 × 28
        (8, 15, 2),  # wider than a field, the second with a column of padding alone
    ],
)
@torch.no_grad()
def test_attention_in_groups_equals_a_loop_over_tokens(
    height: int, width: int, interval: int | None
) -> None:
    # 64 features give the bias 4 hidden ones. With 1 or 2, layer normalisation leaves hardly more
    # than a sign, the bias is all but constant, and offsets in any order would pass.
    block = scattered(Block(64, 2, interval, drop_path=0.0))
    tokens = torch.randn(2, height, width, 64) / 8
    expected = attend(tokens[1], block, interval)
    torch.testing.assert_close(block.attend(tokens)[1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_block_adds_attention_then_two_layers_to_what_it_is_given() -> None:
    block = scattered(Block(32, 2, None, drop_path=0.0))
    x = torch.randn(1, 4, 4, 32)
    mixed = x + attend(layer_norm(x, block.norm1)[0], block, None)
    hidden = layer_norm(mixed, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = mixed + gelu @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    torch.testing.assert_close(block(x), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("size", [224, 256, 320, 448])
def test_a11_no_group_is_larger_than_7_by_7_tokens(size: int) -> None:
    model, groups = micro().eval(), []
    for stage in model.layers:
        for block in stage.blocks:
            block.attn.register_forward_pre_hook(
                lambda _, given: groups.append(given[0].shape[2:4])
            )
    with torch.no_grad():
        model(torch.randn(1, 3, size, size))
    assert len(groups) == 6
    assert max(groups) == (7, 7)


@pytest.mark.parametrize(("height", "width"), [(15, 15), (8, 15)])
def test_a11_a_group_of_padding_alone_gives_no_nan(height: int, width: int) -> None:
    block = scattered(Block(64, 2, 2, drop_path=0.0))
    block.attend(torch.randn(1, height, width, 64)).square().mean().backward()
    parameters = block.attn.parameters()
    assert all(torch.isfinite(parameter.grad).all() for parameter in parameters)


def test_blocks_alternate_between_short_and_long_distance() -> None:
    intervals = [[block.interval for block in stage.blocks] for stage in micro().layers]
    assert intervals == [[None], [None, 4], [None, 2], [None]]


# ------------------------------------------------------------------------- in the harness


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [
        (64, 64, (2, 2)),
        (112, 112, (4, 4)),
        (160, 160, (5, 5)),
        (224, 224, (7, 7)),
        (256, 256, (8, 8)),
        (232, 300, (8, 10)),
        (100, 70, (4, 3)),
        (30, 30, (1, 1)),
    ],
)
def test_every_image_size_gives_finite_logits_and_gradients(
    height: int, width: int, grid: tuple[int, int]
) -> None:
    model = micro(drop_path_rate=0.1).train()
    features = model.forward_features(torch.randn(2, 3, height, width))
    assert features.shape == (2, *grid, 128)
    logits = model.forward_head(features)
    assert logits.shape == (2, 10)
    logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_model_built_at_one_size_predicts_alike_after_another_size() -> None:
    model = micro().eval()
    large, small = torch.randn(1, 3, 224, 224), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(large)
        model(small)
        assert torch.equal(model(large), before)


@pytest.mark.parametrize(("size", "features"), [("tiny", 512), ("small", 768), ("base", 768)])
def test_timm_builds_it_by_name_with_its_interface(size: str, features: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(f"crossformer_{size}", num_classes=5, img_size=64)
    assert model.num_features == model.head_hidden_size == features
    assert model.get_classifier() is model.get_submodule(model.pretrained_cfg["classifier"])
    assert (model.head.in_features, model.head.out_features) == (features, 5)
    assert model.default_cfg["mean"] == (0.485, 0.456, 0.406)
    assert model.default_cfg["std"] == (0.229, 0.224, 0.225)


def test_base_has_the_size_that_its_paper_gives() -> None:
    with torch.device("meta"):
        model = timm.create_model("crossformer_base")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 52


def test_the_classifier_can_be_exchanged_and_taken_off() -> None:
    model, images = micro().eval(), torch.randn(2, 3, 64, 64)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert features.shape == (2, model.num_features) == (2, 128)
    torch.testing.assert_close(
        model(images), features @ model.head.weight.T + model.head.bias, atol=1e-6, rtol=1e-5
    )
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.num_classes == 3
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), features)


def test_initial_weights_follow_the_seed() -> None:
    first, again, other = (micro(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_saved_state_gives_the_same_logits_in_another_model(tmp_path: Path) -> None:
    first, second = micro(1).eval(), micro(2).eval()
    images = torch.randn(1, 3, 64, 64)
    save_file(first.state_dict(), tmp_path / "state.safetensors")
    with torch.no_grad():
        assert not torch.equal(first(images), second(images))
        second.load_state_dict(load_file(tmp_path / "state.safetensors"))
        assert torch.equal(first(images), second(images))


def test_bf16_autocast_stays_near_fp32_and_trains() -> None:
    model, images = micro().eval(), torch.randn(4, 3, 64, 64)
    exact = model(images).detach()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()
    rounded.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_stochastic_depth_grows_linearly_over_the_blocks_and_the_last_has_the_rate() -> None:
    with torch.device("meta"):
        model = timm.create_model("crossformer_small")
    rates = [block.drop_path.drop_prob for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])
