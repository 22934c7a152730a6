"""Permutation: pairs of methods in, p-values of "they answer alike" out, for every table column.

If two methods answer alike, swapping their answers on a group of images changes nothing but names.
Each permutation swaps every group or leaves it, with equal chance, for all seeds together; the
statistic is the difference of a metric, averaged over the seeds that both methods have. Confusion
matrices are sums over groups, so a permutation is one row of a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmark.evaluation.bootstrap import CHUNK, Images, as_confusions, generator, group_counts
from benchmark.evaluation.columns import HEADLINE, REDUCED_HEADLINE, Columns, Resampled, summarise

PERMUTATIONS = 2000
Pairs = dict[tuple[str, str], list[tuple[int, int]]]
"""(method, other method) → for each seed the rows of their runs"""


def permutation_tests(
    runs: Resampled, pairs: Pairs, permutations: int = PERMUTATIONS
) -> dict[tuple[str, str], dict[str, dict[str, float]]]:
    """Two-sided p-value of every pair, by metric and column.

    p = (1 + #{|d*| ≥ |d|}) / (permutations + 1): the observed arrangement counts as one.
    """
    if not pairs:
        return {}
    first, second = np.array([rows for seeds in pairs.values() for rows in seeds]).T
    starts = np.cumsum([0, *map(len, pairs.values())])[:-1]
    sizes = np.array([[len(seeds)] for seeds in pairs.values()])

    def mean_difference(one: Columns, other: Columns) -> Columns:
        """(pairs, n) mean over seeds of (pairs · seeds, n)."""
        return {
            column: np.add.reduceat(one[column] - other[column], starts, axis=0) / sizes
            for column in one
        }

    extreme: dict[str, Columns] = {}
    metrics = {False: HEADLINE}
    if any(reduced for _, reduced in runs.images):
        metrics[True] = REDUCED_HEADLINE
    for reduced, statistics in metrics.items():
        observed = {}
        for name in statistics:
            points = runs.points[name, ""]
            observed[name] = mean_difference(
                *({c: v[rows][:, None] for c, v in points.items()} for rows in (first, second))
            )
            extreme[name] = {column: np.zeros(len(pairs)) for column in points}
        test_sets = [runs.images[test_set, reduced] for test_set in runs.scenario.test_sets]
        swaps = (swapped(images, first, second, permutations) for images in test_sets)
        for confusions in zip(*swaps, strict=True):
            for name, statistic in statistics.items():
                sides = (
                    summarise([statistic(test_set[side]) for test_set in confusions], runs.scenario)
                    for side in (0, 1)
                )
                for column, difference in mean_difference(*sides).items():
                    # Sums in another order may differ in the last bit, and a tie counts.
                    enough = np.abs(observed[name][column]) - 1e-12
                    extreme[name][column] += (np.abs(difference) >= enough).sum(axis=1)
    return {
        pair: {
            name: {c: float((1 + count[i]) / (permutations + 1)) for c, count in columns.items()}
            for name, columns in extreme.items()
        }
        for i, pair in enumerate(pairs)
    }


def swapped(
    images: Images, first: np.ndarray, second: np.ndarray, permutations: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Confusion matrices of pairs of runs after random swaps, some permutations at a time.

    The swaps come from the name of the test set: all pairs, hence all seeds, share them.

    Args:
        first, second: (pairs,) rows of `images.predicted`.

    Yields:
        two arrays (pairs, some permutations, classes, classes).
    """
    rows, places = np.unique([first, second], return_inverse=True)
    first, second = places.reshape(2, -1)
    images = images._replace(predicted=images.predicted[rows])
    counts = group_counts(images)
    total = as_confusions(np.asarray(counts.sum(axis=1))[:, None], images)
    random = generator("swaps", images.name)
    for start in range(0, permutations, CHUNK):
        size = min(CHUNK, permutations - start)
        chosen = random.integers(0, 2, (size, counts.shape[1])).T.astype(float)
        moved = as_confusions(counts @ np.ascontiguousarray(chosen), images)
        exchange = moved[second] - moved[first]
        yield total[first] + exchange, total[second] - exchange
