"""What the runs of an experiment have in common, and what a run's record says of its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmark.data.arrays import PreparedImages
from benchmark.data.split import fold_of
from benchmark.files import digest
from benchmark.models.weights import Weights
from benchmark.runs import Run


@dataclass
class Bench:
    """What the runs of an experiment have in common: a profile's images and a device."""

    root: Path
    profile: str
    classes: list[str]
    device: torch.device
    images: PreparedImages
    seen: dict[tuple, PreparedImages] = field(default_factory=dict)

    def images_of(self, run: Run) -> PreparedImages:
        """The images as a run sees them: those of the last framing and stain are kept."""
        fold = fold_of(run["seed"], run["scenario"].get("folds"))
        source, method = run["scenario"]["source"], run["method"]
        stain, framing = method.get("stain", "none"), method.get("framing")
        if (stain, framing) == ("none", None):
            return self.images.in_fold(fold)
        # A stain is fitted on the training part; without one, all sources and folds see the same.
        key = (framing,) if stain == "none" else (framing, stain, source, fold)
        if key not in self.seen:
            self.seen = {key: self.images.in_fold(fold).seen_by(source, stain, framing)}
        return self.seen[key].in_fold(fold)


def initial_weights(run: Run) -> Weights:
    """The weights that a run starts from."""
    return Weights.model_validate(run["settings"].get("weights", {}))


def axis_seed(*axis: str | int) -> int:
    """A 63-bit seed from the names it depends on, and on nothing else."""
    return int(digest(list(axis)), 16) >> 1
