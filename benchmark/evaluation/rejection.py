"""Rejection: how reliable a prediction is, where to stop predicting, and what is gained by it.

One sign everywhere: *a higher confidence means more reliable*, and an image is accepted if its
confidence is at least the threshold. Thresholds come from the source's `calibration` part alone.
Rejectors are compared at equal accuracy of the accepted or by AURC, never at unequal ones.

Cells of no class (blasts, erythroblasts, platelets, immature granulocytes) are told from known ones
by the same confidences. A shifted image of a known class is known: only its meaning makes a cell
foreign.

Inductive conformal prediction is a rejector as well (he2023's ICP baseline): an image is accepted
if exactly one class is plausible. A class's p-value compares the image with the calibration images
of that class (Mondrian), so that rare classes are judged by their own kind; a class with too few of
them is judged by all (marginal), and says so. Calibration images come from the source domain: on a
shifted domain the p-values promise nothing.

A confidence is the same, to the last bit, for scores in any order of the classes: sums run over
sorted terms. Otherwise the class would decide between images that tie, such as those of 20 equal
votes out of 20.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.special import entr
from scipy.stats import binom

from benchmark.metrics import probabilities


def maximum_probability(logits: np.ndarray) -> np.ndarray:
    """(images,) largest softmax probability (Hendrycks & Gimpel 2017)."""
    return probabilities(logits).max(axis=1)


def energy(logits: np.ndarray) -> np.ndarray:
    """(images,) log Σ_c exp z_c: the negative energy of Liu et al. 2020, T = 1.

    Classes first, as in `metrics`: SciPy's logsumexp takes three times as long of so few.
    """
    logits = np.ascontiguousarray(np.asarray(logits).T, np.float64)
    highest = logits.max(axis=0)
    powers = np.exp(logits - highest)
    powers[logits.argmax(axis=0), np.arange(powers.shape[1])] = 0
    return highest + np.log1p(np.sort(powers, axis=0).sum(axis=0))


def margin(scores: np.ndarray) -> np.ndarray:
    """(images,) largest minus second largest score of (images, classes)."""
    top = np.partition(np.asarray(scores, np.float64), -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def published_ccl(closeness: np.ndarray) -> np.ndarray:
    """(images,) he2023's confidence c = 1 - Σ_j D_j + max_j D_j = 1 - Σ_{j≠ŷ} D_j.

    It measures the absence of rivals and not the closeness to the prediction: a cell far from every
    centroid (all D near 0) gets c near 1 and looks as reliable as can be.

    Args:
        closeness: (images, classes) D_j in [0, 1] of class centroid learning.
    """
    ordered = np.sort(np.asarray(closeness, np.float64), axis=1)
    return 1 - ordered.sum(axis=1) + ordered[:, -1]


def maximum_closeness(closeness: np.ndarray) -> np.ndarray:
    """(images,) max_j D_j: far from every centroid is unreliable."""
    return np.asarray(closeness, np.float64).max(axis=1)


def probability_confidences(stated: np.ndarray) -> dict[str, np.ndarray]:
    """(images,) confidences of probabilities (images, classes) by rejector.

    Largest probability; negative entropy Σ_c p_c log p_c, natural logarithm; and largest minus
    second largest probability.
    """
    ordered = np.sort(stated, axis=1)
    return {
        "msp": ordered[:, -1],
        "entropy": -entr(ordered).sum(axis=1),
        "margin": ordered[:, -1] - ordered[:, -2],
    }


CCL_CONFIDENCES = {"published": published_ccl, "max": maximum_closeness, "margin": margin}
"""Name → function of the closeness D (images, classes) to each class centroid."""


MINIMUM_CALIBRATION = 20
"""A class with fewer calibration images uses all of them: its conformal p-values are marginal."""


class Rejection(NamedTuple):
    """What a threshold does to a test set (he2023)."""

    rejected: float
    """Rr, share of images rejected"""
    accuracy: float
    """Ra, accuracy of the accepted ones; NaN if none is accepted"""
    right: float
    """R = (1 - Rr)·Ra, share of all images that are accepted and right"""


def reject(confidence: np.ndarray, correct: np.ndarray, threshold: float) -> Rejection:
    """Rr, Ra and R of (images,) confidences and hits at a threshold."""
    accepted = np.asarray(confidence) >= threshold
    found, hits = (
        int(np.count_nonzero(a)) for a in (accepted, accepted & np.asarray(correct, bool))
    )
    accuracy = hits / found if found else float("nan")
    return Rejection(1 - found / len(accepted), accuracy, hits / len(accepted))


def threshold_at(confidence: np.ndarray, correct: np.ndarray, accuracy: float) -> np.ndarray:
    """The smallest threshold at which the accepted calibration images are this accurate (he2023).

    Chosen among the confidences that occur; `inf` (nothing accepted) if none reaches the accuracy.
    No guarantee: it is the luckiest of many thresholds. See `guaranteed_threshold`.

    Args:
        confidence: (..., images); correct: (..., images) booleans.

    Returns:
        (...) thresholds.
    """
    ordered, right, last = descending(confidence, correct)
    accepted = np.arange(1, right.shape[-1] + 1)
    return lowest(ordered, last & (right >= accuracy * accepted - 1e-9))


def guaranteed_threshold(
    confidence: np.ndarray, correct: np.ndarray, accuracy: float, error: float = 0.05
) -> np.ndarray:
    """A threshold whose accepted images are this accurate with probability 1 - `error`.

    Learn then test (Angelopoulos et al. 2021) by a fixed sequence: thresholds from the strictest
    down, each tested by the exact binomial tail (Clopper-Pearson), until the first that fails. The
    m most confident calibration images are, given the next confidence, an independent sample of
    all that is more confident, so each test is exact; the sequence is valid where accuracy does
    not rise as the threshold falls. It starts at `images_needed`. It holds for images like the
    calibration images, which nothing may have been fitted to, and for a shifted domain it promises
    nothing.

    Args:
        confidence: (..., images); correct: (..., images) booleans.

    Returns:
        (...) thresholds, `inf` where nothing can be guaranteed.
    """
    ordered, right, last = descending(confidence, correct)
    accepted = np.arange(1, right.shape[-1] + 1)
    tested = last & (accepted >= images_needed(accuracy, error))
    failed = tested & (right < right_needed(len(accepted), accuracy, error)[accepted])
    return lowest(ordered, tested & ~np.logical_or.accumulate(failed, axis=-1))


def lowest(ordered: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """(...) the last of (..., images) thresholds that is allowed, `inf` where none is."""
    found = np.where(allowed, ordered, np.inf).min(axis=-1)
    return found.astype(float)


def images_needed(accuracy: float, error: float = 0.05) -> float:
    """The fewest calibration images, all right, that prove an accuracy: log(error) / log(accuracy).

    299 for 99 % with probability 95 %; `inf` for 100 %.
    """
    return int(np.ceil(np.log(error) / np.log(accuracy) - 1e-9)) if accuracy < 1 else math.inf


@lru_cache(maxsize=64)
def right_needed(most: int, accuracy: float, error: float) -> np.ndarray:
    """(most + 1,) fewest right among 0 … `most` images that a lower accuracy makes improbable.

    P(at least so many right | the accuracy is no better than asked for) ≤ `error`.
    """
    return binom.isf(error, np.arange(most + 1), accuracy) + 1


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of images accepted and share of those wrong, from the most confident image to all.

    Images of equal confidence come in random order: their risk is the mean over all orders.

    Args:
        confidence: (images,); correct: (images,) booleans.

    Returns:
        coverage and risk, (images,) each.
    """
    _, accepted, right = ranked(confidence, correct)
    sizes, answered = _steps(accepted), np.arange(1, len(correct) + 1)
    errors = _steps(accepted - right) / sizes
    return answered / len(correct), np.cumsum(np.repeat(errors, sizes)) / answered


def areas(risk: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """Area under the risk-coverage curve, AURC (Geifman 2019), and E-AURC, what an oracle spares.

    AURC is the mean risk over the coverages 1/n … 1; the oracle ranks every error last (exact, for
    n images).

    Args:
        risk: (images,) of `risk_coverage`.
        correct: (images,) booleans.
    """
    area = float(risk.mean())
    best = oracle_aurc(len(correct), int(np.count_nonzero(correct)))
    return {"aurc": area, "excess_aurc": area - best}


@lru_cache(maxsize=4096)
def oracle_aurc(images: int, right: int) -> float:
    """AURC of an order that has every error last: no error among the first `right`."""
    answered = np.arange(1, images + 1)
    return float((np.maximum(answered - right, 0) / answered).mean())


def ranked(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, ...]:
    """Thresholds that occur, descending, with the number of images accepted and right at each."""
    ordered, right, last = descending(confidence, correct)
    at = np.flatnonzero(last)
    return ordered[at], at + 1, right[at]


def descending(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of (..., images), from the most confident: confidences, how many are right up to each, and
    whether each is the last of equal ones, so that a threshold can stand there."""
    confidence = np.asarray(confidence)
    if not confidence.shape[-1]:
        raise ValueError("no images to rank")
    order = np.argsort(-confidence, axis=-1)
    ordered = np.take_along_axis(confidence, order, axis=-1)
    right = np.cumsum(np.take_along_axis(np.asarray(correct), order, axis=-1), axis=-1)
    last = np.ones(ordered.shape, bool)
    np.not_equal(ordered[..., 1:], ordered[..., :-1], out=last[..., :-1])
    return ordered, right, last


def _steps(sums: np.ndarray) -> np.ndarray:
    """What was summed up; NumPy's `diff` takes longer over so few."""
    steps = sums.copy()
    steps[1:] -= sums[:-1]
    return steps


def auroc(known: np.ndarray, foreign: np.ndarray) -> float:
    """P(confidence of a known cell > that of a foreign one), ties count half (Mann-Whitney).

    Args:
        known, foreign: (images,) confidences; NaN if either is empty.
    """
    if not len(known) or not len(foreign):
        return float("nan")
    ordered = np.sort(known)
    below, up_to = (np.searchsorted(ordered, foreign, side=side) for side in ("left", "right"))
    higher = 2 * len(known) - below - up_to  # known cells above each foreign one, ties half, twice
    return float(higher.sum() / (2 * len(known) * len(foreign)))


def fpr_at_95(known: np.ndarray, foreign: np.ndarray) -> float:
    """Share of foreign cells accepted by the highest threshold that accepts 95 % of the known.

    A cell is accepted if its confidence is at least the threshold, so ties are accepted together.
    """
    if not len(known) or not len(foreign):
        return float("nan")
    accepted = int(np.ceil(round(0.95 * len(known), 9)))
    threshold = np.sort(known)[len(known) - accepted]
    return float((np.asarray(foreign) >= threshold).mean())


class Conformal(NamedTuple):
    """Sorted non-conformity of the calibration images, by class."""

    scores: tuple[np.ndarray, ...]
    """for each class the calibration scores it is compared with, ascending"""
    marginal: np.ndarray
    """(classes,) whether a class is compared with all images for want of its own"""


def improbability(probabilities: np.ndarray) -> np.ndarray:
    """(images, classes) non-conformity 1 - p_y."""
    return 1 - np.asarray(probabilities, np.float64)


def conformal_calibration(nonconformity: np.ndarray, labels: np.ndarray) -> Conformal:
    """Sort the calibration scores once.

    Args:
        nonconformity: (images, classes) of the calibration images, for every class.
        labels: (images,) their classes.
    """
    classes = nonconformity.shape[1]
    own = nonconformity[np.arange(len(labels)), labels]
    marginal = np.bincount(labels, minlength=classes) < MINIMUM_CALIBRATION
    everything = np.sort(own)
    return Conformal(
        tuple(everything if marginal[c] else np.sort(own[labels == c]) for c in range(classes)),
        marginal,
    )


def p_values(calibration: Conformal, nonconformity: np.ndarray) -> np.ndarray:
    """(images, classes) p(y) = (1 + #{calibration of class y with score ≥ score(x, y)})/(n_y + 1).

    One binary search each: O(log n) a value.
    """
    p = np.empty(nonconformity.shape)
    for c, scores in enumerate(calibration.scores):
        at_least = len(scores) - np.searchsorted(scores, nonconformity[:, c], side="left")
        p[:, c] = (1 + at_least) / (len(scores) + 1)
    return p


def leave_one_out_p_values(
    calibration: Conformal, nonconformity: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """p-values of the calibration images themselves, each compared with the others only.

    They serve to choose ε without a second calibration set.
    """
    own = nonconformity[np.arange(len(labels)), labels]
    p = np.empty(nonconformity.shape)
    for c, scores in enumerate(calibration.scores):
        member = (labels == c) | calibration.marginal[c]
        at_least = len(scores) - np.searchsorted(scores, nonconformity[:, c], side="left")
        itself = member & (own >= nonconformity[:, c])
        p[:, c] = (1 + at_least - itself) / (len(scores) - member + 1)
    return p


def epsilon_at(p: np.ndarray, labels: np.ndarray, accuracy: float) -> float:
    """The ε that accepts the most calibration images while the accepted are this accurate.

    An image is accepted for second p ≤ ε < first p, and its prediction is the class of the first:
    one sweep over these 2n ends. NaN if no ε accepts images that are accurate enough.

    Args:
        p: (images, classes), from `leave_one_out_p_values` or a second calibration set.
        labels: (images,) class indices.
    """
    second, first = np.partition(p, -2, axis=1)[:, -2:].T
    right = p.argmax(axis=1) == labels
    ends = np.concatenate([second, first])
    enters = np.repeat([1, -1], len(p))
    epsilons, place = np.unique(ends, return_inverse=True)
    accepted = np.cumsum(np.bincount(place, weights=enters))
    correct = np.cumsum(np.bincount(place, weights=enters * np.tile(right, 2)))
    good = (accepted > 0) & (correct >= accuracy * accepted - 1e-9)
    return float(epsilons[good][np.argmax(accepted[good])]) if good.any() else float("nan")
