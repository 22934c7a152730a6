"""The networks in the repository: what lies in `results/networks/<name>/`, checked when it is read.

`network.safetensors` is the state of a finished run's network in half precision; `network.json`
says what it is, how images are treated for it, and where it is from; `predictions.parquet` holds
what this very file, not the one that was trained, predicts of the run's test sets; `README.md` is
the model card made of both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveFloat, field_validator
from safetensors import SafetensorError

from benchmark.domains.ranges import Looks, SourceRange
from benchmark.errors import UserError, suggest
from benchmark.files import sha256_file
from benchmark.schema import Line, Name, ProfileName, Record, read_shape
from benchmark.settings import Triple
from benchmark.study.runs import Run

if TYPE_CHECKING:  # reports read what is recorded of a network, and load no PyTorch for it
    import torch

NETWORK, RECORD = "network.safetensors", "network.json"
PREDICTIONS, CARD = "predictions.parquet", "README.md"
LARGEST = 10_000_000
"""Bytes of a network's file."""
MOST = 3
"""Networks in the repository: clones carry them."""
AGAIN = "get it again from the repository (`git checkout results/networks`)"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class KeptStain(Record):
    """A stain normalisation and the numbers that it was fitted to on the source."""

    name: str
    fitted: dict[str, Any]


class KeptMoments(Record):
    """Mean and standard deviation of R, G and B over all pixels of some images."""

    mean: Triple
    spread: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class KeptPreprocessing(Record):
    """How an image in [0, 1] becomes the network's input: see `benchmark/models/weights.py`."""

    mean: Triple
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    each_image: bool = False


class KeptSourceRange(Record):
    """Where a source's own images lie; see `benchmark/domains/ranges.py`."""

    source: str
    images: int
    held_out: int
    mean: Looks
    covariance: Annotated[list[Looks], Field(min_length=8, max_length=8)]
    limit: PositiveFloat

    @field_validator("covariance")
    @classmethod
    def _has_an_inverse(cls, covariance: list[Looks]) -> list[Looks]:
        if np.linalg.matrix_rank(np.array(covariance)) < len(covariance):
            raise ValueError("has no inverse, so that no distance can be measured in it")
        return covariance


class ShownSet(Record):
    """What is told of a domain that the network was trained or tested on."""

    dataset: str
    title: Line
    licence: Line
    redistribution: Literal["allowed", "forbidden", "unknown"]
    citation: str
    crop: Any
    """As in its card: which part of its pictures shows one cell."""


class Choice(Record):
    """How the network came to be here."""

    by: Literal["rule", "hand"]
    mean: float | None = None
    """Of the targets' macro-F1, over the method's finished seeds."""
    seeds: int | None = None
    among: int | None = None
    """Inductive single-network methods of the source that the rule looked at."""
    comparison: bool = False
    """Whether it is the plain network that the others are compared with."""


class ShippedRecord(Record):
    """`network.json`."""

    schema_version: Literal[1]
    name: Name
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    profile: ProfileName
    run: Run
    label_space: str
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    network_sha256: Sha256
    """Of the state as it was trained; see `benchmark.study.records.network_sha256`."""
    sha256: Sha256
    """Of `network.safetensors`."""
    predictions_sha256: Sha256
    preprocessing: KeptPreprocessing
    stain: KeptStain | None
    colour: KeptMoments
    """Of the source's training images as prepared, before any stain normalisation."""
    ranges: Annotated[list[KeptSourceRange], Field(min_length=1)]
    sets: dict[str, ShownSet]
    chosen: Choice
    licence: Line
    environment: dict[str, Any]
    answered_in: dict[str, Any]


@dataclass(frozen=True)
class Shipped:
    """A network of the repository as its files: nothing of it is loaded yet."""

    folder: Path
    record: ShippedRecord

    @property
    def bytes(self) -> int:
        """Size of the network's file."""
        try:
            return (self.folder / NETWORK).stat().st_size
        except OSError:
            raise UserError(f"{self.folder / NETWORK} is missing: {AGAIN}") from None

    @property
    def ranges(self) -> list[SourceRange]:
        """Where the images of its sources lie."""
        fields = [field.name for field in dataclasses.fields(SourceRange)]
        return [
            SourceRange(**{name: getattr(own, name) for name in fields})
            for own in self.record.ranges
        ]

    def table(self) -> pa.Table:
        """The predictions of the shipped file.

        Raises:
            UserError: they are missing, or are not those that `network.json` means.
        """
        path = self.checked(PREDICTIONS, self.record.predictions_sha256)
        try:
            table = pq.read_table(path)
        except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
            why = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be read ({why}): {AGAIN}") from None
        logits = [name for name in table.column_names if name.startswith("logit_")]
        if logits != [f"logit_{name}" for name in self.record.classes]:
            raise UserError(f"{path} is of other classes than {RECORD} beside it: {AGAIN}")
        return table

    def stored(self) -> pd.DataFrame:
        """The same as a frame."""
        return self.table().to_pandas()

    def state(self) -> dict[str, torch.Tensor]:
        """The tensors of the network by name, half precision where they are numbers of any size.

        Raises:
            UserError: the file is missing, or is not the one that `network.json` means.
        """
        from safetensors.torch import load_file

        path = self.checked(NETWORK, self.record.sha256)
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be read ({why}): {AGAIN}") from None

    def checked(self, name: str, sha256: str) -> Path:
        """The path of a file that has the SHA-256 that `network.json` states."""
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing: {AGAIN}")
        if (found := sha256_file(path)) != sha256:
            raise UserError(
                f"{path} has the SHA-256 {found[:12]}…, {RECORD} beside it says {sha256[:12]}…: "
                f"{AGAIN}"
            )
        return path


def networks_folder(root: Path) -> Path:
    """Where the networks of the repository lie."""
    return Path(root) / "results" / "networks"


def shipped_names(root: Path) -> list[str]:
    """Their names."""
    found = (path.parent.name for path in networks_folder(root).glob(f"*/{RECORD}"))
    return sorted(name for name in found if not name.startswith("."))  # being made


def read_shipped(root: Path, name: str) -> Shipped:
    """A network of the repository by name.

    Raises:
        UserError: there is none of this name, or its `network.json` is broken.
    """
    known, folder = shipped_names(root), networks_folder(root)
    if name not in known:
        near = suggest(name, known) or ": `wbc-shift networks` lists them"
        raise UserError(f"{folder}: no network '{name}'{near}")
    record = read_shape(folder / name / RECORD, ShippedRecord, AGAIN)
    if record.name != name:
        raise UserError(f"{folder / name / RECORD} is of '{record.name}': {AGAIN}")
    return Shipped(folder / name, record)


def all_shipped(root: Path) -> list[Shipped]:
    """All networks of the repository, by name."""
    return [read_shipped(root, name) for name in shipped_names(root)]
