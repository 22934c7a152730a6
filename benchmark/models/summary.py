"""What a method's network costs: parameters, multiply-adds, activation memory, norm layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.models.build import build_model, skip_reason
from benchmark.models.normalisation import norm_layers
from benchmark.settings import Params

BATCH = 2
"""A batch normalisation of 1 × 1 maps needs two images."""


@dataclass(frozen=True)
class Summary:
    """Cost of one network at one image size.

    Attributes:
        parameters: how many there are.
        trainable: how many of them are trained.
        multiply_adds: of one image, forward: half of what torch's counter reports (matrix products,
            convolutions and attention; element-wise work is not counted).
        activation_bytes: what autograd keeps of one image in float32 for the backward pass.
        norms: number of normalisation layers by kind.
    """

    parameters: int
    trainable: int
    multiply_adds: int
    activation_bytes: int
    norms: dict[str, int]


def summarise(model: nn.Module, image_size: int) -> Summary:
    """Count the cost of a network in training mode.

    Args:
        model: on the meta device, where nothing is computed, stored or changed.
        image_size: side of its images in pixels.
    """
    parameters = list(model.parameters())
    images = torch.empty(BATCH, 3, image_size, image_size, device="meta")
    weights = {storage(t) for t in (*parameters, *model.buffers())}
    kept: dict[int, Tensor] = {}  # by storage: a view of a tensor costs nothing more

    def keep(tensor: Tensor) -> Tensor:
        if storage(tensor) not in weights:
            kept[storage(tensor)] = tensor
        return tensor

    training = model.training
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(images)
    model.train(training)
    return Summary(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=counter.get_total_flops() // 2 // BATCH,
        activation_bytes=sum(t.untyped_storage().nbytes() for t in kept.values()) // BATCH,
        norms=dict(norm_layers(model)),
    )


def storage(tensor: Tensor) -> int:
    """What tells two tensors apart that lie in different memory, on the meta device too."""
    return tensor.untyped_storage()._cdata


def summarise_profile(
    params: Params, profile_name: str, classes: int
) -> dict[tuple[str, str, str, str, int], Summary | str]:
    """Cost of every network that a profile trains, or the reason why one is skipped.

    Returns:
        By backbone, normalisation, head, freezing and side of the images in pixels, in the order of
        the experiments.
    """
    profile = params.profile(profile_name)
    found: dict[tuple[str, str, str, str, int], Summary | str] = {}
    for experiment in profile.experiments.values():
        for method in params.methods_of(experiment).values():
            size = profile.size_of(method.framing)
            key = (method.backbone, method.normalisation, method.head, method.freezing, size)
            if method.members or key in found:
                continue
            parts = {"weights": params.weights_of(method)}
            parts |= {"head": method.head, "freezing": method.freezing}
            what = (*key[:2], params.block("normalisation", method.normalisation))
            found[key] = skip_reason(*what, size, **parts) or ""
            if not found[key]:
                with torch.device("meta"):
                    model = build_model(*what, classes, size, seed=0, **parts)
                found[key] = summarise(model, size)
    return found
