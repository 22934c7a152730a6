"""Compare: two methods of a profile in, the paired answer to "is A better than B?" in words out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.errors import UserError, suggest
from benchmark.evaluation.columns import SUMMARIES, Resampled, resample
from benchmark.evaluation.comparisons import (
    UNRANKED,
    Comparison,
    Members,
    column_of,
    compare,
    holm,
    permutation_tests,
    shared_rows,
    significant,
)
from benchmark.evaluation.experiments import Run, Scenario, done_runs, load_experiments, read_run
from benchmark.metrics import HEADLINE


def compare_methods(
    results: Path, first: str, second: str, scenario: str | None = None
) -> Iterator[str]:
    """Lines that say how `first` differs from `second`, for every scenario that both were run on.

    p-values are corrected (Holm) for the number of lines about a scenario. Every method of the
    scenario lends its seeds to the variance between seeds.

    Raises:
        UserError: unknown method or scenario, or no scenario and seed that both were run on.
    """
    results = Path(results)
    found = done_runs(load_experiments(results))
    for name in (first, second):
        known = {run.method.name for run, _ in found.values()}
        if name not in known:
            raise UserError(f"{results}: no finished run of method '{name}'{suggest(name, known)}")
    if first == second:
        raise UserError(f"'{first}' is compared with itself: name two methods")
    scenarios: dict[tuple[Scenario, tuple[str, ...]], list[Run]] = {}
    for run, classes in found.values():
        scenarios.setdefault((run.scenario, classes), []).append(run)
    names = {own.name for own, _ in scenarios}
    if scenario is not None and scenario not in names:
        raise UserError(f"{results}: no scenario '{scenario}'{suggest(scenario, names)}")
    said = False
    for (own, classes), runs in scenarios.items():
        members: Members = {}
        for run in runs:
            members.setdefault(run.method.name, []).append((run.seed, run.run_id))
        both = first in members and second in members
        if scenario in (None, own.name) and both and common_seeds(members, first, second):
            said = True
            answers = {run.run_id: read_run(results, run, classes).known for run in runs}
            resampled = resample(own, classes, answers)
            yield from scenario_lines(resampled, members, first, second)
            tracks = {run.track for run in runs if run.method.name in (first, second)}
            if len(tracks) > 1:
                yield "  Tracks differ: one of the two saw unlabelled images of the targets."
    if not said:
        raise UserError(
            f"{results}: '{first}' and '{second}' share no scenario and seed"
            + (f" in '{scenario}'" if scenario else "")
        )


def common_seeds(members: Members, first: str, second: str) -> set[int]:
    return {seed for seed, _ in members[first]} & {seed for seed, _ in members[second]}


def scenario_lines(
    resampled: Resampled, members: Members, first: str, second: str
) -> Iterator[str]:
    """What is known about two methods in one scenario, column by column."""
    scenario = resampled.scenario
    pair = (first, second)
    rows = shared_rows(resampled, members, first, second)
    p_images = permutation_tests(resampled, {HEADLINE: {pair: rows}})[HEADLINE][pair]
    names = resampled.ranked_columns
    comparisons = {}
    for name in names:
        column = column_of(resampled, members, (HEADLINE, ""), name)
        comparisons[name] = compare(column, {pair: p_images[name]})[pair]
    places = {"in_domain": scenario.test_sets[0]}
    places |= {name: (name, "shifted") for name in scenario.targets if name in names}
    of_both, of_images = (
        dict(zip(names, holm([getattr(comparisons[name], p) for name in names]), strict=True))
        for p in ("p", "p_images")
    )
    seeds = "one seed" if len(rows) == 1 else f"{len(rows)} seeds"
    yield f"{scenario.name}: {first} minus {second}, macro-F1 in points, {seeds} each"
    for name, test_set in places.items():
        n = len(resampled.images[test_set].labels)
        where = f"{test_set[0]} ({'in-domain, ' if name == 'in_domain' else ''}n = {n})"
        yield f"  {where}: {sentence(comparisons[name], of_both[name], of_images[name], first)}"
    for name in filter(lambda name: name not in places, names):
        text = sentence(comparisons[name], of_both[name], of_images[name], first, name)
        yield f"  {SUMMARIES.get(name, name)}: {text}"


def sentence(
    comparison: Comparison, p: float, p_images: float, first: str, column: str = ""
) -> str:
    """`+3.2 [+1.0, +5.4]: A is better (p = 0.012).` or what stands in the way of saying so.

    Args:
        p, p_images: over other images and seeds, and over other images alone; both corrected.
    """
    mean, low, high, seeds = comparison.difference
    if np.isnan(mean):
        return "no value: too few images of every class."
    numbers = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-", "−")
    networks, across = (
        f"{100 * value:.1f}" for value in (comparison.detectable, comparison.detectable_both)
    )
    if significant(p):
        words = ("drops less", "drops more") if column == UNRANKED else ("is worse", "is better")
        scope = "" if seeds > 1 else ", of these two networks only"
        return f"{numbers}: {first} {words[mean > 0]} ({p_text(p)}{scope})."
    if np.isnan(comparison.p_both):
        return (
            f"{numbers}: not told apart ({p_text(p)}, of these two networks only); "
            f"a difference of {networks} would have been found."
        )
    if significant(p_images):
        return (
            f"{numbers}: these networks differ ({p_text(p_images)}), but other seeds "
            f"may turn it round ({p_text(p)}); across seeds a difference of {across} would have "
            "been found."
        )
    return (
        f"{numbers}: not told apart ({p_text(p)}); a difference of {networks} between these "
        f"networks, or of {across} across seeds, would have been found."
    )


def p_text(p: float) -> str:
    """`p < 0.001`, `p = 0.012`, `p = 0.34`; `p unknown` where the seeds tell nothing."""
    if np.isnan(p):
        return "p unknown"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
