"""Site acceptance: how many labelled local cells it takes, and what they gain.

*Labels needed*: a laboratory labels n cells of a class and wants to state, with 95 % confidence,
that the network recognises at least so large a share of them: the one-sided exact binomial
(Clopper-Pearson) bound. `cells` is the smallest n at which that succeeds with probability 80 %, if
the network's sensitivity is the one observed here. Where that is no higher than what is to be
stated, no number of cells will do. The bound assumes that cells are
independent; those of one slide are not, and where few slides are labelled more cells are needed.

*Thresholds*: what to reject is chosen again on 25 to 200 labelled local cells, drawn at random and
many times, and tried on the test set's other cells: of other slides or patients, where that leaves
at least half of them. With no local cell the threshold is the source's. `plain` is the lowest
threshold at which the accepted local cells are accurate enough; `guaranteed` is proven by binomial
bounds, and exists only where so many confident cells are right.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
from scipy.stats import binom

from benchmark.evaluation import rejection
from benchmark.evaluation.experiments import RecordedRun, ScenarioRuns
from benchmark.evaluation.selective import confidences, scored_sets
from benchmark.metrics import MINIMUM_SUPPORT
from benchmark.study.predictions import Predictions, TestSet

SENSITIVITIES = (0.80, 0.90, 0.95)
"""That a laboratory would state."""
ERROR = 0.05
POWER = 0.80
"""Probability that it may."""
MOST_CELLS = 2000
"""Of one class that a laboratory could label; of more, none is said to do."""
LABELS = (25, 50, 100, 200)
ACCURACY = 0.95
"""Of the accepted, that a local threshold is chosen for."""
DRAWS = 20
"""Random choices of the local cells."""
SEED = 21
"""Of these choices, beside the digest of the test set."""

LABELS_NEEDED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("scenario", "method", "domain", "part", "class_name")),
        *((name, pa.float64()) for name in ("stated", "observed")),
        *((name, pa.int64()) for name in ("cells", "errors", "images", "seeds")),
    ]
)
"""`labels_needed.parquet`: the cells of a class to be labelled so that a sensitivity may be stated,
and how many of them may be misread; null where no number up to 2000 will do. `observed` is the
sensitivity over all seeds."""
LOCAL_THRESHOLDS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("scenario", "method", "domain", "part", "fit")),
        ("labels", pa.int64()),
        *((name, pa.float64()) for name in ("coverage", "accuracy", "held", "nothing")),
        *((name, pa.int64()) for name in ("draws", "n", "seeds")),
    ]
)
"""`local_thresholds.parquet`: mean share of the other cells that is accepted, accuracy of all that
were accepted, share of the draws in which the accepted were as accurate as asked for (of those that
accepted any), and share of the draws that accepted nothing; `n` is the fewest other cells. The
rows of the fit `oracle` have the largest coverage that any threshold has, chosen on them."""


def draw_cells(own: Predictions) -> np.ndarray:
    """(draws, images) places in a test set, the same for every network; a laboratory labels the
    first."""
    random = np.random.default_rng([SEED, int(own.digest[:15] or "0", 16)])
    return np.argsort(random.random((DRAWS, len(own.labels))), axis=1)


def labels_needed_rows(
    runs: ScenarioRuns, method: str, predictions: dict[str, dict[TestSet, Predictions]]
) -> list[dict]:
    """Rows of `labels_needed.parquet` of one method in one scenario, over its seeds."""
    members = [predictions[run_id] for _, run_id in runs.members[method]]
    rows = []
    for test_set, own in scored_sets(runs.methods[method], members[0]).items():
        classes = len(runs.classes)
        images = np.bincount(own.labels, minlength=classes)
        right = sum(
            np.bincount(one[test_set].labels, one[test_set].correct, classes) for one in members
        )
        all_images = sum(np.bincount(one[test_set].labels, minlength=classes) for one in members)
        about = {"scenario": runs.scenario.name, "method": method, "seeds": len(members)}
        about |= {"domain": test_set[0], "part": test_set[1]}
        for c in np.flatnonzero(images >= MINIMUM_SUPPORT):
            observed = float(right[c] / all_images[c])
            where = about | {"class_name": runs.classes[c], "images": int(images[c])}
            for stated in SENSITIVITIES:
                cells, errors = cells_to_label(observed, stated) or (None, None)
                row = {"stated": stated, "observed": observed, "cells": cells, "errors": errors}
                rows.append(where | row)
    return rows


@lru_cache(maxsize=16)
def permitted_errors(stated: float) -> np.ndarray:
    """The smallest sample of which 0, 1, 2, … may be misread while a sensitivity can be stated:
    P(at most so many misread | the sensitivity is no higher than stated) ≤ 5 %."""
    sizes = np.arange(1, MOST_CELLS + 1)
    errors = binom.ppf(ERROR, sizes, 1 - stated)
    errors -= binom.cdf(errors, sizes, 1 - stated) > ERROR
    return 1 + np.searchsorted(errors, np.arange(errors[-1] + 1))


@lru_cache(maxsize=65536)
def cells_to_label(sensitivity: float, stated: float) -> tuple[int, int] | None:
    """The smallest sample with which a network of this sensitivity passes with probability 80 %,
    and the cells in it that may be misread; None where none up to `MOST_CELLS` does."""
    if sensitivity <= stated:
        return None
    sizes = permitted_errors(stated)
    passing = binom.cdf(np.arange(len(sizes)), sizes, 1 - sensitivity) >= POWER
    if not passing.any():
        return None
    errors = int(np.argmax(passing))
    return int(sizes[errors]), errors


def local_threshold_rows(
    runs: ScenarioRuns,
    method: str,
    predictions: dict[str, dict[TestSet, Predictions]],
    drawn: dict[str, np.ndarray],
) -> list[dict]:
    """Rows of `local_thresholds.parquet` of one method in one scenario, over its seeds.

    Args:
        predictions: by run id.
        drawn: digest of a test set → its draws.
    """
    run = runs.methods[method]
    members = [predictions[run_id] for _, run_id in runs.members[method]]
    found: dict[tuple, list[np.ndarray]] = {}
    for known in members:
        fitted = source_threshold(run, known)
        for test_set, own in scored_sets(run, known).items():
            if len(own.labels):
                confidence = first_confidence(run, own)
                for key, tried in trials(confidence, own, drawn[own.digest], fitted).items():
                    found.setdefault((test_set, *key), []).append(tried)
    rows = []
    for ((domain, part), fit, labels), tried in found.items():
        accepted, right, others = np.concatenate(tried, axis=1)
        some = accepted > 0
        where = {"scenario": runs.scenario.name, "method": method, "domain": domain, "part": part}
        where |= {"fit": fit, "labels": labels, "draws": len(accepted), "n": int(others.min())}
        row = {"coverage": (accepted / others).mean(), "nothing": 1 - some.mean()}
        if some.any():
            row["accuracy"] = right.sum() / accepted.sum()
            row["held"] = (right >= ACCURACY * accepted - 1e-9)[some].mean()
        values = {name: round(float(value), 5) for name, value in row.items()}
        rows.append(where | {"seeds": len(members)} | values)
    return rows


def first_confidence(run: RecordedRun, own: Predictions) -> np.ndarray:
    """(images,) the confidence of the method's own rejector."""
    return next(iter(confidences(own.logits, run.method, None).values()))


def source_threshold(run: RecordedRun, known: dict[TestSet, Predictions]) -> float | None:
    """The threshold that the source's calibration part gives; None without one."""
    held = known.get((run.scenario.source, "calibration"))
    if held is None:
        return None
    return rejection.threshold_at(first_confidence(run, held), held.correct, ACCURACY)


def trials(
    confidence: np.ndarray, own: Predictions, order: np.ndarray, fitted: float | None
) -> dict[tuple[str, int], np.ndarray]:
    """(fit, labels) → (3, draws): other cells accepted, those of them right, and other cells.

    Args:
        confidence: (images,).
        order: as `draw_cells` gives it.
        fitted: the source's threshold, whose row has no label.
    """
    found: dict[tuple[str, int], np.ndarray] = {}
    for labels in (size for size in LABELS if 2 * size <= len(confidence)):
        local = order[:, :labels]
        others = other_cells(local, own.groups)
        for fit, choose in (
            ("plain", rejection.threshold_at),
            ("guaranteed", rejection.guaranteed_threshold),
        ):
            if fit == "plain" or labels >= rejection.images_needed(ACCURACY):
                chosen = choose(confidence[local], own.correct[local], ACCURACY)
                found[fit, labels] = tried(confidence, own.correct, chosen, others)
    whole = np.ones((1, len(confidence)), bool)
    best = rejection.threshold_at(confidence, own.correct, ACCURACY)
    found["oracle", 0] = tried(confidence, own.correct, np.array([best]), whole)
    if fitted is not None:
        found["source", 0] = tried(confidence, own.correct, np.array([fitted]), whole)
    return found


def other_cells(local: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(draws, images) booleans: which cells are tried.

    Those of groups without a local cell, where they are at least half of all in every draw; else
    all but the local cells.
    """
    draws = np.arange(len(local))[:, None]
    seen = np.zeros((len(local), groups.max() + 1), bool)
    seen[draws, groups[local]] = True
    others = ~seen[:, groups]
    if (2 * others.sum(axis=1) >= len(groups)).all():
        return others
    others = np.ones((len(local), len(groups)), bool)
    others[draws, local] = False
    return others


def tried(
    confidence: np.ndarray, correct: np.ndarray, thresholds: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """(3, draws) as `trials` has them."""
    accepted = (confidence >= thresholds[:, None]) & others
    return np.stack([accepted.sum(axis=1), (accepted & correct).sum(axis=1), others.sum(axis=1)])
