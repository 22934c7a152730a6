"""Blocks: from experiment records and scores to tables of means with two-level intervals.

A table of scores has one block per scenario and track; in a block, one row per method in plan order
and one for the majority constant, and one column per test set and per summary of the targets. A
table by class has one block per test set, and one column per class. Values are in per cent.
"""

from __future__ import annotations

import math

import numpy as np

from benchmark.evaluation.columns import SUMMARIES, TABLED_REDUCED, summarise
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.scores import MAJORITY, majority_id
from benchmark.metrics import HEADLINE, MINIMUM_SUPPORT, TABLED
from benchmark.report.notes import (
    CONFOUNDED,
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
"""The metric that stands beside the headline where a test set holds rare classes."""

LEGEND = (
    f"Macro-F1 is the mean over the classes of a test set with n ≥ {MINIMUM_SUPPORT}, all of whose "
    f"images count; beside it, where it differs, the mean over all present classes. {INTERVAL_NOTE}"
    " Runs: found of planned here; in brackets the seeds behind the values, if other experiments "
    "ran more of them. Bold: highest mean of its column; "
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


def column_cell(
    scores: Scores, where: tuple[str, str, str], method: str, metric: str, column: Column
) -> Cell:
    """A method's cell in a column; of all present classes the mean alone, whose interval stands in
    the table of that metric."""
    if not column.beside:
        return cell(scores, where, method, metric, "", column.key)
    found = cell(scores, where, method, PRESENT, "", column.beside)
    return Cell(found.mean, seeds=found.seeds)


def constant_cells(
    scores: Scores, scenario: Scenario, metric: str, columns: list[Column]
) -> tuple[Cell, ...]:
    """The majority row: its answer differs by test set, so it has no shift drop."""
    own, present = (
        summarise(
            list(100 * values(scores, [majority_id(scenario.name)], scenario.test_sets, name)[0]),
            scenario,
            scores.counted[scenario.name],
        )
        | {"shift_drop": math.nan}
        for name in (metric, PRESENT)
    )
    return tuple(
        Cell(float(present[column.beside] if column.beside else own[column.key]))
        for column in columns
    )


def class_table(experiment: Experiment, scores: Scores) -> Table:
    """F1 of each class on every test set, in plan order; no single corruption."""
    blocks = tuple(
        class_block(experiment, scores, scenario, track, place)
        for scenario, track in experiment.blocks()
        for place, (domain, _) in enumerate(scenario.test_sets)
        if corruption_of(domain) is None
    )
    caption = (
        f"{experiment.title}: F1 of each class in %, mean over seeds [95 % interval]; "
        f"{found_of_planned(experiment)} runs (in brackets the seeds behind the values, if others "
        f"ran more of them). {INTERVAL_NOTE} n: test images of the class. † n < "
        f"{MINIMUM_SUPPORT}: the class carries no claim. –: class absent, or no run."
    )
    pairs = {(block.test_set[0], name) for block in blocks for name in experiment.classes}
    notes = [text for pair, text in CONFOUNDED.items() if pair in pairs]
    notes += gap_notes(experiment)
    return Table(f"{experiment.experiment}_per_class", caption, blocks, tuple(notes), "f1")


def class_block(
    experiment: Experiment, scores: Scores, scenario: Scenario, track: str, place: int
) -> Block:
    """Methods × classes on one test set of a scenario, given by its place."""
    test_set = scenario.test_sets[place]
    key = scenario.targets[place - 1] if place else "in_domain"
    counts = class_counts(scores, scenario, experiment.classes)
    columns = tuple(
        Column(name, name, n=n, flagged=0 < n < MINIMUM_SUPPORT)
        for name, n in zip(experiment.classes, counts[place].tolist(), strict=True)
    )
    where = (experiment.experiment, scenario.name, track)
    rows = []
    for method, planned in by_method(experiment.blocks()[scenario, track]).items():
        cells = tuple(cell(scores, where, method, "f1", c, key) for c in experiment.classes)
        rows.append(Row(cells, method, len(done_ids(planned)), len(planned)))
    if counts.any():
        ids = [majority_id(scenario.name)]
        constant = (
            values(scores, ids, (test_set,), "f1", name)[0, 0] for name in experiment.classes
        )
        rows.append(Row(tuple(Cell(100 * float(value)) for value in constant), MAJORITY))
    return Block(columns, tuple(rows), scenario=scenario, track=track, test_set=test_set)
