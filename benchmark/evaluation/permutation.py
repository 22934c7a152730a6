"""Permutation: pairs of methods in, p-values of "they answer alike" out, for every table column.

If two methods answer alike, swapping their answers on a group of images changes nothing but names.
Each permutation swaps every group or leaves it, with equal chance, for all seeds together; the
statistic is the difference of a metric, averaged over the seeds that both methods have. Tallies are
sums over groups, so a permutation is one column of a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from benchmark.evaluation.columns import Resampled, summarise
from benchmark.evaluation.metrics import Tally
from benchmark.evaluation.resampling import (
    CHUNK,
    JointPredictions,
    generator,
    group_counts,
    tally_of,
)

PERMUTATIONS = 2000
Pairs = dict[tuple[str, str], list[tuple[int, int]]]
"""(method, other method) → for each seed the rows of their runs"""


def permutation_tests(
    runs: Resampled, wanted: dict[str, Pairs], permutations: int = PERMUTATIONS
) -> dict[str, dict[tuple[str, str], dict[str, float]]]:
    """Two-sided p-value of every pair, by metric, pair and column.

    p = (1 + #{|d*| ≥ |d|}) / (permutations + 1): the observed arrangement counts as one. NaN where
    a run has no value.

    Args:
        wanted: metric → its pairs.
    """
    tests = {name: Test(runs, name, pairs) for name, pairs in wanted.items() if pairs}
    rows = sorted({row for test in tests.values() for row in (*test.first, *test.second)})
    if rows:
        test_sets = [runs.images[test_set] for test_set in runs.scenario.test_sets]
        swaps = (swapped(images, rows, permutations) for images in test_sets)
        for tallies in zip(*swaps, strict=True):
            for test in tests.values():
                test.count(rows, tallies)
    return {name: test.p_values(permutations) for name, test in tests.items()}


class Test:
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
            sides: (2, 2, pairs · seeds) rows that keep their own answers, and that send theirs.
        """
        if not len(images.labels):
            shape = sides.shape[-1], kept.images.shape[-1]
            return [np.full(shape, np.nan) for _ in sides]
        if self.metric.linear:
            stay, come = images.value(self.metric, kept), images.value(self.metric, moved)
            return [stay[own] + come[others] for own, others in sides]
        mixed = (
            kept._replace(
                right=kept.right[:, own] + moved.right[:, others],
                predicted=kept.predicted[:, own] + moved.predicted[:, others],
            )
            for own, others in sides
        )
        return [images.value(self.metric, side) for side in mixed]

    def p_values(self, permutations: int) -> dict[tuple[str, str], dict[str, float]]:
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
