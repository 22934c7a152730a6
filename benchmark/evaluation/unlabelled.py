"""Performance without labels: what a run's unlabelled answers say of its accuracy and macro-F1.

Every estimate but the last is fitted on the source's calibration part alone, and then compared with
the truth of test sets that it has not seen: the source's own, corruptions of it, and targets.
Probabilities are scaled by the temperature of that part. With A the accuracy there and p an image's
largest probability:

* `confidence`: mean p. Macro-F1 is that of the confusion matrix which the probabilities expect:
  image i counts with its probability of class y in row y, in the column of its prediction.
* `difference` (of confidences, Guillory et al. 2021): A − (mean p at the source − mean p here).
* `threshold` (ATC, Garg et al. 2022): the share of images whose negative entropy reaches the
  threshold that the share A of the calibration images reaches.
* `nuclear` (norm, Deng et al. 2023): A times the nuclear norm of the (images, classes)
  probabilities, over √(images · min(images, classes)), here over there. Its authors fit a line to
  labelled test sets; nobody who needs the estimate has them.
* `confusion`: the source's P(predicted | true) with the class shares that explain the predictions
  best (label shift, Lipton et al. 2018): what is right if the target only has other class shares.

* `regression`: least squares of the truth on these five estimates, over all runs of the same source
  and the labelled cells of the *other* laboratories, none of the target's set of images among them
  (as Deng et al. fit theirs). It is the one that knows labels, though none of the target's: what a
  benchmark of several laboratories knows, and a source alone does not.

Of `difference`, `threshold` and `nuclear`, which are published for accuracy, macro-F1 is the same
with the macro-F1 at the source in the place of A: ours. Which classes count (at least ten images)
is taken as known.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.special import entr

from benchmark.evaluation.at_source import AtSource, at_source
from benchmark.evaluation.differential import adjusted
from benchmark.evaluation.experiments import RecordedRun
from benchmark.metrics import accuracy, confusion_matrix, f1, macro_f1, support, supported
from benchmark.scenarios import corruption_of
from benchmark.study.predictions import Predictions, TestSet

UNLABELLED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "metric", "estimator")),
        *((name, pa.float64()) for name in ("estimate", "truth")),
        *((name, pa.int64()) for name in ("n", "calibration_n")),
    ]
)
"""`unlabelled.parquet`: an estimate and the truth, from 0 to 1, of accuracy and of macro-F1. A run
whose source has no calibration part has no row."""
ESTIMATORS = ("confidence", "difference", "threshold", "nuclear", "confusion")
"""Those that a source alone gives."""
REGRESSION = "regression"


def unlabelled_rows(run: RecordedRun, predictions: dict[TestSet, Predictions]) -> list[dict]:
    """Rows of `unlabelled.parquet` of one run."""
    source = at_source(run, predictions)
    if source is None:
        return []
    there = source.stated(source.held)
    rows = []
    for domain, part in run.scenario.test_sets:
        own = predictions[domain, part]
        confusion = confusion_matrix(own.labels, own.predicted, own.logits.shape[1])
        counted = supported(support(confusion))
        truths = {"accuracy": float(accuracy(confusion)), "macro_f1": float(macro_f1(confusion))}
        found = estimates(own.predicted, source.stated(own), source, there, counted)
        about = {"run_id": run.run_id, "domain": domain, "part": part, "n": len(own.labels)}
        about["calibration_n"] = len(source.held.labels)
        for metric, truth in truths.items():
            if not np.isnan(truth):
                rows += [
                    about | {"metric": metric, "estimator": name, "truth": truth, "estimate": value}
                    for name, value in found[metric].items()
                ]
    return rows


def estimates(
    predicted: np.ndarray,
    here: np.ndarray,
    source: AtSource,
    there: np.ndarray,
    counted: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Metric → estimator → estimate, of a test set's predictions without its labels.

    Args:
        predicted: (images,) class indices.
        here, there: (images, classes) scaled probabilities of the test set and of the calibration
            part.
        counted: (classes,) which classes macro-F1 is over.
    """
    expected, shifted = expected_confusion(predicted, here), shifted_confusion(predicted, source)
    at_home = {"accuracy": float(accuracy(source.confusion))}
    if counted.any():
        at_home["macro_f1"] = mean_of(f1(source.confusion), counted)
    matrices = {"confidence": expected, "confusion": shifted}
    found = {"accuracy": {name: float(accuracy(own)) for name, own in matrices.items()}}
    found["macro_f1"] = {name: mean_of(f1(own), counted) for name, own in matrices.items()}
    drop = there.max(axis=1).mean() - here.max(axis=1).mean()
    ratio = nuclear_norm(here) / nuclear_norm(there)
    scores = -entr(here).sum(axis=1), -entr(there).sum(axis=1)
    for metric, value in at_home.items():
        found[metric] |= {
            "difference": float(np.clip(value - drop, 0, 1)),
            "threshold": reaching(*scores, value),
            "nuclear": float(np.clip(value * ratio, 0, 1)),
        }
    return found


def regression_rows(
    rows: list[dict], runs: dict[str, RecordedRun], sets: dict[str, str]
) -> list[dict]:
    """Rows of the estimator `regression` from those of the others.

    Args:
        rows: of all runs.
        runs: by run id.
        sets: domain → the set of images that it is of; one that is not named is a set of its own.

    Returns:
        One row for each run, metric and target, without corruptions, of a source that was tested
        on more sets than one.
    """
    cases: dict[tuple, dict] = {}
    for row in rows:
        if row["part"] == "shifted" and corruption_of(row["domain"]) is None:
            key = row["run_id"], row["domain"], row["metric"]
            case = cases.setdefault(key, {name: row[name] for name in UNLABELLED_SCHEMA.names})
            case[row["estimator"]] = row["estimate"]
    blocks: dict[tuple[str, str], list[dict]] = {}
    for case in cases.values():
        source = runs[case["run_id"]].scenario.source
        blocks.setdefault((source, case["metric"]), []).append(case)
    found = []
    for block in blocks.values():
        known = np.array([[1.0, *(case[name] for name in ESTIMATORS)] for case in block])
        truth = np.array([case["truth"] for case in block])
        owners = np.array([sets.get(case["domain"], case["domain"]) for case in block])
        estimate = np.full(len(block), np.nan)
        for owner in np.unique(owners):
            own = owners == owner
            if not own.all():
                weights = np.linalg.lstsq(known[~own], truth[~own])[0]
                estimate[own] = np.clip(known[own] @ weights, 0, 1)
        for case, value in zip(block, estimate.tolist(), strict=True):
            row = {name: case[name] for name in UNLABELLED_SCHEMA.names}
            row |= {"estimator": REGRESSION, "estimate": value}
            found += [row] if not np.isnan(value) else []
    return found


def mean_of(values: np.ndarray, counted: np.ndarray) -> float:
    """Mean over the counted classes; of one that is expected to be absent, F1 is 0."""
    return float(np.nan_to_num(values)[counted].mean()) if counted.any() else np.nan


def expected_confusion(predicted: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """(classes, classes) the confusion matrix that probabilities expect, true × predicted."""
    columns = np.eye(stated.shape[1])[predicted]
    return stated.T @ columns


def shifted_confusion(predicted: np.ndarray, source: AtSource) -> np.ndarray:
    """(classes, classes) shares of the images, by the source's confusion and this set's shares."""
    shares = np.bincount(predicted, minlength=len(source.confusion)) / len(predicted)
    totals = source.confusion.sum(axis=1, keepdims=True)
    rates = np.where(totals > 0, source.confusion / np.maximum(totals, 1), np.eye(len(totals)))
    return adjusted(shares, source.confusion)[:, None] * rates


def reaching(here: np.ndarray, there: np.ndarray, value: float) -> float:
    """Share of the scores here that reach the threshold which the share `value` reaches there."""
    threshold = np.sort(there)[len(there) - round(value * len(there)) :]
    return float((here >= threshold[0]).mean()) if len(threshold) else 0.0


def nuclear_norm(stated: np.ndarray) -> float:
    """Sum of the singular values over its largest possible value, √(images · min(images,
    classes))."""
    # Of the small square of the matrix: the same values, in a fraction of the time.
    squared = np.linalg.eigvalsh(stated.T @ stated)
    return float(np.sqrt(np.maximum(squared, 0)).sum() / np.sqrt(len(stated) * min(stated.shape)))
