"""Comparisons: how two methods differ on the same images, and how sure that is.

Three questions, never mixed. *Do these trained networks predict differently?* is for the
permutation test: if two methods predict alike, swapping their predictions on a group of images
changes nothing but names. Each permutation swaps every group or leaves it, with equal chance, for
all seeds together; the statistic is the difference of a metric, averaged over the seeds that both
methods have. Tallies are sums over groups, so a permutation is one column of a matrix product.
*Would other seeds and other images keep the order?* is for the draws of both (`intervals`). *What
could this test set have shown at all?* is the smallest detectable difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse, special

from benchmark.evaluation.columns import MetricKey, Resampled, Series, summarise
from benchmark.evaluation.intervals import (
    Interval,
    Variances,
    intervals,
    percentiles,
    seed_variances,
    two_level,
    two_level_p,
)
from benchmark.evaluation.resampling import (
    CHUNK,
    JointPredictions,
    generator,
    group_counts,
    tally_of,
)
from benchmark.metrics import Tally

POWER = 0.8
SIGNIFICANCE = 0.05
UNRANKED = "shift_drop"
"""The column without a best method: what is useless everywhere drops least."""
PERMUTATIONS = 2000
ROWS = 64
"""Runs of which one step of a permutation test scores `CHUNK` permutations."""
Pair = tuple[str, str]
Pairs = dict[Pair, list[tuple[int, int]]]
"""(method, other method) → for each seed the rows of their runs"""


class Comparison(NamedTuple):
    """Paired evidence on the difference first - second in one column."""

    difference: Interval
    p_images: float
    """these networks, other images (permutation)"""
    p_both: float
    """other seeds and other images; NaN where the variance between seeds is not known"""
    detectable: float
    """the smallest difference that would have been found between these networks"""
    detectable_both: float
    """the same across seeds: from the width of the interval, the images' where seeds are unknown"""

    @property
    def p(self) -> float:
        """The larger: a difference must survive other images and other seeds."""
        return float(np.fmax(self.p_images, self.p_both))


class MetricColumn(NamedTuple):
    """One metric of methods in one column, with draws that hold both levels."""

    name: str
    metric: MetricKey
    series: dict[str, Series]
    variances: Variances
    draws: np.ndarray
    """(methods, resamples)"""

    def of(self, methods: list[str]) -> MetricColumn:
        """The same for some of its methods: no number moves."""
        places = list(self.series)
        rows = [places.index(method) for method in methods]
        series = {method: self.series[method] for method in methods}
        variances = Variances(*(values[rows] for values in self.variances))
        return self._replace(series=series, variances=variances, draws=self.draws[rows])

    @property
    def means(self) -> np.ndarray:
        """(methods,)"""
        return np.array([own.mean for own in self.series.values()])


def column_of(runs: Resampled, metric: MetricKey, name: str) -> MetricColumn:
    """One column of a scenario, with all its methods."""
    series = runs.series(metric, name)
    variances = seed_variances([own.points for own in series.values()])
    draws = [
        two_level(own.draws, variance, freedom, runs.scenario.name, method, *metric, name)
        for (method, own), variance, freedom in zip(series.items(), *variances, strict=True)
    ]
    return MetricColumn(name, metric, series, variances, np.array(draws))


def compare_pairs(column: MetricColumn, p_images: dict[Pair, float]) -> dict[Pair, Comparison]:
    """First minus second on the seeds that both have, by pair; none without a common seed.

    The variance of the difference is the sum of both (moderated) variances: seeds of two methods
    share the order of images, which was not seen to tie their scores.

    Args:
        p_images: (first, second) → p-value of the permutation test, NaN without one.
    """
    places = {method: place for place, method in enumerate(column.series)}
    found, images, draws = {}, [], []
    for pair in p_images:
        one, other = (column.series[method] for method in pair)
        if not (seeds := tuple(seed for seed in one.seeds if seed in other.seeds)):
            continue
        one, other = one.of(seeds), other.of(seeds)
        rows = [places[method] for method in pair]
        variance = column.variances.values[rows].sum()
        freedom = column.variances.freedom[rows].min()
        difference = one.draws - other.draws
        images.append(difference.mean(axis=0))
        names = "difference", *pair, column.name, column.metric[0]
        draws.append(two_level(difference, variance, freedom, *names))
        p_both = two_level_p(difference, variance, freedom)
        found[pair] = one.mean - other.mean, len(seeds), p_both
    if not found:
        return {}
    most = 2.0 if column.name == UNRANKED else 1.0
    means, seeds, p_both = zip(*found.values(), strict=True)
    low, high = ends = percentiles(np.array(draws))
    differences = intervals(ends, means, seeds, (-most, most))
    return {
        pair: Comparison(
            differences[i],
            p_images[pair],
            p_both[i],
            detectable_difference(images[i].std()),
            detectable_difference((high[i] - low[i]) / 2 / special.ndtri(0.975)),
        )
        for i, pair in enumerate(found)
    }


def shared_rows(runs: Resampled, pair: Pair) -> list[tuple[int, int]]:
    """Rows of the runs of two methods, for each seed that both have."""
    first, second = (dict(runs.runs.members[method]) for method in pair)
    return [
        (runs.places[run_id], runs.places[second[seed]])
        for seed, run_id in first.items()
        if seed in second
    ]


MetricColumns = dict[tuple[str, str], MetricColumn]
"""(metric over all classes, name) → column"""


def scenario_columns(runs: Resampled) -> MetricColumns:
    return {
        (metric, name): column_of(runs, (metric, ""), name)
        for metric in runs.metrics
        for name in runs.columns
    }


def permutation_tests(
    runs: Resampled, wanted: dict[str, Pairs], permutations: int = PERMUTATIONS
) -> dict[str, dict[Pair, dict[str, float]]]:
    """Two-sided p-value of every pair, by metric, pair and column.

    p = (1 + #{|d*| ≥ |d|}) / (permutations + 1): the observed arrangement counts as one. NaN where
    a run has no value.

    Args:
        wanted: metric → its pairs.
    """
    tests = {name: PermutationTest(runs, name, pairs) for name, pairs in wanted.items() if pairs}
    rows = sorted({row for test in tests.values() for row in (*test.first, *test.second)})
    if rows:
        test_sets = [runs.images[test_set] for test_set in runs.scenario.test_sets]
        swaps = (swapped(images, rows, permutations) for images in test_sets)
        for tallies in zip(*swaps, strict=True):
            for test in tests.values():
                test.count(rows, tallies)
    return {name: test.p_values(permutations) for name, test in tests.items()}


class PermutationTest:
    """The pairs of one metric, and in how many permutations they differ as much as observed."""

    def __init__(self, runs: Resampled, name: str, pairs: Pairs) -> None:
        self.runs, self.metric, self.pairs = runs, runs.metrics[name], list(pairs)
        self.first, self.second = np.array([rows for seeds in pairs.values() for rows in seeds]).T
        sizes = [len(seeds) for seeds in pairs.values()]
        # (pairs, pairs · seeds): times it, values of runs are means over the seeds of a pair.
        weights = np.repeat(1 / np.array(sizes), sizes)
        self.mean = sparse.csr_array((weights, np.arange(sum(sizes)), np.cumsum([0, *sizes])))
        self.observed = {
            column: np.abs(self.mean @ (points[self.first] - points[self.second]))[:, None]
            for column, points in runs.points[name, ""].items()
        }
        self.extreme = {column: np.zeros(len(pairs)) for column in self.observed}

    def count(self, rows: Sequence[int], test_sets: Sequence[tuple[Tally, Tally]]) -> None:
        """Take in what `swapped` yields of these `rows`, for every test set of the scenario."""
        sides = np.searchsorted(rows, [(self.first, self.second), (self.second, self.first)])
        scenario, counted = self.runs.scenario, self.runs.counted
        values = [
            self.exchanged(self.runs.images[test_set], *both, sides)
            for test_set, both in zip(scenario.test_sets, test_sets, strict=True)
        ]
        one, other = (summarise(side, scenario, counted) for side in zip(*values, strict=True))
        for column, observed in self.observed.items():
            difference = np.abs(self.mean @ (one[column] - other[column]))
            # Sums in another order may differ in the last bit, and a tie counts.
            self.extreme[column] += (difference >= observed - 1e-12).sum(axis=1)

    def exchanged(
        self, images: JointPredictions, kept: Tally, moved: Tally, sides: np.ndarray
    ) -> list[np.ndarray]:
        """(pairs · seeds, some permutations) values of either side on one test set.

        Args:
            sides: (2, 2, pairs · seeds) rows that keep their own predictions, and that send theirs.
        """
        if not len(images.labels):
            shape = sides.shape[-1], kept.images.shape[-1]
            return [np.full(shape, np.nan) for _ in sides]
        if self.metric.linear:
            stay, come = images.value(self.metric, kept), images.value(self.metric, moved)
            return [stay[own] + come[others] for own, others in sides]
        # A few rows at a time, so that they stay in the processor's cache from sum to score.
        return [
            np.concatenate(
                [
                    images.value(self.metric, mixed(kept, moved, own[some], others[some]))
                    for some in (slice(i, i + ROWS) for i in range(0, sides.shape[-1], ROWS))
                ]
            )
            for own, others in sides
        ]

    def p_values(self, permutations: int) -> dict[Pair, dict[str, float]]:
        """By pair and column."""
        p = {
            column: np.where(
                np.isnan(self.observed[column][:, 0]), np.nan, (1 + n) / (permutations + 1)
            )
            for column, n in self.extreme.items()
        }
        return {
            pair: {column: float(found[i]) for column, found in p.items()}
            for i, pair in enumerate(self.pairs)
        }


def mixed(kept: Tally, moved: Tally, own: np.ndarray, others: np.ndarray) -> Tally:
    """Tallies of runs that keep some of their own predictions and get the rest from others."""
    return kept._replace(
        right=kept.right[:, own] + moved.right[:, others],
        predicted=kept.predicted[:, own] + moved.predicted[:, others],
    )


def swapped(
    images: JointPredictions, rows: Sequence[int], permutations: int
) -> Iterator[tuple[Tally, Tally]]:
    """Tallies of runs on the groups of images that are left and that are swapped.

    Some permutations at a time. The swaps come from the name of the test set: all pairs, hence all
    seeds, share them.

    Args:
        rows: of `images.predicted`.

    Yields:
        (classes, runs, some permutations) of what is left, and of what is swapped; labels and
        images are those of both together.
    """
    images = images._replace(predicted=images.predicted[rows])
    if not len(images.labels):
        for start in range(0, permutations, CHUNK):
            nothing = np.zeros((0, len(rows), min(CHUNK, permutations - start)))
            yield (Tally(nothing, nothing, nothing, nothing.sum(axis=0)),) * 2
        return
    counts = group_counts(images)
    groups = counts.shape[1]
    total = tally_of(images, counts, np.ones((groups, 1), np.int32))
    labels, shown = total.labels[:, :1], total.images[:1]
    random = generator("swaps", images.name)
    for start in range(0, permutations, CHUNK):
        size = min(CHUNK, permutations - start)
        chosen = random.integers(0, 2, (size, groups)).T.astype(np.int32, order="C")
        moved = tally_of(images, counts, chosen)
        rest = total.right - moved.right, total.predicted - moved.predicted
        yield tuple(Tally(labels, *own, shown) for own in (rest, moved[1:3]))


def significant(adjusted: np.ndarray | float) -> np.ndarray | bool:
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
