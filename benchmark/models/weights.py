"""Where a network's initial weights come from, what they have seen, and the input they expect."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from benchmark.settings import Triple, Weights


@dataclass(frozen=True)
class Preprocessing:
    """What weights expect of their input.

    Attributes:
        mean: subtracted from each channel of an image in [0, 1].
        std: divides it.
        interpolation: how the images that the weights were made with were resized; None from
            scratch. A fact for the record, as is `crop`: here every method sees the same prepared
            images, resized once by one library, with the crop of the data set's card.
        crop: the part of the side of an image that was kept, in (0, 1]; None from scratch.
    """

    mean: Triple
    std: Triple
    interpolation: str | None = None
    crop: float | None = None


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""From scratch: the statistics of ImageNet, which timm's models expect by default."""


def contamination(
    weights: Weights, names: Collection[str]
) -> Literal["clean", "contaminated", "unknown"]:
    """Whether weights have seen the images of a test domain.

    Args:
        names: every name under which the domain's images circulate: its data set and those made
            from the same images (`pbc` and `bloodmnist`).
    """
    if weights.from_scratch:
        return "clean"
    if weights.training_datasets is None:
        return "unknown"
    seen = {name.casefold() for name in weights.training_datasets}
    return "contaminated" if seen & {name.casefold() for name in names} else "clean"
