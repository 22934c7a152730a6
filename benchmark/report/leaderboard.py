"""Leaderboard: the tables of all experiments in; one list per scenario, track and metric out.

A method that several experiments plan is one line: it has one value and one interval. Marks of the
best method are not taken over, because they were tested within one experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.scores import MAJORITY
from benchmark.metrics import HEADLINE
from benchmark.report.blocks import METRICS
from benchmark.report.table import Block, Cell, Column, Row, Table
from benchmark.report.write import cell_text, column_support, column_title, number
from benchmark.scenarios import corruption_of, sources_of


@dataclass(frozen=True)
class Finding:
    """What the headline metric says about one scenario, every number as printed."""

    scenario: str
    source: str
    track: str
    methods: int
    targets: int
    corrupted: bool
    """whether the targets are corruptions of the source, and no domains of their own"""
    home: str
    """the method with the highest in-domain mean, and its cells"""
    home_in_domain: Cell
    home_mean_target: Cell
    abroad: str
    """the method with the highest mean of targets, and that mean"""
    abroad_mean_target: Cell
    constant: Cell | None
    """the majority constant's mean of targets"""

    @property
    def others(self) -> str:
        """What the targets are, counted."""
        if self.corrupted:
            return f"{self.targets} corrupted copies of its test images"
        return "one other domain" if self.targets == 1 else f"{self.targets} other domains"

    @property
    def text(self) -> str:
        """The finding as two or three sentences."""
        track = "" if self.track == "inductive" else f" ({self.track})"
        several = len(sources_of(self.source))
        source = self.source if several == 1 else f"{several} domains together ({self.scenario})"
        mean = "on" if self.targets == 1 else "on average over"
        text = (
            f"Trained on {source}{track}, the method that is best there ({self.home}) has a "
            f"macro-F1 of {cell_text(self.home_in_domain)} % in-domain and of "
            f"{cell_text(self.home_mean_target)} % {mean} {self.others}."
        )
        if self.abroad != self.home:
            value = cell_text(self.abroad_mean_target)
            text += f" Best {mean} them is {self.abroad} with {value} %."
        if self.constant and not math.isnan(self.constant.mean):
            text += (
                " The majority constant, which answers the commonest class of each test set, has "
                f"{number(self.constant.mean)} % there."
            )
        return text.replace("°", "")


def leaderboard(tables: list[tuple[Experiment, Table]]) -> list[dict[str, Any]]:
    """One object per (scenario, track, metric), in the order of the experiments.

    Returns:
        objects with `scenario`, `source`, `track`, `metric`, `targets` (how many are in the mean),
        `corrupted`, `columns` (key, title, note), `rows` by method (method, experiments, found,
        planned, runs, cells) and `majority` (cells).
    """
    boards: dict[tuple[str, str, str], dict[str, Any]] = {}
    for experiment, table in tables:
        for block in table.blocks:
            key = (block.scenario.name, block.track, table.metric)
            board = boards.setdefault(key, empty_board(block, table.metric))
            places = {column.key: place for place, column in enumerate(block.columns)}
            order = [places.get(column["key"]) for column in board["columns"]]
            for row in block.rows:
                add_row(board, experiment, row, order)
    return list(boards.values())


def empty_board(block: Block, metric: str) -> dict[str, Any]:
    """A leaderboard without lines: in-domain and the summaries first, then the targets."""
    # A stable sort: the summaries come before the test sets that they are of.
    columns = sorted(block.columns, key=lambda c: not (c.key == "in_domain" or c.is_summary))
    return {
        "scenario": block.scenario.name,
        "source": block.scenario.source,
        "track": block.track,
        "metric": metric,
        "targets": len(block.counted),
        "corrupted": any(map(corruption_of, block.scenario.targets)),
        "columns": [describe(column) for column in columns],
        "rows": {},
        "majority": None,
    }


def describe(column: Column) -> dict[str, str]:
    """Key, title and the number of images below it."""
    title, note = column_title(column), column_support(column)
    if column.key == "in_domain":
        title, note = "in-domain", f"{title.replace(' (in-domain)', '')}, {note}"
    return {"key": column.key, "title": title, "note": note}


def add_row(
    board: dict[str, Any], experiment: Experiment, row: Row, order: list[int | None]
) -> None:
    """Put a method's cells into the leaderboard; of two lines the one with more runs stays."""
    cells = [Cell(math.nan) if place is None else row.cells[place] for place in order]
    if row.method == MAJORITY:
        board["majority"] = board["majority"] or cells
        return
    known = board["rows"].setdefault(row.method, {"method": row.method, "experiments": []})
    known["experiments"].append(experiment.experiment)
    if row.found >= known.get("found", 0):
        known |= {"found": row.found, "planned": row.planned, "cells": cells}
        known |= {"runs": row.runs}


def numbers(cell: Cell) -> list[float | None] | None:
    """[mean, low, high] as printed."""
    if math.isnan(cell.mean):
        return None
    return [None if math.isnan(value) else float(f"{value:.1f}") for value in cell[:3]]


def as_json(boards: list[dict[str, Any]], experiments: list[Experiment]) -> dict[str, Any]:
    """What the page's script reads.

    A cell is [mean, low, high] in per cent with one decimal, or null; low and high are null
    without an interval.
    """
    return {
        "metrics": METRICS,
        "experiments": {e.experiment: e.title for e in experiments},
        "boards": [
            board
            | {
                "rows": [
                    row | {"cells": list(map(numbers, row["cells"]))}
                    for row in board["rows"].values()
                ],
                "majority": board["majority"] and list(map(numbers, board["majority"])),
            }
            for board in boards
        ],
    }


def findings(boards: list[dict[str, Any]]) -> list[Finding]:
    """One finding per scenario and track that has a method with a run on other domains."""
    found = []
    for board in boards:
        if board["metric"] != HEADLINE:
            continue
        places = {column["key"]: place for place, column in enumerate(board["columns"])}
        if "mean_target" not in places:
            continue
        home, away = places["in_domain"], places["mean_target"]
        rows = [
            row
            for row in board["rows"].values()
            if not any(math.isnan(row["cells"][place].mean) for place in (home, away))
        ]
        if not rows:
            continue
        best_home = max(rows, key=lambda row: row["cells"][home].mean)
        best_away = max(rows, key=lambda row: row["cells"][away].mean)
        constant = board["majority"]
        found.append(
            Finding(
                board["scenario"],
                board["source"],
                board["track"],
                len(rows),
                board["targets"],
                board["corrupted"],
                best_home["method"],
                best_home["cells"][home],
                best_home["cells"][away],
                best_away["method"],
                best_away["cells"][away],
                constant[away] if constant else None,
            )
        )
    return found
