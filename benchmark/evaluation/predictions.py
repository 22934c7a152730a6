"""Predictions: a run's file, checked against its record, as labels, answers and scores.

In the label space `wbc5` every test set is also scored on four classes (`wbc4`): images of
basophils are left out, and basophil is struck from the answers (the highest of the other four
logits counts). Public test sets hold one to three basophils, on which a fifth of macro-F1 hangs.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.data.arrays import OPEN_SET_PART
from benchmark.errors import UserError
from benchmark.evaluation import calibration, metrics, rejection
from benchmark.evaluation.experiments import Run
from benchmark.files import sha256_file

TestSet = tuple[str, str]
"""(domain, part)"""
REDUCED = "wbc4"
DROPPED = "basophil"
WBC5 = frozenset({"neutrophil", "lymphocyte", "monocyte", "eosinophil", DROPPED})


class Foreign(NamedTuple):
    """What a run answered on cells that are of no class of the label space."""

    kinds: np.ndarray
    """(images,) negative, as in `benchmark.data.arrays.FOREIGN`"""
    logits: np.ndarray
    """(images, classes) as stored"""


class Answers(NamedTuple):
    """What a run answered on one test set, images in the order of their names."""

    images: np.ndarray
    """(images,) names"""
    labels: np.ndarray
    """(images,) class indices, as are the answers"""
    groups: np.ndarray
    """(images,) index of the patient, smear or source image"""
    predicted: np.ndarray
    reduced: np.ndarray | None
    """answers without the dropped class; None in a label space that has no reduced form"""
    logits: np.ndarray
    """(images, classes) as stored, in half precision"""
    stated: dict[str, float]
    """metrics of the stated probabilities: calibration, and rejection by maximum probability"""

    @property
    def digest(self) -> str:
        """Tells apart test sets of other images or labels."""
        names = "\n".join(self.images).encode()
        return hashlib.sha256(names + self.labels.tobytes()).hexdigest()


class Predictions(NamedTuple):
    """What a run answered."""

    known: dict[TestSet, Answers]
    foreign: dict[str, Foreign]
    """by domain; empty where no cell of no class was tested"""


def read_answers(results: Path, run: Run, classes: tuple[str, ...]) -> dict[TestSet, Answers]:
    """Every test set of known classes; see `read_predictions`."""
    return read_predictions(results, run, classes).known


def read_predictions(results: Path, run: Run, classes: tuple[str, ...]) -> Predictions:
    """Every test set in a run's `predictions.parquet`.

    Raises:
        UserError: the file is missing, is not the one recorded, does not follow the schema, or
            lacks a test set of the run's scenario.
    """
    path = Path(results) / "runs" / run.run_id / "predictions.parquet"
    if not path.is_file():
        raise UserError(f"run {run.run_id}: {path} is missing: `wbc-shift train` makes it again")
    if sha256_file(path) != run.predictions_sha256:
        raise UserError(
            f"run {run.run_id}: {path} is not the file that the run recorded (other SHA-256): "
            "`wbc-shift train` makes it again"
        )
    logit_columns = [f"logit_{name}" for name in classes]
    columns = ["domain", "part", "image", "group", "label", *logit_columns]
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
        # One order for all runs, so that equal test sets have equal digests.
        table = table.sort_by([(name, "ascending") for name in ("domain", "part", "image")])
        logits = np.column_stack([table[name].to_numpy() for name in logit_columns])
        found = Predictions({}, {})
        for (domain, part), rows in contiguous(table):
            if part == OPEN_SET_PART:
                kinds = table["label"][rows].to_numpy().astype(np.int64)
                found.foreign[domain] = Foreign(kinds, logits[rows])
            else:
                found.known[domain, part] = answer(table[rows], logits[rows], classes)
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(
            f"run {run.run_id}: {path}: {error}: delete it, then `wbc-shift train` makes it again"
        ) from error
    for domain, part in run.scenario.test_sets:
        if (domain, part) not in found.known:
            raise UserError(
                f"run {run.run_id}: no prediction for domain '{domain}', part '{part}', which its "
                "scenario tests: delete its folder, then `wbc-shift train` makes it again"
            )
    return found


def answer(table: pa.Table, logits: np.ndarray, classes: tuple[str, ...]) -> Answers:
    """The rows of one test set, sorted by image, with their (images, classes) logits."""
    labels = table["label"].to_numpy().astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(f"a label lies outside the {len(classes)} classes of the label space")
    predicted = metrics.predicted_classes(logits)
    images = table["image"].to_numpy(zero_copy_only=False).astype(str)
    groups = table["group"].to_numpy(zero_copy_only=False).astype(str)
    correct = predicted == labels
    stated = {name: metric(logits, labels) for name, metric in calibration.PROBABILITY.items()}
    confidence = rejection.maximum_probability(logits)
    stated |= {
        "aurc": rejection.aurc(confidence, correct),
        "excess_aurc": rejection.excess_aurc(confidence, correct),
    }
    return Answers(
        images,
        labels,
        np.unique(groups, return_inverse=True)[1],
        predicted,
        without_dropped(logits, classes),
        logits,
        stated,
    )


def without_dropped(logits: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """(images,) class of the highest logit among those that are not dropped."""
    if frozenset(classes) != WBC5:
        return None
    kept = np.array([place for place, name in enumerate(classes) if name != DROPPED])
    return kept[logits[:, kept].argmax(axis=1)]


def contiguous(table: pa.Table) -> list[tuple[TestSet, slice]]:
    """The test sets of a table sorted by domain and part, each with its slice of rows."""
    names = [table[name].to_numpy(zero_copy_only=False) for name in ("domain", "part")]
    if not len(table):
        return []
    changes = (names[0][1:] != names[0][:-1]) | (names[1][1:] != names[1][:-1])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(table)]
    return [
        ((str(names[0][start]), str(names[1][start])), slice(start, stop))
        for start, stop in itertools.pairwise(edges)
    ]
