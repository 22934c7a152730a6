"""CrossFormer T, S and B (Wang et al., ICLR 2022, arXiv 2108.00154), which timm lacks.

Images → cross-scale tokens on a grid → four stages of grouped attention → logits. Parameters carry
the names of the official release (cheerss/CrossFormer), so its checkpoints load strictly; importing
this module registers the three models with timm.

Every image size works. The release for classification fixes the size; as in its release for
detection, groups are laid out anew for every input and hold at most 7 × 7 tokens, those of long
distance too: above 224 pixels, each field of 7 intervals a side has groups of its own. A grid that
groups do not divide is padded on the right and below, and nothing attends to padding; a grid with a
side of no more than a group is cut into groups of that side, all of short distance. What the
release refuses is padded with zeros:
images to a multiple of 4 and, before tokens are merged, odd grids to even (112 pixels: 28, 14,
7 → 8, 4).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from benchmark.models.architectures import TimmNetwork

PATCHES = (4, 8, 16, 32)
"""Kernels, in pixels, that embed one token."""
MERGES = (2, 4)
"""Kernels, in tokens, that merge tokens between stages."""
GROUP = 7
"""Largest side of a group, in tokens."""
INTERVALS = (8, 4, 2, 1)
"""Distance, in tokens, between neighbours of a long-distance group, by stage."""


class CrossScale(nn.ModuleList):
    """Convolutions of several kernels at one stride, side by side: [N, C, H, W] → [N, D, H/s, W/s].

    Each kernel gives half as many channels as the one before it, the last as many as its
    predecessor; the stride is the smallest kernel (section 3.1).
    """

    def __init__(self, channels: int, out: int, kernels: tuple[int, ...]) -> None:
        self.stride = kernels[0]
        widths = [out >> (i + 1) for i in range(len(kernels) - 1)]
        widths.append(widths[-1])
        super().__init__(
            nn.Conv2d(channels, width, kernel, self.stride, padding=(kernel - self.stride) // 2)
            for width, kernel in zip(widths, kernels, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        return torch.cat([convolution(x) for convolution in self], dim=1)


class PatchEmbed(nn.Module):
    """Images [N, 3, S, S] → normalised tokens [N, S/4, S/4, D]."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.projs = CrossScale(channels, dim, PATCHES)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projs(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Tokens [N, H, W, D] → normalised, then merged over two scales: [N, H/2, W/2, 2D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reductions = CrossScale(dim, 2 * dim, MERGES)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.reductions(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DynamicPositionBias(nn.Module):
    """Offsets [K, 2] between two tokens, in steps within their group → a bias [K, heads]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.pos_proj = nn.Linear(2, dim)
        self.pos1 = self.layer(dim, dim)
        self.pos2 = self.layer(dim, dim)
        self.pos3 = self.layer(dim, heads)

    @staticmethod
    def layer(dim: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(dim), nn.ReLU(inplace=True), nn.Linear(dim, out))

    def forward(self, offsets: Tensor) -> Tensor:
        return self.pos3(self.pos2(self.pos1(self.pos_proj(offsets))))


class Attention(nn.Module):
    """Self-attention within groups, biased by position (section 3.2)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.pos = DynamicPositionBias(dim // 16, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Attend within each group.

        Args:
            x: tokens [N, groups, h, w, D].
            real: bool [groups, h, w], False for padding, which no token attends to; None where
                there is none.

        Returns:
            The same shape; at padding it means nothing.
        """
        images, groups, height, width, dim = x.shape
        qkv = self.qkv(x).view(images, groups, height * width, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)
        logits = (query * self.scale) @ key.transpose(-2, -1) + self.bias(height, width, x.device)
        if real is not None:
            # The smallest number, not -∞: a group of padding alone would be NaN.
            lowest = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~real.reshape(groups, 1, 1, -1), lowest)
        mixed = logits.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(2, 3).reshape(x.shape))

    def bias(self, height: int, width: int, device: torch.device) -> Tensor:
        """Bias [heads, h·w, h·w] of each pair (query, key), by the offset of query from key."""
        rows, columns = (torch.arange(1 - n, n, device=device) for n in (height, width))
        offsets = torch.cartesian_prod(rows, columns)
        token = torch.cartesian_prod(
            torch.arange(height, device=device), torch.arange(width, device=device)
        )
        row, column = (token[:, None] - token[None]).unbind(-1)
        pair = (row + height - 1) * (2 * width - 1) + column + width - 1
        return self.pos(offsets.to(self.pos.pos_proj.weight.dtype))[pair].permute(2, 0, 1)


class Block(nn.Module):
    """Attention among neighbours, or among tokens far apart, then two fully connected layers.

    Args:
        interval: of a long-distance block; None makes it a short-distance one.
    """

    def __init__(self, dim: int, heads: int, interval: int | None, drop_path: float) -> None:
        super().__init__()
        self.interval = interval
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Lay out tokens [N, H, W, D] in groups, attend, and put them back."""
        height, width = x.shape[1:3]
        if self.interval is not None and min(height, width) > GROUP:
            step = self.interval
            group = tuple(min(GROUP, -(-side // step)) for side in (height, width))
        else:
            step = 1
            group = (min(GROUP, height, width),) * 2
        margin = (0, 0, 0, -width % (step * group[1]), 0, -height % (step * group[0]))
        x = F.pad(x, margin)
        real = None
        if any(margin):
            real = torch.ones(1, height, width, 1, dtype=torch.bool, device=x.device)
            real = to_groups(F.pad(real, margin), group, step)[0, ..., 0]
        mixed = self.attn(to_groups(x, group, step), real)
        return from_groups(mixed, x.shape, group, step)[:, :height, :width]


def to_groups(x: Tensor, group: tuple[int, int], step: int) -> Tensor:
    """Tokens [N, H, W, D] → groups [N, groups, h, w, D] of tokens `step` apart.

    The grid is cut into fields of h·step × w·step tokens, which divide it; a field holds step²
    groups of h × w tokens. Neighbours are 1 apart, and a field of theirs is one group.
    """
    images, height, width, dim = x.shape
    rows, columns = height // (group[0] * step), width // (group[1] * step)
    x = x.view(images, rows, group[0], step, columns, group[1], step, dim)
    return x.permute(0, 1, 4, 3, 6, 2, 5, 7).flatten(1, 4)


def from_groups(x: Tensor, shape: torch.Size, group: tuple[int, int], step: int) -> Tensor:
    """The inverse of `to_groups`, to tokens of `shape` [N, H, W, D]."""
    _, height, width, _ = shape
    rows, columns = height // (group[0] * step), width // (group[1] * step)
    x = x.unflatten(1, (rows, columns, step, step))
    return x.permute(0, 1, 5, 3, 2, 6, 4, 7).reshape(shape)


class Stage(nn.Module):
    """Blocks that alternate between short and long distance, then the merging of tokens."""

    def __init__(
        self, dim: int, heads: int, interval: int, drop_paths: list[float], merges: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Block(dim, heads, interval if i % 2 else None, drop_path)
                for i, drop_path in enumerate(drop_paths)
            )
        )
        self.downsample = PatchMerging(dim) if merges else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class CrossFormer(TimmNetwork):
    """Images [N, 3, H, W] of any size → logits [N, classes], with timm's interface.

    Args:
        num_classes: 0 gives the pooled features instead of logits.
        in_chans: channels of an image.
        embed_dim: D of the first stage; each later stage has twice as many.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
    """

    classifier_name = "head"

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        last = len(depths) - 1
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = embed_dim << last
        self.patch_embed = PatchEmbed(in_chans, embed_dim)
        blocks = sum(depths)
        rates = [drop_path_rate * i / max(blocks - 1, 1) for i in range(blocks)]
        starts = [sum(depths[:i]) for i in range(len(depths))]
        self.layers = nn.Sequential(
            *(
                Stage(embed_dim << i, heads, interval, rates[start : start + depth], i < last)
                for i, (depth, heads, interval, start) in enumerate(
                    zip(depths, num_heads, INTERVALS, starts, strict=True)
                )
            )
        )
        self.norm = nn.LayerNorm(self.num_features)
        self.reset_classifier(num_classes)
        self.apply(initialise)
        self.register_load_state_dict_pre_hook(drop_constants)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images → normalised tokens [N, H/32, W/32, num_features]."""
        return self.norm(self.layers(self.patch_embed(x)))

    def pool(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2))


def initialise(module: nn.Module) -> None:
    """Initial weights of the release: linear layers from a normal of 0.02, cut at ±2."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def drop_constants(model: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    """Leave out, in place, the offsets at 224 pixels that the release's code saved with weights."""
    for name in list(state):
        if name.endswith((".attn.biases", ".attn.relative_position_index")):
            del state[name]


def build(variant: str, pretrained: bool, **options: Any) -> CrossFormer:
    """A registered CrossFormer; `img_size` is taken and not needed, as groups follow the input."""
    return build_model_with_cfg(
        CrossFormer, variant, pretrained, kwargs_filter=("img_size",), **options
    )


RELEASE = {
    "license": "mit",
    "origin_url": "https://github.com/cheerss/CrossFormer",
    "paper_ids": "arXiv:2108.00154",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": tuple(f"patch_embed.projs.{i}" for i in range(len(PATCHES))),
    "classifier": "head",
}
default_cfgs = generate_default_cfgs(
    {f"crossformer_{size}": RELEASE for size in ("tiny", "small", "base")}
)
"""No address: the release keeps its checkpoints on a drive that no program can fetch from."""


@register_model
def crossformer_tiny(pretrained: bool = False, **options: Any) -> CrossFormer:
    """CrossFormer-T, 27.8 M parameters; stochastic depth 0.1 as in the release."""
    sizes = {"embed_dim": 64, "depths": (1, 1, 8, 6), "num_heads": (2, 4, 8, 16)}
    return build("crossformer_tiny", pretrained, **({"drop_path_rate": 0.1} | sizes | options))


@register_model
def crossformer_small(pretrained: bool = False, **options: Any) -> CrossFormer:
    """CrossFormer-S, 30.7 M parameters; stochastic depth 0.2 as in the release."""
    sizes = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
    return build("crossformer_small", pretrained, **({"drop_path_rate": 0.2} | sizes | options))


@register_model
def crossformer_base(pretrained: bool = False, **options: Any) -> CrossFormer:
    """CrossFormer-B, 52 M parameters; stochastic depth 0.3 as in the release."""
    sizes = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
    return build("crossformer_base", pretrained, **({"drop_path_rate": 0.3} | sizes | options))
