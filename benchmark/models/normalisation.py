"""Exchange the batch normalisation of a built network: `bn`, `gn`, `in`, `ibn_a`.

The architecture, its initial convolutions and its affine parameters stay; only the statistics
that normalise change, so a comparison over this axis changes one thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class Skip(Exception):
    """A combination that makes no sense; its message is the reason shown to the user."""


class FusedActivation(nn.Sequential):
    """A normalisation followed by the activation (and drop) that timm fuses into its BatchNorm."""


class InstanceBatchNorm(nn.Module):
    """Instance normalisation on the first half of the channels, batch normalisation on the rest.

    Pan et al., Two at Once (ECCV 2018), IBN-a. Input and output: [N, C, H, W].
    """

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        super().__init__()
        self.half = bn.num_features // 2
        rest = bn.num_features - self.half
        self.IN = nn.InstanceNorm2d(self.half, eps=bn.eps, affine=True)
        self.BN = nn.BatchNorm2d(rest, eps=bn.eps, momentum=bn.momentum)
        with torch.no_grad():
            self.IN.weight.copy_(bn.weight[: self.half])
            self.IN.bias.copy_(bn.bias[: self.half])
            self.BN.weight.copy_(bn.weight[self.half :])
            self.BN.bias.copy_(bn.bias[self.half :])
            self.BN.running_mean.copy_(bn.running_mean[self.half :])
            self.BN.running_var.copy_(bn.running_var[self.half :])

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.half, x.shape[1] - self.half], dim=1)
        return torch.cat([self.IN(first), self.BN(rest)], dim=1)


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Every batch normalisation of a model, by name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield name, module


def replace(model: nn.Module, name: str, build: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    """Put `build(bn)` where the batch normalisation `name` stands, keeping a fused activation."""
    parent = model.get_submodule(name.rpartition(".")[0])
    bn = model.get_submodule(name)
    new = build(bn)
    fused = [getattr(bn, part) for part in ("drop", "act") if hasattr(bn, part)]
    setattr(parent, name.rpartition(".")[2], FusedActivation(new, *fused) if fused else new)


def to_bn(model: nn.Module) -> None:
    """Keep the batch normalisation that the architecture has."""


def to_gn(model: nn.Module, groups: int = 32) -> None:
    """Group normalisation everywhere (Wu & He, ECCV 2018).

    Args:
        groups: number of groups; where it does not divide the channels, the largest number below
            it that does.
    """

    def build(bn: nn.BatchNorm2d) -> nn.Module:
        fitting = max(g for g in range(1, groups + 1) if bn.num_features % g == 0)
        return with_affine(nn.GroupNorm(fitting, bn.num_features, eps=bn.eps), bn)

    for name, _ in list(batch_norms(model)):
        replace(model, name, build)


def to_in(model: nn.Module) -> None:
    """Instance normalisation everywhere, affine, without running statistics (Ulyanov 2016)."""

    def build(bn: nn.BatchNorm2d) -> nn.Module:
        return with_affine(nn.InstanceNorm2d(bn.num_features, eps=bn.eps, affine=True), bn)

    for name, _ in list(batch_norms(model)):
        replace(model, name, build)


def to_ibn_a(model: nn.Module) -> None:
    """IBN-a: the first normalisation of every block in stages 1–3 of a ResNet, half instance.

    Placement of the official release (XingangPan/IBN-Net): not in the stem, not in stage 4.
    """
    first = [n for n, _ in batch_norms(model) if re.fullmatch(r"layer[123]\.\d+\.bn1", n)]
    if not first:
        raise Skip("ibn_a is defined on the residual blocks of a ResNet; this model has none")
    for name in first:
        replace(model, name, InstanceBatchNorm)


def with_affine(new: nn.Module, bn: nn.BatchNorm2d) -> nn.Module:
    """Carry the affine parameters of the normalisation that is replaced."""
    with torch.no_grad():
        new.weight.copy_(bn.weight)
        new.bias.copy_(bn.bias)
    return new


NORMALISATIONS: dict[str, Callable[..., None]] = {
    "bn": to_bn,
    "gn": to_gn,
    "in": to_in,
    "ibn_a": to_ibn_a,
}


def normalise(model: nn.Module, name: str, parameters: dict[str, object]) -> nn.Module:
    """Convert `model` in place to the normalisation `name`.

    Raises:
        Skip: the model has no batch normalisation, or no place for this one.
    """
    if next(batch_norms(model), None) is None:
        raise Skip("the model has no batch normalisation to exchange")
    NORMALISATIONS[name](model, **parameters)
    return model
