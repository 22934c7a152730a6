"""Classifiers of a network, the features that enter them, and which parameters are trained."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.normalisation import Skip, hold_in_evaluation


def classifier_name(model: nn.Module) -> str:
    """Name of the module that maps features to logits, such as `fc` or `head.fc`.

    Raises:
        UserError: the model has two classifiers (a distilled one) or does not name it.
    """
    name = getattr(model, "pretrained_cfg", {}).get("classifier")
    if not isinstance(name, str):
        raise UserError(
            f"{type(model).__name__}: expected one classifier, found {name}: take another backbone"
        )
    return name


def replace_classifier(model: nn.Module, build: Callable[[int], nn.Module]) -> None:
    """Put `build(features)` where the classifier stands: a module from [N, features] to [N, C]."""
    parent, _, child = classifier_name(model).rpartition(".")
    old = model.get_submodule(classifier_name(model))
    if isinstance(old, nn.Conv2d):  # 1 × 1 on pooled maps [N, D, 1, 1]: resnetv2
        new = nn.Sequential(nn.Flatten(1), build(old.in_channels))
    else:
        new = build(old.in_features)
    setattr(model.get_submodule(parent), child, new)


def features_and_logits(model: nn.Module, batch: Tensor) -> tuple[Tensor | None, Tensor]:
    """Features [N, D] that enter the classifier, and the logits [N, C] that `model(batch)` gives.

    The features are None for a model that does not tell them apart (two classifiers, or another
    interface than timm's).

    Args:
        batch: standardised images float [N, 3, S, S].
    """
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(classifier, nn.Module):
        return None, model(batch)
    features = model.forward_head(model.forward_features(batch), pre_logits=True)
    if isinstance(classifier, nn.Conv2d):
        return features.flatten(1), classifier(features.reshape(*features.shape[:2], 1, 1)).flatten(
            1
        )
    return features, classifier(features)


def own(features: int, classes: int) -> None:
    """The linear classifier that the architecture has."""


def added_layers(features: int, classes: int) -> nn.Module:
    """Two hidden layers as wide as the features, with dropout 0.5 (tsutsui2023 `addfc`).

    On a ResNet-50: GAP → FC2048-ReLU-Dropout-FC2048-ReLU-Dropout-FC C.
    """
    hidden = (nn.Linear(features, features), nn.ReLU(inplace=True), nn.Dropout())
    again = (nn.Linear(features, features), nn.ReLU(inplace=True), nn.Dropout())
    return nn.Sequential(*hidden, *again, nn.Linear(features, classes))


def hidden_layer(features: int, classes: int, hidden: int = 512) -> nn.Sequential:
    """Linear(D → hidden)-BN-ReLU-Linear(hidden → C), Kaiming-normal weights, zero biases.

    The classifier of both stages of le2026 as released; its dropout is 0.
    """
    layers = [nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
    head = nn.Sequential(*layers, nn.Linear(hidden, classes))
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return head


HEADS: dict[str, Callable[[int, int], nn.Module | None]] = {
    "linear": own,
    "addfc": added_layers,
    "hidden512": hidden_layer,
}


def train_all(model: nn.Module) -> None:
    """Every parameter is trained."""


LAST16 = (
    ("layer3.4", "layer3.5", "layer4"),  # ResNet-50
    ("blocks.5", "blocks.6", "conv_head", "bn2"),  # EfficientNet-Lite 0
)
"""The parts that hold the last 16 convolutions of a network and their normalisation."""


def train_last16(model: nn.Module) -> None:
    """Train the last 16 convolutions of a ResNet-50, and its classifier (tsutsui2023 `last16only`).

    They are layer3 from its 5th block, and layer4; in an EfficientNet-Lite 0, the last two stages
    and the convolution after them. The source uses it with `bn_frozen`; what is not trained stays
    in evaluation mode here whatever the normalisation.
    """
    modules = dict(model.named_modules())
    for trained in LAST16:
        found = [m for name in trained if name in modules for m in modules[name].modules()]
        # A ResNet-101 has these 16 too, and more of layer3 after them.
        if sum(isinstance(m, nn.Conv2d) for m in found) == 16 and "layer3.6" not in modules:
            return hold_all_but(model, (*trained, classifier_name(model)))
    raise Skip("last16 is defined on ResNet-50 and EfficientNet-Lite 0")


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
