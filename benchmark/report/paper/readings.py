"""Readings: one number of a profile's results, by scenario, method and column."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from benchmark.errors import suggest
from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.scores import MAJORITY
from benchmark.metrics import HEADLINE, METRICS
from benchmark.report.blocks import constant_cells
from benchmark.report.in_words import spoken
from benchmark.report.results import Results, unmarked_cell
from benchmark.report.table import Cell, Column
from benchmark.study.runs import Scenario

PLACES = {"home": "id_test", "elsewhere": "shifted"}


class Readings:
    """What `Results` holds, asked for by name.

    Raises:
        ValueError: (all methods) there is no such scenario, method, column or value; the message
            says which, and what it may have meant.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.scenarios: dict[str, Scenario] = {}
        self.methods: dict[str, dict[str, str]] = {}
        """scenario → method with a done run → its track, in plan order"""
        for run in results.done.values():
            self.scenarios[run.scenario.name] = run.scenario
            self.methods.setdefault(run.scenario.name, {})[run.method.name] = run.track

    def has(self, scenario: str, method: str) -> bool:
        return method in self.methods.get(scenario, {})

    def score(self, scenario: str, method: str, column: str, metric: str = HEADLINE) -> Cell:
        """Per cent, with its interval if it has one; `majority` is the constant answer."""
        known(metric, METRICS, "metric")
        own = self.scenarios[known(scenario, self.scenarios, "scenario")]
        if method == MAJORITY:
            (found,) = constant_cells(self.results.scores, own, metric, [Column(column, column)])
        else:
            track = self.methods[scenario][known(method, self.methods[scenario], "method")]
            where = (scenario, track)
            found = unmarked_cell(self.results.scores, where, method, metric, "", column)
        if math.isnan(found.mean):
            raise ValueError(f"{method} of {scenario} has no {metric} of {column}")
        return found

    def difference(self, scenario: str, method: str, reference: str, column: str) -> pd.Series:
        """Macro-F1 of two methods that differ in one part: a row of `effects.parquet`."""
        found = self.results.effects
        asked = {"scenario": scenario, "method": method, "reference": reference, "column": column}
        for key, value in asked.items():
            known(value, found[key].unique(), key)
            found = found[found[key] == value]
        return found.iloc[0]

    def has_difference(self, scenario: str, method: str, reference: str) -> bool:
        own = self.results.effects
        asked = (own["scenario"] == scenario) & (own["method"] == method)
        return bool((asked & (own["reference"] == reference)).any())

    def tally(self, scenario: str, part: str = "") -> dict[str, int]:
        """How many single changes move the mean of targets, by what is shown of them.

        A second stage is compared with the head that it replaces and with that head retrained; it
        counts once, beside the latter.

        Args:
            scenario: `*` for all whose targets are other laboratories.
            part: changes of this one alone.
        """
        own = self.changes(scenario)
        if part:
            own = own[own["part"] == known(part, own["part"].unique(), "part")]
        shown = significant(own["p_holm"].astype(float))
        helped, harmed = (int((shown & side).sum()) for side in (own["mean"] > 0, own["mean"] < 0))
        neither = len(own) - helped - harmed
        return {"all": len(own), "helped": helped, "harmed": harmed, "neither": neither}

    def changes(self, scenario: str) -> pd.DataFrame:
        """Differences in the mean of targets by a single change; of `*`, see `tally`."""
        own = self.results.effects
        own = own[own["column"] == "mean_target"]
        if scenario == "*":
            scenarios = [s.name for s in self.scenarios.values() if not s.corrupted]
        else:
            scenarios = [known(scenario, self.scenarios, "scenario")]
        own = own[own["scenario"].isin(scenarios)]
        return own[~((own["part"] == "readout") & (own["plain"] == "head"))]

    def helpers(self, scenario: str) -> list[str]:
        """The single changes that are shown to help elsewhere, in words, each once.

        Args:
            scenario: `*` for all whose targets are other laboratories.
        """
        own = self.changes(scenario)
        own = own[significant(own["p_holm"].astype(float)) & (own["mean"] > 0)]
        return list(dict.fromkeys(map(spoken, own["part"], own["choice"])))

    def best(self, scenario: str) -> str:
        """The inductive method with the highest mean of targets."""
        methods = self.methods[known(scenario, self.scenarios, "scenario")]
        means = {
            name: self.score(scenario, name, "mean_target").mean
            for name, track in methods.items()
            if track == "inductive"
        }
        return max(means, key=means.get)

    def home_and_away(self, scenario: str) -> np.ndarray:
        """(2, methods) per cent of the inductive methods at home and on the mean of targets."""
        methods = self.methods[known(scenario, self.scenarios, "scenario")]
        names = [name for name, track in methods.items() if track == "inductive"]
        columns = ("in_domain", "mean_target")
        return np.array([[self.score(scenario, n, c).mean for n in names] for c in columns])

    def tau(self, scenario: str) -> float:
        """Kendall's rank correlation of the inductive methods at home and elsewhere."""
        return float(kendalltau(*self.home_and_away(scenario)).statistic)

    def least_loss(self, scenario: str) -> float:
        """The smallest loss of any inductive method, in points."""
        home, away = self.home_and_away(scenario)
        return float((home - away).min())

    def one_name(self, scenario: str, method: str, domain: str) -> float:
        """Per cent of a target's cells that get the answer given most often there."""
        known(method, self.methods[known(scenario, self.scenarios, "scenario")], "method")
        known(domain, self.scenarios[scenario].targets, "target")
        confusions, runs = self.results.confusions, self.results.scores.runs[scenario, method]
        answered = sum(confusions[run, domain, "shifted"] for run in runs).sum(axis=0)
        return 100 * float(answered.max() / answered.sum())

    @cached_property
    def thresholded(self) -> pd.DataFrame:
        """Rejection by the largest probability, at the threshold of the calibration part."""
        own = self.results.rejection_counted
        return own[(own["rejector"] == "msp") & (own["fit"] == "plain")]

    def rejected(self, scenario: str, method: str, place: str, column: str) -> float:
        """Share rejected, or accuracy of the accepted, in per cent: mean over test sets and seeds.

        Args:
            place: `home` or `elsewhere`.
            column: `rejected` or `accuracy`.
        """
        known(method, self.methods[known(scenario, self.scenarios, "scenario")], "method")
        known(place, PLACES, "place")
        known(column, ("rejected", "accuracy"), "column")
        own = self.thresholded[self.thresholded["part"] == PLACES[place]]
        own = own[own["run_id"].isin(self.results.scores.runs[scenario, method])]
        found = own[column].to_numpy(float)
        if not np.isfinite(found).any():
            raise ValueError(f"no threshold of {method} in {scenario} was applied {place}")
        return 100 * float(np.nanmean(found))

    def plain_scenarios(self) -> list[str]:
        """Those with one source whose targets are other laboratories."""
        return [
            name
            for name, own in self.scenarios.items()
            if "+" not in own.source and not own.corrupted
        ]


def known(value: str, all_known: Collection[str], what: str) -> str:
    if value not in all_known:
        raise ValueError(f"there is no {what} {value}{suggest(value, list(all_known))}")
    return value
