"""The same cell photographed twice: how often a run's answer changes from one picture to the other.

Which pictures show one cell is known of some (`datasets/same_cells.csv`, found by eye and by the
audit). Both are of one laboratory, one microscope and one focus or the next, so that a change is
the network's own uncertainty, and no shift.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmark.data.manifests import SAME_CELLS, read_same_cells
from benchmark.evaluation.experiments import RecordedRun
from benchmark.metrics import confusion_matrix
from benchmark.progress import say
from benchmark.scenarios import corruption_of
from benchmark.study.predictions import Predictions, TestSet

SAME_CELLS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part")),
        *((name, pa.int64()) for name in ("pairs", "changed", "both_right", "one_right")),
        ("expected", pa.float64()),
    ]
)
"""`same_cells.parquet`: of each run and target with such pairs; `expected`, how many would change
if the two answers were drawn independently from what the run answers of their classes there."""


def same_cells_of(datasets: Path) -> pd.DataFrame:
    """Pairs of images (path, other) that show one cell; none, and said, where they are not at
    hand."""
    if not (datasets / SAME_CELLS).is_file():
        say(f"note: {datasets / SAME_CELLS} is missing: nothing of cells photographed twice")
    return read_same_cells(datasets)


def same_cells_rows(
    run: RecordedRun, predictions: dict[TestSet, Predictions], pairs: pd.DataFrame
) -> list[dict]:
    """Rows of `same_cells.parquet` of one run: its targets, corruptions aside."""
    rows = []
    for domain, part in run.scenario.test_sets[1:]:
        if corruption_of(domain) is not None:
            continue
        own = predictions[domain, part]
        place = pd.Index(own.images)
        both = np.stack([place.get_indexer(pairs[name]) for name in ("path", "other")])
        both = both[:, (both >= 0).all(axis=0)]
        if both.shape[1]:
            about = {"run_id": run.run_id, "domain": domain, "part": part}
            rows.append(about | changes(own.labels, own.predicted, both, own.logits.shape[1]))
    return rows


def changes(labels: np.ndarray, predicted: np.ndarray, both: np.ndarray, classes: int) -> dict:
    """What becomes of pairs of images.

    Args:
        labels, predicted: (images,) class indices of a test set.
        both: (2, pairs) rows of the images of each pair.
        classes: size of the label space.
    """
    answers, right = predicted[both], (labels == predicted)[both]
    confusion = confusion_matrix(labels, predicted, classes)
    answered = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    alike = (answered[labels[both[0]]] * answered[labels[both[1]]]).sum(axis=1)
    return {
        "pairs": both.shape[1],
        "changed": int((answers[0] != answers[1]).sum()),
        "both_right": int(right.all(axis=0).sum()),
        "one_right": int((right[0] != right[1]).sum()),
        "expected": float((1 - alike).sum()),
    }
