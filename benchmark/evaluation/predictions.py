"""Predictions: a run's file, checked against its record, as labels, answers and scores.

In the label space `wbc5` every test set is also scored on four classes (`wbc4`): images of
basophils are left out, and basophil is struck from the answers (the highest of the other four
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
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from benchmark.data.arrays import OPEN_SET_PART
from benchmark.errors import UserError
from benchmark.evaluation import metrics
from benchmark.evaluation.calibration import Reliability, probabilities, reliability
from benchmark.evaluation.experiments import Run, train_command
from benchmark.evaluation.rejection import risk_coverage
from benchmark.files import read_json, sha256_file
from benchmark.schema import read_done

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
    """What a run answered on cells that are of no class of the label space."""

    kinds: np.ndarray
    """(images,) negative, as in `benchmark.data.arrays.FOREIGN`"""
    logits: np.ndarray
    """(images, classes) as stored"""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a run answered on one test set; what several measures ask for is computed once."""

    images: np.ndarray
    """(images,) names"""
    labels: np.ndarray
    """(images,) class indices, as are the answers"""
    groups: np.ndarray
    """(images,) index of the patient, smear or source image"""
    digest: str
    """tells apart test sets of other images or labels"""
    predicted: np.ndarray
    reduced: np.ndarray | None
    """answers without the dropped class; None in a label space that has no reduced form"""
    logits: np.ndarray
    """(images, classes) as stored, in half precision"""
    shares: bool = False
    """whether they are logarithms of shares of votes"""

    @cached_property
    def correct(self) -> np.ndarray:
        """(images,) booleans"""
        return self.predicted == self.labels

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(images, classes)"""
        return stated(self.logits, self.shares)

    @cached_property
    def reliability(self) -> Reliability:
        """Confidence and accuracy by bin of confidence"""
        return reliability(self.probabilities, self.labels)

    @cached_property
    def risk_coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """Coverage and risk, (images,) each, where the largest probability decides what is kept"""
        return risk_coverage(self.probabilities.max(axis=1), self.correct)


def stated(logits: np.ndarray, shares: bool) -> np.ndarray:
    """(images, classes) the probabilities that logits state: their softmax.

    Shares of votes are taken as they are: a division by their sum, which half precision leaves up
    to 0.1 % off 1, would set images of equally many votes apart.
    """
    return np.exp(np.asarray(logits, np.float64)) if shares else probabilities(logits)


class Predictions(NamedTuple):
    """What a run answered."""

    known: dict[TestSet, Answers]
    foreign: dict[str, Foreign]
    """by domain; empty where no cell of no class was tested"""


class Layout(NamedTuple):
    """Which rows of a file are which images; runs of a scenario mostly share one."""

    table: pa.Table
    """the columns that say so"""
    order: np.ndarray
    """(rows,) places in the file, sorted by test set and image"""
    test_sets: dict[TestSet, tuple[slice, tuple[np.ndarray, np.ndarray, np.ndarray, str]]]
    """slice of the order, and the first fields of `Answers`"""


def read_answers(results: Path, run: Run, classes: tuple[str, ...]) -> dict[TestSet, Answers]:
    """Every test set of known classes; see `read_predictions`."""
    return read_predictions(results, run, classes).known


def read_predictions(
    results: Path,
    run: Run,
    classes: tuple[str, ...],
    layouts: dict[tuple[str, tuple[str, ...]], Layout] | None = None,
) -> Predictions:
    """Every test set in a run's `predictions.parquet`.

    Args:
        layouts: the last one by scenario and classes, which a file that has the same shares.

    Raises:
        UserError: the file is missing, is not the one recorded, does not follow the schema, or
            lacks a test set of the run's scenario.
    """
    path = check_recorded(results, run)
    again = f"then `{train_command(results)}` makes it again"
    logit_columns = [f"logit_{name}" for name in classes]
    layouts = {} if layouts is None else layouts
    key = run.scenario.name, classes
    try:
        # Files are read side by side: threads within one would only wait for each other.
        table = pq.ParquetFile(path).read([*KEYS, *logit_columns], use_threads=False)
        layout = layouts.get(key)
        if layout is None or not layout.table.equals(table.select(KEYS)):
            layout = layouts[key] = layout_of(table.select(KEYS), len(classes))
        logits = np.column_stack([table[name].to_numpy() for name in logit_columns])[layout.order]
        found = Predictions({}, {})
        for (domain, part), (rows, shown) in layout.test_sets.items():
            if part == OPEN_SET_PART:
                found.foreign[domain] = Foreign(shown[1], logits[rows])
            else:
                predicted = metrics.predicted_classes(logits[rows])
                reduced = without_dropped(logits[rows], classes)
                shares = run.method.states_shares
                answer = Answers(*shown, predicted, reduced, logits[rows], shares)
                found.known[domain, part] = answer
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"run {run.run_id}: {path}: {error}: delete it, {again}") from error
    for domain, part in run.scenario.test_sets:
        if (domain, part) not in found.known:
            raise UserError(
                f"run {run.run_id}: no prediction for domain '{domain}', part '{part}', which its "
                f"scenario tests: delete its folder, {again}"
            )
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
    """A line for each training whose finished runs hold the answers of more than one network.

    Each of them is whole; but methods that differ in their answer alone are compared across
    networks then.
    """
    trainings: dict[str, list[dict[str, Any]]] = {}
    for run_id in dict.fromkeys(run_ids):
        try:
            record = read_done(Path(results) / "runs" / run_id / "run.json")
        except UserError:
            continue  # it counts as missing
        if record["outcome"] == "done" and record.get("history"):
            trainings.setdefault(record["training_fingerprint"], []).append(record)
    lines = []
    for records in trainings.values():
        for one, other in itertools.pairwise(records):
            both = one.get("network_sha256"), other.get("network_sha256")
            same = both[0] == both[1] if all(both) else one["history"] == other["history"]
            if not same:
                lines.append(
                    f"{one['run_id']} and {other['run_id']} share a training and answer from two "
                    "networks, trained apart: delete the folder of the one whose checkpoint is not "
                    f"here, then `{train_command(results)}` answers both from the other"
                )
                break
    return lines


def check_recorded(results: Path, run: Run) -> Path:
    """The file of a run's predictions, if both the experiment's index and the record mean it.

    Raises:
        UserError: the file is missing or another one; index and record name different runs.
    """
    path = Path(results) / "runs" / run.run_id / "predictions.parquet"
    train = train_command(results)
    record_path = path.with_name("run.json")
    if not record_path.is_file():
        record = run.model_dump(include={"run_id", "predictions_sha256"})
    else:
        record = read_json(record_path)
        try:
            told = Run.model_validate(record)
        except ValidationError:
            raise UserError(
                f"run {run.run_id}: {record_path} is no record of a run: `{train}` makes it again"
            ) from None
        indexed = run.model_copy(update={"method": run.method.model_copy(update={"training": ""})})
        of_both = ("run_id", "method", "track", "scenario", "seed")
        if any(getattr(told, key) != getattr(indexed, key) for key in of_both):
            raise UserError(
                f"run {run.run_id}, {run.method.name} in the experiment's index: {record_path} is "
                f"of {told.run_id}, {told.method.name}: `{train}` writes the index anew"
            )
    if fault := fault_of_file(path, record):
        raise UserError(f"run {run.run_id}: {path} {fault}: `{train}` makes it again")
    if record["predictions_sha256"] != run.predictions_sha256:
        raise UserError(
            f"run {run.run_id}: the experiment's index is older than the run: `{train} "
            f"--method {run.method.name} --scenario '{run.scenario.name}' --seed {run.seed}` "
            "brings it up to date, and trains nothing"
        )
    return path


def layout_of(table: pa.Table, classes: int) -> Layout:
    """Sort the rows of a file, one order for all runs, and check their labels."""
    keys = [(name, "ascending") for name in ("domain", "part", "image")]
    order = pc.sort_indices(table, keys)
    columns = table.take(order)
    names = {name: columns[name].to_numpy(zero_copy_only=False) for name in KEYS}
    test_sets = {}
    for test_set, rows in contiguous(names["domain"], names["part"]):
        labels = names["label"][rows].astype(np.int64)
        if test_set[1] != OPEN_SET_PART and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(f"a label lies outside the {classes} classes of the label space")
        images, groups = (names[name][rows].astype(str) for name in ("image", "group"))
        if len(again := images[1:][images[1:] == images[:-1]]):
            where = f"{test_set[0]} ({test_set[1]})"
            raise ValueError(f"image '{again[0]}' stands twice in {where} and would count twice")
        digest = hashlib.sha256("\n".join(images).encode() + labels.tobytes()).hexdigest()
        groups = np.unique(groups, return_inverse=True)[1]
        test_sets[test_set] = rows, (images, labels, groups, digest)
    return Layout(table, order.to_numpy(), test_sets)


def without_dropped(logits: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """(images,) class of the highest logit among those that are not dropped."""
    if frozenset(classes) != WBC5:
        return None
    kept = np.array([place for place, name in enumerate(classes) if name != DROPPED])
    return kept[logits[:, kept].argmax(axis=1)]


def contiguous(domains: np.ndarray, parts: np.ndarray) -> list[tuple[TestSet, slice]]:
    """The test sets of rows sorted by domain and part, each with its slice of rows."""
    if not len(domains):
        return []
    changes = (domains[1:] != domains[:-1]) | (parts[1:] != parts[:-1])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(domains)]
    return [
        ((str(domains[start]), str(parts[start])), slice(start, stop))
        for start, stop in itertools.pairwise(edges)
    ]
