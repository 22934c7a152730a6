"""Evidence: runs of a scenario in; intervals of methods, and what tables say of them, out.

A method's interval in a column is one, whatever table shows it: it is of all its done seeds in the
profile, its variance between seeds pooled over all methods that the profile has in the scenario. A
*block* is one scenario and track of one experiment, as in a table: a row per method, a column per
test set and per summary of the targets. Ranks, the best method and the comparisons with it belong
to the block; the numbers behind them do not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import special

from benchmark.evaluation.columns import MetricKey, Resampled, Series
from benchmark.evaluation.intervals import (
    Interval,
    Variances,
    intervals,
    percentiles,
    seed_variances,
    two_level,
    two_level_p,
)
from benchmark.evaluation.paired import (
    detectable_difference,
    holm,
    rank_agreement,
    rank_stability,
    shown,
    variance_components,
)
from benchmark.evaluation.permutation import Pairs, permutation_tests
from benchmark.evaluation.resampling import groups_behind

UNRANKED = "shift_drop"
"""The column without a best method: what is useless everywhere drops least."""

INTERVALS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("scenario", "track", "method")),
        *((name, pa.string()) for name in ("metric", "class_name", "column")),
        ("seeds", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "low", "high", "freedom")),
    ]
)
"""`intervals.parquet`: one row per scenario, method, metric and column, from all `seeds` that are
done anywhere in the profile. `freedom` is that of the variance between seeds (0: the interval
covers the images only)."""

STANDINGS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "scenario", "track", "method")),
        *((name, pa.string()) for name in ("metric", "column")),
        *((name, pa.float64()) for name in ("rank", "rank_low", "rank_high", "first")),
        *((name, pa.bool_()) for name in ("best", "as_good")),
        *((name, pa.float64()) for name in ("difference", "difference_low", "difference_high")),
        *((name, pa.float64()) for name in ("p_images", "p_both", "p_holm", "detectable")),
    ]
)
"""`standings.parquet`: one row per cell of a table, what it says among the others of its column.
`first` is the share of resamples in which the method leads; `difference`, its p-values and the
smallest `detectable` one are towards the best of the column; `as_good` says that the method is not
shown to be worse than the best."""

COLUMNS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "scenario", "track", "metric", "column")),
        *((name, pa.int64()) for name in ("images", "groups")),
        ("effective_groups", pa.float64()),
        *((name, pa.float64()) for name in ("detectable", "sd_method", "sd_seed", "sd_image")),
        *((name, pa.float64()) for name in ("tau", "tau_range_low", "tau_range_high")),
    ]
)
"""`evidence.parquet`: one row per column of a table. `effective_groups` is how many equal groups
would carry as much of the metric, `detectable` the median over methods, `tau` Kendall's rank
correlation with the in-domain order of the methods. Its range holds the middle 95 % of resamples
and is no confidence interval: resampled orders are less alike than the observed ones, so that a
true tau of 1 hardly ever lies in it."""

Members = dict[str, list[tuple[int, str]]]
"""method → (seed, run id) of its done runs"""
Pair = tuple[str, str]


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
    """One metric of methods in one column, with draws that hold both levels."""

    name: str
    metric: MetricKey
    series: dict[str, Series]
    variances: Variances
    draws: np.ndarray
    """(methods, resamples)"""

    def of(self, methods: list[str]) -> Column:
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


def column_of(runs: Resampled, members: Members, metric: MetricKey, name: str) -> Column:
    """Gather one column of a scenario.

    Args:
        members: all methods of the scenario, each with a run at least.
    """
    series = {method: runs.series(own, metric, name) for method, own in members.items()}
    variances = seed_variances([own.points for own in series.values()])
    draws = [
        two_level(own.draws, variance, freedom, runs.scenario.name, method, *metric, name)
        for (method, own), variance, freedom in zip(series.items(), *variances, strict=True)
    ]
    return Column(name, metric, series, variances, np.array(draws))


def compare(column: Column, p_images: dict[Pair, float]) -> dict[Pair, Comparison]:
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


def shared_rows(runs: Resampled, members: Members, first: str, second: str) -> list:
    """Rows of the runs of two methods, for each seed that both have."""
    others = dict(members[second])
    return [
        (runs.places[run_id], runs.places[others[seed]])
        for seed, run_id in members[first]
        if seed in others
    ]


def scenario_columns(runs: Resampled, members: Members) -> dict[tuple[str, str], Column]:
    """Every column of a scenario for the metrics over all classes, by (metric, name)."""
    return {
        (metric, name): column_of(runs, members, (metric, ""), name)
        for metric in runs.metrics
        for name in runs.columns
    }


def interval_rows(
    runs: Resampled, members: Members, tracks: dict[str, str], columns: dict
) -> list[dict]:
    """Rows of `intervals.parquet` of a scenario, for every column and every class."""
    by_class = (
        column_of(runs, members, metric, name)
        for metric in runs.points
        for name in (runs.points[metric] if metric[1] else ())
    )
    rows = []
    for column in (*columns.values(), *by_class):
        key = {"scenario": runs.scenario.name, "column": column.name}
        key |= dict(zip(("metric", "class_name"), column.metric, strict=True))
        bounds = (-1.0, 1.0) if column.name == UNRANKED else (0.0, 1.0)
        seeds = [len(own.seeds) for own in column.series.values()]
        found = intervals(percentiles(column.draws), column.means, seeds, bounds)
        rows += [
            rounded(
                key | {"track": tracks[method], "method": method} | own._asdict() | {"freedom": f}
            )
            for method, own, f in zip(members, found, column.variances.freedom, strict=True)
        ]
    return rows


def standing_rows(
    runs: Resampled, members: Members, blocks: list[tuple[dict, list[str]]], columns: dict
) -> tuple[list[dict], list[dict]]:
    """Rows of `standings.parquet` and of `evidence.parquet` for the blocks of a scenario.

    Args:
        blocks: the columns that say which block it is, and its methods with a done run.
        columns: of `scenario_columns`.
    """
    shown_in = [
        (where, {key: column.of(methods) for key, column in columns.items()})
        for where, methods in blocks
    ]
    leaders = [
        {
            key: best_method(column) if column.name in runs.ranked_columns else None
            for key, column in own.items()
        }
        for _, own in shown_in
    ]
    # A pair that several blocks hold is tested once: it has one answer.
    pairs: dict[str, Pairs] = {}
    for (_, own), best in zip(shown_in, leaders, strict=True):
        for (metric, name), leader in best.items():
            for method in own[metric, name].series if leader else ():
                if method != leader and (rows := shared_rows(runs, members, leader, method)):
                    pairs.setdefault(metric, {})[leader, method] = rows
    p_images = permutation_tests(runs, pairs)
    wanted: dict[tuple[str, str], dict[Pair, float]] = {}
    for (_, own), best in zip(shown_in, leaders, strict=True):
        for key, leader in best.items():
            for pair in ((leader, method) for method in own[key].series):
                if pair in p_images.get(key[0], {}):
                    wanted.setdefault(key, {})[pair] = p_images[key[0]][pair][key[1]]
    compared = {key: compare(columns[key], p) for key, p in wanted.items()}
    cells, summary = [], []
    for (where, own), best in zip(shown_in, leaders, strict=True):
        for key, column in own.items():
            known, leader = compared.get(key, {}), best[key]
            comparisons = {m: known[leader, m] for m in column.series if (leader, m) in known}
            whose = where | {"metric": key[0], "column": key[1]}
            cells += column_cells(whose, column, leader, comparisons)
            summary.append(
                whose | column_summary(runs, column, own[key[0], "in_domain"], comparisons)
            )
    return cells, summary


def best_method(column: Column) -> str | None:
    """The method with the highest mean; none where there is nothing to choose from."""
    means = {m: own.mean for m, own in column.series.items() if not np.isnan(own.mean)}
    return max(means, key=means.get) if len(means) > 1 and column.name != UNRANKED else None


def column_cells(
    key: dict, column: Column, leader: str | None, comparisons: dict[str, Comparison]
) -> list[dict]:
    """One row per method: its rank, and its comparison with the best of the column."""
    # Smoothing moves draws off the edge; ranks are of what was seen: draws are centred on it.
    centred = column.draws + (column.means - column.draws.mean(axis=1))[:, None]
    ranks = rank_stability(column.means, centred, descending=column.name != UNRANKED)
    adjusted = dict(zip(comparisons, holm([c.p for c in comparisons.values()]), strict=True))
    rows = []
    for place, (method, own) in enumerate(column.series.items()):
        row = key | {"method": method, "best": method == leader, "as_good": False}
        row |= {"rank": ranks.rank[place], "rank_low": ranks.low[place]}
        row |= {"rank_high": ranks.high[place], "first": ranks.first[place]}
        if leader and method != leader and not np.isnan(own.mean):
            row["as_good"] = not shown(adjusted.get(method, np.nan))
        if comparison := comparisons.get(method):
            mean, low, high, _ = comparison.difference
            row |= {"difference": -mean, "difference_low": -high, "difference_high": -low}
            row |= {"p_images": comparison.p_images, "p_both": comparison.p_both}
            row |= {"p_holm": adjusted[method], "detectable": comparison.detectable}
        rows.append(rounded(row))
    return rows


def column_summary(
    runs: Resampled, column: Column, in_domain: Column, comparisons: dict[str, Comparison]
) -> dict:
    """What the images of a column could show, and where the spread in it comes from."""
    series = list(column.series.values())
    parts = variance_components([s.points for s in series], [s.draws for s in series])
    row = {f"sd_{part}": value for part, value in parts._asdict().items()}
    drawn = rank_agreement(in_domain.draws, column.draws)
    row["tau"] = rank_agreement(in_domain.means, column.means)
    row["tau_range_low"], row["tau_range_high"] = np.quantile(drawn, [0.025, 0.975])
    if comparisons:
        row["detectable"] = np.median([c.detectable for c in comparisons.values()])
    test_sets = dict(zip(runs.columns, runs.scenario.test_sets, strict=False))
    if column.name in test_sets:
        images = runs.images[test_sets[column.name]]
        row |= {"images": len(images.labels), "groups": len(np.unique(images.groups))}
        if row["images"]:
            row["effective_groups"] = groups_behind(images, runs.metrics[column.metric[0]])
    return rounded(row)


def rounded(row: dict) -> dict:
    """Six decimals: what lies beyond may differ from one machine to the next."""
    return {k: round(float(v), 6) if isinstance(v, float) else v for k, v in row.items()}
