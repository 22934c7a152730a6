"""Conformal: inductive conformal prediction as a rejector (he2023's ICP baseline).

An image is accepted if exactly one class is plausible. A class's p-value compares the image with
the calibration images of that class (Mondrian), so that rare classes are judged by their own kind;
a class with too few of them is judged by all (marginal), and says so. Calibration images come from
the source domain: on a shifted domain the p-values promise nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MINIMUM_CALIBRATION = 20
"""A class with fewer calibration images uses all of them: its p-values are marginal."""


class Conformal(NamedTuple):
    """Sorted non-conformity of the calibration images, by class."""

    scores: tuple[np.ndarray, ...]
    """for each class the calibration scores it is compared with, ascending"""
    marginal: np.ndarray
    """(classes,) whether a class is compared with all images for want of its own"""


def improbability(probabilities: np.ndarray) -> np.ndarray:
    """(images, classes) non-conformity 1 - p_y."""
    return 1 - np.asarray(probabilities, np.float64)


def calibrate(
    nonconformity: np.ndarray, labels: np.ndarray, minimum: int = MINIMUM_CALIBRATION
) -> Conformal:
    """Sort the calibration scores once.

    Args:
        nonconformity: (images, classes) of the calibration images, for every class.
        labels: (images,) their classes.
    """
    classes = nonconformity.shape[1]
    own = nonconformity[np.arange(len(labels)), labels]
    marginal = np.bincount(labels, minlength=classes) < minimum
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

    An image is accepted for second p ≤ ε < first p, and its answer is the class of the first: one
    sweep over these 2n ends. NaN if no ε accepts images that are accurate enough.

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
