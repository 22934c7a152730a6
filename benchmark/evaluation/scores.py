"""Scores: a run's answers in; rows of its metrics and confusions out, and of the constant's.

A row is long: one per run, test set, class and metric.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmark import metrics
from benchmark.evaluation.experiments import Run
from benchmark.evaluation.selective import Stated, stated_scores
from benchmark.study.predictions import DROPPED, REDUCED, WBC5, Predictions, TestSet

MAJORITY = "majority"
"""Name of the constant that answers the commonest class of each test set: an oracle, no method."""

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
CONFUSION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "true", "predicted")),
        ("count", pa.int64()),
    ]
)
Confusions = dict[TestSet, np.ndarray]
"""test set → (classes, classes) counts"""


def metric_rows(
    run: Run,
    classes: tuple[str, ...],
    answers: dict[TestSet, Predictions],
    stated: dict[TestSet, Stated],
) -> list[dict]:
    """Rows of `metrics.parquet` for one run."""
    rows = score_rows(describe(run), confusions_of(answers, len(classes)), classes)
    rows += stated_rows(describe(run), answers, stated)
    reduced = {}
    for test_set, answer in answers.items() if frozenset(classes) == WBC5 else ():
        kept = answer.labels != classes.index(DROPPED)
        if kept.any():
            shown = answer.labels[kept], answer.reduced[kept]
            reduced[test_set] = metrics.confusion_matrix(*shown, len(classes))
    return rows + reduced_rows(describe(run), reduced)


def confusion_rows(
    run: Run, classes: tuple[str, ...], answers: dict[TestSet, Predictions]
) -> list[dict]:
    """Rows of `confusion.parquet` for one run, zeros included."""
    return [
        {"run_id": run.run_id, "domain": domain, "part": part, "true": true}
        | {"predicted": predicted, "count": count}
        for (domain, part), confusion in confusions_of(answers, len(classes)).items()
        for true, counts in zip(classes, confusion.tolist(), strict=True)
        for predicted, count in zip(classes, counts, strict=True)
    ]


def majority_rows(
    run: Run, classes: tuple[str, ...], labels: dict[TestSet, np.ndarray]
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
    described = describe_majority(run)
    return score_rows(described, constant, classes) + reduced_rows(described, reduced)


def confusions_of(answers: dict[TestSet, Predictions], classes: int) -> Confusions:
    return {
        test_set: metrics.confusion_matrix(answer.labels, answer.predicted, classes)
        for test_set, answer in answers.items()
    }


def describe(run: Run) -> dict:
    """The columns of `metrics.parquet` that say which run a value belongs to."""
    method = run.method.model_dump(include={"backbone", "normalisation", "loss", "recipe"})
    scenario = {"scenario": run.scenario.name, "source": run.scenario.source}
    run_columns = {"run_id": run.run_id, "method": run.method.name, "track": run.track}
    return run_columns | method | scenario | {"seed": run.seed}


def describe_majority(run: Run) -> dict:
    """The same columns for the majority constant on the scenario of `run`."""
    nothing = dict.fromkeys(("backbone", "normalisation", "loss", "track"), "")
    return describe(run) | nothing | {
        "run_id": majority_id(run.scenario.name),
        "method": MAJORITY,
        "recipe": "constant",
        "seed": None,
    }  # fmt: skip


def majority_id(scenario: str) -> str:
    """Stands in the `run_id` column for the majority constant of a scenario."""
    return f"{MAJORITY}/{scenario}"


def score_rows(
    run: dict, confusions: dict[TestSet, np.ndarray], classes: tuple[str, ...]
) -> list[dict]:
    """Rows of `metrics.parquet` that follow from the confusion matrix on each test set."""
    matrices = np.stack(list(confusions.values()))
    images, counts = matrices.sum(axis=(-2, -1)).tolist(), metrics.support(matrices).tolist()
    overall, by_class = {}, {}
    for name, metric in metrics.METRICS.items():
        found = by_class if metric.over == "each class" else overall
        found[name] = metric.of_confusion(matrices).tolist()
    rows = []
    for place, (domain, part) in enumerate(confusions):
        where = run | {"domain": domain, "part": part}
        rows += [
            where | {"class_name": "", "metric": name, "value": values[place], "n": images[place]}
            for name, values in overall.items()
        ]
        rows += [
            where | {"class_name": class_name, "metric": name, "value": value, "n": n}
            for name, values in by_class.items()
            for class_name, value, n in zip(classes, values[place], counts[place], strict=True)
        ]
    return rows


def stated_rows(
    run: dict, answers: dict[TestSet, Predictions], stated: dict[TestSet, Stated]
) -> list[dict]:
    """Rows of the stated probabilities: calibration, and rejection by maximum probability."""
    return [
        run
        | {"domain": domain, "part": part, "class_name": ""}
        | {"metric": name, "value": value, "n": len(answer.labels)}
        for (domain, part), answer in answers.items()
        for name, value in stated_scores(answer, stated[domain, part]).items()
    ]


def reduced_rows(run: dict, confusions: dict[TestSet, np.ndarray]) -> list[dict]:
    """The metrics of tables in a reduced label space, named `macro_f1_wbc4` and so on."""
    if not confusions:
        return []
    matrices = np.stack(list(confusions.values()))
    images = matrices.sum(axis=(-2, -1)).tolist()
    found = {
        name: metric.of_confusion(matrices).tolist() for name, metric in metrics.TABLED.items()
    }
    return [
        run
        | {"domain": domain, "part": part, "class_name": "", "metric": f"{name}_{REDUCED}"}
        | {"value": values[place], "n": images[place]}
        for place, (domain, part) in enumerate(confusions)
        for name, values in found.items()
    ]
