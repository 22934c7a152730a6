"""Scores of each run by itself: rows of its metrics and confusions, and of the constant's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmark import metrics
from benchmark.evaluation.experiments import RecordedRun
from benchmark.evaluation.selective import Stated, stated_scores
from benchmark.study.predictions import DROPPED, REDUCED, WBC5, Predictions, TestSet

MAJORITY = "majority"
"""Name of the constant that predicts the commonest class of each test set: an oracle, no method."""

METRICS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "method", "backbone", "normalisation")),
        *((name, pa.string()) for name in ("loss", "recipe", "track", "scenario", "source")),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("domain", "part", "class_name", "metric")),
        ("value", pa.float64()),
        ("n", pa.int64()),
    ]
)
"""`metrics.parquet`: `class_name` is "" for a metric over all classes; `n` counts the images behind
the value. The rows of the majority constant have no seed and no track."""
CONFUSION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "true", "predicted")),
        ("count", pa.int64()),
    ]
)


def macro_f1_of_parts(confusions: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The headline of parts of test sets, of which each class has fewer images than of the whole.

    Args:
        confusions: (parts, classes, classes) counts, true × predicted.
        whole: (parts, classes) images of each class in the whole, which say what is averaged.

    Returns:
        (parts,) mean F1 over the supported classes that the part has; NaN if it has none.
    """
    values = np.where(metrics.supported(whole), metrics.f1(confusions), np.nan)
    counted = (~np.isnan(values)).sum(axis=1)
    return np.nansum(values, axis=1) / np.where(counted > 0, counted, np.nan)


def metric_rows(
    run: RecordedRun,
    classes: tuple[str, ...],
    predictions: dict[TestSet, Predictions],
    stated: dict[TestSet, Stated],
) -> list[dict]:
    """Rows of `metrics.parquet` for one run: of its confusions and of its stated probabilities."""
    about, reduced = described(run), {}
    rows = confusion_scores(about, confusions_of(predictions, len(classes)), classes)
    for (domain, part), own in predictions.items():
        where = about | {"domain": domain, "part": part, "class_name": "", "n": len(own.labels)}
        scores = stated_scores(own, stated[domain, part])
        rows += [where | {"metric": name, "value": value} for name, value in scores.items()]
        if own.reduced is not None:
            kept = own.labels != classes.index(DROPPED)
            if kept.any():
                pair = own.labels[kept], own.reduced[kept]
                reduced[domain, part] = metrics.confusion_matrix(*pair, len(classes))
    return rows + confusion_scores(about, reduced, classes, REDUCED)


def majority_rows(
    run: RecordedRun, classes: tuple[str, ...], labels: dict[TestSet, np.ndarray]
) -> list[dict]:
    """Rows of `metrics.parquet` for the majority constant on the scenario of `run`."""
    constant, reduced = {}, {}
    for test_set, own in labels.items():
        counts = np.bincount(own, minlength=len(classes))
        constant[test_set] = metrics.constant_confusion(counts)
        if frozenset(classes) == WBC5:
            counts[classes.index(DROPPED)] = 0
            if counts.any():
                reduced[test_set] = metrics.constant_confusion(counts)
    about = described(run)
    about |= dict.fromkeys(("backbone", "normalisation", "loss", "track"), "")
    about |= {"run_id": majority_id(run.scenario.name), "method": MAJORITY}
    about |= {"recipe": "constant", "seed": None}
    rows = confusion_scores(about, constant, classes)
    return rows + confusion_scores(about, reduced, classes, REDUCED)


def confusion_rows(
    run: RecordedRun, classes: tuple[str, ...], predictions: dict[TestSet, Predictions]
) -> list[dict]:
    """Rows of `confusion.parquet` for one run, zeros included."""
    return [
        {"run_id": run.run_id, "domain": domain, "part": part, "true": true}
        | {"predicted": predicted, "count": count}
        for (domain, part), confusion in confusions_of(predictions, len(classes)).items()
        for true, counts in zip(classes, confusion.tolist(), strict=True)
        for predicted, count in zip(classes, counts, strict=True)
    ]


def confusions_of(
    predictions: dict[TestSet, Predictions], classes: int
) -> dict[TestSet, np.ndarray]:
    """(classes, classes) counts of each test set"""
    return {
        test_set: metrics.confusion_matrix(own.labels, own.predicted, classes)
        for test_set, own in predictions.items()
    }


def majority_id(scenario: str) -> str:
    """Stands in the `run_id` column for the majority constant of a scenario."""
    return f"{MAJORITY}/{scenario}"


def described(run: RecordedRun) -> dict:
    """The columns of `metrics.parquet` that say which run a value belongs to."""
    method = run.method.model_dump(include={"backbone", "normalisation", "loss", "recipe"})
    scenario = {"scenario": run.scenario.name, "source": run.scenario.source, "seed": run.seed}
    return {"run_id": run.run_id, "method": run.method.name, "track": run.track} | method | scenario


def confusion_scores(
    about: dict, confusions: dict[TestSet, np.ndarray], classes: tuple[str, ...], reduced: str = ""
) -> list[dict]:
    """A row for each metric of each test set, and for each class where a metric has one for each.

    Args:
        reduced: name of the reduced label space that the confusions are in, which then ends the
            names of the metrics (`macro_f1_wbc4`); only those of tables are computed.
    """
    if not confusions:
        return []
    matrices = np.stack(list(confusions.values()))
    images, counts = matrices.sum(axis=(-2, -1)).tolist(), metrics.support(matrices).tolist()
    rows = []
    for name, metric in (metrics.TABLED if reduced else metrics.METRICS).items():
        values = metric.of_confusion(matrices).tolist()
        named = about | {"metric": f"{name}_{reduced}" if reduced else name}
        for place, (domain, part) in enumerate(confusions):
            where = named | {"domain": domain, "part": part}
            if metric.over == "each class":
                rows += [
                    where | {"class_name": class_name, "value": value, "n": n}
                    for class_name, value, n in zip(
                        classes, values[place], counts[place], strict=True
                    )
                ]
            else:
                rows.append(where | {"class_name": "", "value": values[place], "n": images[place]})
    return rows
