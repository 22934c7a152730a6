"""Selective prediction: what rejecting the doubtful images of a run gains, and its curves.

Thresholds are fitted on the source's `calibration` part to an accuracy of 99 % of the accepted,
with and without a guarantee, and then meet test sets that they have not seen. The temperature is
fitted there too, so that a threshold of scaled probabilities has no guarantee: that wants images
which nothing was fitted to. Single corruptions of a test set are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import expit

from benchmark.data.arrays import FOREIGN
from benchmark.evaluation import rejection
from benchmark.evaluation.calibration import (
    Reliability,
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)
from benchmark.evaluation.experiments import RecordedMethod, RecordedRun
from benchmark.scenarios import corruption_of, sources_of
from benchmark.study.predictions import Foreign, Predictions, TestSet, stated_probabilities

ACCURACY = 0.99
"""Accuracy of the accepted images that thresholds are fitted to (he2023)."""
MATCHED = {"coverage_99": 0.99, "coverage_90": 0.9}
"""Column → accuracy of the accepted at which rejectors are compared."""
POINTS = 40
"""Points of a stored risk-coverage curve."""
FITS = {"plain": rejection.threshold_at, "guaranteed": rejection.guaranteed_threshold}
"""How a threshold is fitted → function of confidence, hits and accuracy."""
FITTED = ("scaled_msp",)
"""Confidences that were themselves fitted to the images that thresholds are fitted to."""

REJECTION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "rejector", "fit")),
        *((name, pa.float64()) for name in ("threshold", "rejected", "accuracy", "right")),
        ("temperature", pa.float64()),
        *((name, pa.float64()) for name in ("aurc", "excess_aurc", *MATCHED)),
        *((name, pa.int64()) for name in ("n", "calibration_n", "marginal_classes")),
    ]
)
"""`rejection.parquet`: `rejected`, `accuracy` and `right` are Rr, Ra and R at the threshold; the
other scores do not depend on it. A threshold is infinite where no calibration image is accepted,
and NaN, as its scores are, where none can be had: without a calibration part, or where a guarantee
wants more images than that has. `temperature` is that of `scaled_msp`, 1 where none could be
fitted. `coverage_99` is the largest share of this test set whose accepted
images are 99 % right: it compares rejectors, and no threshold known beforehand reaches it.
`marginal_classes` counts the classes that conformal prediction had to judge by all images."""

CURVES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "curve")),
        ("place", pa.int64()),
        *((name, pa.float64()) for name in ("x", "y")),
        ("n", pa.int64()),
    ]
)
"""`curves.parquet`: `reliability` is mean confidence, accuracy and number of images by bin;
`risk_coverage` is coverage, risk and images accepted, of the first rejector."""


OPEN_SET_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "kind", "rejector")),
        *((name, pa.float64()) for name in ("auroc", "fpr_at_95")),
        *((name, pa.int64()) for name in ("known_n", "foreign_n")),
    ]
)
"""`open_set.parquet`: how well a confidence tells cells of no class, `near` or `far`, from the
known cells of the same domain, which are in `part`; of a source of several domains from that
domain's alone."""


def closeness(method: RecordedMethod) -> bool:
    """Whether a method's logits are those of a closeness to centroids."""
    return method.answers_itself and method.says("loss", "states_closeness")


def confidences(
    logits: np.ndarray, method: RecordedMethod, temperature: float | None
) -> dict[str, np.ndarray]:
    """Confidence of each image by rejector, the method's own rejector first.

    Args:
        temperature: fitted on the calibration part; None without one.
    """
    if closeness(method):
        near = expit(logits.astype(np.float64))
        return {f"ccl_{name}": f(near) for name, f in rejection.CCL_CONFIDENCES.items()}
    found = rejection.probability_confidences(stated_probabilities(logits, method.states_shares))
    averaged = method.is_ensemble or method.says("inference", "averages_probabilities")
    if not (averaged or method.states_shares):
        # Else logits are logarithms of probabilities, whose energy is 0 everywhere.
        found["energy"] = rejection.energy(logits)
    if temperature is not None:
        # Stored in half precision, which a division would round a second time.
        scaled = logits.astype(np.float64) / temperature
        found["scaled_msp"] = rejection.maximum_probability(scaled)
    return found


class Stated(NamedTuple):
    """What scores and curves of stated probabilities have in common, on one test set."""

    reliability: Reliability
    coverage: np.ndarray
    """(images,), the largest probability deciding what is accepted"""
    risk: np.ndarray
    """(images,)"""


def stated_of(own: Predictions) -> Stated:
    bins = reliability(own.probabilities, own.labels)
    return Stated(bins, *rejection.risk_coverage(own.probabilities.max(axis=1), own.correct))


def stated_scores(own: Predictions, stated: Stated) -> dict[str, float]:
    """Metrics of the stated probabilities: calibration, and rejection by the largest of them."""
    return {
        "nll": negative_log_likelihood(own.logits, own.labels),
        "brier": brier(own.probabilities, own.labels),
        "ece": expected_calibration_error(stated.reliability),
    } | rejection.areas(stated.risk, own.correct)


def scored_sets(
    run: RecordedRun, predictions: dict[TestSet, Predictions]
) -> dict[TestSet, Predictions]:
    """The test sets of a run's scenario without single corruptions."""
    return {
        test_set: predictions[test_set]
        for test_set in run.scenario.test_sets
        if corruption_of(test_set[0]) is None
    }


def rejection_rows(run: RecordedRun, predictions: dict[TestSet, Predictions]) -> list[dict]:
    """Rows of `rejection.parquet`. Without a calibration part there is no threshold."""
    method, scored = run.method, scored_sets(run, predictions)
    held = predictions.get((run.scenario.source, "calibration"))
    temperature, thresholds, conformal = None, {}, {}
    if held:
        if not closeness(method):
            temperature = fit_temperature(held.logits, held.labels)
        for name, confidence in confidences(held.logits, method, temperature).items():
            own = {fit: f(confidence, held.correct, ACCURACY) for fit, f in FITS.items()}
            # What cannot be guaranteed has no threshold, rather than one that rejects everything.
            if name in FITTED or len(held.labels) < rejection.images_needed(ACCURACY):
                own["guaranteed"] = np.nan
            thresholds[name] = own
        conformal = conformal_rows(method, held, scored)
    rows = []
    for (domain, part), own in scored.items():
        where = {"run_id": run.run_id, "domain": domain, "part": part, "n": len(own.labels)}
        where |= {"calibration_n": len(held.labels) if held else 0}
        for name, confidence in confidences(own.logits, method, temperature).items():
            scores = curve_scores(confidence, own.correct)
            for fit, threshold in thresholds.get(name, {"none": np.nan}).items():
                gained = rejection.reject(confidence, own.correct, threshold)
                if np.isnan(threshold):
                    gained = rejection.Rejection(*[np.nan] * 3)
                row = where | {"rejector": name, "fit": fit, "threshold": threshold}
                row["temperature"] = temperature if name in FITTED else None
                rows.append(row | gained._asdict() | scores)
        if held:
            rows.append(where | conformal[domain, part])
    return rows


def conformal_rows(
    method: RecordedMethod, held: Predictions, scored: dict[TestSet, Predictions]
) -> dict[TestSet, dict]:
    """The row of conformal prediction: accepted is what has exactly one plausible class."""

    def improbability(own: Predictions) -> np.ndarray:
        near = closeness(method)
        stated = expit(own.logits.astype(np.float64)) if near else own.probabilities
        return rejection.improbability(stated)

    scores = improbability(held)
    calibration = rejection.conformal_calibration(scores, held.labels)
    left_out = rejection.leave_one_out_p_values(calibration, scores, held.labels)
    epsilon = rejection.epsilon_at(left_out, held.labels, ACCURACY)
    rows = {}
    for test_set, own in scored.items():
        p = rejection.p_values(calibration, improbability(own))
        second, first = np.partition(p, -2, axis=1)[:, -2:].T
        correct = p.argmax(axis=1) == own.labels
        accepted = (second <= epsilon) & (epsilon < first)
        right = correct & accepted
        row = {"rejector": "conformal", "fit": "plain", "threshold": epsilon}
        row |= {"rejected": float(1 - accepted.mean()), "right": float(right.mean())}
        row["accuracy"] = float(right.sum() / accepted.sum()) if accepted.any() else np.nan
        row["marginal_classes"] = int(calibration.marginal.sum())
        rows[test_set] = row | curve_scores(-second, correct)
    return rows


def curve_scores(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """AURC, E-AURC and the coverage at each accuracy of `MATCHED`, of (images,) confidences."""
    coverage, risk = rejection.risk_coverage(confidence, correct)
    scores = rejection.areas(risk, correct)
    for name, accuracy in MATCHED.items():
        reached = np.flatnonzero(risk <= 1 - accuracy + 1e-9)
        scores[name] = float(coverage[reached[-1]]) if len(reached) else 0.0
    return scores


def open_set_rows(
    run: RecordedRun,
    predictions: dict[TestSet, Predictions],
    foreign: dict[str, Foreign],
    tested: dict[str, np.ndarray],
) -> list[dict]:
    """Rows of `open_set.parquet`: foreign cells against known ones of the same domain.

    Args:
        tested: domain of a source of several → the names of its images in their common test set.
    """
    rows = []
    source = run.scenario.source
    for domain, cells in foreign.items():
        home = domain in sources_of(source)
        known = (source, "id_test") if home else (domain, "shifted")
        logits = predictions[known].logits
        if home and domain != source:
            logits = logits[np.isin(predictions[known].images, tested[domain])]
        own = confidences(logits, run.method, None)
        strange = confidences(cells.logits, run.method, None)
        for kind, label in FOREIGN.items():
            chosen = cells.kinds == label
            where = {"run_id": run.run_id, "domain": domain, "part": known[1], "kind": kind}
            where |= {"known_n": len(logits), "foreign_n": int(chosen.sum())}
            for name in own if chosen.any() else ():
                pair = own[name], strange[name][chosen]
                row = where | {"rejector": name, "auroc": rejection.auroc(*pair)}
                rows.append(row | {"fpr_at_95": rejection.fpr_at_95(*pair)})
    return rows


def curve_rows(
    run: RecordedRun, predictions: dict[TestSet, Predictions], stated: dict[TestSet, Stated]
) -> list[dict]:
    """Rows of `curves.parquet`."""
    rows = []
    for (domain, part), own in scored_sets(run, predictions).items():
        (count, confidence, accuracy), coverage, risk = stated[domain, part]
        if closeness(run.method):
            published = next(iter(confidences(own.logits, run.method, None).values()))
            coverage, risk = rejection.risk_coverage(published, own.correct)
        steps = np.unique(np.ceil(np.arange(1, POINTS + 1) * len(risk) / POINTS).astype(int)) - 1
        full = np.flatnonzero(count)
        for curve, columns in (
            ("risk_coverage", (coverage[steps], risk[steps], steps + 1)),
            ("reliability", (confidence[full], accuracy[full], count[full])),
        ):
            where = {"run_id": run.run_id, "domain": domain, "part": part, "curve": curve}
            points = zip(*(column.tolist() for column in columns), strict=True)
            # Five decimals: what lies beyond only makes the file large.
            rows += [
                where | {"place": place, "x": round(x, 5), "y": round(y, 5), "n": n}
                for place, (x, y, n) in enumerate(points)
            ]
    return rows
