"""What haematology knows and no image says: model patients with their flags, and how far apart two
cell types are. `datasets/haematology/*.yaml`, reviewed there with a source for each line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, PositiveFloat, model_validator

from benchmark.data.cards import read_label_spaces
from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.schema import Line, Name, Strict, parse

FOLDER = "haematology"
PREVALENCES = f"{FOLDER}/prevalences.yaml"
LINEAGE = f"{FOLDER}/lineage.yaml"


class Patient(Strict):
    """A model patient."""

    counts: dict[str, Annotated[float, Field(ge=0)]]
    """Class → its cells in a volume of blood."""
    source: Line


class Flag(Strict):
    """What a laboratory reports of a count: too few or too many."""

    of: str = Field(alias="class")
    below: PositiveFloat | None = None
    above: PositiveFloat | None = None
    source: Line

    @model_validator(mode="after")
    def _one_end(self) -> Flag:
        if (self.below is None) == (self.above is None):
            raise ValueError("needs one of `below` and `above`")
        return self

    def raised(self, counts: np.ndarray) -> np.ndarray:
        """Whether each of any number of counts raises it."""
        return counts < self.below if self.below is not None else counts > self.above


class Prevalences(Strict):
    """The content of `datasets/haematology/prevalences.yaml`."""

    label_space: Name
    unit: Line
    patients: dict[Line, Patient] = Field(min_length=1)
    flags: dict[Line, Flag]

    @model_validator(mode="after")
    def _same_classes(self) -> Prevalences:
        known = self.classes
        for name, patient in self.patients.items():
            if set(patient.counts) != set(known) or not sum(patient.counts.values()):
                raise ValueError(f"patients.{name}: counts of {', '.join(known)} are needed")
        for name, flag in self.flags.items():
            if flag.of not in known:
                raise ValueError(f"flags.{name}: no class '{flag.of}'{suggest(flag.of, known)}")
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(next(iter(self.patients.values())).counts)

    def counts(self, classes: tuple[str, ...]) -> np.ndarray:
        """(patients, classes) counts in the order of the classes."""
        return np.array([[p.counts[name] for name in classes] for p in self.patients.values()])


class CellType(Strict):
    """Where a cell type stands in the tree."""

    line: tuple[Line, ...] = Field(min_length=1)
    """From the first branch to its own lineage."""
    stage: Line


class Lineage(Strict):
    """The content of `datasets/haematology/lineage.yaml`."""

    stages: list[Line]
    """From the least to the most mature."""
    immature: list[Line]
    cell_types: dict[str, CellType]

    @model_validator(mode="after")
    def _stages_are_known(self) -> Lineage:
        told = {f"cell_types.{name}": own.stage for name, own in self.cell_types.items()}
        for where, stage in (
            told | {f"immature: {stage}": stage for stage in self.immature}
        ).items():
            if stage not in self.stages:
                raise ValueError(f"{where}: no stage '{stage}'{suggest(stage, self.stages)}")
        if len({len(own.line) for own in self.cell_types.values()}) != 1:
            raise ValueError("cell_types: every line needs as many branches as the others")
        return self


class NotInTree(UserError):
    """A class of a label space is no cell type of the tree."""


class Distances(NamedTuple):
    """How far apart the classes of a label space are."""

    lineage: np.ndarray
    """(classes, classes) height of the lowest branch that both share, 0 within a lineage"""
    maturity: np.ndarray
    """(classes, classes) stages between them"""
    immature: np.ndarray
    """(classes,) booleans"""
    blast: np.ndarray
    """(classes,) booleans"""


def distances(lineage: Lineage, types: list[str]) -> Distances:
    """The distances between cell types.

    The height of the lowest common ancestor is the severity of an error in Bertinetto et al. 2020
    (Making better mistakes, CVPR), there in the tree of ImageNet.
    """
    own = [lineage.cell_types[name] for name in types]
    heights = [[height(one.line, other.line) for other in own] for one in own]
    stages = np.array([lineage.stages.index(cell.stage) for cell in own])
    return Distances(
        np.array(heights),
        np.abs(stages[:, None] - stages),
        np.array([cell.stage in lineage.immature for cell in own]),
        stages == 0,
    )


def height(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Branches between two lineages and the last one that they share."""
    parted = (place for place, pair in enumerate(zip(one, other, strict=True)) if len({*pair}) > 1)
    return len(one) - next(parted, len(one))


def read_prevalences(datasets: Path) -> Prevalences:
    """Read and check the model patients."""
    path = datasets / PREVALENCES
    return parse(Prevalences, read_yaml(path), str(path))


def read_distances(datasets: Path, space: str, classes: tuple[str, ...]) -> Distances:
    """How far apart the classes of a label space are.

    A class is the cell type of its name, or the one that `label_spaces.yaml` maps to it.

    Raises:
        NotInTree: a class is no cell type of the tree.
    """
    path = datasets / LINEAGE
    lineage = parse(Lineage, read_yaml(path), str(path))
    mapped = read_label_spaces(datasets).cell_types
    types = []
    for name in classes:
        own = [cell for cell, to in mapped.items() if to.get(space) == name]
        found = [cell for cell in (name, *own) if cell in lineage.cell_types]
        if not found:
            raise NotInTree(
                f"{path}: '{name}' of {space} is no cell type of the tree: add it there"
            )
        types.append(found[0])
    return distances(lineage, types)
