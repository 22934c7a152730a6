"""Severity of errors: how far the answer is from the cell, by lineage and by maturity.

Distances are those of the tree in `datasets/haematology/lineage.yaml`. Mistaking an eosinophil for
a neutrophil costs less than mistaking it for a lymphocyte; an immature cell that is called mature
is the error a laboratory fears most, and a label space without immature cells cannot show it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmark.data.haematology import Distances
from benchmark.evaluation.experiments import RecordedRun
from benchmark.evaluation.selective import scored_sets
from benchmark.metrics import confusion_matrix
from benchmark.study.predictions import Predictions, TestSet

SEVERITY_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part")),
        ("height", pa.int64()),
        *((name, pa.int64()) for name in ("errors", "n")),
        *((name, pa.float64()) for name in ("expected", "lineage", "maturity")),
        *((name, pa.int64()) for name in ("immature", "missed", "mature", "alarms")),
    ]
)
"""`severity.parquet`: a row for each height of the tree, with the errors between classes whose
lineages part there (0: within a lineage), and `expected`, the share of the errors that would have
this height if every other class were an equally likely wrong answer. The other columns are of
the whole test set and stand in each of its rows: mean height and mean difference in stages over the
errors, immature cells and those of them called not immature, other cells and those of them called
blasts."""


def severity_rows(
    run: RecordedRun, predictions: dict[TestSet, Predictions], apart: Distances
) -> list[dict]:
    """Rows of `severity.parquet` of one run."""
    rows = []
    for (domain, part), own in scored_sets(run, predictions).items():
        confusion = confusion_matrix(own.labels, own.predicted, len(apart.lineage))
        about = {"run_id": run.run_id, "domain": domain, "part": part}
        rows += [about | row for row in severities(confusion, apart)]
    return rows


def severities(confusion: np.ndarray, apart: Distances) -> list[dict]:
    """The errors of a confusion matrix by height, and what is of all of them.

    Args:
        confusion: (classes, classes) counts, true × predicted.
    """
    wrong = confusion * ~np.eye(len(confusion), dtype=bool)
    errors, classes = int(wrong.sum()), len(confusion)
    # Each error of a class spread over the other classes alike.
    spread = np.repeat(wrong.sum(axis=1, keepdims=True), classes, axis=1) / (classes - 1)
    spread *= ~np.eye(classes, dtype=bool)
    immature, mature = confusion[apart.immature], confusion[~apart.immature]
    whole = {"n": int(confusion.sum())}
    for name in ("lineage", "maturity"):
        total = float((wrong * getattr(apart, name)).sum())
        whole[name] = total / errors if errors else None
    whole |= {"immature": int(immature.sum()), "mature": int(mature.sum())}
    whole |= {"missed": int(immature[:, ~apart.immature].sum())}
    whole |= {"alarms": int(mature[:, apart.blast].sum())}
    rows = []
    for height in np.unique(apart.lineage):
        at = apart.lineage == height
        expected = float(spread[at].sum()) / errors if errors else None
        row = {"height": int(height), "errors": int(wrong[at].sum()), "expected": expected}
        rows.append(row | whole)
    return rows
