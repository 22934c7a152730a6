"""Compare: is one method of a profile better than another? Paired by image and seed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.errors import UserError, suggest
from benchmark.evaluation.columns import SUMMARIES, resample
from benchmark.evaluation.comparisons import (
    UNRANKED,
    Comparison,
    Pair,
    column_of,
    compare_pairs,
    holm,
    permutation_tests,
    shared_rows,
    significant,
)
from benchmark.evaluation.cross_fitting import pooled_at_home
from benchmark.evaluation.experiments import (
    ScenarioRuns,
    by_scenario,
    load_experiments,
    predictions_of,
)
from benchmark.metrics import HEADLINE


def compare_methods(
    results: Path, first: str, second: str, scenario: str | None = None
) -> Iterator[str]:
    """Lines that say how `first` differs from `second`, for every scenario that both were run on.

    A line's interval is of that line alone, and so is the first p-value; the second is corrected
    (Holm) for the number of lines about the scenario, and the verdict is by it. Every method of the
    scenario lends its seeds to the variance between seeds.

    Raises:
        UserError: unknown method or scenario, or no scenario and seed that both were run on.
    """
    results = Path(results)
    groups = by_scenario(load_experiments(results))
    known = {method for runs in groups for method in runs.members}
    for name in (first, second):
        if name not in known:
            raise UserError(f"{results}: no finished run of method '{name}'{suggest(name, known)}")
    if first == second:
        raise UserError(f"'{first}' is compared with itself: name two methods")
    names = {runs.scenario.name for runs in groups}
    if scenario is not None and scenario not in names:
        raise UserError(f"{results}: no scenario '{scenario}'{suggest(scenario, names)}")
    shared = [
        runs
        for runs in groups
        if scenario in (None, runs.scenario.name)
        and set.intersection(*({s for s, _ in runs.members.get(m, ())} for m in (first, second)))
    ]
    if not shared:
        raise UserError(
            f"{results}: '{first}' and '{second}' share no scenario and seed"
            + (f" in '{scenario}'" if scenario else "")
        )
    for runs in shared:
        yield from scenario_lines(results, runs, (first, second))


def scenario_lines(results: Path, runs: ScenarioRuns, pair: Pair) -> Iterator[str]:
    """What is known about two methods in one scenario, column by column, the test sets first."""
    predictions = {r.run_id: predictions_of(results, r, runs.classes).known for r in runs.runs}
    resampled = resample(runs, pooled_at_home(runs, predictions))
    rows = shared_rows(resampled, pair)
    p_images = permutation_tests(resampled, {HEADLINE: {pair: rows}})[HEADLINE][pair]
    found = {}
    for name in resampled.ranked_columns:
        column = column_of(resampled, (HEADLINE, ""), name)
        found[name] = compare_pairs(column, {pair: p_images[name]})[pair]
    corrected = (holm([getattr(one, p) for one in found.values()]) for p in ("p", "p_images"))
    of_both, of_images = (dict(zip(found, p, strict=True)) for p in corrected)
    titles = dict(zip(["in_domain", *runs.scenario.targets], runs.scenario.test_sets, strict=True))
    seeds = "one seed" if len(rows) == 1 else f"{len(rows)} seeds"
    yield f"{runs.scenario.name}: {' minus '.join(pair)}, macro-F1 in points, {seeds} each"
    tested = sum(not np.isnan(p) for p in of_both.values())
    yield (
        "  95 % interval and p of each line alone; in parentheses p corrected (Holm) for the "
        f"{tested} lines, by which it is judged"
    )
    for name in sorted(found, key=lambda name: name not in titles):
        where = SUMMARIES.get(name, name)
        if name in titles:
            n = len(resampled.images[titles[name]].labels)
            home = "in-domain, " if name == "in_domain" else ""
            where = f"{titles[name][0]} ({home}n = {n})"
        text = sentence(found[name], of_both[name], of_images[name], pair[0], name == UNRANKED)
        yield f"  {where}: {text}"
    if len({runs.methods[method].track for method in pair}) > 1:
        yield "  Tracks differ: one of the two saw unlabelled images of the targets."


def sentence(comparison: Comparison, p: float, p_images: float, first: str, is_drop: bool) -> str:
    """`+3.2 [+1.0, +5.4], p = 0.004 (0.012): A is better.` or what stands in the way of saying so.

    Args:
        p, p_images: over other images and seeds, and over other images alone; both corrected.
    """
    mean, low, high, seeds = comparison.difference
    if np.isnan(mean):
        return "no value: too few images of every class."
    numbers = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-", "−")
    numbers += f", {p_text(comparison.p)} ({p_text(p).removeprefix('p ').removeprefix('= ')})"
    networks, across = (
        f"{100 * value:.1f}" for value in (comparison.detectable, comparison.detectable_both)
    )
    if significant(p):
        words = ("drops less", "drops more") if is_drop else ("is worse", "is better")
        scope = "" if seeds > 1 else ", of these two networks only"
        found = f"{first} {words[mean > 0]}{scope}"
    elif np.isnan(comparison.p_both):
        found = (
            "not told apart, of these two networks only; "
            f"a difference of {networks} would have been found"
        )
    elif significant(p_images):
        found = (
            f"these networks differ ({p_text(p_images)} over images alone, corrected), but "
            f"other seeds may turn it round; across seeds a difference of {across} would have been "
            "found"
        )
    else:
        found = (
            f"not told apart; a difference of {networks} between these networks, or of {across} "
            "across seeds, would have been found"
        )
    return f"{numbers}: {found}.{disagreement(comparison)}"


def disagreement(comparison: Comparison) -> str:
    """What to make of an interval and an uncorrected p-value that do not say the same.

    The interval resamples groups of images, the permutation test swaps predictions on them: where
    few groups, or few images of a class, carry the score, one may leave 0 out and the other not.
    Where the seeds decide, interval and p-value are of the same draws and part by rounding alone.
    """
    _, low, high, _ = comparison.difference
    excludes = low > 0 or high < 0
    if comparison.p != comparison.p_images or excludes == significant(comparison.p):
        return ""
    both = "leaves out 0, the test does not" if excludes else "holds 0, the test leaves it out"
    return f" The interval {both}: few groups of images, or few of a class, may carry this."


def p_text(p: float) -> str:
    """`p < 0.001`, `p = 0.012`, `p = 0.34`; `p unknown` where the seeds tell nothing."""
    if np.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
