"""Exact confidence limits of a share, and how many images would settle what they leave open.

The limits are those of Clopper and Pearson (1934): the rates at which so many of `number` images,
or more, are right with a probability of 2.5 %, and so many or fewer. They contain the rate of
independent images in at least 95 of 100 repetitions, whatever the rate and the number.

Images of one smear or patient are not independent. Where groups are known, the limits are those of
the effective sample size of Korn and Graubard (1998): p(1 - p) over the variance of the share as
estimated between groups, times (t of images - 1 over t of groups - 1 degrees of freedom)², and at
most the number of images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special
from scipy.stats import beta

from benchmark.evaluation.intervals import CONFIDENCE

TAIL = (1 - CONFIDENCE) / 2
MOST = 10_000_000
"""Images beyond which nobody labels: a question that needs more is left open."""


class Share(NamedTuple):
    """A share and its exact limits; the share is NaN of nothing."""

    right: int
    number: int
    rate: float
    low: float
    high: float
    independent: float
    """Effective sample size of the limits: `number`, or fewer where images lie in groups."""


def exact_limits(right: float, number: float) -> tuple[float, float]:
    """Lower and upper Clopper-Pearson limit of `right` of `number` images, whole or not.

    0 and 1 of no image.
    """
    low = beta.ppf(TAIL, right, number - right + 1) if right > 0 else 0.0
    high = beta.ppf(1 - TAIL, right + 1, number - right) if right < number else 1.0
    return float(low), float(high)


def share(right: np.ndarray, groups: np.ndarray) -> Share:
    """The share of right ones among images, with limits as far as their groups allow.

    Args:
        right: (images,) booleans.
        groups: (images,) the patient or smear of each; one of its own each for images of which
            none is known.
    """
    right = np.asarray(right, bool)
    number, hits = len(right), int(right.sum())
    if not number:
        return Share(0, 0, float("nan"), 0.0, 1.0, 0.0)
    rate, independent = hits / number, independent_images(right, groups)
    return Share(hits, number, rate, *exact_limits(rate * independent, independent), independent)


def independent_images(right: np.ndarray, groups: np.ndarray) -> float:
    """Effective sample size: how many independent images would determine a share as well as these.

    Where all are right, or none is, no variance between groups is seen, and the degrees of freedom
    alone count. Of a single group the variance is not known: 0.
    """
    number = len(right)
    _, place = np.unique(groups, return_inverse=True)
    many = int(place.max()) + 1
    if many == number:
        return float(number)
    if many == 1:
        return 0.0
    rate = right.mean()
    apart = np.bincount(place, weights=right - rate)  # of each group, Σ (right - rate)
    variance = many / (many - 1) * (apart**2).sum() / number**2
    found = rate * (1 - rate) / variance if variance > 0 else number
    upper = 1 - TAIL
    student = special.stdtrit(number - 1, upper) / special.stdtrit(many - 1, upper)
    return float(min(number, found * student**2))


def images_to_settle(rate: float, level: float) -> int | None:
    """The fewest independent images at which a rate, observed, is told from a level.

    The smallest n at which the lower limit of rate · n right of n reaches the level, or, for a
    rate below the level, at which the upper limit falls below it; None where the two are equal, or
    n would be beyond `MOST`. With all right, ⌈log 0.025 / log level⌉.
    """
    if rate == level:
        return None

    def told(number: int) -> bool:
        low, high = exact_limits(rate * number, number)
        return low >= level if rate > level else high < level

    if not told(MOST):
        return None
    below, enough = 0, MOST  # the limits narrow as the number grows
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if told(middle) else (middle, enough)
    return enough
