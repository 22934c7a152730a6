"""Replace the batch normalisation of a built network: frozen, instance, IBN, group, or none.

The architecture, its initial convolutions and its affine parameters stay; only the statistics
that normalise change, so a comparison over this axis changes one thing. docs/normalisation.md
pictures the three readings of IBN.
"""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


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


class ChannelAffine(nn.Module):
    """The scale and offset per channel of a normalisation, without its statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors [N, C], sequences [N, C, L] or maps [N, C, H, W] → the same shape."""
        channels = (-1, *(1,) * (x.ndim - 2))
        return x * self.weight.view(channels) + self.bias.view(channels)


def batch_norms(model: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Every batch normalisation of a model, by name: of maps, of sequences and of vectors."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            yield name, module


def norm_layers(model: nn.Module) -> Counter[str]:
    """Number of normalisation layers of each kind; a frozen BatchNorm is a kind of its own.

    An IBN layer counts as the instance and the batch normalisation that it holds. A layer that is
    none of these is told by its name or its running mean: `RmsNorm` is of the kind `rms`. What a
    network writes out in its `forward`, as it may for queries and keys, is no layer.
    """
    kinds: Counter[str] = Counter()
    for module in model.modules():
        name = type(module).__name__
        if isinstance(module, _BatchNorm):
            kinds["frozen batch" if is_held(module) else "batch"] += 1
        elif name.startswith("EvoNorm"):
            kinds["evonorm"] += 1
        elif known := [kind for kind, layer in KINDS.items() if isinstance(module, layer)]:
            kinds[known[0]] += 1
        elif hasattr(module, "running_mean") or (NAMED.search(name) and is_layer(module)):
            words = NAMED.sub("", name)
            kinds[re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).lower() or "unnamed"] += 1
    return kinds


NAMED = re.compile(r"Norm(?![a-z]).*")


def is_layer(module: nn.Module) -> bool:
    """Whether a module scales channels itself or has no part: no mere container, as `ConvNorm`."""
    own = module.parameters(recurse=False)
    return any(parameter.ndim == 1 for parameter in own) or not list(module.children())


KINDS = {"instance": _InstanceNorm, "group": nn.GroupNorm, "layer": nn.LayerNorm}
OWN = {"gn": "group", "ln": "layer", "evonorm": "evonorm"}
"""Normalisations that some architectures have by themselves, and their kind."""
EVERYWHERE: dict[str, set[str]] = {"gn": {"group"}, "in": {"instance"}, "none": set()}
"""Normalisations whose name speaks for the whole network, and the kinds that it may then have."""


def replace(model: nn.Module, name: str, build: Callable[[_BatchNorm], nn.Module]) -> None:
    """Put `build(bn)` where the batch normalisation `name` stands, keeping a fused activation."""
    parent = model.get_submodule(name.rpartition(".")[0])
    bn = model.get_submodule(name)
    new = build(bn)
    fused = [getattr(bn, part) for part in ("drop", "act") if hasattr(bn, part)]
    setattr(parent, name.rpartition(".")[2], FusedActivation(new, *fused) if fused else new)


def replace_all(model: nn.Module, build: Callable[[_BatchNorm], nn.Module]) -> None:
    """Put `build(bn)`, with the affine parameters of `bn`, where a batch normalisation stands."""
    for name, _ in list(batch_norms(model)):
        replace(model, name, lambda bn: with_affine(build(bn), bn))


def hold_in_evaluation(module: nn.Module) -> None:
    """Fix a part for good: no gradient, and evaluation mode whatever `model.train()` says.

    Names in the state dict stay, unlike with a wrapper; copies of the model keep it.
    """
    module.requires_grad_(False).eval()
    module.train = MethodType(stay, module)


def is_held(module: nn.Module) -> bool:
    """Whether `hold_in_evaluation` fixed this very module."""
    return "train" in vars(module)


def stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `module.train`: does nothing."""
    return module


def with_affine(new: nn.Module, bn: _BatchNorm) -> nn.Module:
    """Carry the affine parameters of the normalisation that is replaced, if it has any."""
    if bn.affine:
        with torch.no_grad():
            new.weight.copy_(bn.weight)
            new.bias.copy_(bn.bias)
    return new


def instance_norm(bn: _BatchNorm) -> nn.Module:
    """An instance normalisation in place of `bn`, with its affine parameters."""
    return with_affine(nn.InstanceNorm2d(bn.num_features, eps=bn.eps, affine=True), bn)


def to_bn(model: nn.Module) -> None:
    """Batch normalisation, as the architecture has it."""


def to_bn_frozen(model: nn.Module) -> None:
    """Batch normalisation by its running statistics in training too, affine parameters fixed.

    tsutsui2023 `freezebn`. Only meaningful with pre-trained statistics.
    """
    for _, bn in batch_norms(model):
        hold_in_evaluation(bn)


to_bn_frozen.needs_weights = True  # frozen statistics of random weights normalise nothing


def to_gn(model: nn.Module, groups: Annotated[int, Field(ge=1)] = 32) -> None:
    """Group normalisation everywhere (Wu & He, ECCV 2018).

    Args:
        groups: number of groups; where it does not divide the channels, the largest number below
            it that does.
    """

    def build(bn: _BatchNorm) -> nn.Module:
        channels = bn.num_features
        fitting = max(g for g in range(1, min(groups, channels) + 1) if channels % g == 0)
        return nn.GroupNorm(fitting, channels, eps=bn.eps)

    replace_all(model, build)


def to_in(model: nn.Module) -> None:
    """Instance normalisation everywhere, affine, without running statistics (Ulyanov 2016).

    Raises:
        Skip: a layer normalises vectors, in which a channel of one image is a single number.
    """
    for name, bn in batch_norms(model):
        if not isinstance(bn, nn.BatchNorm2d):
            raise Skip(f"{name} normalises no maps, and instance normalisation needs maps")
    replace_all(model, instance_norm)


def to_none(model: nn.Module) -> None:
    """No statistics at all: the scale and offset of each channel stay.

    They keep what an architecture initialises there (the zero at the end of a residual branch,
    without which a deep network of this kind does not start).
    """
    replace_all(model, lambda bn: ChannelAffine(bn.num_features))


def residual_norms(model: nn.Module, name: str) -> list[tuple[str, int, int, int]]:
    """The normalisations of the blocks of a ResNet, ResNeXt or RegNet, shortcuts left out.

    Args:
        name: of the conversion that asks, for the message.

    Returns:
        Name of the layer, stage (1–4), block, position in the block (1 is `norm1`).
    """
    # `layer1.0.bn1` in a ResNet or ResNeXt, `s1.b1.conv1.bn` in a RegNet.
    pattern = re.compile(r"(?:^|\.)(?:layer(\d)\.(\d+)\.bn(\d)|s(\d)\.b(\d+)\.conv(\d)\.bn)$")
    found = []
    for layer, _ in batch_norms(model):
        if match := pattern.search(layer):
            stage, block, position = (int(g) for g in match.groups() if g is not None)
            found.append((layer, stage, block, position))
    if {stage for _, stage, _, _ in found} != {1, 2, 3, 4}:
        raise Skip(
            f"{name} is defined on the residual blocks of a ResNet, ResNeXt or RegNet; "
            "this model has not the four stages of them"
        )
    return found


def to_ibn_a(model: nn.Module) -> None:
    """IBN-a: the first normalisation of every block in stages 1–3 of a ResNet, half instance.

    Placement of the official release (XingangPan/IBN-Net): not in the stem, not in stage 4.
    """
    for layer, stage, _, position in residual_norms(model, "ibn_a"):
        if position == 1 and stage <= 3:
            replace(model, layer, InstanceBatchNorm)


def to_ibn_b(model: nn.Module) -> None:
    """IBN-b: instance normalisation in the stem and at the end of stages 1 and 2.

    Placement of the official release: in the last block of the stage, after the addition and
    before the activation. These two are new, so they start from scale 1 and offset 0.
    """
    layers = residual_norms(model, "ibn_b")
    for chosen in (1, 2):
        width = {}
        for layer, stage, block, _ in layers:
            if stage == chosen:
                width[block] = (layer, model.get_submodule(layer).num_features)
        layer, channels = width[max(width)]
        block = model.get_submodule(re.sub(r"\.(conv\d\.)?bn\d?$", "", layer))
        last = next((act for act in ("act3", "act2") if hasattr(block, act)), None)
        if last is None:
            raise Skip("ibn_b needs an activation of its own after the addition of a block")
        act = [("IN", nn.InstanceNorm2d(channels, affine=True)), ("act", getattr(block, last))]
        setattr(block, last, nn.Sequential(OrderedDict(act)))
    stem = [n for n, _ in batch_norms(model) if re.search(r"(?:^|\.)(?:stem\.bn|(?<!\d\.)bn1)$", n)]
    for name in stem:
        replace(model, name, instance_norm)


def to_ibn_literal(model: nn.Module) -> None:
    """IBN as ma2020 words it: norm1 half instance, norm2 instance, in all four stages.

    Shortcuts, the stem and a third normalisation keep batch statistics.
    """
    for layer, _, _, position in residual_norms(model, "ibn_literal"):
        if position == 1:
            replace(model, layer, InstanceBatchNorm)
        elif position == 2:
            replace(model, layer, instance_norm)


def official_ibn_name(name: str) -> str:
    """Name in the official release (XingangPan/IBN-Net) of a parameter of a converted timm ResNet.

    >>> official_ibn_name("layer1.2.act2.IN.weight")
    'layer1.2.IN.weight'
    """
    return re.sub(r"\.act[23]\.IN\.", ".IN.", name)


def only_own(model: nn.Module) -> None:
    """A normalisation that belongs to an architecture and is not put into another."""
    raise Skip("this normalisation is kept where an architecture has it, never put in")


NORMALISATIONS: dict[str, Callable[..., None]] = {
    "bn": to_bn,
    "gn": to_gn,
    "in": to_in,
    "ibn_a": to_ibn_a,
    "bn_frozen": to_bn_frozen,
    "ibn_b": to_ibn_b,
    "ibn_literal": to_ibn_literal,
    "none": to_none,
    "ln": only_own,
    "evonorm": only_own,
}


def normalise(model: nn.Module, name: str, parameters: dict[str, object]) -> nn.Module:
    """Convert `model` in place to the normalisation `name`.

    A model without batch normalisation is kept as it is where `name` says what it has (`gn`, `ln`,
    `evonorm`; `none` where it has no normalisation at all).

    Raises:
        Skip: the model has no batch normalisation, or no place for this one, or keeps another kind
            beside it although the name speaks for the whole network.
    """
    kinds = norm_layers(model)
    if "batch" not in kinds:
        own = {"none": set()} | {name: {kind} for name, kind in OWN.items()}
        if own.get(name) != set(kinds):
            has = f"it has {' and '.join(kinds)} normalisation" if kinds else "it has none at all"
            raise Skip(f"the model has no batch normalisation to exchange; {has}")
        return model
    NORMALISATIONS[name](model, **parameters)
    if name in EVERYWHERE and (left := sorted(set(norm_layers(model)) - EVERYWHERE[name])):
        raise Skip(
            f"the model has {' and '.join(left)} normalisation beside that of batches, "
            f"which {name} leaves: it would not be {name} everywhere"
        )
    return model


def check_statistics(model: nn.Module, image_size: int) -> None:
    """Refuse what instance and group normalisation cannot do: a statistic of a single value, which
    would turn it into its offset, and a statistic over the tokens of several images.

    Args:
        model: on the meta device.

    Raises:
        Skip: names the first such layer.
    """
    images = 2

    def refuse(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            count, channels, *sides = inputs[0].shape
            if isinstance(layer, nn.GroupNorm) and not sides and count != images:
                raise Skip(
                    f"{name} normalises single tokens, where group normalisation would not be "
                    "that of an image"
                )
            if isinstance(layer, _InstanceNorm) and math.prod(sides) == 1:
                raise Skip(
                    f"instance normalisation at {name} sees a map of 1 × 1 pixel "
                    f"at image size {image_size}: take larger images, or another backbone"
                )
            if isinstance(layer, nn.GroupNorm):
                together = channels // layer.num_groups * math.prod(sides)
                if together == 1:
                    raise Skip(
                        f"group normalisation at {name} sees groups of a single value "
                        f"at image size {image_size}: take fewer groups, or larger images"
                    )

        return hook

    kinds = (_InstanceNorm, nn.GroupNorm)
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, kinds)]
    hooks = [layer.register_forward_pre_hook(refuse(name)) for name, layer in layers]
    if layers:
        model(torch.empty(images, 3, image_size, image_size, device="meta"))
    for hook in hooks:
        hook.remove()
