"""Intervals over seeds: a handful of values in, their mean ± half-width out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """Mean of `seeds` values and the half-width of its interval (NaN where there is none)."""

    mean: float
    half_width: float
    seeds: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and Student t-interval: mean ± t_{(1+confidence)/2, k-1} · s / √k, s with ddof = 1.

    It covers the spread over seeds only. One seed gives no interval (NaN half-width), none gives
    no mean either. A NaN among the values makes the mean NaN: a gap is never averaged away.
    """
    sample = np.asarray(values, np.float64)
    seeds = len(sample)
    if seeds == 0:
        return Interval(math.nan, math.nan, 0)
    mean = float(sample.mean())
    if seeds == 1 or math.isnan(mean):
        return Interval(mean, math.nan, seeds)
    quantile = stats.t.ppf((1 + confidence) / 2, seeds - 1)
    return Interval(mean, float(quantile * sample.std(ddof=1) / math.sqrt(seeds)), seeds)
