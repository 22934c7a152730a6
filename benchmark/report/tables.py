"""Tables: from experiment records and scores to rows of means with two-level intervals.

A table has one block per scenario and track; in a block, one row per method in plan order and one
for the majority constant, and one column per test set and per summary of the targets. Values are in
per cent. How a table is written (CSV, Markdown, LaTeX) is the business of `formats`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.evaluation.columns import (
    SUMMARIES,
    TABLED_REDUCED,
    counted_targets,
    summarise,
)
from benchmark.evaluation.experiments import (
    Experiment,
    Run,
    Scenario,
    content_digest,
    done_runs,
    predictions_digest,
)
from benchmark.evaluation.metrics import HEADLINE, MINIMUM_SUPPORT, TABLED
from benchmark.evaluation.predictions import DROPPED, REDUCED
from benchmark.evaluation.scores import MAJORITY, majority_id
from benchmark.report.notes import (
    INTERVAL_NOTE,
    adaptation_notes,
    apart_notes,
    evidence_notes,
    found_of_planned,
    gap_notes,
    images_only_note,
    left_out_notes,
    support_notes,
)
from benchmark.report.trainings import Records
from benchmark.scenarios import corruption_of
from benchmark.texts import shortened

METRICS = {name: metric.title for name, metric in TABLED.items()} | {
    name: f"macro-F1 of four classes ({REDUCED}, without basophils)" for name in TABLED_REDUCED
}
"""Metric → its name in print; each table has one metric."""
PRESENT = "macro_f1_present"
"""The metric that stands beside the headline where a test set holds rare classes."""

LEGEND = (
    f"Macro-F1 is the mean over the classes of a test set with n ≥ {MINIMUM_SUPPORT}, all of whose "
    f"images count; beside it, where it differs, the mean over all present classes. {INTERVAL_NOTE}"
    " Runs: found of planned here; in brackets the seeds behind the values, if other experiments "
    "ran more of them. Bold: highest mean of its column; "
    "°: not shown to be worse than it (paired by image and across seeds, Holm-corrected, 5 %). "
    "In-domain: held-out part of the source. Shift drop: in-domain minus mean of targets, in "
    "points. Majority: the commonest class of each test set answered for every image, an "
    "oracle constant and not a method."
)
"""What the signs of a table mean; its caption ends with it."""

Parquet = dict[str, list]
"""column → values, one per row"""


class Cell(NamedTuple):
    """A mean over seeds with its interval, in per cent, as it stands in a table."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    """done anywhere in the profile"""
    best: bool = False
    """the highest mean of its column, the majority constant aside"""
    as_good: bool = False
    """not shown to be worse than the best (paired, corrected for the number of methods)"""
    across_seeds: bool = False
    """the interval covers other seeds too, and not other images alone"""


@dataclass(frozen=True)
class Scores:
    """What `evaluate` wrote."""

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
class Column:
    """A test set, or a summary of the targets (which has no n)."""

    key: str
    title: str
    n: int | None = None
    flagged: bool = False
    """The test set, or one that the summary is of, holds a class with too few images to carry a
    claim."""
    beside: str = ""
    """The key of the column that it stands beside, with the mean over all present classes."""

    @property
    def is_summary(self) -> bool:
        return (self.beside or self.key) in SUMMARIES


@dataclass(frozen=True)
class Row:
    """A method's cells, in the order of the block's columns."""

    method: str
    found: int
    planned: int
    cells: tuple[Cell, ...]

    @property
    def across_seeds(self) -> bool:
        """Whether the intervals hold a variance between seeds."""
        return any(cell.across_seeds for cell in self.cells)

    @property
    def seeds(self) -> int:
        """How many seeds the values are of."""
        return max((cell.seeds for cell in self.cells), default=0)

    @property
    def runs(self) -> str:
        """Found/planned, and in brackets the seeds behind the values if they are others; empty for
        the constant, which is not a run."""
        if not self.planned:
            return ""
        more = f" ({self.seeds})" if self.seeds != self.found else ""
        return f"{self.found}/{self.planned}{more}"


@dataclass(frozen=True)
class Block:
    """The rows of one scenario and track."""

    scenario: Scenario
    track: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    counted: tuple[str, ...] = ()
    """the targets that the summaries are of"""

    @property
    def title(self) -> str:
        transductive = "" if self.track == "inductive" else f", {self.track}"
        return f"Trained on {self.scenario.source} ({self.scenario.name}{transductive})"


@dataclass(frozen=True)
class Table:
    """One metric of one experiment."""

    name: str
    metric: str
    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]


def load_scores(results: Path, experiments: list[Experiment]) -> Scores:
    """Read `metrics.parquet`, `intervals.parquet`, `standings.parquet` and `evidence.parquet`.

    Raises:
        UserError: one is missing, or was computed from other predictions than the recorded ones.
    """
    tables = [
        read_evaluated(Path(results) / f"{name}.parquet", experiments)
        for name in ("metrics", "intervals", "standings", "evidence")
    ]
    names = ("run_id", "domain", "part", "class_name", "metric")
    keys = zip(*(tables[0][name] for name in names), strict=True)
    scores = dict(zip(keys, zip(tables[0]["value"], tables[0]["n"], strict=True), strict=True))
    block = ("experiment", "scenario", "track")
    found = Scores(
        scores,
        by_key(tables[1], (*block[1:], "method", "metric", "class_name", "column")),
        by_key(tables[2], (*block, "method", "metric", "column")),
        by_key(tables[3], (*block, "metric", "column")),
        {},
        {},
    )
    for experiment in experiments:
        for scenario, _ in experiment.blocks():
            if scenario.name not in found.counted:
                counts = class_counts(found, scenario, experiment.classes)
                # Where nothing was scored, nothing is known to be rare.
                counts = counts[1:] if counts.any() else np.full_like(counts[1:], MINIMUM_SUPPORT)
                found.counted[scenario.name] = counted_targets(scenario, counts)
    for run, _ in sorted(done_runs(experiments).values(), key=lambda pair: pair[0].seed):
        found.runs.setdefault((run.scenario.name, run.method.name), []).append(run.run_id)
    return found


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


def by_key(table: Parquet, names: tuple[str, ...]) -> dict[tuple[str, ...], dict]:
    """Rows of a table by their key columns."""
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
        [
            scores.values.get((run_id, *test_set, class_name, metric), missing)[0]
            for test_set in test_sets
        ]
        for run_id in run_ids
    ]
    return np.array(rows, np.float64).reshape(len(run_ids), len(test_sets))


def done_ids(runs: list[Run]) -> list[str]:
    return [run.run_id for run in runs if run.done]


def by_method(runs: list[Run]) -> dict[str, list[Run]]:
    """A block's runs by method name, in plan order."""
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.method.name, []).append(run)
    return methods


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
    row = scores.intervals.get((*where[1:], method, *key))
    if row is None:
        return Cell(math.nan)
    numbers = (
        math.nan if row[name] is None else 100 * row[name] for name in ("mean", "low", "high")
    )
    metric, class_name, column = key
    standing = {} if class_name else scores.standings.get((*where, method, metric, column), {})
    marks = (standing.get(name, False) for name in ("best", "as_good"))
    return Cell(*numbers, row["seeds"], *marks, row["freedom"] > 0)


def constant_cells(
    scores: Scores, scenario: Scenario, metric: str, columns: list[Column]
) -> tuple[Cell, ...]:
    """The majority row: its answer differs by test set, so it has no shift drop."""
    found = values(scores, [majority_id(scenario.name)], scenario.test_sets, metric)[0]
    beside = values(scores, [majority_id(scenario.name)], scenario.test_sets, PRESENT)[0]
    own, present = (
        summarise(list(100 * by_test_set), scenario, scores.counted[scenario.name])
        | {"shift_drop": math.nan}
        for by_test_set in (found, beside)
    )
    return tuple(
        Cell(float(present[column.beside] if column.beside else own[column.key]))
        for column in columns
    )


def shown_columns(
    scenario: Scenario, counts: np.ndarray, counted: tuple[str, ...], metric: str
) -> list[Column]:
    """Test sets and summaries; corruptions are columns by severity, being too many one by one.

    Where a test set holds rare classes, the headline has the mean over all present classes beside
    it.

    Args:
        counts: (test sets, classes) test images.
        counted: the targets that enter the summaries.
    """
    rare = ((counts > 0) & (counts < MINIMUM_SUPPORT)).any(axis=1)
    columns = [
        Column(
            "in_domain" if part == "id_test" else domain,
            f"{domain} (in-domain)" if part == "id_test" else domain,
            n=int(row.sum()) or None,
            flagged=bool(flagged),
        )
        for (domain, part), row, flagged in zip(scenario.test_sets, counts, rare, strict=True)
        if corruption_of(domain) is None
    ]
    home = columns[0]
    columns += [
        Column(name, name, n=home.n, flagged=home.flagged)
        for name in scenario.target_groups
        if name.startswith("severity ")
    ]
    some = any(rare[1 + scenario.targets.index(name)] for name in counted)
    flagged = {"mean_target": some, "worst_target": some, "shift_drop": some or bool(rare[0])}
    columns += [Column(*pair, flagged=flagged[pair[0]]) for pair in SUMMARIES.items() if counted]
    if metric != HEADLINE:
        return columns
    return [one for column in columns for one in (column, *all_classes_beside(column))]


def all_classes_beside(column: Column) -> list[Column]:
    """The column with the mean over all present classes, if it is another one."""
    if not column.flagged:
        return []
    title = column.title.removesuffix(" of targets").removesuffix(" (in-domain)")
    return [Column(f"{column.key}_present", f"{title}, all classes", beside=column.key)]


def build_block(
    scores: Scores, experiment: Experiment, scenario: Scenario, track: str, metric: str
) -> Block:
    """The rows of one scenario and track for one metric."""
    classes = classes_of(experiment, metric)
    counts = class_counts(scores, scenario, classes)
    counted = scores.counted[scenario.name]
    columns = shown_columns(scenario, counts, counted, metric)
    where = (experiment.experiment, scenario.name, track)
    rows = []
    for method, planned in by_method(experiment.blocks()[scenario, track]).items():
        cells = tuple(column_cell(scores, where, method, metric, column) for column in columns)
        rows.append(Row(method, len(done_ids(planned)), len(planned), cells))
    if counts.any():
        rows.append(Row(MAJORITY, 0, 0, constant_cells(scores, scenario, metric, columns)))
    notes = support_notes(scenario, counts, classes)
    notes += adaptation_notes(track)
    notes += left_out_notes(scenario, counts, counted)
    found = {column.key: scores.columns.get((*where, metric, column.key)) for column in columns}
    notes += evidence_notes({name: row for name, row in found.items() if row}, scenario)
    notes += images_only_note([row.method for row in rows if row.found and not row.across_seeds])
    return Block(scenario, track, tuple(columns), tuple(rows), tuple(notes), counted)


def column_cell(
    scores: Scores, where: tuple[str, str, str], method: str, metric: str, column: Column
) -> Cell:
    """A method's cell in a column; of all present classes the mean alone, whose interval stands in
    the table of that metric."""
    if not column.beside:
        return cell(scores, where, method, metric, "", column.key)
    found = cell(scores, where, method, PRESENT, "", column.beside)
    return Cell(found.mean, seeds=found.seeds)


def classes_of(experiment: Experiment, metric: str) -> tuple[str, ...]:
    """The classes that a metric is about."""
    reduced = metric.endswith(f"_{REDUCED}")
    return tuple(c for c in experiment.classes if not (reduced and c == DROPPED))


def build_table(
    experiment: Experiment, scores: Scores, metric: str, records: Records | None = None
) -> Table:
    """One metric of one experiment, every planned method in it, found or not.

    Args:
        records: those of its runs, which say whether rows share their networks.
    """
    caption = (
        f"{experiment.title}: {METRICS[metric]} in %, mean over seeds [95 % interval]; "
        f"{found_of_planned(experiment)} runs. {LEGEND}"
    )
    blocks = tuple(
        build_block(scores, experiment, scenario, track, metric)
        for scenario, track in experiment.blocks()
        # Corruptions are of one test set, whose rare class is as rare in each.
        if not (scenario.target_groups and metric.endswith(f"_{REDUCED}"))
    )
    notes = (*gap_notes(experiment), *apart_notes(experiment, records or {}))
    return Table(f"{experiment.experiment}_{metric}", metric, caption, blocks, notes)
