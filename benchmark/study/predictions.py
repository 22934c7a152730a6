"""Predictions: the one module that reads `predictions.parquet`, checked against the run's record.

In the label space `wbc5` every test set is also scored on four classes (`wbc4`): images of
basophils are left out, and basophil is struck from the predictions (the highest of the other four
logits counts). Public test sets hold one to three basophils, which nothing can be said of.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark import metrics
from benchmark.data.arrays import OPEN_SET_PART
from benchmark.errors import UserError
from benchmark.files import sha256_file
from benchmark.study.runs import RunRecord, read_run_record

TestSet = tuple[str, str]
"""(domain, part)"""
KEYS = ["domain", "part", "image", "group", "label"]
"""Columns of a file beside its logits."""
BOUND = ("run_id", "fingerprint", "network_sha256", "members")
"""What a file of predictions and its record both say of the run, so that neither is exchanged. The
fingerprint holds the digests of images and labels of every test set."""
REDUCED = "wbc4"
DROPPED = "basophil"
WBC5 = frozenset({"neutrophil", "lymphocyte", "monocyte", "eosinophil", DROPPED})


class Foreign(NamedTuple):
    """A run's predictions of cells that are of no class of the label space."""

    kinds: np.ndarray
    """(images,) negative, as in `benchmark.data.arrays.FOREIGN`"""
    logits: np.ndarray
    """(images, classes) as stored"""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A run's predictions of one test set."""

    images: np.ndarray
    """(images,) names"""
    labels: np.ndarray
    """(images,) class indices"""
    groups: np.ndarray
    """(images,) index of the patient, smear or source image"""
    digest: str
    """tells apart test sets of other images or labels"""
    predicted: np.ndarray
    """(images,) class indices"""
    reduced: np.ndarray | None
    """predictions without the dropped class; None in a label space that has no reduced form"""
    logits: np.ndarray
    """(images, classes) as stored, in half precision"""
    shares: bool = False
    """whether they are logarithms of shares of votes"""

    @property
    def correct(self) -> np.ndarray:
        """(images,) booleans"""
        return self.predicted == self.labels

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(images, classes)"""
        return stated_probabilities(self.logits, self.shares)


def stated_probabilities(logits: np.ndarray, shares: bool) -> np.ndarray:
    """(images, classes) the probabilities that logits state: their softmax.

    Shares of votes are taken as they are: a division by their sum, which half precision leaves up
    to 0.1 % off 1, would set images of equally many votes apart.
    """
    return np.exp(np.asarray(logits, np.float64)) if shares else metrics.probabilities(logits)


class RunPredictions(NamedTuple):
    """All predictions of a run."""

    known: dict[TestSet, Predictions]
    foreign: dict[str, Foreign]
    """by domain; empty where no cell of no class was tested"""


class RowOrder(NamedTuple):
    """Which rows of a file are which images; runs of a scenario mostly share one."""

    table: pa.Table
    """the columns that say so"""
    test_sets: dict[TestSet, tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray, str]]]
    """(images,) places in the file, sorted by image, and the first fields of `Predictions`"""


RowOrders = dict[tuple[tuple[TestSet, ...], tuple[str, ...]], RowOrder]
"""the last one by test sets and classes, which a file that has the same shares"""


def train_command(results: Path) -> str:
    """What makes the runs and indices of a results folder, which bears its profile's name."""
    return f"wbc-shift train -p {Path(results).name}"


def predictions_path(results: Path, run_id: str) -> Path:
    return Path(results) / "runs" / run_id / "predictions.parquet"


def read_stored(results: Path, record: RunRecord) -> pd.DataFrame:
    """A run's predictions as they were written: one row per image, in the order of its test sets.

    Args:
        record: the run's `run.json`.

    Raises:
        UserError: the file is missing or is not the one that the record means.
    """
    path = predictions_path(results, record.run_id)
    if fault := fault_of_file(path, record.record()):
        raise UserError(f"{path} {fault}: `{train_command(results)}` makes it again")
    return pd.read_parquet(path)


def read_predictions(
    results: Path,
    run_id: str,
    classes: tuple[str, ...],
    test_sets: tuple[TestSet, ...],
    shares: bool = False,
    orders: RowOrders | None = None,
) -> RunPredictions:
    """A run's predictions by test set; `evaluation.experiments` checks before that they are whole.

    Args:
        test_sets: those that the file has to hold.
        shares: whether the logits are logarithms of shares of votes.

    Raises:
        UserError: the file does not follow the schema, or lacks a test set.
    """
    path = predictions_path(results, run_id)
    again = f"then `{train_command(results)}` makes it again"
    logit_columns = [f"logit_{name}" for name in classes]
    orders = {} if orders is None else orders
    key = test_sets, classes
    try:
        # Files are read side by side: threads within one would only wait for each other.
        table = pq.ParquetFile(path).read([*KEYS, *logit_columns], use_threads=False)
        order = orders.get(key)
        if order is None or not order.table.equals(table.select(KEYS)):
            order = orders[key] = row_order(table.select(KEYS), len(classes))
        found = by_test_set(table, classes, order, shares)
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"run {run_id}: {path}: {error}: delete it, {again}") from error
    for domain, part in test_sets:
        if (domain, part) not in found.known:
            raise UserError(
                f"run {run_id}: no prediction for domain '{domain}', part '{part}', which its "
                f"scenario tests: delete its folder, {again}"
            )
    return found


def by_test_set(
    table: pa.Table, classes: tuple[str, ...], order: RowOrder, shares: bool = False
) -> RunPredictions:
    """The rows of a file of predictions by test set, in the order of `row_order`."""
    logits = np.column_stack([table[f"logit_{name}"].to_numpy() for name in classes])
    found = RunPredictions({}, {})
    for (domain, part), (rows, facts) in order.test_sets.items():
        own = logits[rows]
        if part == OPEN_SET_PART:
            found.foreign[domain] = Foreign(facts[1], own)
        else:
            predicted, reduced = metrics.predicted_classes(own), without_dropped(own, classes)
            found.known[domain, part] = Predictions(*facts, predicted, reduced, own, shares)
    return found


def in_metadata(record: dict[str, Any]) -> dict[bytes, bytes]:
    """Metadata of a file of predictions: what its record says of the run."""
    return {b"run": json.dumps({key: record[key] for key in BOUND if key in record}).encode()}


def fault_of_file(path: Path, record: dict[str, Any]) -> str | None:
    """What is wrong with a file of predictions, or None if it is the one that a record means.

    Args:
        record: the run's `run.json`. Records from before networks were hashed name none; their
            files state nothing, and are known by their SHA-256 alone.
    """
    if not path.is_file():
        return "is missing"
    if sha256_file(path) != record["predictions_sha256"]:
        return "is not the file that the run recorded (other SHA-256)"
    try:
        stated = pq.read_metadata(path).metadata or {}
        if b"run" in stated or record.get("network_sha256"):
            told = json.loads(stated.get(b"run", b"{}"))
            for key in BOUND:
                if told.get(key) != record.get(key):
                    return f"is of another run ({key}: {told.get(key)})"
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        return f"cannot be read ({str(error).splitlines()[0]})"
    return None


def networks_apart(results: Path, run_ids: Iterable[str]) -> list[str]:
    """A line for each training whose finished runs hold predictions of more than one network.

    Each of them is whole; but methods that differ in readout or inference alone are compared
    across networks then.
    """
    trainings: dict[str, list[RunRecord]] = {}
    for run_id in dict.fromkeys(run_ids):
        try:
            record = read_run_record(Path(results) / "runs" / run_id / "run.json")
        except UserError:
            continue  # it counts as missing
        if record.outcome == "done" and record.history:
            trainings.setdefault(record.training_fingerprint, []).append(record)
    lines = []
    for records in trainings.values():
        for one, other in itertools.pairwise(records):
            both = one.network_sha256, other.network_sha256
            same = both[0] == both[1] if all(both) else one.history == other.history
            if not same:
                lines.append(
                    f"{one.run_id} and {other.run_id} share a training and answer from two "
                    "networks, trained apart; where the checkpoint of one of them is at hand, "
                    f"without the other's folder `{train_command(results)}` answers both from it"
                )
                break
    return lines


def row_order(table: pa.Table, classes: int) -> RowOrder:
    """Sort the rows of each test set by image, one order for all runs, and check their labels."""
    test_sets = {}
    frame = table.to_pandas().sort_values("image", kind="stable")
    for test_set, rows in frame.groupby(["domain", "part"]):
        labels, images = rows["label"].to_numpy(np.int64), rows["image"].to_numpy(str)
        if test_set[1] != OPEN_SET_PART and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(f"a label lies outside the {classes} classes of the label space")
        if len(again := images[1:][images[1:] == images[:-1]]):
            where = f"{test_set[0]} ({test_set[1]})"
            raise ValueError(f"image '{again[0]}' stands twice in {where} and would count twice")
        digest = hashlib.sha256("\n".join(images).encode() + labels.tobytes()).hexdigest()
        groups = np.unique(rows["group"].to_numpy(str), return_inverse=True)[1]
        test_sets[test_set] = rows.index.to_numpy(), (images, labels, groups, digest)
    return RowOrder(table, test_sets)


def without_dropped(logits: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """(images,) class of the highest logit among those that are not dropped."""
    if frozenset(classes) != WBC5:
        return None
    kept = np.array([place for place, name in enumerate(classes) if name != DROPPED])
    return kept[logits[:, kept].argmax(axis=1)]
