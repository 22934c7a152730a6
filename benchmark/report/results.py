"""Results: what `train` and `evaluate` wrote of a profile, each file read once, when asked for."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmark.drawing import MARKS
from benchmark.errors import UserError
from benchmark.evaluation.columns import counted_targets
from benchmark.evaluation.experiments import (
    Experiment,
    RecordedRun,
    content_digest,
    done_runs,
    load_experiments,
    predictions_digest,
)
from benchmark.evaluation.features import FeatureSet, Score, read_sets, scores_of
from benchmark.evaluation.scores import majority_id
from benchmark.metrics import HEADLINE, MINIMUM_SUPPORT
from benchmark.report.table import Cell
from benchmark.scenarios import corruption_of, sources_of
from benchmark.schema import Record, read_record
from benchmark.study.runs import Scenario
from benchmark.texts import shortened

Parquet = dict[str, list]
"""column → values, one per row"""
Records = dict[str, dict[str, Any]]
"""run id → its `run.json`"""
Curves = dict[tuple[str, str, str, str], np.ndarray]
"""(run_id, domain, part, curve) → (points, 3): x, y, n"""
Confusions = dict[tuple[str, str, str], np.ndarray]
"""(run_id, domain, part) → counts, true × predicted"""


class Group(NamedTuple):
    """The runs of an experiment in one scenario and track."""

    experiment: Experiment
    scenario: Scenario
    track: str
    runs: list[RecordedRun]


@dataclass(frozen=True)
class Scores:
    """What `evaluate` wrote of methods and runs."""

    values: dict[tuple[str, str, str, str, str], tuple[float, int]]
    """(run_id, domain, part, class_name, metric) → (value, n)"""
    intervals: dict[tuple[str, ...], dict]
    """(scenario, track, method, metric, class_name, column) → row of intervals"""
    standings: dict[tuple[str, ...], dict]
    """(experiment, scenario, track, method, metric, column) → row of standings"""
    columns: dict[tuple[str, ...], dict]
    """(experiment, scenario, track, metric, column) → row of evidence"""
    counted: dict[str, tuple[str, ...]]
    """scenario → the targets that enter its mean, its worst and its shift drop"""
    runs: dict[tuple[str, str], list[str]]
    """(scenario, method) → its done runs in the whole profile, by seed"""


@dataclass(frozen=True)
class Results:
    """The files of `results/<profile>` that tables, figures, page and paper are made from.

    Raises:
        UserError: a file is missing, or was computed from other predictions than the recorded ones.
    """

    folder: Path
    experiments: list[Experiment]

    @classmethod
    def of(cls, folder: Path) -> Results:
        return cls(Path(folder), load_experiments(folder))

    @cached_property
    def done(self) -> dict[str, RecordedRun]:
        return {run_id: run for run_id, (run, _) in done_runs(self.experiments).items()}

    @cached_property
    def scenarios(self) -> dict[str, Scenario]:
        """Those that have a done run, by name."""
        return {run.scenario.name: run.scenario for run in self.done.values()}

    @cached_property
    def scores(self) -> Scores:
        return load_scores(self.folder, self.experiments)

    @cached_property
    def records(self) -> Records:
        return run_records(self.folder, self.experiments)

    @cached_property
    def effects(self) -> pd.DataFrame:
        """Differences between methods that differ in one part."""
        return self.frame("effects")

    @cached_property
    def compared(self) -> int:
        """How many single-part ablations of the mean of targets are tested, and their p-values
        corrected for: Holm's procedure counts none without a p-value."""
        own = self.effects[self.effects["column"] == "mean_target"]
        return int(own["p_holm"].notna().sum())

    @cached_property
    def open_set(self) -> pd.DataFrame:
        return self.frame("open_set")

    @cached_property
    def differential(self) -> pd.DataFrame:
        return self.frame("differential")

    @cached_property
    def labels_needed(self) -> pd.DataFrame:
        return self.frame("labels_needed")

    @cached_property
    def local_thresholds(self) -> pd.DataFrame:
        return self.frame("local_thresholds")

    @cached_property
    def unlabelled(self) -> pd.DataFrame:
        return self.frame("unlabelled")

    @cached_property
    def severity(self) -> pd.DataFrame:
        return self.frame("severity")

    @cached_property
    def same_cells(self) -> pd.DataFrame:
        return self.frame("same_cells")

    @cached_property
    def feature_sets(self) -> list[FeatureSet]:
        """What `score --features` left; none where nobody scored any."""
        return read_sets(self.folder)

    @cached_property
    def feature_scores(self) -> list[Score]:
        """Macro-F1 of each, with its interval."""
        return scores_of(self.feature_sets)

    @cached_property
    def rejection(self) -> pd.DataFrame:
        return self.frame("rejection")

    @cached_property
    def rejection_counted(self) -> pd.DataFrame:
        """The rows that a mean of targets is over: without targets that enter none, such as a
        laboratory's own."""
        table, counted = self.rejection, self.scores.counted
        scenarios = {run_id: run.scenario.name for run_id, run in self.done.items()}
        pairs = zip(table["run_id"].map(scenarios), table["domain"], table["part"], strict=True)
        kept = [part != "shifted" or domain in counted[name] for name, domain, part in pairs]
        return table[np.array(kept, bool)]

    @cached_property
    def curves(self) -> Curves:
        """Of `curves.parquet`, in which the points of a curve stand together."""
        table = self.read("curves")
        names = ("run_id", "domain", "part", "curve")
        keys = list(zip(*(table[name] for name in names), strict=True))
        points = np.column_stack([np.asarray(table[name], float) for name in ("x", "y", "n")])
        curves: Curves = {}
        start = 0
        for key, group in itertools.groupby(keys):
            size = len(list(group))
            curves[key] = points[start : start + size]
            start += size
        return curves

    @cached_property
    def confusions(self) -> Confusions:
        """Of `confusion.parquet`; corruptions are left out."""
        classes = {run_id: own for run_id, (_, own) in done_runs(self.experiments).items()}
        table = self.read("confusion")
        confusions: Confusions = {}
        columns = ("run_id", "domain", "part", "true", "predicted", "count")
        rows = zip(*(table[name] for name in columns), strict=True)
        for run_id, domain, part, true, predicted, count in rows:
            if corruption_of(domain) is None:
                names = classes[run_id]
                empty = np.zeros((len(names),) * 2, np.int64)
                matrix = confusions.setdefault((run_id, domain, part), empty)
                matrix[names.index(true), names.index(predicted)] = count
        return confusions

    def named(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of runs, with the names of their scenarios and methods."""
        about = {i: (run.scenario.name, run.method.name) for i, run in self.done.items()}
        pairs = [about[run_id] for run_id in table["run_id"]]
        return table.assign(scenario=[s for s, _ in pairs], method=[m for _, m in pairs])

    def frame(self, name: str) -> pd.DataFrame:
        return pd.DataFrame(self.read(name))

    def read(self, name: str) -> Parquet:
        return read_evaluated(self.folder / f"{name}.parquet", self.experiments)


def run_records(folder: Path, experiments: list[Experiment]) -> Records:
    paths = {run_id: folder / "runs" / run_id / "run.json" for run_id in done_runs(experiments)}
    again = f"run `wbc-shift train -p {folder.name}`"
    return {
        run_id: read_record(path, Record, again) for run_id, path in paths.items() if path.is_file()
    }


def read_evaluated(path: Path, experiments: list[Experiment]) -> Parquet:
    """Read a file that `evaluate` wrote, if it did so from the recorded predictions."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run `wbc-shift evaluate -p {path.parent.name}`")
    again = f"run `wbc-shift evaluate -p {path.parent.name}` again"
    try:
        table = pq.read_table(path, partitioning=None)
    except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path} cannot be read ({shortened(str(error))}): {again}") from None
    stated = table.schema.metadata or {}
    known = stated.get(b"predictions", b"").decode()
    # A file from before this was stated has none; one without any metadata is refused below.
    if b"content" in stated and stated[b"content"].decode() != content_digest(table):
        raise UserError(f"{path} is not as `wbc-shift evaluate` wrote it: {again}")
    if known != predictions_digest(experiments):
        raise UserError(f"{path} belongs to other predictions: {again}")
    return table.to_pydict()


def load_scores(folder: Path, experiments: list[Experiment]) -> Scores:
    """Read `metrics.parquet`, `intervals.parquet`, `standings.parquet` and `evidence.parquet`."""
    metrics, intervals, standings, evidence = (
        read_evaluated(Path(folder) / f"{name}.parquet", experiments)
        for name in ("metrics", "intervals", "standings", "evidence")
    )
    keys = (metrics[name] for name in ("run_id", "domain", "part", "class_name", "metric"))
    pairs = zip(metrics["value"], metrics["n"], strict=True)
    block = ("experiment", "scenario", "track")
    scores = Scores(
        dict(zip(zip(*keys, strict=True), pairs, strict=True)),
        by_key(intervals, (*block[1:], "method", "metric", "class_name", "column")),
        by_key(standings, (*block, "method", "metric", "column")),
        by_key(evidence, (*block, "metric", "column")),
        {},
        {},
    )
    for experiment in experiments:
        for scenario, _ in experiment.blocks():
            if scenario.name not in scores.counted:
                counts = class_counts(scores, scenario, experiment.classes)
                # Where nothing was scored, nothing is known to be rare.
                counts = counts[1:] if counts.any() else np.full_like(counts[1:], MINIMUM_SUPPORT)
                scores.counted[scenario.name] = counted_targets(scenario, counts)
    for run, _ in sorted(done_runs(experiments).values(), key=lambda pair: pair[0].seed):
        scores.runs.setdefault((run.scenario.name, run.method.name), []).append(run.run_id)
    return scores


def by_key(table: Parquet, names: tuple[str, ...]) -> dict[tuple[str, ...], dict]:
    rows = (dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True))
    return {tuple(row[name] for name in names): row for row in rows}


def values(
    scores: Scores,
    run_ids: list[str],
    test_sets: tuple[tuple[str, str], ...],
    metric: str,
    class_name: str = "",
) -> np.ndarray:
    """(runs, test sets) values of a metric; NaN where a score is missing or undefined."""
    missing = (math.nan, 0)
    rows = [
        [scores.values.get((i, *t, class_name, metric), missing)[0] for t in test_sets]
        for i in run_ids
    ]
    return np.array(rows, np.float64).reshape(len(run_ids), len(test_sets))


def class_counts(scores: Scores, scenario: Scenario, classes: tuple[str, ...]) -> np.ndarray:
    """(test sets, classes) number of test images; 0 where no run of the scenario was scored."""
    constant = majority_id(scenario.name)
    counts = [
        [scores.values.get((constant, *test_set, name, "f1"), (math.nan, 0))[1] for name in classes]
        for test_set in scenario.test_sets
    ]
    return np.array(counts, int).reshape(len(scenario.test_sets), len(classes))


def cell(scores: Scores, where: tuple[str, str, str], method: str, *key: str) -> Cell:
    """A method's value and interval, in per cent, with what it says among the others of a table;
    empty where no run of the method was scored.

    Args:
        where: experiment, scenario and track.
        key: metric, class and column.
    """
    metric, class_name, column = key
    standing = {} if class_name else scores.standings.get((*where, method, metric, column), {})
    marks = {name: standing.get(name, False) for name in ("best", "as_good")}
    return unmarked_cell(scores, where[1:], method, *key)._replace(**marks)


def unmarked_cell(scores: Scores, where: tuple[str, str], method: str, *key: str) -> Cell:
    """The same by itself, among no others.

    Args:
        where: scenario and track.
        key: metric, class and column.
    """
    row = scores.intervals.get((*where, method, *key))
    if row is None:
        return Cell(math.nan)
    numbers = (
        math.nan if row[name] is None else 100 * row[name] for name in ("mean", "low", "high")
    )
    return Cell(*numbers, row["seeds"], across_seeds=row["freedom"] > 0)


def done_ids(runs: list[RecordedRun]) -> list[str]:
    return [run.run_id for run in runs if run.done]


def by_method(runs: list[RecordedRun]) -> dict[str, list[RecordedRun]]:
    """A block's runs by method name, in plan order."""
    methods: dict[str, list[RecordedRun]] = {}
    for run in runs:
        methods.setdefault(run.method.name, []).append(run)
    return methods


def short_source(scenario: Scenario) -> str:
    """What was trained on, with room for a title: `raabin`, or `6 domains → jtsc`."""
    count = len(sources_of(scenario.source))
    return scenario.source if count == 1 else f"{count} domains → {', '.join(scenario.targets)}"


def plain_targets(scenario: Scenario) -> list[str]:
    """Targets that are domains of their own, and not corruptions."""
    return [target for target in scenario.targets if corruption_of(target) is None]


def counted_sets(scenario: Scenario, scores: Scores) -> tuple[tuple[str, str], ...]:
    """(domain, part) of the targets that the mean of targets is over."""
    return tuple((target, "shifted") for target in scores.counted[scenario.name])


def shown_methods(scores: Scores, group: Group, most: int = len(MARKS)) -> tuple[list[str], str]:
    """The methods that a figure of lines has room for, in plan order, and a note on the others.

    All that were run, or those with the highest mean of targets.
    """
    found = {name: done_ids(own) for name, own in by_method(group.runs).items() if done_ids(own)}
    test_sets = counted_sets(group.scenario, scores) or group.scenario.test_sets[:1]
    means = {
        name: np.nan_to_num(values(scores, ids, test_sets, HEADLINE).mean())
        for name, ids in found.items()
    }
    chosen = sorted(means, key=means.get, reverse=True)[:most]
    note = f" ({most} of {len(found)} methods: highest mean of targets)"
    return [name for name in found if name in chosen], note if len(found) > most else ""
