"""A method's network: a timm backbone from scratch, its normalisation exchanged."""

from __future__ import annotations

import inspect

import timm
import torch
from torch import nn

from benchmark.errors import UserError, suggest
from benchmark.models.normalisation import NORMALISATIONS, Skip, normalise


def build_model(
    backbone: str,
    normalisation: str,
    parameters: dict[str, object],
    classes: int,
    image_size: int,
    seed: int,
) -> nn.Module:
    """Build a network with random weights drawn from `seed`.

    The same backbone and seed give the same convolutions under every normalisation, so that runs
    are paired. Maps float [N, 3, image_size, image_size] to logits [N, classes].

    Raises:
        UserError: unknown backbone, normalisation or parameter.
        Skip: the normalisation does not apply to this backbone.
    """
    check_backbone(backbone)
    check_parameters("normalisations", NORMALISATIONS, normalisation, parameters, positional=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # Only some architectures (transformers) take an image size; convolutional ones refuse.
            model = timm.create_model(backbone, num_classes=classes, img_size=image_size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            torch.manual_seed(seed)
            model = timm.create_model(backbone, num_classes=classes)
    return normalise(model, normalisation, parameters)


def check_backbone(name: str) -> None:
    """Raise a `UserError` with the nearest names if timm knows no architecture of this name."""
    if not timm.is_model(name):
        raise UserError(f"unknown backbone '{name}' (timm){suggest(name, timm.list_models())}")


def check_parameters(
    kind: str,
    registry: dict[str, object],
    name: str,
    parameters: dict[str, object],
    positional: int,
) -> None:
    """Raise a `UserError` if `name` is not registered or does not take these parameters.

    Args:
        positional: how many leading arguments the harness itself passes.
    """
    if name not in registry:
        raise UserError(f"params.yaml: {kind}: unknown '{name}'{suggest(name, registry)}")
    known = list(inspect.signature(registry[name]).parameters)[positional:]
    for parameter in parameters:
        if parameter not in known:
            near = suggest(parameter, known) or "; it takes none"
            raise UserError(f"params.yaml: {kind}.{name}: unknown parameter '{parameter}'{near}")


def skip_reason(
    backbone: str, normalisation: str, parameters: dict[str, object], image_size: int
) -> str | None:
    """Why a backbone × normalisation makes no sense, or None; built without memory (meta)."""
    with torch.device("meta"):
        try:
            build_model(backbone, normalisation, parameters, 2, image_size, seed=0)
        except Skip as skip:
            return f"{backbone} × {normalisation}: {skip}"
    return None
