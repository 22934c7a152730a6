"""Columns: the values of every column of a table, by seed and by resample.

The columns of a scenario are its test sets and the summaries of its targets: over all that count
(`counted_targets`) and, where they are corruptions, over those of one severity (`severity 3`) or of
one kind (`jpeg`). All runs of a scenario meet the same resamples, so everything that is compared
later is paired; so do the corruptions of a test set, which are the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmark.evaluation.experiments import Scenario, ScenarioRuns
from benchmark.evaluation.resampling import JointPredictions, observed_and_drawn
from benchmark.metrics import HEADLINE, METRICS, TABLED, Metric, supported
from benchmark.scenarios import corruption_of
from benchmark.study.predictions import DROPPED, REDUCED, WBC5, Predictions, TestSet

SUMMARIES = {
    "mean_target": "mean of targets",
    "worst_target": "worst target",
    "shift_drop": "shift drop",
}
FEWEST_CLASSES = 3
"""Supported classes without which a target enters no summary: a score over fewer is another task's
(naming one class alone is right every time)."""
TABLED_REDUCED = {f"{HEADLINE}_{REDUCED}": METRICS[HEADLINE]}

Columns = dict[str, np.ndarray]
"""column → values; the last axis, if there is one, counts resamples or permutations"""
MetricKey = tuple[str, str]
"""(metric, class), the class being "" for a metric over all classes"""


class Series(NamedTuple):
    """A method's values in one column, one row per seed."""

    seeds: tuple[int, ...]
    points: np.ndarray
    """(seeds,)"""
    draws: np.ndarray
    """(seeds, resamples)"""

    @property
    def mean(self) -> float:
        return float(self.points.mean()) if len(self.points) else np.nan

    def of(self, seeds: tuple[int, ...]) -> Series:
        """The same series for some of its seeds."""
        rows = [self.seeds.index(seed) for seed in seeds]
        return Series(seeds, self.points[rows], self.draws[rows])


class Resampled(NamedTuple):
    """The runs of one scenario, in the whole label space or in its reduced form."""

    runs: ScenarioRuns
    counted: tuple[str, ...]
    """the targets that enter its summaries"""
    metrics: dict[str, Metric]
    """those over all classes"""
    places: dict[str, int]
    """run id → its row in `images` and in the columns"""
    images: dict[TestSet, JointPredictions]
    """predictions of all runs"""
    points: dict[MetricKey, Columns]
    """(runs,) values"""
    draws: dict[MetricKey, Columns]
    """(runs, resamples) values"""

    @property
    def scenario(self) -> Scenario:
        return self.runs.scenario

    def series(self, metric: MetricKey, column: str) -> dict[str, Series]:
        """The values of every method."""
        points, draws = self.points[metric][column], self.draws[metric][column]
        found = {}
        for method, members in self.runs.members.items():
            rows = [self.places[run_id] for _, run_id in members]
            seeds = tuple(seed for seed, _ in members)
            found[method] = Series(seeds, points[rows], draws[rows])
        return found

    @property
    def columns(self) -> list[str]:
        return column_names(self.scenario, self.counted)

    @property
    def ranked_columns(self) -> list[str]:
        """The columns in which methods are compared: single corruptions are too many for it."""
        return [name for name in self.columns if corruption_of(name) is None]


def counted_targets(scenario: Scenario, counts: np.ndarray) -> tuple[str, ...]:
    """The targets that enter the mean, the worst and the shift drop.

    A laboratory's own domain enters none, or the published mean would be another in every clone;
    nor does a target with fewer than `FEWEST_CLASSES` supported classes. Both keep their columns.

    Args:
        counts: (targets, classes) images.
    """
    enough = supported(counts).sum(axis=1) >= FEWEST_CLASSES
    return tuple(
        target
        for target, some in zip(scenario.targets, enough, strict=True)
        if some and target not in scenario.own
    )


def column_names(scenario: Scenario, counted: Sequence[str]) -> list[str]:
    """`in_domain`, the targets, their summaries, and the means of groups of corruptions."""
    summaries = SUMMARIES if counted else ()
    return ["in_domain", *scenario.targets, *summaries, *scenario.target_groups]


def summarise(by_test_set: list[np.ndarray], scenario: Scenario, counted: Sequence[str]) -> Columns:
    """Values of every column from those on each test set, the in-domain one first.

    Summaries are taken within a run: the worst target may differ from seed to seed, and the drop
    is paired. Shift drop = in-domain - mean of targets.
    """
    columns = list(by_test_set)
    if counted:
        targets = np.stack([by_test_set[1 + scenario.targets.index(name)] for name in counted])
        mean = targets.mean(axis=0)
        columns += [mean, targets.min(axis=0), by_test_set[0] - mean]
    for places in scenario.target_groups.values():
        columns.append(np.mean([by_test_set[1 + place] for place in places], axis=0))
    return dict(zip(column_names(scenario, counted), columns, strict=True))


def has_reduced_form(runs: ScenarioRuns) -> bool:
    """Whether runs are also scored without the dropped class."""
    # Corruptions are of one test set, whose basophils are as many in each.
    return frozenset(runs.classes) == WBC5 and not runs.scenario.target_groups


def resample(
    runs: ScenarioRuns,
    predictions: dict[str, dict[TestSet, Predictions]],
    reduced: bool = False,
) -> Resampled:
    """Resample the test sets of a scenario for all its runs (predictions by run id).

    F1 by class is of test sets alone, and not of single corruptions.
    """
    scenario, classes = runs.scenario, runs.classes
    own = [predictions[run.run_id] for run in runs.runs]
    counts = [np.bincount(own[0][t].labels, minlength=len(classes)) for t in scenario.test_sets[1:]]
    counted = counted_targets(scenario, np.reshape(counts, (-1, len(classes))))
    metrics = TABLED_REDUCED if reduced else TABLED
    images, points, draws = {}, {}, {}
    names = ["in_domain", *scenario.targets]
    for column, test_set in zip(names, scenario.test_sets, strict=True):
        joint = joined([by_test_set[test_set] for by_test_set in own], test_set, classes, reduced)
        images[test_set] = joint
        by_class = {} if reduced or corruption_of(column) else {"f1": METRICS["f1"]}
        for name, (observed, drawn) in observed_and_drawn(joint, metrics | by_class).items():
            # One key for a metric over all classes, one per class for F1.
            for place, label in enumerate(classes if name == "f1" else [""]):
                rows = place if label else ...
                points.setdefault((name, label), {})[column] = observed[rows]
                draws.setdefault((name, label), {})[column] = drawn[rows]
    for by_metric in (points, draws):
        for key, columns in by_metric.items():
            if not key[1]:
                in_order = [columns[name] for name in names]
                by_metric[key] = summarise(in_order, scenario, counted)
    places = {run.run_id: place for place, run in enumerate(runs.runs)}
    return Resampled(runs, counted, metrics, places, images, points, draws)


def joined(
    predictions: list[Predictions], test_set: TestSet, classes: tuple[str, ...], reduced: bool
) -> JointPredictions:
    """What several runs predict on one test set; `reduced` leaves out the dropped class."""
    first = predictions[0]
    if reduced:
        kept = first.labels != classes.index(DROPPED)
        predicted = np.stack([own.reduced[kept] for own in predictions])
    else:
        kept = np.ones(len(first.labels), bool)
        predicted = np.stack([own.predicted for own in predictions])
    corrupted = corruption_of(test_set[0])
    name, groups = "/".join((corrupted[0], "id_test") if corrupted else test_set), first.groups
    return JointPredictions(name, first.labels[kept], groups[kept], predicted, len(classes))
