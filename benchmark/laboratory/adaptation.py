"""Networks adapted to a laboratory's unlabelled images: by the statistics of its batches, or by
its colour.

Both are transductive: the answer to one image depends on the others, and what the whole folder
looks like is taken for the laboratory's look. That needs images enough, and of mixed classes: on a
smear of one class the cells themselves would be normalised away.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from benchmark.data.stain import matched
from benchmark.errors import UserError
from benchmark.laboratory.networks import Network
from benchmark.metrics import predicted_classes
from benchmark.models.normalisation import batch_norms
from benchmark.models.predict import VIEWS, Averaged, BatchStatistics, Conditions

Adaptation = Literal["batch", "colour"]
ADAPTATIONS: tuple[str, ...] = get_args(Adaptation)
FEWEST_IMAGES = 100
"""Images below which their statistics are those of single cells more than of a laboratory."""
FEWEST_CLASSES, LEAST_SHARE = 3, 0.05
"""Classes, each with this share of the images at least, below which a folder is of few classes."""
COLOURLESS = ("image_moments", "grey")
"""Stain normalisations after which a change of the folder's colour as a whole changes nothing."""


def has_batch_statistics(network: Network) -> bool:
    """Whether a network has a layer that keeps statistics of batches."""
    return any(True for _ in batch_norms(network.model))


def colour_matters(network: Network) -> bool:
    """Whether a change of all images' colour as a whole changes what a network is given."""
    return not (network.preprocessing.each_image or network.record.method.stain in COLOURLESS)


def check_adaptation(network: Network, how: Adaptation) -> None:
    """Refuse an adaptation that cannot do anything to a network.

    Raises:
        UserError: it has no statistics of batches; or it standardises colour image by image.
    """
    if how == "batch" and not has_batch_statistics(network):
        raise UserError(
            f"--adapt batch: {network.name} has no layer that keeps statistics of batches: use "
            "--adapt colour, or another --network"
        )
    if how == "colour" and not colour_matters(network):
        raise UserError(
            f"--adapt colour: {network.name} brings every image to the same colour anyway, so that "
            "nothing would change: use --adapt batch, or another --network"
        )


def adapted_logits(network: Network, pixels: np.ndarray, how: Adaptation) -> np.ndarray:
    """Logits float32 [N, C] of all images of a folder, uint8 [N, S, S, 3] as decoded.

    `batch`: the running statistics of batches become the folder's (AdaBN, Li et al. 2016).
    `colour`: mean and standard deviation of R, G and B over the folder become those of the source.
    """
    if how == "colour":
        return network.logits(matched(pixels, network.moments))
    classes = len(network.classes)
    conditions = Conditions(
        network.record.settings.training.precision,
        network.device,
        network.preprocessing,
        np.full(classes, 1 / classes),
    )
    model = Averaged(network.model, VIEWS["dihedral"]) if network.averages else network.model
    return BatchStatistics()(model, network.stained(pixels), conditions)


def cautions(before: np.ndarray, after: np.ndarray, classes: list[str]) -> list[str]:
    """What has to be said of an adaptation.

    Args:
        before, after: logits [N, C] without it and with it.
    """
    labels = predicted_classes(before)
    number = len(labels)
    changed = int((labels != predicted_classes(after)).sum())
    told = [f"adapting changed {changed} of {number} labels"]
    if number < FEWEST_IMAGES:
        told.append(
            f"warning: {number} images say little of how a laboratory's images look; adapt to "
            f"{FEWEST_IMAGES} or more"
        )
    shares = np.bincount(labels, minlength=len(classes)) / number
    seen = [name for name, share in zip(classes, shares, strict=True) if share >= LEAST_SHARE]
    if len(seen) < FEWEST_CLASSES:
        told.append(
            f"warning: without adapting, nearly all images are {' and '.join(seen)}: on a folder "
            "of few classes adapting takes the cells themselves for the laboratory's look, and errs"
        )
    return told
