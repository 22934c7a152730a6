"""Calibration: how far stated probabilities are from what happens.

Also temperature scaling, which mends a part of it. Its temperature is fitted on the `calibration`
part of the source domain, which chose nothing before, and never on a test set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from benchmark.metrics import below_the_highest

BINS = 15
"""of equal width, as in Guo et al. 2017; a small test set inflates the ECE (each bin is noisy)"""
TEMPERATURES = (0.01, 100.0)
"""Range of a fitted temperature; an optimum at its ends is none."""
NO_TEMPERATURE = 1.0
"""What stands where no temperature can be fitted: the logits as they are."""


class Reliability(NamedTuple):
    """Images by the confidence of their prediction, in `BINS` bins of equal width over (0, 1]."""

    count: np.ndarray
    """(bins,) images"""
    confidence: np.ndarray
    """(bins,) mean probability of the predicted class; NaN for an empty bin"""
    accuracy: np.ndarray
    """(bins,) share predicted correctly; NaN for an empty bin"""


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), natural logarithm."""
    below = below_the_highest(logits)
    own = below[labels, np.arange(len(labels))]
    return float(-(own - np.log(np.exp(below).sum(axis=0))).mean())


def brier(stated: np.ndarray, labels: np.ndarray) -> float:
    """Mean over images of Σ_c (p_c - [c = label])²: Brier's own form, from 0 to 2.

    Args:
        stated: (images, classes) probabilities.
        labels: (images,) class indices.
    """
    distance = stated.copy()
    distance[np.arange(len(labels)), labels] -= 1
    return float((distance**2).sum(axis=1).mean())


def reliability(stated: np.ndarray, labels: np.ndarray, bins: int = BINS) -> Reliability:
    """Counts, mean confidence and accuracy by bin; bin b holds confidences in (b/bins, (b+1)/bins].

    Args:
        stated: (images, classes) probabilities.
        labels: (images,) class indices.
    """
    confidence, correct = stated.max(axis=1), stated.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums = [np.bincount(place, weights=what, minlength=bins) for what in (confidence, correct)]
    means = [np.divide(s, count, out=np.full(bins, np.nan), where=count > 0) for s in sums]
    return Reliability(count, *means)


def expected_calibration_error(bins: Reliability) -> float:
    """Σ_b n_b/n |accuracy_b - confidence_b| over the bins that hold an image (Naeini et al. 2015).

    Of the predicted class only; the choice between equal highest logits is `predicted_classes`'.
    """
    count, confidence, accuracy = bins
    return float(np.nansum(count * np.abs(accuracy - confidence)) / count.sum())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 whose logits / T have the smallest negative log-likelihood (Guo et al. 2017).

    One number: it never changes a prediction, but may change the order of two images' confidences.
    The loss is convex in 1/T. Where no label has a lower logit than another class, it falls for
    ever as T does, and there is no optimum: T is `NO_TEMPERATURE` then, as it is where the optimum
    lies at an end of `TEMPERATURES`.

    Args:
        logits: (images, classes) of the `calibration` part.
        labels: (images,) class indices.
    """
    if not len(labels):
        raise ValueError("no images to fit a temperature to")
    if (logits.max(axis=1) == logits[np.arange(len(labels)), labels]).all():
        return NO_TEMPERATURE
    found = minimize_scalar(
        lambda logarithm: negative_log_likelihood(logits / np.exp(logarithm), labels),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    at_an_end = np.isclose(found.x, np.log(TEMPERATURES), atol=1e-3).any()
    return NO_TEMPERATURE if at_an_end else float(np.exp(found.x))
