"""Crossed grids: what each part of a method is worth, alone and with another, and at what speed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from benchmark.evaluation.comparisons import holm
from benchmark.evaluation.experiments import Experiment, RecordedRun
from benchmark.evaluation.factorial import SEED, analysis_of_variance, crossed_parts
from benchmark.metrics import HEADLINE
from benchmark.parts import ANSWERING, PLAIN
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.results import Records, Scores, counted_sets, values
from benchmark.report.sheets import OWN
from benchmark.report.table import Cell, Table, Value, sheet
from benchmark.study.runs import Scenario

HOME, SHIFTED = "in-domain", "mean of targets"
SPEED = "images/s"


@dataclass(frozen=True)
class Grid:
    """The runs of a scenario, answered alike, that cross the choices of several parts.

    Attributes:
        choices: part → its choices, in plan order.
        done: a row per done run: its choice of each part, `seed`, macro-F1 in % at home and as the
            mean of targets, images per second in training.
        planned: how many runs are planned.
    """

    source: str
    choices: dict[str, list[str]]
    done: pd.DataFrame
    planned: int

    @property
    def cells(self) -> int:
        return math.prod(len(own) for own in self.choices.values())

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The done runs of the seeds of which every cell has one.

        Else choices would be compared over different seeds: over other folds, where there are any.
        """
        return self.done[self.done.groupby(SEED)[SEED].transform("size") == self.cells]

    @property
    def empty_cells(self) -> int:
        """How many cells have no run in the seed that lacks the fewest."""
        fullest = int(self.done[SEED].value_counts().max()) if len(self.done) else 0
        return self.cells - fullest


def grids(experiment: Experiment, scores: Scores, records: Records) -> list[Grid]:
    """The crossed grids of an experiment: of each scenario, by how images are answered, since
    answers of one training are no replicates of each other."""
    blocks: dict[tuple[Scenario, tuple[str, ...]], list[RecordedRun]] = {}
    for run in experiment.runs:
        answered = {part: getattr(run.method, part) for part in ANSWERING}
        other = tuple(name for part, name in answered.items() if name != PLAIN[part])
        blocks.setdefault((run.scenario, other), []).append(run)
    found = []
    for (scenario, other), planned in blocks.items():
        methods = {run.method.name: run.method for run in planned}
        if choices := crossed_parts(methods.values()):
            lines = [
                line_of(run, choices, scenario, scores, records) for run in planned if run.done
            ]
            source = f"{scenario.source} ({', '.join(other)})" if other else scenario.source
            columns = [*choices, SEED, HOME, SHIFTED, SPEED]
            runs = pd.DataFrame(lines, columns=columns).dropna(subset=[HOME, SHIFTED])
            found.append(Grid(source, choices, runs, len(planned)))
    return found


def line_of(
    run: RecordedRun, choices: Iterable[str], scenario: Scenario, scores: Scores, records: Records
) -> list:
    """A run's choice of each part, seed, scores at home and elsewhere, and speed."""
    parts = [getattr(run.method, part) or "" for part in choices]
    home = values(scores, [run.run_id], scenario.test_sets[:1], HEADLINE)
    elsewhere = values(scores, [run.run_id], counted_sets(scenario, scores), HEADLINE)
    mean = float(elsewhere.mean()) if elsewhere.size else math.nan
    speed = records.get(run.run_id, {}).get("train_images_per_s") or math.nan
    return [*parts, run.seed, 100 * float(home[0, 0]), 100 * mean, speed]


def effects_sheet(experiment: Experiment, own: list[Grid]) -> Table | None:
    """Main effects and interactions, a line per effect; None before a grid has no empty cell."""
    rows: list[tuple[str, str, str, pd.Series]] = []
    for grid in own:
        for score in (HOME, SHIFTED) if not grid.empty_cells else ():
            runs = grid.runs.rename(columns={score: "score"})
            for _, term in analysis_of_variance(runs, list(grid.choices)).iterrows():
                rows.append((grid.source, score, term["term"], term))
    if not rows:
        return None
    adjusted = holm([term["p"] for *_, term in rows])
    lines: list[tuple[Value, ...]] = [
        (
            *where,
            int(term["freedom"]),
            Cell(100 * term["share"]),
            Cell(100 * term["partial"]),
            Cell(term["f"], decimals=1),
            probability(p),
        )
        for (*where, term), p in zip(rows, adjusted, strict=True)
    ]
    return sheet(
        f"{experiment.experiment}_effects",
        f"{experiment.title}: what macro-F1 depends on, by analysis of variance (type II) over "
        f"single runs; {found_of_planned(experiment)} runs. Share: of the variance between runs, "
        "in %. Partial: partial eta squared, the effect as a share of itself and the residual, in "
        "%. F and p: against the residual, by which the seeds of a cell differ; p after Holm's "
        f"correction for the {int(np.isfinite(adjusted).sum())} effects of this list. Seeds are "
        "blocks: each has its own order of images, and its own held-out fold where there are "
        "folds. Sampling of test images is not covered here, but by the intervals of single "
        "methods.",
        ("trained on", "score", "effect", "df", "share", "partial", "F", "p"),
        lines,
        (*single_seed_notes(own), *cell_notes(own), *gap_notes(experiment)),
        words=3,
    )


def single_seed_notes(own: list[Grid]) -> list[str]:
    """What the residual is where no cell has a second seed."""
    single = [g.source for g in own if not g.empty_cells and len(g.runs) == g.cells]
    if not single:
        return []
    return [
        f"{', '.join(single)}: a single seed in every cell, so that the residual is the "
        "interactions of three parts or more, and p-values hold only if there are none"
    ]


def probability(p: float) -> str:
    """A p-value in three decimals; a dash where nothing is tested."""
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def levels_sheet(experiment: Experiment, own: list[Grid]) -> Table | None:
    """Means over all cells that share a choice, a line per choice; None where no grid is full."""
    rows = []
    for grid in own:
        for part, choices in grid.choices.items() if not grid.empty_cells else ():
            for choice in choices:
                runs = grid.runs[grid.runs[part] == choice]
                rows.append((grid.source, part, choice or OWN, *averages(grid, runs)))
    if not rows:
        return None
    return sheet(
        f"{experiment.experiment}_levels",
        f"{experiment.title}: macro-F1 in %, mean over all cells with this choice; "
        f"{found_of_planned(experiment)} runs. "
        "In-domain: of each run's own held-out part. Drop: in-domain minus mean of targets, in "
        "points. Images/s: median of the trainings; machines shared with other work count as they "
        "were.",
        ("trained on", "part", "choice", "runs", HOME, SHIFTED, "drop", SPEED),
        rows,
        (*cell_notes(own), *gap_notes(experiment)),
        words=3,
    )


def averages(grid: Grid, runs: pd.DataFrame) -> tuple[Value, ...]:
    """Number of runs, means over their cells, in which each cell counts alike, median speed."""
    cells = runs.groupby(list(grid.choices))[[HOME, SHIFTED]].mean().mean()
    home, shifted = cells[HOME], cells[SHIFTED]
    speed = Cell(float(runs[SPEED].median()), decimals=0)
    return (len(runs), Cell(home), Cell(shifted), Cell(home - shifted), speed)


def cell_notes(own: list[Grid]) -> list[str]:
    """What of the grids is there, and which are not shown."""
    full = [grid for grid in own if not grid.empty_cells]
    shown = [
        f"{grid.source}: {len(grid.runs)} of {grid.planned} runs in {grid.cells} cells"
        for grid in full
    ]
    waiting = [
        f"{grid.source}: {left}" for grid in full if (left := len(grid.done) - len(grid.runs))
    ]
    hidden = [
        f"{grid.source} ({grid.empty_cells} of {grid.cells} cells without a run)"
        for grid in own
        if grid.empty_cells
    ]
    notes = [f"Every cell has a run: {'; '.join(shown)}"] if shown else []
    if waiting:
        notes.append(f"Runs not counted, whose seed has empty cells: {'; '.join(waiting)}")
    if hidden:
        notes.append(f"Not shown, since cells are empty: {', '.join(hidden)}")
    return notes
