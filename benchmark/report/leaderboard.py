"""Leaderboard: the tables of all experiments in; one list per scenario, track and metric out.

A method that several experiments plan is one line: it has one value and one interval. Marks of the
best method are not taken over, because they were tested within one experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.scores import MAJORITY
from benchmark.metrics import HEADLINE
from benchmark.report.blocks import METRICS
from benchmark.report.table import Block, Cell, Column, Row, Table
from benchmark.report.write import cell_text, column_support, column_title, number
from benchmark.scenarios import corruption_of, sources_of
from benchmark.study.runs import Scenario


@dataclass(frozen=True)
class Board:
    """All methods in one scenario, track and metric."""

    scenario: Scenario
    track: str
    metric: str
    targets: int
    """how many are in the mean"""
    columns: tuple[Column, ...]
    """in-domain and the summaries first, then the targets"""
    rows: dict[str, Row] = field(default_factory=dict)
    """by method, the majority constant among them"""
    experiments: dict[str, list[str]] = field(default_factory=dict)
    """method → the experiments that plan it"""

    @property
    def methods(self) -> list[Row]:
        return [row for row in self.rows.values() if row.method != MAJORITY]

    def place(self, key: str) -> int | None:
        return Block(self.columns, ()).place(key)

    def add(self, experiment: Experiment, block: Block) -> None:
        """Take over a block's rows; of two of one method the one with more runs stays."""
        places = [block.place(column.key) for column in self.columns]
        for row in block.rows:
            cells = tuple(Cell(math.nan) if i is None else row.cells[i] for i in places)
            self.experiments.setdefault(row.method, []).append(experiment.experiment)
            known = self.rows.get(row.method)
            if known is None or (row.planned and row.found >= known.found):
                self.rows[row.method] = replace(row, cells=cells)


class Finding(NamedTuple):
    """What the headline metric says about one scenario, every number as printed."""

    scenario: str
    source: str
    track: str
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
            f"Trained on {source}{track}, the best method in-domain ({self.home}) reaches a "
            f"macro-F1 of {cell_text(self.home_in_domain)} % in-domain and of "
            f"{cell_text(self.home_mean_target)} % {mean} {self.others}."
        )
        if self.abroad != self.home:
            value = cell_text(self.abroad_mean_target)
            text += f" Best {mean} them is {self.abroad} with {value} %."
        if self.constant and not math.isnan(self.constant.mean):
            text += (
                " The majority constant, which predicts the most frequent class of each test set, "
                f"scores {number(self.constant.mean)} % there."
            )
        return text.replace("°", "")


def leaderboard(tables: list[tuple[Experiment, Table]]) -> list[Board]:
    boards: dict[tuple[str, str, str], Board] = {}
    for experiment, table in tables:
        for block in table.blocks:
            key = (block.scenario.name, block.track, table.metric)
            if key not in boards:
                # A stable sort: the summaries come before the test sets that they are of.
                columns = sorted(
                    block.columns, key=lambda c: not (c.key == "in_domain" or c.is_summary)
                )
                own = (block.scenario, block.track, table.metric, len(block.counted))
                boards[key] = Board(*own, tuple(columns))
            boards[key].add(experiment, block)
    return list(boards.values())


def findings(boards: list[Board]) -> list[Finding]:
    """One finding per scenario and track that has a method with a run on other domains."""
    found = []
    for board in boards:
        home, away = board.place("in_domain"), board.place("mean_target")
        if board.metric != HEADLINE or away is None:
            continue
        rows = [
            row
            for row in board.methods
            if not any(math.isnan(row.cells[place].mean) for place in (home, away))
        ]
        if not rows:
            continue
        best_home, best_away = (max(rows, key=lambda r, i=i: r.cells[i].mean) for i in (home, away))
        constant = board.rows.get(MAJORITY)
        found.append(
            Finding(
                board.scenario.name,
                board.scenario.source,
                board.track,
                board.targets,
                any(map(corruption_of, board.scenario.targets)),
                best_home.method,
                best_home.cells[home],
                best_home.cells[away],
                best_away.method,
                best_away.cells[away],
                constant and constant.cells[away],
            )
        )
    return found


def as_json(boards: list[Board], experiments: list[Experiment]) -> dict[str, Any]:
    """What the page's script reads.

    A cell is [mean, low, high] in per cent with one decimal, or null; low and high are null
    without an interval.
    """
    return {
        "metrics": METRICS,
        "experiments": {e.experiment: e.title for e in experiments},
        "boards": list(map(board_json, boards)),
    }


def board_json(board: Board) -> dict[str, Any]:
    constant = board.rows.get(MAJORITY)
    return {
        "scenario": board.scenario.name,
        "source": board.scenario.source,
        "track": board.track,
        "metric": board.metric,
        "targets": board.targets,
        "corrupted": any(map(corruption_of, board.scenario.targets)),
        "columns": list(map(column_json, board.columns)),
        "rows": [
            {
                "method": row.method,
                "experiments": board.experiments[row.method],
                "found": row.found,
                "planned": row.planned,
                "runs": row.runs,
                "cells": list(map(numbers, row.cells)),
            }
            for row in board.methods
        ],
        "majority": constant and list(map(numbers, constant.cells)),
    }


def column_json(column: Column) -> dict[str, str]:
    """Key, title and the number of images below it."""
    title, note = column_title(column), column_support(column)
    if column.key == "in_domain":
        title, note = "in-domain", f"{title.replace(' (in-domain)', '')}, {note}"
    return {"key": column.key, "title": title, "note": note}


def numbers(cell: Cell) -> list[float | None] | None:
    """[mean, low, high] as printed."""
    if math.isnan(cell.mean):
        return None
    return [None if math.isnan(value) else float(f"{value:.1f}") for value in cell[:3]]
