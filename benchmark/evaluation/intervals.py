"""Intervals: 95 % over other test images and other seeds at once.

Test images come from the bootstrap. Seeds are too few (2 to 5) to be drawn again: two seeds drawn
with replacement are one seed half of the time. Their mean gets a Student term instead,

    draw_b = centre + r (image draw_b - centre) + T_b · s / √K,    r² = shared / total,

where T_b follows Student's t, s² is the variance between seeds, and r leaves out of the image draws
the part that differs from seed to seed, because s² holds it already. The interval is the percentile
interval of these draws. s² is *moderated* (Smyth 2004): drawn towards that of the other methods on
the same test set as far as the methods agree, so that two seeds have more than one degree of
freedom. The others are all methods of the profile that ran in the scenario, so that a method has
one interval, whatever table shows it; a method that is added anywhere moves it a little. Methods
that share their trainings tell less of the spread than their number says.

What these intervals cover, and what was tried and does not cover, is in tests/test_intervals.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from benchmark.evaluation.resampling import generator

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean over `seeds` runs and its interval (NaN where there is none)."""

    mean: float
    low: float
    high: float
    seeds: int


def interval(
    draws: np.ndarray, mean: float, seeds: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """Percentile interval of (resamples,) draws, within bounds, stretched to hold the mean.

    Pseudo images move the draws away from the edge, and a perfect score lies on it.
    """
    return intervals(percentiles(draws[None]), [mean], [seeds], bounds)[0]


def percentiles(draws: np.ndarray) -> np.ndarray:
    """(2, ...) ends of the middle 95 % of (..., resamples) draws; NaN where one is."""
    tails = (1 - CONFIDENCE) / 2
    return np.quantile(draws, [tails, 1 - tails], axis=-1)


def intervals(
    ends: np.ndarray, means: Sequence[float], seeds: Sequence[int], bounds: tuple[float, float]
) -> list[Interval]:
    """The same as `interval` for many at once, from their (2, intervals) percentiles."""
    low, high = np.clip(ends, *bounds)
    low, high = np.minimum(low, means), np.maximum(high, means)  # NaN where either is
    return list(map(Interval, map(float, means), low.tolist(), high.tolist(), seeds))


class Variances(NamedTuple):
    """Variance between seeds of each method, and the degrees of freedom behind it."""

    values: np.ndarray
    freedom: np.ndarray


def seed_variances(points: list[np.ndarray]) -> Variances:
    """Moderated variances between the seeds of methods that met the same images (Smyth 2004).

    log s² of method g has mean log σ_g² plus a known constant and a known variance; what spread is
    seen beyond that tells how far the σ_g differ, d₀ degrees of freedom's worth. With
    s̃² = (d₀ s₀² + d s²)/(d₀ + d), t has d₀ + d degrees of freedom, at most those of all methods
    together. Where the methods agree, s̃² is the pooled variance of an analysis of variance.

    A method with one seed takes s₀² as it is; where fewer than two methods have several seeds there
    is nothing to take, and the variance is NaN, with no degree of freedom. A method that its seed
    does not touch (a regression on colours) says nothing of how far the others spread: its zero,
    whose logarithm is far from all, is no part of the fit, and would unsettle it.

    Args:
        points: for each method its (seeds,) values.
    """
    freedom = np.array([max(len(values) - 1, 0) for values in points], float)
    raw = np.array([values.var(ddof=1) if len(values) > 1 else np.nan for values in points])
    differs = np.array([len(values) > 1 and np.ptp(values) > 0 for values in points], bool)
    s, d = raw[differs], freedom[differs]
    if len(s) < 2:
        return Variances(raw, freedom)
    logs = np.log(np.maximum(s, 1e-5 * np.median(s)))  # limma's offset
    logs += np.log(d / 2) - special.digamma(d / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, d / 2).mean()
    if excess > 0:
        prior = 2 * inverse_trigamma(excess)
        common = np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    else:
        prior, common = np.inf, (d * s).sum() / d.sum()
    share = 1 / (1 + freedom / prior)
    values = share * common + (1 - share) * np.nan_to_num(raw)
    return Variances(values, np.minimum(prior + freedom, d.sum()))


def inverse_trigamma(value: float) -> float:
    """x > 0 with ψ'(x) = value."""
    return optimize.brentq(lambda x: special.polygamma(1, x) - value, 1e-8, 1e8)


def two_level(images: np.ndarray, variance: float, freedom: float, *names: str) -> np.ndarray:
    """Draws of the mean over seeds that vary with the test images and with the seeds.

    Args:
        images: (seeds, resamples) values of each seed's run in the same resamples.
        variance: between seeds (moderated); NaN if unknown, and the draws cover the images only.
        freedom: degrees of freedom of the variance.
        names: what the draws belong to; they fix the random numbers.

    Returns:
        (resamples,) draws.
    """
    if np.isnan(variance):
        return images.mean(axis=0)
    shared, spread = levels(images, variance, freedom)
    student = student_quantiles(float(freedom), images.shape[1])
    return shared + spread * generator("seeds", *names).permutation(student)


def two_level_p(images: np.ndarray, variance: float, freedom: float) -> float:
    """Two-sided p-value of a mean of zero: twice the smaller tail of what `two_level` draws from.

    The tail is taken from Student's distribution function, not counted: a p-value that is corrected
    for a hundred others has to be known below one in the number of resamples. NaN where the
    variance between seeds is not known.
    """
    if np.isnan(variance):
        return float("nan")
    shared, spread = levels(images, variance, freedom)
    if not spread > 0:
        below = (np.mean(shared < 0) + np.mean(shared <= 0)) / 2
    else:
        below = float(special.stdtr(freedom, -shared / spread).mean())
    return float(2 * min(below, 1 - below))


def levels(images: np.ndarray, variance: float, freedom: float) -> tuple[np.ndarray, float]:
    """The two parts of `two_level`: (resamples,) means that vary with the images alone, and the
    factor of Student's t."""
    seeds = len(images)
    mean = images.mean(axis=0)
    centre, total = mean.mean(), mean.var()
    shared = min(max(shared_variance(images), 0), total) if seeds > 1 else total
    ratio = np.sqrt(shared / total) if total > 0 else 1.0
    # Seeds cannot differ less than their predictions on these images do, which is known well:
    # that part reaches as far as Gauss' quantile, whatever the degrees of freedom.
    spread = max(np.sqrt(variance / seeds), np.sqrt(total - shared) * gauss_share(float(freedom)))
    return centre + ratio * (mean - centre), float(spread)


@lru_cache(maxsize=256)
def student_quantiles(freedom: float, number: int) -> np.ndarray:
    """Evenly spaced quantiles of Student's t: less noise than draws."""
    return special.stdtrit(freedom, (np.arange(number) + 0.5) / number)


@lru_cache(maxsize=256)
def gauss_share(freedom: float) -> float:
    """How far Gauss' 97.5 % quantile reaches, as a share of Student's."""
    return float(special.ndtri(0.975) / special.stdtrit(freedom, 0.975))


def shared_variance(images: np.ndarray) -> float:
    """Mean covariance of two different seeds over the resamples of (seeds, resamples) values."""
    seeds = len(images)
    *single, together = np.vstack([images, images.sum(axis=0)]).var(axis=1)
    return float((together - np.sum(single)) / (seeds * (seeds - 1)))
