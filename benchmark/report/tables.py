"""Tables: which tables a report has. A new one is a function that gives it, and a line here.

They are for people, and few. For machines there is one file with everything: `published`.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmark.evaluation.experiments import Experiment
from benchmark.report import claims, crossed, features, questions, rejection, sheets
from benchmark.report.blocks import score_tables
from benchmark.report.doses import doses_sheet
from benchmark.report.facts import cells_shown, image_names
from benchmark.report.notes import apart_notes, contamination_notes, repeated_cells_notes
from benchmark.report.results import Results
from benchmark.report.shift_parts import shift_parts_sheet
from benchmark.report.table import Table
from benchmark.report.unlabelled_cells import unlabelled_cells_sheet

OVERVIEW = ""
"""Stands for all experiments together."""


class Tables(NamedTuple):
    """The tables of an experiment, or of all of them together."""

    scores: list[Table]
    """a table for each metric, the headline first; the others are for the leaderboard alone"""
    sheets: list[Table]

    @property
    def printed(self) -> list[Table]:
        """Those that become files in `tables/`, by name."""
        return sorted([*self.scores[:1], *self.sheets], key=lambda table: table.name)


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
        rejection.rejection_sheet(results),
        rejection.rejectors_sheet(results),
        rejection.open_set_sheet(results),
        questions.differential_sheet(results),
        questions.labels_needed_sheet(results),
        questions.local_thresholds_sheet(results),
        questions.unlabelled_sheet(results),
        unlabelled_cells_sheet(results),
        questions.severity_sheet(results),
        questions.same_cells_sheet(results),
        features.features_sheet(results),
        features.labelled_cells_sheet(results),
        sheets.work_sheet(results),
        sheets.throughput_sheet(results),
    ]
    return Tables([], list(filter(None, lists)))


def experiment_tables(results: Results, experiment: Experiment) -> Tables:
    """Tables of one experiment; those that it has no runs for are left out."""
    scores, records = results.scores, results.records
    notes = (
        *apart_notes(experiment, records),
        *contamination_notes(experiment, records, image_names(results.folder)),
        *repeated_cells_notes(experiment, cells_shown(results.folder)),
    )
    crossing = crossed.grids(experiment, scores, records)
    lists = [
        crossed.effects_sheet(experiment, crossing),
        crossed.levels_sheet(experiment, crossing),
        shift_parts_sheet(experiment, scores),
        sheets.corruption_sheet(experiment, scores),
        doses_sheet(results, experiment),
    ]
    return Tables(score_tables(experiment, scores, notes), list(filter(None, lists)))
