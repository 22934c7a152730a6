"""Frozen features of prepared images, by a finished run's network or by published weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmark.domains.facts import Features
from benchmark.execution.networks import RunContext, trained_network
from benchmark.models.build import create, load_initial
from benchmark.models.heads import replace_classifier
from benchmark.models.predict import predict
from benchmark.settings import Weights


def features_of_weights(backbone: str, file: Path, image_size: int) -> Features:
    """What enters the classifier of a backbone with ImageNet weights from a file.

    Raises:
        UserError: unknown backbone; no file, or one that does not fit.
    """
    model = create(backbone, image_size, num_classes=1000)
    load_initial(model, Weights(file=str(file)), backbone, image_size)
    return frozen(model)


def features_of_run(root: Path, profile: str, run_id: str, classes: list[str]) -> Features:
    """What enters the classifier of a finished run at its best epoch.

    Raises:
        UserError: no such run, or its checkpoint is not here.
    """
    _, model = trained_network(RunContext(root, profile, classes), run_id)
    return frozen(model)


def frozen(model: nn.Module) -> Features:
    """A network without its classifier, as a function of uint8 images."""
    replace_classifier(model, lambda features: nn.Identity())
    model.cpu()
    return lambda pixels: predict(model, pixels, "fp32", torch.device("cpu")).reshape(
        len(pixels), -1
    )
