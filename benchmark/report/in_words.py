"""In words: what a change of laboratory costs a plain network, and which single change of it helps,
as one sentence that follows from the tables, whatever they say."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.experiments import RecordedMethod
from benchmark.evaluation.scores import MAJORITY
from benchmark.metrics import HEADLINE
from benchmark.parts import PLAIN
from benchmark.report.blocks import constant_cells
from benchmark.report.results import Results, unmarked_cell
from benchmark.report.table import Cell, Column, points
from benchmark.report.write import interval_text, number, signed_number
from benchmark.study.runs import Scenario

SPOKEN = {
    ("normalisation", "gn"): "group normalisation",
    ("normalisation", "in"): "instance normalisation",
    ("augmentation", "stain"): "stain augmentation",
    ("inference", "adabn"): "batch statistics of the target's unlabelled images",
    ("inference", "bn_mix"): "half source's, half target's batch statistics",
    ("inference", "tent"): "TENT on the target's unlabelled images",
    ("stain", "macenko"): "Macenko stain normalisation",
    ("weights", "squeezenet_tv"): "weights of ImageNet",
}
"""(part, choice) → its name in a sentence; others are told by choice and part."""
NAMED = 3
"""Changes of one verdict that are named; the rest is counted."""


class Change(NamedTuple):
    """What one other choice of one part does to the mean of targets, all else being equal."""

    name: str
    difference: Cell
    """in points"""
    p: float
    """corrected for all that the profile compares; NaN where seeds are too few to tell"""

    @property
    def verdict(self) -> int:
        """1 where it is shown to help, -1 where to harm, 0 where neither is shown."""
        told = bool(significant(self.p))
        return (1 if self.difference.mean > 0 else -1) if told else 0

    @property
    def text(self) -> str:
        difference = signed_number(self.difference.mean)
        return f"{self.name} {difference} points{interval_text(self.difference)}"


class Outcome(NamedTuple):
    """The plain network of a scenario, at home and elsewhere; values in per cent."""

    source: str
    method: str
    home: Cell
    away: Cell
    drop: Cell
    """home minus away, with its own interval, in points"""
    targets: dict[str, Cell]
    """by domain, those that `away` is the mean of"""
    constant: float
    """mean of targets of the commonest class of each, answered for every image; NaN if unknown"""
    changes: list[Change]

    @property
    def sentence(self) -> str:
        others = f"on average over {len(self.targets)} other domains"
        if len(self.targets) == 1:
            others = f"on {next(iter(self.targets))}"
        home, away = (f"{number(cell.mean)} %{interval_text(cell)}" for cell in self[2:4])
        # Without an interval, or with one that holds 0, no difference is shown.
        if self.drop.low > 0:
            fall = f"falls from a macro-F1 of {home} at home to {away} {others}"
        elif self.drop.high < 0:
            fall = f"rises from a macro-F1 of {home} at home to {away} {others}"
        else:
            fall = f"has a macro-F1 of {home} at home and of {away} {others}, not shown to differ"
        aside = []
        if len(self.targets) > 1:
            lowest = min(self.targets, key=lambda name: self.targets[name].mean)
            aside.append(f"lowest: {number(self.targets[lowest].mean)} %, {lowest}")
        if not math.isnan(self.constant):
            aside.append(f"one constant answer: {number(self.constant)} %")
        aside = f" ({'; '.join(aside)})" if aside else ""
        return f"Trained on {self.source}, {self.method} {fall}{aside}; {self.verdicts}."

    @property
    def verdicts(self) -> str:
        """Which changes are shown to help, which to harm, which neither, and which are untested."""
        tested = [change for change in self.changes if not math.isnan(change.p)]
        untested = sorted((c for c in self.changes if math.isnan(c.p)), key=size, reverse=True)
        helping, harming, neither = (
            sorted((c for c in tested if c.verdict == verdict), key=size, reverse=True)
            for verdict in (1, -1, 0)
        )
        if not self.changes:
            return "no method that differs from it in one part was run beside it"
        if len(self.changes) == 1:
            (change,) = self.changes
            shown = {1: "is shown to help", -1: "is shown to harm", 0: "is not shown to matter"}
            shown = "cannot be tested with one seed" if untested else shown[change.verdict]
            return f"the one single change that was tried, {change.text}, {shown}"
        if not tested:
            number = len(untested)
            return f"none of {number} single changes can be tested with one seed{listed(untested)}"
        # An interval is of one change, a verdict of all that are looked through.
        parts = [f"{len(helping) or 'none'} shown to help after Holm's correction{listed(helping)}"]
        parts += [f"{len(harming)} to harm{listed(harming)}"] if harming else []
        parts += [f"{len(neither)} neither{listed(neither)}"] if neither else []
        parts += [f"{len(untested)} untested, with one seed{listed(untested)}"] if untested else []
        return f"of {len(self.changes)} single changes, {', '.join(parts)}"


def size(change: Change) -> float:
    """How much it changes, either way."""
    return abs(change.difference.mean)


def listed(changes: list[Change]) -> str:
    """` (the largest of them; and 2 more)`, or nothing."""
    texts = [change.text for change in changes[:NAMED]]
    texts += [f"and {len(changes) - NAMED} more"] if len(changes) > NAMED else []
    return f" ({'; '.join(texts)})" if texts else ""


def sentences(results: Results) -> list[str]:
    """A sentence for each scenario in which a plain network was tested on other domains."""
    outcomes = (outcome_of(results, *where) for where in scenarios(results).items())
    return [found.sentence for found in outcomes if found]


def scenarios(results: Results) -> dict[Scenario, dict[str, RecordedMethod]]:
    """The scenarios whose targets are other domains, and the methods that were run in each."""
    found: dict[Scenario, dict[str, RecordedMethod]] = {}
    for run in results.done.values():
        if not run.scenario.corrupted:
            found.setdefault(run.scenario, {})[run.method.name] = run.method
    return found


def outcome_of(
    results: Results, scenario: Scenario, methods: dict[str, RecordedMethod], otherwise: str = ""
) -> Outcome | None:
    """What is known of the plain network of a scenario; None without one, or without targets.

    Args:
        otherwise: the method that stands in for a plain network where there is none.
    """
    counted = results.scores.counted[scenario.name]
    table = results.effects
    effects = table[(table["scenario"] == scenario.name) & (table["column"] == "mean_target")]
    compared = Counter(effects["reference"])
    plain = [
        name
        for name, method in methods.items()
        if method.is_plain() and method.normalisation == PLAIN["normalisation"]
    ]
    if not (plain or otherwise) or not counted:
        return None
    # Of plain networks that differ in backbone, the one that most is compared with.
    method = max(plain, key=lambda name: compared[name], default=otherwise)
    where = (scenario.name, "inductive")
    home, away, drop, *targets = (
        unmarked_cell(results.scores, where, method, HEADLINE, "", column)
        for column in ("in_domain", "mean_target", "shift_drop", *counted)
    )
    if any(math.isnan(cell.mean) for cell in (home, away, *targets)):
        return None
    columns = [Column("mean_target", MAJORITY)]
    (constant,) = constant_cells(results.scores, scenario, HEADLINE, columns)
    return Outcome(
        scenario.source,
        method,
        home,
        away,
        drop,
        dict(zip(counted, targets, strict=True)),
        constant.mean,
        list(map(change, effects[effects["reference"] == method].to_dict("records"))),
    )


def change(row: dict[str, Any]) -> Change:
    """A row of `effects.parquet`."""
    return Change(spoken(row["part"], row["choice"]), points(row), row["p_holm"])


def spoken(part: str, choice: str) -> str:
    """A choice as a sentence names it: `focal loss`, `stain augmentation`."""
    return SPOKEN.get((part, choice), f"{choice} {part}")
