"""Which parameters of a built network are trained."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmark.models.heads import classifier_name
from benchmark.models.normalisation import Skip, hold_in_evaluation


def train_all(model: nn.Module) -> None:
    """Every parameter is trained."""


def train_last16(model: nn.Module) -> None:
    """Train the last 16 convolutions of a ResNet-50, and its classifier (tsutsui2023 `last16only`).

    They are layer3 from its 5th block, and layer4. The source uses it with `bn_frozen`; what is
    not trained stays in evaluation mode here whatever the normalisation.
    """
    trained = ("layer3.4", "layer3.5", "layer4")
    modules = dict(model.named_modules())
    found = [m for name in trained for m in (modules[name].modules() if name in modules else ())]
    # A ResNet-101 has these 16 too, and more of layer3 after them.
    if sum(isinstance(m, nn.Conv2d) for m in found) != 16 or "layer3.6" in modules:
        raise Skip("last16 is defined on ResNet-50")
    hold_all_but(model, (*trained, classifier_name(model)))


def train_classifier(model: nn.Module) -> None:
    """Train the classifier alone, on features in evaluation mode (a linear probe)."""
    hold_all_but(model, (classifier_name(model),))


def hold_all_but(model: nn.Module, trained: tuple[str, ...]) -> None:
    """Hold in evaluation, without gradient, what is no trained part and contains none."""
    for name, part in list(model.named_modules()):
        inside = any(name == t or name.startswith(f"{t}.") for t in trained)
        contains = any(t.startswith(f"{name}." if name else "") for t in trained)
        if contains and not inside:
            for parameter in part.parameters(recurse=False):
                parameter.requires_grad_(False)
        elif not inside:
            hold_in_evaluation(part)


FREEZING: dict[str, Callable[[nn.Module], None]] = {
    "none": train_all,
    "last16": train_last16,
    "linear": train_classifier,
}
