"""Compare: is one method of a profile better than another? Paired by image and seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.errors import UserError, suggest
from benchmark.evaluation.columns import SUMMARIES, resample
from benchmark.evaluation.comparisons import (
    UNRANKED,
    Comparison,
    column_of,
    compare,
    holm,
    permutation_tests,
    shared_rows,
    significant,
)
from benchmark.evaluation.experiments import (
    Scenario,
    ScenarioRuns,
    by_scenario,
    load_experiments,
    predictions_of,
)
from benchmark.metrics import HEADLINE


class Compared(NamedTuple):
    """Two methods in one column of a scenario."""

    scenario: Scenario
    column: str
    test_set: str
    """with its number of images; "" for a summary of targets"""
    found: Comparison
    p: float
    """over other images and seeds, corrected (Holm) for the columns of the scenario"""
    p_images: float
    """over other images alone, corrected as well"""
    tracks_differ: bool
    """whether one of the two saw unlabelled images of the targets"""


def compare_methods(
    results: Path, first: str, second: str, scenario: str | None = None
) -> list[Compared]:
    """How `first` differs from `second` in macro-F1, for every scenario that both were run on.

    Every method of the scenario lends its seeds to the variance between seeds.

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
    found = []
    for runs in groups:
        both = [dict(runs.members.get(method, ())) for method in (first, second)]
        if scenario in (None, runs.scenario.name) and both[0].keys() & both[1].keys():
            found += compared_columns(results, runs, first, second)
    if not found:
        raise UserError(
            f"{results}: '{first}' and '{second}' share no scenario and seed"
            + (f" in '{scenario}'" if scenario else "")
        )
    return found


def compared_columns(
    results: Path, runs: ScenarioRuns, first: str, second: str
) -> Iterator[Compared]:
    """Two methods in every column of one scenario, the test sets first."""
    predictions = {
        run.run_id: predictions_of(results, run, runs.classes).known for run in runs.runs
    }
    resampled, pair = resample(runs, predictions), (first, second)
    rows = shared_rows(resampled, pair)
    p_images = permutation_tests(resampled, {HEADLINE: {pair: rows}})[HEADLINE][pair]
    found = {}
    for name in resampled.ranked_columns:
        column = column_of(resampled, (HEADLINE, ""), name)
        found[name] = compare(column, {pair: p_images[name]})[pair]
    of_both, of_images = (
        dict(zip(found, holm([getattr(one, p) for one in found.values()]), strict=True))
        for p in ("p", "p_images")
    )
    scenario = runs.scenario
    places = {"in_domain": scenario.test_sets[0]}
    places |= {name: (name, "shifted") for name in scenario.targets if name in found}
    tracks = {runs.methods[method].track for method in pair}
    for name in (*places, *(name for name in found if name not in places)):
        text = ""
        if name in places:
            n = len(resampled.images[places[name]].labels)
            text = f"{places[name][0]} ({'in-domain, ' if name == 'in_domain' else ''}n = {n})"
        own = found[name], of_both[name], of_images[name]
        yield Compared(scenario, name, text, *own, len(tracks) > 1)


def comparison_lines(found: list[Compared], first: str, second: str) -> Iterator[str]:
    """What is known about two methods, in words."""
    for scenario, own in groupby(found, key=lambda one: one.scenario):
        columns = list(own)
        seeds = columns[0].found.difference.seeds
        text = "one seed" if seeds == 1 else f"{seeds} seeds"
        yield f"{scenario.name}: {first} minus {second}, macro-F1 in points, {text} each"
        for one in columns:
            where = one.test_set or SUMMARIES.get(one.column, one.column)
            yield f"  {where}: {sentence(one, first)}"
        if columns[0].tracks_differ:
            yield "  Tracks differ: one of the two saw unlabelled images of the targets."


def sentence(compared: Compared, first: str) -> str:
    """`+3.2 [+1.0, +5.4]: A is better (p = 0.012).` or what stands in the way of saying so."""
    comparison, p = compared.found, compared.p
    mean, low, high, seeds = comparison.difference
    if np.isnan(mean):
        return "no value: too few images of every class."
    numbers = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]".replace("-", "−")
    networks, across = (
        f"{100 * value:.1f}" for value in (comparison.detectable, comparison.detectable_both)
    )
    if significant(p):
        words = (
            ("drops less", "drops more")
            if compared.column == UNRANKED
            else ("is worse", "is better")
        )
        scope = "" if seeds > 1 else ", of these two networks only"
        return f"{numbers}: {first} {words[mean > 0]} ({p_text(p)}{scope})."
    if np.isnan(comparison.p_both):
        return (
            f"{numbers}: not told apart ({p_text(p)}, of these two networks only); "
            f"a difference of {networks} would have been found."
        )
    if significant(compared.p_images):
        return (
            f"{numbers}: these networks differ ({p_text(compared.p_images)}), but other seeds "
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
