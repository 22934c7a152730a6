"""Paired: two methods' answers on the same images in, evidence for a difference out.

Three questions, never mixed. *Do these trained networks answer differently?* is for the permutation
test (`permutation`). *Would other seeds and other images keep the order?* is for the draws of both
(`intervals`). *What could this test set have shown at all?* is the smallest detectable difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

POWER = 0.8
SIGNIFICANCE = 0.05


def shown(adjusted: np.ndarray | float) -> np.ndarray | bool:
    """Whether a difference is shown: by its p-value adjusted for its family, never by its own.

    The family is what a reader looks through for differences: the comparisons of a table's column
    with its best method, the whole list of exchanged parts in a column, or the lines of one
    comparison of two methods. Every mark, figure and sentence that says "shown", "better", "worse",
    "higher" or "lower" asks this function.
    """
    return np.less(adjusted, SIGNIFICANCE)  # NaN, a comparison that could not be made, is not


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979); NaN stays NaN and counts for nothing."""
    p = np.asarray(p, float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    ascending = known[np.argsort(p[known], kind="stable")]
    steps = p[ascending] * np.arange(len(ascending), 0, -1)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def detectable_difference(error: float) -> float:
    """The difference that would have been found with 80 % power at a two-sided 5 %.

    (z_0.975 + z_0.8) · standard error of the paired difference.
    """
    return float((special.ndtri(1 - SIGNIFICANCE / 2) + special.ndtri(POWER)) * error)


class Ranks(NamedTuple):
    """Where methods stand, 1 being the best, and how firmly. Each is (methods,)."""

    rank: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % range over the draws"""
    first: np.ndarray
    """share of draws in which the method is the best"""


def rank_stability(points: np.ndarray, draws: np.ndarray, descending: bool = True) -> Ranks:
    """Ranks by the (methods,) points, with their spread over (methods, resamples) draws.

    A method without a value has no rank.
    """
    sign = -1 if descending else 1
    rank, low, high, first = (np.full(len(points), np.nan) for _ in range(4))
    known = ~(np.isnan(points) | np.isnan(draws).any(axis=1))
    if known.any():
        rank[known] = stats.rankdata(sign * points[known], method="min")
        drawn = stats.rankdata(sign * draws[known], axis=0, method="min")
        low[known], high[known] = np.quantile(drawn, [0.025, 0.975], axis=1, method="inverted_cdf")
        first[known] = (drawn == 1).mean(axis=1)
    return Ranks(rank, low, high, first)


def rank_agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Kendall's τ of two orders of the same methods: 1 the same, -1 reversed, ties count 0.

    Args:
        first, second: (methods, ...) values by which each orders the methods.

    Returns:
        (...) (pairs in the same order - pairs in reversed order) / pairs; NaN for one method.
    """
    one, other = np.triu_indices(len(first), k=1)
    if not len(one):
        return np.full(np.shape(first)[1:], np.nan)[()]
    return (np.sign(first[one] - first[other]) * np.sign(second[one] - second[other])).mean(axis=0)


class Components(NamedTuple):
    """Standard deviations of a metric on one test set, by where they come from."""

    method: float
    seed: float
    image: float


def variance_components(points: list[np.ndarray], draws: list[np.ndarray]) -> Components:
    """What the choice of method, the seed and the test images each add to the spread of one run.

    Method of moments. A test set moves all runs together, those of one method more than others;
    the covariance of the image draws says how much, and is taken off what the seeds and methods
    seem to spread. A negative remainder is 0; NaN where there is nothing to compare.

    Args:
        points: for each method its (seeds,) values.
        draws: for each method (seeds, resamples) values in the same resamples.
    """
    sizes = [len(values) for values in points]
    owner = np.repeat(np.arange(len(points)), sizes)
    covariance = np.atleast_2d(np.cov(np.concatenate(draws)))
    same = owner[:, None] == owner
    other_seed = same & ~np.eye(len(owner), dtype=bool)
    single = covariance.diagonal().mean()
    within = covariance[other_seed].mean() if other_seed.any() else np.nan
    between = covariance[~same].mean() if (~same).any() else np.nan
    freedom = sum(size - 1 for size in sizes)
    spread = (
        sum(((v - v.mean()) ** 2).sum() for v in points) / freedom if freedom else np.nan
    )  # of seeds, and of the images' part that seeds do not share
    seed = spread - (single - within)
    means = np.array([values.mean() for values in points])
    noise = spread * np.mean([1 / size for size in sizes]) + within - between
    method = means.var(ddof=1) - noise if len(points) > 1 else np.nan
    return Components(*(float(np.sqrt(np.maximum(v, 0))) for v in (method, seed, single)))
