"""Cards: what a profile found, in three: how far scores fall, what helps most, what never helped.

They follow from `effects.parquet` and the scores, whatever these say. Corruptions of the source's
own images are no other laboratory and stay out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.evaluation.comparisons import significant
from benchmark.metrics import HEADLINE
from benchmark.report.in_words import Outcome, outcome_of, scenarios, spoken
from benchmark.report.results import Results, unmarked_cell
from benchmark.report.table import Cell, points
from benchmark.study.runs import Scenario

MOST = 3
"""Lines of a card."""


class Help(NamedTuple):
    """A choice of one part that is shown to help, where it does most."""

    name: str
    difference: Cell
    """of the mean of targets, in points"""
    source: str
    method: str
    reference: str
    track: str
    shown: int
    """in how many comparisons it is shown to help"""
    compared: int


class NoHelp(NamedTuple):
    """A part of which no choice is shown to help anywhere."""

    part: str
    choices: tuple[str, ...]
    compared: int
    best: Cell
    """the largest difference of the mean of targets, in points"""


class Cards(NamedTuple):
    falls: list[Outcome]
    """of the plain network of each scenario, or, without one, of the best at home"""
    helps: list[Help]
    compared: int
    """comparisons that the verdicts are corrected for"""
    untested: int
    """comparisons with a single seed, which carry no verdict"""
    more: int
    """choices that are shown to help, beyond those of `helps`"""
    never: list[NoHelp]
    undecided: tuple[str, ...]
    """parts without a choice that is shown to help, one of which has an interval above 0"""


def cards_of(results: Results) -> Cards:
    falls = [
        outcome_of(results, scenario, methods, best_at_home(results, scenario))
        for scenario, methods in scenarios(results).items()
    ]
    table = results.effects
    table = table[table["column"] == "mean_target"]
    tested = table[table["p_holm"].notna()]
    untested = len(table) - len(tested)
    sources = {scenario.name: scenario.source for scenario in scenarios(results)}
    tested = tested[tested["scenario"].isin(sources)]
    helps = helping(tested, sources)
    never, undecided = without_help(tested)
    return Cards(
        [found for found in falls if found],
        helps[:MOST],
        results.compared,
        untested,
        max(len(helps) - MOST, 0),
        never,
        undecided,
    )


def best_at_home(results: Results, scenario: Scenario) -> str:
    """The inductive method with the highest in-domain mean; "" without one."""
    names = {
        run.method.name
        for run in results.done.values()
        if run.scenario == scenario and run.track == "inductive"
    }
    where = (scenario.name, "inductive")
    means = {
        name: unmarked_cell(results.scores, where, name, HEADLINE, "", "in_domain").mean
        for name in sorted(names)
    }
    return max(means, key=lambda name: np.nan_to_num(means[name]), default="")


def helping(table: pd.DataFrame, sources: dict[str, str]) -> list[Help]:
    """Choices that are shown to help in one comparison at least, the most helpful first."""
    found = []
    for (part, choice, track), own in table.groupby(["part", "choice", "track"], sort=True):
        shown = own[significant(own["p_holm"]) & (own["mean"] > 0)]
        if shown.empty:
            continue
        best = shown.loc[shown["mean"].idxmax()]
        found.append(
            Help(
                spoken(part, choice),
                points(best),
                sources[best["scenario"]],
                best["method"],
                best["reference"],
                track,
                len(shown),
                len(own),
            )
        )
    return sorted(found, key=lambda one: -one.difference.mean)


def without_help(table: pd.DataFrame) -> tuple[list[NoHelp], tuple[str, ...]]:
    """Parts that never help, those compared most often first; and those of which that is open."""
    never, undecided = [], []
    for part, own in table.groupby("part", sort=True):
        if (significant(own["p_holm"]) & (own["mean"] > 0)).any():
            continue
        if (own["low"] > 0).any():
            undecided.append(part)
            continue
        best = own.loc[own["mean"].idxmax()]
        choices = tuple(dict.fromkeys(own["choice"]))
        never.append(NoHelp(part, choices, len(own), points(best)))
    return sorted(never, key=lambda one: -one.compared), tuple(undecided)
