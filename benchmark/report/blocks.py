"""Blocks: from experiment records and scores to tables of means with two-level intervals.

A table of scores has one block per scenario and track; in a block, one row per method in plan order
and one for the majority constant, and one column per test set and per summary of the targets.
Values are in per cent.
"""

from __future__ import annotations

import math

import numpy as np

from benchmark.evaluation.columns import SUMMARIES, TABLED_REDUCED, summarise
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.scores import MAJORITY, majority_id
from benchmark.metrics import HEADLINE, MINIMUM_SUPPORT, TABLED
from benchmark.report.notes import (
    INTERVAL_NOTE,
    adaptation_notes,
    evidence_notes,
    found_of_planned,
    gap_notes,
    images_only_note,
    left_out_notes,
    support_notes,
)
from benchmark.report.results import (
    Scores,
    by_method,
    cell,
    class_counts,
    done_ids,
    values,
)
from benchmark.report.table import Block, Cell, Column, Row, Table
from benchmark.scenarios import corruption_of
from benchmark.study.predictions import DROPPED, REDUCED
from benchmark.study.runs import Scenario

METRICS = {name: metric.title for name, metric in TABLED.items()} | {
    name: f"macro-F1 of four classes ({REDUCED}, without basophils)" for name in TABLED_REDUCED
}
"""Metric → its name in print; each table has one metric."""
PRESENT = "macro_f1_present"
"""What stands beside the headline's mean of targets where a test set holds rare classes."""
BESIDE = "accuracy"
"""What stands beside the headline, at home and as mean of targets."""

LEGEND = (
    f"Macro-F1 is the mean over the classes of a test set with n ≥ {MINIMUM_SUPPORT}, all of whose "
    "images count; beside its mean of targets, where it differs, that over all present classes. "
    f"{INTERVAL_NOTE} Runs: found of planned here; in brackets the seeds behind the values, if "
    "other experiments ran more of them. Bold: highest mean of its column; "
    "°: not shown to be worse than it (paired by image and across seeds, Holm-corrected, 5 %). "
    "In-domain: held-out part of the source. Shift drop: in-domain minus mean of targets, in "
    "points. Majority: predicts the most frequent class of each test set for every image; an "
    "oracle constant, not a method."
)
"""What the signs of a table mean; its caption ends with it."""


def score_tables(
    experiment: Experiment, scores: Scores, notes: tuple[str, ...] = ()
) -> list[Table]:
    tables = (build_table(experiment, scores, metric, notes) for metric in METRICS)
    return [table for table in tables if table.blocks]


def build_table(
    experiment: Experiment, scores: Scores, metric: str, notes: tuple[str, ...] = ()
) -> Table:
    """One metric of one experiment, every planned method in it, found or not."""
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
    notes = (*experiment.about, *gap_notes(experiment), *notes)
    return Table(f"{experiment.experiment}_{metric}", caption, blocks, notes, metric)


def build_block(
    scores: Scores, experiment: Experiment, scenario: Scenario, track: str, metric: str
) -> Block:
    reduced = metric.endswith(f"_{REDUCED}")
    classes = tuple(c for c in experiment.classes if not (reduced and c == DROPPED))
    counts = class_counts(scores, scenario, classes)
    counted = scores.counted[scenario.name]
    columns = shown_columns(scenario, counts, counted, metric)
    where = (experiment.experiment, scenario.name, track)
    rows = []
    for method, planned in by_method(experiment.blocks()[scenario, track]).items():
        cells = tuple(column_cell(scores, where, method, metric, column) for column in columns)
        rows.append(Row(cells, method, len(done_ids(planned)), len(planned)))
    if counts.any():
        rows.append(Row(constant_cells(scores, scenario, metric, columns), MAJORITY))
    found = {column.key: scores.columns.get((*where, metric, column.key)) for column in columns}
    notes = (
        *support_notes(scenario, counts, classes),
        *adaptation_notes(track),
        *left_out_notes(scenario, counts, counted),
        *evidence_notes({name: row for name, row in found.items() if row}, scenario),
        *images_only_note([row.method for row in rows if row.found and not row.across_seeds]),
    )
    return Block(tuple(columns), tuple(rows), notes, scenario, track, counted)


def shown_columns(
    scenario: Scenario, counts: np.ndarray, counted: tuple[str, ...], metric: str
) -> list[Column]:
    """Test sets and summaries; corruptions are columns by severity, being too many one by one.

    Beside the headline stand its mean of targets over all present classes, where a test set holds
    rare ones, and the accuracy, which rewards the commonest class.

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
    beside = [("mean, all classes", "mean_target", PRESENT)] if counted and some else []
    beside += [("in-domain accuracy", "in_domain", BESIDE)]
    beside += [("mean accuracy", "mean_target", BESIDE)] if counted else []
    return columns + [
        Column(f"{key}_{score}", title, beside=key, metric=score) for title, key, score in beside
    ]


def column_cell(
    scores: Scores, where: tuple[str, str, str], method: str, metric: str, column: Column
) -> Cell:
    """A method's cell in a column; of a score that stands beside another the mean alone."""
    if not column.beside:
        return cell(scores, where, method, metric, "", column.key)
    found = cell(scores, where, method, column.metric, "", column.beside)
    return Cell(found.mean, seeds=found.seeds)


def constant_cells(
    scores: Scores, scenario: Scenario, metric: str, columns: list[Column]
) -> tuple[Cell, ...]:
    """The majority row: its answer differs by test set, so it has no shift drop."""
    found = {
        name: summarise(
            list(100 * values(scores, [majority_id(scenario.name)], scenario.test_sets, name)[0]),
            scenario,
            scores.counted[scenario.name],
        )
        | {"shift_drop": math.nan}
        for name in {metric, *(column.metric for column in columns if column.metric)}
    }
    return tuple(
        Cell(float(found[column.metric or metric][column.beside or column.key]))
        for column in columns
    )
