"""Evidence: runs of an experiment in; table cells with intervals, ranks and paired tests out.

A *block* is one scenario and track of one experiment, as in a table: a row per method, a column per
test set and per summary of the targets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import special

from benchmark.evaluation.columns import (
    HEADLINE,
    REDUCED_HEADLINE,
    Metric,
    Resampled,
    Series,
    column_names,
    ranked_columns,
)
from benchmark.evaluation.intervals import (
    Interval,
    Variances,
    intervals,
    percentiles,
    seed_variances,
    two_level,
)
from benchmark.evaluation.paired import (
    SIGNIFICANCE,
    detectable_difference,
    draws_p,
    holm,
    rank_agreement,
    rank_stability,
    variance_components,
)
from benchmark.evaluation.permutation import Pairs, permutation_tests

UNRANKED = "shift_drop"
"""The column without a best method: what is useless everywhere drops least."""

CELLS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "scenario", "track", "method")),
        *((name, pa.string()) for name in ("metric", "class_name", "column")),
        ("seeds", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "low", "high", "freedom")),
        *((name, pa.float64()) for name in ("rank", "rank_low", "rank_high", "first")),
        *((name, pa.bool_()) for name in ("best", "as_good")),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("p_images", "p_both", "p_holm", "detectable")),
    ]
)
"""`intervals.parquet`: one row per cell. `freedom` is that of the variance between seeds (0: the
interval covers the images only); `first` the share of resamples in which the method leads;
`difference`, its p-values and the smallest `detectable` one are towards the best of the column;
`as_good` says that the method is not shown to be worse than the best."""

COLUMNS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "scenario", "track", "metric", "column")),
        *((name, pa.int64()) for name in ("images", "groups")),
        *((name, pa.float64()) for name in ("detectable", "sd_method", "sd_seed", "sd_image")),
        *((name, pa.float64()) for name in ("tau", "tau_low", "tau_high")),
    ]
)
"""`evidence.parquet`: one row per column. `detectable` is the median over methods, `tau` Kendall's
rank correlation with the in-domain order of the methods."""

Members = dict[str, list[tuple[int, str]]]
"""method → (seed, run id) of its done runs"""


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
        """The larger: a difference has to outlast other images and other seeds."""
        return float(np.fmax(self.p_images, self.p_both))


class Column(NamedTuple):
    """One metric of all methods in one column, with draws that hold both levels."""

    series: dict[str, Series]
    variances: Variances
    draws: np.ndarray
    """(methods, resamples); NaN for a method without a run"""


def column_of(runs: Resampled, members: Members, metric: Metric, name: str) -> Column:
    """Gather one column of a block."""
    series = {method: runs.series(own, metric, name) for method, own in members.items()}
    variances = seed_variances([own.points for own in series.values()])
    draws = [
        two_level(own.draws, variance, freedom, runs.scenario.name, method, *metric, name)
        for (method, own), variance, freedom in zip(series.items(), *variances, strict=True)
    ]
    return Column(series, variances, np.array(draws))


def compare(
    column: Column, name: str, p_images: dict[tuple[str, str], float], *names: str
) -> dict[tuple[str, str], Comparison]:
    """First minus second on the seeds that both have, by pair; none without a common seed.

    The variance of the difference is the sum of both (moderated) variances: seeds of two methods
    share the order of images, which was not seen to tie their scores.

    Args:
        p_images: (first, second) → p-value of the permutation test, NaN without one.
        names: with the pair and the column's `name`, what the random numbers belong to.
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
        draws.append(two_level(difference, variance, freedom, "difference", *pair, name, *names))
        found[pair] = one.mean - other.mean, len(seeds), variance
    if not found:
        return {}
    most = 2.0 if name == UNRANKED else 1.0
    means, seeds, variances = zip(*found.values(), strict=True)
    low, high = ends = percentiles(np.array(draws))
    shown = intervals(ends, means, seeds, (-most, most))
    return {
        pair: Comparison(
            shown[i],
            p_images[pair],
            np.nan if np.isnan(variances[i]) else draws_p(draws[i]),
            detectable_difference(images[i].std()),
            detectable_difference((high[i] - low[i]) / 2 / special.ndtri(0.975)),
        )
        for i, pair in enumerate(found)
    }


def shared_rows(runs: Resampled, members: Members, first: str, second: str) -> list:
    """Rows of the runs of two methods, for each seed that both have."""
    others = dict(members[second])
    return [
        (runs.places[run_id], runs.places[others[seed]])
        for seed, run_id in members[first]
        if seed in others
    ]


def block_evidence(runs: Resampled, members: Members, where: dict) -> tuple[list, list]:
    """Rows of `intervals.parquet` and of `evidence.parquet` for one block.

    Args:
        runs: at least the runs of the block.
        members: in plan order; a method without a done run has none.
        where: the columns that say which block it is.
    """
    members = {method: own for method, own in members.items() if own}
    if not members:
        return [], []
    metrics = [metric for metric in (*HEADLINE, *REDUCED_HEADLINE) if (metric, "") in runs.points]
    names = column_names(runs.scenario)
    columns = {
        (metric, name): column_of(runs, members, (metric, ""), name)
        for metric in metrics
        for name in names
    }
    ranked = ranked_columns(runs.scenario)
    best = {
        key: best_method(column, key[1]) if key[1] in ranked else None
        for key, column in columns.items()
    }
    pairs: dict[str, Pairs] = {}
    for (metric, _), leader in best.items():
        for method in members if leader else ():
            if method != leader and (rows := shared_rows(runs, members, leader, method)):
                pairs.setdefault(metric, {})[leader, method] = rows
    p_images = permutation_tests(runs, pairs)
    cells, summary = [], []
    for (metric, name), column in columns.items():
        key = where | {"metric": metric, "column": name}
        leader = best[metric, name]
        tested = p_images.get(metric, {}).items()
        p = {pair: found[name] for pair, found in tested if pair[0] == leader}
        comparisons = {pair[1]: c for pair, c in compare(column, name, p, metric).items()}
        cells += column_cells(key | {"class_name": ""}, column, leader, comparisons, name)
        summary.append(key | column_summary(runs, columns, metric, name, comparisons))
    for metric in runs.points:
        if metric[1]:
            for name in runs.points[metric]:
                key = where | {"metric": metric[0], "class_name": metric[1], "column": name}
                column = column_of(runs, members, metric, name)
                cells += column_cells(key, column, None, {}, name)
    return cells, summary


def best_method(column: Column, name: str) -> str | None:
    """The method with the highest mean; none where there is nothing to choose from."""
    means = {m: own.mean for m, own in column.series.items() if not np.isnan(own.mean)}
    return max(means, key=means.get) if len(means) > 1 and name != UNRANKED else None


def column_cells(
    key: dict, column: Column, leader: str | None, comparisons: dict, name: str
) -> list[dict]:
    """One row per method; per-class cells have neither rank nor comparison."""
    bounds = (-1.0, 1.0) if name == UNRANKED else (0.0, 1.0)
    means = np.array([own.mean for own in column.series.values()])
    if not key["class_name"]:
        # Smoothing moves draws off the edge; ranks are of what was seen: draws are centred on it.
        centred = column.draws + (means - column.draws.mean(axis=1))[:, None]
        ranks = rank_stability(means, centred, descending=name != UNRANKED)
    adjusted = dict(zip(comparisons, holm([c.p for c in comparisons.values()]), strict=True))
    seeds = [len(own.seeds) for own in column.series.values()]
    found = intervals(percentiles(column.draws), means, seeds, bounds)
    rows = []
    for place, method in enumerate(column.series):
        row = key | {"method": method, "freedom": column.variances.freedom[place]}
        row |= found[place]._asdict() | {"best": method == leader, "as_good": False}
        if not key["class_name"]:
            row |= {"rank": ranks.rank[place], "rank_low": ranks.low[place]}
            row |= {"rank_high": ranks.high[place], "first": ranks.first[place]}
        if leader and method != leader:
            row["as_good"] = not adjusted.get(method, np.nan) < SIGNIFICANCE
        if comparison := comparisons.get(method):
            mean, low, high, _ = comparison.difference
            row |= {"difference": -mean, "difference_low": -high, "difference_high": -low}
            row |= {"p_images": comparison.p_images, "p_both": comparison.p_both}
            row |= {"p_holm": adjusted[method], "detectable": comparison.detectable}
        rows.append(rounded(row))
    return rows


def column_summary(
    runs: Resampled, columns: dict, metric: str, name: str, comparisons: dict
) -> dict:
    """What the images of a column could show, and where the spread in it comes from."""
    column, in_domain = columns[metric, name], columns[metric, "in_domain"]
    series = list(column.series.values())
    parts = variance_components([s.points for s in series], [s.draws for s in series])
    row = {f"sd_{part}": value for part, value in parts._asdict().items()}
    means = [np.array([s.mean for s in c.series.values()]) for c in (in_domain, column)]
    drawn = rank_agreement(in_domain.draws, column.draws)
    row["tau"] = rank_agreement(*means)
    row["tau_low"], row["tau_high"] = np.quantile(drawn, [0.025, 0.975])
    if comparisons:
        row["detectable"] = np.median([c.detectable for c in comparisons.values()])
    test_sets = dict(zip(column_names(runs.scenario), runs.scenario.test_sets, strict=False))
    if name in test_sets:
        images = runs.images[test_sets[name], metric in REDUCED_HEADLINE]
        row |= {"images": len(images.labels), "groups": len(np.unique(images.groups))}
    return rounded(row)


def rounded(row: dict) -> dict:
    """Six decimals: what lies beyond may differ from one machine to the next."""
    return {k: round(float(v), 6) if isinstance(v, float) else v for k, v in row.items()}
