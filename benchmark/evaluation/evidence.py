"""Evidence: the intervals of methods in a scenario, and what tables say of them.

A method's interval in a column is one, whatever table shows it: it is of all its done seeds in the
profile, its variance between seeds pooled over all methods that the profile has in the scenario. A
*block* is one scenario and track of one experiment, as in a table: a row per method, a column per
test set and per summary of the targets. Ranks, the best method and the comparisons with it belong
to the block; the numbers behind them do not.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy import stats

from benchmark.evaluation.columns import Resampled
from benchmark.evaluation.comparisons import (
    UNRANKED,
    Comparison,
    MetricColumn,
    MetricColumns,
    Pair,
    Pairs,
    column_of,
    compare_pairs,
    holm,
    permutation_tests,
    shared_rows,
    significant,
)
from benchmark.evaluation.intervals import intervals, percentiles
from benchmark.evaluation.resampling import groups_behind
from benchmark.metrics import HEADLINE

TOGETHER = ""
"""Stands for all experiments of a profile in the place of one's name."""
RANKED_TOGETHER = {(HEADLINE, "mean_target")}
"""(metric, column) in which the methods of all experiments are ranked together."""

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


def interval_rows(runs: Resampled, columns: MetricColumns) -> list[dict]:
    """Rows of `intervals.parquet` of a scenario, for every column and every class."""
    by_class = (
        column_of(runs, metric, name)
        for metric in runs.points
        for name in (runs.points[metric] if metric[1] else ())
    )
    tracks = {method: run.track for method, run in runs.runs.methods.items()}
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
            for method, own, f in zip(column.series, found, column.variances.freedom, strict=True)
        ]
    return rows


def standing_rows(
    runs: Resampled, blocks: list[tuple[dict, list[str]]], columns: MetricColumns
) -> tuple[list[dict], list[dict]]:
    """Rows of `standings.parquet` and of `evidence.parquet` for the blocks of a scenario.

    Args:
        blocks: the columns that say which block it is, and its methods with a done run.
    """
    shown = [
        (where | {"metric": key[0], "column": key[1]}, key, column.of(methods))
        for where, methods in blocks
        for key, column in columns.items()
        if where["experiment"] != TOGETHER or key in RANKED_TOGETHER
    ]
    leaders = [best_method(own) if own.name in runs.ranked_columns else None for *_, own in shown]
    # A pair that several blocks hold is tested once: it has one answer.
    pairs: dict[str, Pairs] = {}
    wanted: dict[tuple[str, str], dict[Pair, float]] = {}
    for (_, key, own), leader in zip(shown, leaders, strict=True):
        for pair in ((leader, method) for method in own.series if leader not in (None, method)):
            if rows := shared_rows(runs, pair):
                pairs.setdefault(key[0], {})[pair] = rows
                wanted.setdefault(key, {})[pair] = np.nan
    tested = permutation_tests(runs, pairs)
    compared = {
        (metric, name): compare_pairs(
            columns[metric, name], {pair: tested[metric][pair][name] for pair in own}
        )
        for (metric, name), own in wanted.items()
    }
    cells, summary = [], []
    for (where, key, own), leader in zip(shown, leaders, strict=True):
        known = compared.get(key, {})
        comparisons = {m: known[leader, m] for m in own.series if (leader, m) in known}
        cells += column_cells(where, own, leader, comparisons)
        in_domain = columns[key[0], "in_domain"].of(list(own.series))
        summary.append(where | column_summary(runs, own, in_domain, comparisons))
    return cells, summary


def best_method(column: MetricColumn) -> str | None:
    """The method with the highest mean; none where there is nothing to choose from."""
    means = {m: own.mean for m, own in column.series.items() if not np.isnan(own.mean)}
    return max(means, key=means.get) if len(means) > 1 and column.name != UNRANKED else None


def column_cells(
    key: dict, column: MetricColumn, leader: str | None, comparisons: dict[str, Comparison]
) -> list[dict]:
    """One row per method: its rank, and its comparison with the best of the column."""
    # Smoothing moves draws off the edge; ranks are of what was seen: draws are centred on it.
    centred = column.draws + (column.means - column.draws.mean(axis=1))[:, None]
    ranks = rank_stability(column.means, centred, descending=column.name != UNRANKED)
    adjusted = dict(zip(comparisons, holm([c.p for c in comparisons.values()]), strict=True))
    rows = []
    for place, (method, own) in enumerate(column.series.items()):
        row = key | {"method": method, "best": method == leader, "as_good": False}
        row |= {name: values[place] for name, values in ranks.items()}
        if leader and method != leader and not np.isnan(own.mean):
            row["as_good"] = not significant(adjusted.get(method, np.nan))
        if comparison := comparisons.get(method):
            mean, low, high, _ = comparison.difference
            row |= {"difference": -mean, "difference_low": -high, "difference_high": -low}
            row |= {"p_images": comparison.p_images, "p_both": comparison.p_both}
            row |= {"p_holm": adjusted[method], "detectable": comparison.detectable}
        rows.append(rounded(row))
    return rows


def column_summary(
    runs: Resampled,
    column: MetricColumn,
    in_domain: MetricColumn,
    comparisons: dict[str, Comparison],
) -> dict:
    """What the images of a column could show, and where the spread in it comes from."""
    series = list(column.series.values())
    row = variance_components([s.points for s in series], [s.draws for s in series])
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


def rank_stability(
    points: np.ndarray, draws: np.ndarray, descending: bool = True
) -> dict[str, np.ndarray]:
    """Where methods stand, 1 being the best, and how firmly; NaN for a method without a value.

    Args:
        points: (methods,); draws: (methods, resamples).

    Returns:
        Each (methods,): `rank` by the points, its 95 % range over the draws, `rank_low` and
        `rank_high`, and `first`, the share of draws in which the method is the best.
    """
    sign = -1 if descending else 1
    found = {n: np.full(len(points), np.nan) for n in ("rank", "rank_low", "rank_high", "first")}
    known = ~(np.isnan(points) | np.isnan(draws).any(axis=1))
    if known.any():
        drawn = stats.rankdata(sign * draws[known], axis=0, method="min")
        low, high = np.quantile(drawn, [0.025, 0.975], axis=1, method="inverted_cdf")
        found["rank"][known] = stats.rankdata(sign * points[known], method="min")
        found["rank_low"][known], found["rank_high"][known] = low, high
        found["first"][known] = (drawn == 1).mean(axis=1)
    return found


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


def variance_components(points: list[np.ndarray], draws: list[np.ndarray]) -> dict[str, float]:
    """What the choice of method, the seed and the test images each add to the spread of one run.

    Method of moments. A test set moves all runs together, those of one method more than others;
    the covariance of the image draws says how much, and is taken off what the seeds and methods
    seem to spread. A negative remainder is 0; NaN where there is nothing to compare.

    Args:
        points: for each method its (seeds,) values.
        draws: for each method (seeds, resamples) values in the same resamples.

    Returns:
        Standard deviations: `sd_method`, `sd_seed` and `sd_image`.
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
    variances = {"sd_method": method, "sd_seed": seed, "sd_image": single}
    return {name: float(np.sqrt(np.maximum(value, 0))) for name, value in variances.items()}


def rounded(row: dict) -> dict:
    """Six decimals: what lies beyond may differ from one machine to the next."""
    return {k: round(float(v), 6) if isinstance(v, float) else v for k, v in row.items()}
