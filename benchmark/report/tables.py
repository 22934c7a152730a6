"""Tables: from experiment records and scores to rows of means with intervals over seeds.

A table has one block per scenario and track; in a block, one row per method in plan order and one
for the majority constant, and one column per test set and per summary of the targets. Values are in
per cent. How a table is written (CSV, Markdown, LaTeX) is the business of `formats`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.evaluation.evaluate import MAJORITY, majority_id
from benchmark.evaluation.experiments import (
    Experiment,
    Run,
    Scenario,
    gaps,
    predictions_digest,
)
from benchmark.evaluation.intervals import Interval, t_interval
from benchmark.evaluation.metrics import MINIMUM_SUPPORT

METRICS = {
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
}
"""Metric → its name in print. The first is the headline, and each table has one metric."""

SUMMARIES = {
    "mean_target": "mean of targets",
    "worst_target": "worst target",
    "shift_drop": "shift drop",
}
CONFOUNDED = {
    ("raabin", "basophil"): (
        "raabin: all basophils, and nothing else, come from the captures of 2019 (yellower and "
        "blurrier), so basophil and capture date are confounded"
    )
}
"""(domain, class) → why a score that involves both needs a caveat."""

Scores = dict[tuple[str, str, str, str, str], tuple[float, int]]
"""(run_id, domain, part, class_name, metric) → (value, n)."""


@dataclass(frozen=True)
class Column:
    """A test set, or a summary of the targets (which has no n)."""

    key: str
    title: str
    n: int | None = None
    flagged: bool = False
    """The test set holds a class with too few images to carry a claim."""


@dataclass(frozen=True)
class Row:
    """A method's cells, in the order of the block's columns."""

    method: str
    found: int
    planned: int
    cells: tuple[Interval, ...]

    @property
    def runs(self) -> str:
        """Found/planned; empty for the constant, which is not a run."""
        return f"{self.found}/{self.planned}" if self.planned else ""


@dataclass(frozen=True)
class Block:
    """The rows of one scenario and track."""

    scenario: Scenario
    track: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

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
    """Read `metrics.parquet`.

    Raises:
        UserError: it is missing, or was computed from other predictions than the recorded ones.
    """
    path = Path(results) / "metrics.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `wbc-shift evaluate`")
    table = pq.read_table(path, partitioning=None)
    known = (table.schema.metadata or {}).get(b"predictions", b"").decode()
    if known != predictions_digest(experiments):
        raise UserError(f"{path} belongs to other predictions: run `wbc-shift evaluate` again")
    names = ("run_id", "domain", "part", "class_name", "metric")
    keys = zip(*(table[name].to_pylist() for name in names), strict=True)
    pairs = zip(table["value"].to_pylist(), table["n"].to_pylist(), strict=True)
    return dict(zip(keys, pairs, strict=True))


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
        [scores.get((run_id, *test_set, class_name, metric), missing)[0] for test_set in test_sets]
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
        [scores.get((constant, *test_set, name, "f1"), (math.nan, 0))[1] for name in classes]
        for test_set in scenario.test_sets
    ]
    return np.array(counts, int).reshape(len(scenario.test_sets), len(classes))


def summarise(per_seed: np.ndarray, constant: bool = False) -> tuple[Interval, ...]:
    """Cells of a row: in-domain, each target, mean of targets, worst target, shift drop.

    Args:
        per_seed: (seeds, 1 + targets), in-domain first, as fractions.
        constant: the majority row; its answer differs by test set, so it has no shift drop.

    The summaries are taken within each seed before the mean over seeds: the worst target may
    differ from seed to seed, and the drop is paired. Shift drop = in-domain - mean of targets.
    """
    columns = list(100 * per_seed.T)
    if per_seed.shape[1] > 1:
        targets = 100 * per_seed[:, 1:]
        mean, worst = targets.mean(axis=1), targets.min(axis=1)
        drop = np.array([]) if constant else columns[0] - mean
        columns += [mean, worst, drop]
    else:
        columns += [np.array([])] * len(SUMMARIES)
    return tuple(t_interval(column) for column in columns)


def build_block(
    scores: Scores, scenario: Scenario, track: str, runs: list[Run], metric: str, classes: tuple
) -> Block:
    """The rows of one scenario and track for one metric."""
    counts = class_counts(scores, scenario, classes)
    columns = [
        Column(
            "in_domain" if part == "id_test" else domain,
            f"{domain} (in-domain)" if part == "id_test" else domain,
            n=int(row.sum()) or None,
            flagged=bool(((row > 0) & (row < MINIMUM_SUPPORT)).any()),
        )
        for (domain, part), row in zip(scenario.test_sets, counts, strict=True)
    ]
    columns += [Column(key, title) for key, title in SUMMARIES.items()]
    rows = []
    for method, planned in by_method(runs).items():
        found = done_ids(planned)
        cells = summarise(values(scores, found, scenario.test_sets, metric))
        rows.append(Row(method, len(found), len(planned), cells))
    if counts.any():
        constant = values(scores, [majority_id(scenario.name)], scenario.test_sets, metric)
        rows.append(Row(MAJORITY, 0, 0, summarise(constant, constant=True)))
    notes = support_notes(scenario, counts, classes)
    return Block(scenario, track, tuple(columns), tuple(rows), tuple(notes))


def support_notes(scenario: Scenario, counts: np.ndarray, classes: tuple[str, ...]) -> list[str]:
    """What a reader must know about the classes behind the scores of a scenario."""
    notes = []
    rare, absent = [], []
    for (domain, _), row in zip(scenario.test_sets, counts, strict=True):
        if row.any():
            few = [
                f"{name} {n}"
                for name, n in zip(classes, row, strict=True)
                if 0 < n < MINIMUM_SUPPORT
            ]
            none = [name for name, n in zip(classes, row, strict=True) if n == 0]
            rare += [f"{domain} ({', '.join(few)})"] if few else []
            absent += [f"{domain} ({', '.join(none)})"] if none else []
    if rare:
        notes.append(
            f"† holds a class with n < {MINIMUM_SUPPORT}, which carries no claim of its own, "
            f"though it counts in averages over classes: {', '.join(rare)}"
        )
    if absent:
        notes.append(f"Absent classes are left out of averages over classes: {', '.join(absent)}")
    domains = {domain for domain, _ in scenario.test_sets}
    notes += [
        text for (domain, name), text in CONFOUNDED.items() if domain in domains and name in classes
    ]
    return notes


def found_of_planned(experiment: Experiment) -> str:
    return f"found {experiment.found} of {len(experiment.runs)} planned"


def build_table(experiment: Experiment, scores: Scores, metric: str) -> Table:
    """One metric of one experiment, every planned method in it, found or not."""
    caption = (
        f"{experiment.title}: {METRICS[metric]} in %, mean ± half-width of the 95 % t-interval "
        f"over seeds; {found_of_planned(experiment)} runs. The interval covers the seeds only, not "
        "the size of a test set; with one seed there is none. In-domain: held-out part of the "
        "source. Shift drop: in-domain minus mean of targets, in points. Majority: the commonest "
        "class of each test set answered for every image, an oracle constant and not a method."
    )
    blocks = tuple(
        build_block(scores, scenario, track, runs, metric, experiment.classes)
        for (scenario, track), runs in experiment.blocks().items()
    )
    return Table(
        f"{experiment.experiment}_{metric}", metric, caption, blocks, tuple(gap_notes(experiment))
    )


def gap_notes(experiment: Experiment, most: int = 5) -> list[str]:
    """A note that names the first missing runs and counts the rest; none if all are done."""
    lines = gaps([experiment])
    if not lines:
        return []
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return [f"Not done: {'; '.join(lines[:most])}{more}"]
