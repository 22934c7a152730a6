"""Leaderboard: the tables of all experiments in; one list per scenario, track and metric out.

A method that several experiments plan is one line: it has one value and one interval. Marks of the
best method are not taken over, because they were tested within one experiment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from benchmark.evaluation.evidence import TOGETHER
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.scores import MAJORITY
from benchmark.metrics import HEADLINE
from benchmark.report.blocks import METRICS
from benchmark.report.explained import Glossary
from benchmark.report.results import Scores
from benchmark.report.table import Block, Cell, Column, Row, Table
from benchmark.report.write import column_support, column_title
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
    def place(self) -> tuple[str, str]:
        """Scenario and track."""
        return self.scenario.name, self.track

    @property
    def methods(self) -> list[Row]:
        return [row for row in self.rows.values() if row.method != MAJORITY]

    def add(self, experiment: Experiment, block: Block) -> None:
        """Take over a block's rows; of two of one method the one with more runs stays."""
        places = [block.place(column.key) for column in self.columns]
        for row in block.rows:
            cells = tuple(Cell(math.nan) if i is None else row.cells[i] for i in places)
            self.experiments.setdefault(row.method, []).append(experiment.experiment)
            known = self.rows.get(row.method)
            if known is None or (row.planned and row.found >= known.found):
                self.rows[row.method] = replace(row, cells=cells)


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


def as_json(
    boards: list[Board], experiments: list[Experiment], scores: Scores, words: Glossary
) -> dict[str, Any]:
    """What the page holds: all but the scores in further metrics, which are files beside it."""
    lists = [board for board in boards if board.metric == HEADLINE]
    shown = {row.method for board in lists for row in board.methods}
    return {
        "metrics": METRICS,
        "headline": HEADLINE,
        "experiments": {e.experiment: e.title.replace("`", "") for e in experiments},
        "blocks": {" ".join(part): list(block) for part, block in words.blocks.items()},
        "methods": {
            name: {
                "parts": list(map(" ".join, own.parts)),
                "members": own.members,
                "training": own.training,
                "parameters": own.millions,
                "speed": own.speed and round(own.speed),
            }
            for name, own in words.methods.items()
            if name in shown
        },
        "boards": [board_json(board, boards, scores) for board in lists],
        "scores": scores_json(boards, HEADLINE),
    }


def board_json(board: Board, boards: list[Board], scores: Scores) -> dict[str, Any]:
    """Rank and ties are by the headline's mean of targets, whatever metric is shown."""
    where = (TOGETHER, board.scenario.name, board.track)
    standings = {
        row.method: scores.standings.get((*where, row.method, HEADLINE, "mean_target"), {})
        for row in board.methods
    }
    return {
        "scenario": board.scenario.name,
        "source": board.scenario.source,
        "track": board.track,
        "metrics": [other.metric for other in boards if other.place == board.place],
        "targets": board.targets,
        "corrupted": board.scenario.corrupted,
        "rows": [
            {
                "method": row.method,
                "experiments": board.experiments[row.method],
                "found": row.found,
                "planned": row.planned,
                "runs": row.runs,
                "rank": rank_json(standings[row.method]),
            }
            for row in board.methods
        ],
    }


def scores_json(boards: list[Board], metric: str) -> list[dict[str, Any] | None]:
    """The columns of each list in a metric, and its cells, row by row; None for a list without.

    A cell is [mean, low, high] in tenths of a per cent, [mean] without an interval, or 0 without a
    value; a row of a study under way that has no run is an empty list.
    """
    shown = {board.place: board for board in boards if board.metric == metric}
    places = [board.place for board in boards if board.metric == HEADLINE]
    return [scores_of(shown[place]) if place in shown else None for place in places]


def scores_of(board: Board) -> dict[str, Any]:
    constant = board.rows.get(MAJORITY)
    return {
        "columns": list(map(column_json, board.columns)),
        "cells": [list(map(tenths, row.cells)) if row.found else [] for row in board.methods],
        "majority": constant and list(map(tenths, constant.cells)),
    }


def rank_json(standing: dict[str, Any]) -> list[int | bool] | None:
    """[rank, lowest, highest, tied with the first]; None without a value."""
    ranks = [standing.get(name) for name in ("rank", "rank_low", "rank_high")]
    if any(one is None or math.isnan(one) for one in ranks):
        return None
    return [*map(int, ranks), standing["best"] or standing["as_good"]]


def column_json(column: Column) -> dict[str, str]:
    """Key, title and the number of images below it."""
    title, note = column_title(column), column_support(column)
    if column.key == "in_domain":
        title, note = "in-domain", f"{title.replace(' (in-domain)', '')}, {note}"
    return {"key": column.key, "title": title, "note": note}


def tenths(cell: Cell) -> list[int] | int:
    """As printed, so that the page shows the tables' numbers."""
    printed = [round(10 * float(f"{value:.1f}")) for value in cell[:3] if not math.isnan(value)]
    return printed or 0
