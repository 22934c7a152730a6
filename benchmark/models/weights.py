"""Where a network's initial weights come from, what they have seen, and the input they expect."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from benchmark.schema import Strict

Triple = tuple[float, float, float]


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


class Weights(Strict):
    """A block of `weights` in params.yaml: random (`{}`), a tag of timm's hub, a file, or the
    one that an installed package holds."""

    timm: str | None = None
    """A tag of the backbone on timm's hub: `a1h_in1k` of `resnet50.a1h_in1k`."""
    file: str | None = None
    """A safetensors file, or a torch pickle that holds nothing but tensors."""
    package: str | None = Field(None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """A package of the index that is installed and holds one file of weights."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """What the file, or the hub's file, must have."""
    names: Literal["ibn_net", "dinov2", "in_order"] | None = None
    """How names in the file become the backbone's; null where they are the same. in_order: by the
    place of each tensor."""
    training_datasets: list[str] | None = None
    """Every data set the weights were made with, in the names of the cards; null is unknown."""
    mean: Triple | None = None
    std: Triple | None = None
    interpolation: str | None = None
    crop: float | None = Field(None, gt=0, le=1)
    """Null follows what timm knows of the weights (of the backbone, for a file)."""

    @model_validator(mode="after")
    def _one_source(self) -> Weights:
        if sum(map(bool, (self.timm, self.file, self.package))) > 1:
            raise ValueError("takes one of timm, file and package")
        if self.from_scratch and self.model_dump(exclude_none=True):
            raise ValueError("random weights take no key; name a source: timm, file or package")
        if self.names and self.timm:
            raise ValueError("names belongs to a file")
        return self

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is loaded."""
        return not (self.timm or self.file or self.package)

    def contamination(self, domain_datasets: Collection[str]) -> Contamination:
        """Whether the weights have seen a test domain; see `contamination`."""
        seen = [] if self.from_scratch else self.training_datasets
        return contamination(seen, domain_datasets)


Contamination = Literal["clean", "contaminated", "unknown"]


def contamination(
    training_datasets: Collection[str] | None, domain_datasets: Collection[str]
) -> Contamination:
    """Whether weights have seen the images of a test domain.

    Args:
        training_datasets: what the weights were made with; None is unknown, which is no "clean".
        domain_datasets: every name under which the domain's images circulate: its data set and
            those made from the same images (`pbc` and `bloodmnist`).
    """
    if training_datasets is None:
        return "unknown"
    seen = {name.casefold() for name in training_datasets}
    return "contaminated" if seen & {n.casefold() for n in domain_datasets} else "clean"


SCRATCH = Weights()
