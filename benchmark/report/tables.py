"""Tables: which tables a report has. A new one is a function that gives it, and a line here."""

from __future__ import annotations

from typing import NamedTuple

from benchmark.evaluation.experiments import Experiment
from benchmark.report import claims, crossed, questions, rejection, sheets
from benchmark.report.blocks import class_table, score_tables
from benchmark.report.facts import image_names
from benchmark.report.notes import apart_notes, contamination_notes
from benchmark.report.results import Results
from benchmark.report.shift_parts import shift_parts_sheet
from benchmark.report.table import Table
from benchmark.report.unlabelled_cells import (
    unlabelled_cells_by_target_sheet,
    unlabelled_cells_sheet,
)

OVERVIEW = ""
"""Stands for all experiments together."""


class Tables(NamedTuple):
    """The tables of an experiment, or of all of them together."""

    scores: list[Table]
    """a table for each metric, the headline first"""
    by_class: list[Table]
    sheets: list[Table]
    long: list[Table]
    """hundreds of rows: in files alone, and not on the page"""

    @property
    def printed(self) -> list[Table]:
        """Those that are written in LaTeX too, by name."""
        return sorted([*self.scores, *self.sheets, *self.long], key=lambda table: table.name)


def tables_of(results: Results) -> dict[str, Tables]:
    """The tables of each experiment by its name, and first those of `OVERVIEW`."""
    found = {OVERVIEW: overview_tables(results)}
    return found | {e.experiment: experiment_tables(results, e) for e in results.experiments}


def overview_tables(results: Results) -> Tables:
    """Tables about all experiments."""
    lists = [
        claims.claims_sheet(results),
        sheets.ablations_sheet(results),
        sheets.runs_sheet(results.experiments),
        rejection.rejectors_sheet(results),
        questions.differential_sheet(results),
        questions.labels_needed_sheet(results),
        questions.local_thresholds_sheet(results),
        questions.unlabelled_sheet(results),
        unlabelled_cells_sheet(results),
        questions.severity_sheet(results),
        sheets.work_sheet(results),
        sheets.throughput_sheet(results),
    ]
    long = [
        questions.differential_by_class_sheet(results),
        questions.differential_sheet(results, every=True),
        questions.labels_needed_sheet(results, every=True),
        questions.local_thresholds_sheet(results, every=True),
        questions.severity_sheet(results, every=True),
        unlabelled_cells_by_target_sheet(results),
    ]
    return Tables([], [], list(filter(None, lists)), list(filter(None, long)))


def experiment_tables(results: Results, experiment: Experiment) -> Tables:
    """Tables of one experiment; those that it has no runs for are left out."""
    scores, records = results.scores, results.records
    notes = (
        *apart_notes(experiment, records),
        *contamination_notes(experiment, records, image_names(results.folder)),
    )
    crossing = crossed.grids(experiment, scores, records)
    lists = [
        crossed.effects_sheet(experiment, crossing),
        crossed.levels_sheet(experiment, crossing),
        shift_parts_sheet(experiment, scores),
        sheets.corruption_sheet(experiment, scores),
        rejection.rejection_sheet(experiment, results.rejection_counted, whole=False),
        rejection.open_set_sheet(experiment, results.open_set),
    ]
    long = [
        crossed.cells_sheet(experiment, crossing),
        rejection.rejection_sheet(experiment, results.rejection),
        rejection.rejection_sheet(experiment, results.rejection, track="transductive"),
    ]
    return Tables(
        score_tables(experiment, scores, notes),
        [class_table(experiment, scores)],
        list(filter(None, lists)),
        list(filter(None, long)),
    )
