"""A method's network: a backbone by name, its initial weights, normalisation, head and freezing."""

from __future__ import annotations

import functools

import timm
import torch
from torch import nn

from benchmark.errors import UserError, suggest
from benchmark.models.architectures import (  # noqa: F401  register with timm
    colour_histogram,
    crossformer,
    squeezenet,
)
from benchmark.models.architectures.cnn_rnn import SUFFIX, CnnRnn, create_cnn_rnn
from benchmark.models.heads import FREEZING, HEADS, replace_classifier
from benchmark.models.normalisation import (
    Skip,
    batch_norms,
    check_statistics,
    normalise,
)
from benchmark.models.weights import AFTER_CONVERSION, NAMES, load, read_state, weights_file
from benchmark.parts import capability, check_block, function_of
from benchmark.settings import FROM_SCRATCH, Weights


def build_model(
    backbone: str,
    normalisation: str,
    parameters: dict[str, object],
    classes: int,
    image_size: int,
    seed: int,
    *,
    weights: Weights = FROM_SCRATCH,
    head: str = "linear",
    freezing: str = "none",
    state_follows: bool = False,
) -> nn.Module:
    """Build a network; what `weights` does not give is random, drawn from `seed`.

    The same backbone and seed give the same convolutions under every normalisation, so that runs
    are paired. Maps float [N, 3, image_size, image_size] to logits [N, classes].

    Args:
        state_follows: a whole state will be loaded next, so that the weights need not be here.

    Raises:
        UserError: unknown backbone, normalisation, parameter, head or freezing; weights that are
            missing or do not fit.
        Skip: the combination makes no sense.
    """
    check_backbone(backbone)
    check_block("normalisation", normalisation, parameters)
    for part, registry, name in (("head", HEADS, head), ("freezing", FREEZING, freezing)):
        if name not in registry:
            raise UserError(f"params.yaml: methods: {part}: no '{name}'{suggest(name, registry)}")
    needs_weights = capability("normalisation", normalisation, "needs_weights", parameters)
    if needs_weights and weights.from_scratch:
        raise Skip("frozen statistics of random weights normalise nothing: give it weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = create(backbone, image_size, num_classes=classes)
        draw_anew_if_wide(model)
        initial = FROM_SCRATCH if state_follows else weights
        late = initial.names in AFTER_CONVERSION
        if not late:
            load_initial(model, initial, backbone, image_size)
        conversion = function_of("normalisation", normalisation, parameters)
        normalise(model, conversion, {k: v for k, v in parameters.items() if k != "of"})
        if late:
            load_initial(model, initial, backbone, image_size)
        if head != "linear":
            replace_classifier(model, lambda features: HEADS[head](features, classes))
    FREEZING[freezing](model)
    return model


def create(name: str, image_size: int, **options: object) -> nn.Module:
    """A network by name at an image size, which of timm's only some (transformers) take."""
    if name.endswith(SUFFIX):
        return create_cnn_rnn(name, img_size=image_size, **options)
    state = torch.get_rng_state()
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        torch.set_rng_state(state)
        return timm.create_model(name, **options)


def draw_anew_if_wide(model: nn.Module) -> None:
    """Draw a classifier as torch does, ±1/√features, where it was drawn wider by far.

    timm draws an EfficientNet's by its number of classes, ±1/√classes, which is as narrow for a
    thousand. For five, the logits begin at several units, and the first steps spoil the features.
    """
    linear = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(linear, nn.Linear) or linear.weight.is_meta:
        return
    if linear.weight.std() > linear.in_features**-0.5:
        linear.reset_parameters()


def load_initial(model: nn.Module, weights: Weights, backbone: str, image_size: int) -> None:
    """Load the initial weights, if any, of a CNN-RNN into its CNN; on the meta device do nothing.

    timm drops the classifier of the hub's weights without a word, and is then no longer strict:
    read with as many classes as they have, they are checked whole.
    """
    if weights.from_scratch or next(model.parameters()).is_meta:
        return
    if isinstance(model, CnnRnn):
        model, backbone = model.cnn, backbone.removesuffix(SUFFIX)
    path = weights_file(weights, backbone)
    if not weights.timm:
        name, state = weights.file or weights.package, read_state(path)
        state = NAMES[weights.names](state, model) if weights.names else state
    else:
        name = f"{backbone}.{weights.timm}"
        overlay = {"file": str(path), "custom_load": False}
        whole = create(name, image_size, pretrained=True, pretrained_cfg_overlay=overlay)
        state = whole.state_dict()
    load(model, state, f"weights {name}")


def check_backbone(name: str) -> None:
    """Raise a `UserError` with the nearest names if timm knows no architecture of this name."""
    if not timm.is_model(name.removesuffix(SUFFIX)):
        raise UserError(f"unknown backbone '{name}' (timm){suggest(name, timm.list_models())}")


def skip_reason(
    backbone: str,
    normalisation: str,
    parameters: dict[str, object],
    image_size: int,
    *,
    weights: Weights = FROM_SCRATCH,
    head: str = "linear",
    freezing: str = "none",
    batch_statistics: bool = False,
) -> str | None:
    """Why a combination makes no sense, or None; built without memory (meta), nothing loaded.

    Args:
        batch_statistics: whether the inference needs layers with running statistics of batches.
    """
    check_block("normalisation", normalisation, parameters)
    network = (backbone, normalisation, tuple(parameters.items()), image_size)
    reason, keeps_statistics = built_on_meta(*network, weights.model_dump_json(), head, freezing)
    if reason is None and batch_statistics and not keeps_statistics:
        reason = "no layer keeps statistics of batches, which the inference adapts"
    return None if reason is None else f"{backbone} × {normalisation}: {reason}"


@functools.cache  # methods of many experiments share a network
def built_on_meta(
    backbone: str,
    normalisation: str,
    parameters: tuple[tuple[str, object], ...],
    image_size: int,
    weights: str,
    head: str,
    freezing: str,
) -> tuple[str | None, bool]:
    """Why a network makes no sense, or None, and whether it keeps statistics of batches.

    Takes arguments that can be remembered.
    """
    with torch.device("meta"):
        try:
            model = build_model(
                backbone,
                normalisation,
                dict(parameters),
                2,
                image_size,
                seed=0,
                weights=Weights.model_validate_json(weights),
                head=head,
                freezing=freezing,
            )
            check_statistics(model, image_size)
        except Skip as skip:
            return str(skip), False
    return None, any(True for _ in batch_norms(model))
