"""Intervals: macro-F1 of every method with 95 % intervals, as forest plot."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from benchmark.drawing import CONSTANT, FAINT, IN_DOMAIN, INK, PAGE_WIDTH, SHIFTED, canvas, ruler
from benchmark.evaluation.columns import summarise
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.scores import MAJORITY
from benchmark.metrics import HEADLINE
from benchmark.report.blocks import build_block
from benchmark.report.results import Scores, done_ids, short_source, values
from benchmark.report.table import Block, Cell, Column, Row

ROW = 3.9
"""mm"""
FRAME = 20.0
"""mm of a panel's titles and axis"""
GAP = 3.6
"""mm between columns"""
NARROW = 12.0
"""mm of a column in which the numbers of three ticks would touch"""
LONG = 36
"""Letters of a name beyond which all are set smaller, so that the columns keep their room."""
PAGE_HEIGHT = 225.0
"""mm; what is longer goes on to the next figure"""
TEXT = "95 % intervals cover the sampling of test images and, where several seeds ran, of seeds."

Panel = tuple[Block, list[Row]]
Seeds = dict[tuple[str, str], np.ndarray]
"""(method, column) → per cent of each seed"""


def forest_pages(experiment: Experiment, scores: Scores) -> list[list[Panel]]:
    """What each figure of an experiment shows: one panel per scenario and track.

    Methods are sorted by their mean of targets, the best on top. A scenario in which nothing has
    run yet has no panel.
    """
    pages: list[list[Panel]] = []
    room = 0.0
    for (scenario, track), runs in experiment.blocks().items():
        if not done_ids(runs):
            continue
        block = build_block(scores, experiment, scenario, track, HEADLINE)
        rows = sorted_rows(block)
        height = FRAME + ROW * len(rows)
        if not pages or room < height:
            pages.append([])
            room = PAGE_HEIGHT
        pages[-1].append((block, rows))
        room -= height
    return pages


def sorted_rows(block: Block) -> list[Row]:
    """Methods with a run, by mean of targets (in-domain without one)."""
    away = block.place("mean_target")
    place = block.place("in_domain") if away is None else away

    def rank(row: Row) -> float:
        mean = row.cells[place].mean
        return math.inf if math.isnan(mean) else -mean

    return sorted((row for row in block.rows if row.found), key=rank)


def forest_figure(scores: Scores, panels: list[Panel]) -> Figure:
    """Macro-F1 of every method with intervals, panels below each other.

    A filled mark is the best of its column or not shown to be worse, an outline is shown to be
    worse.
    """
    heights = [FRAME + ROW * len(rows) for _, rows in panels]
    top = 0.0
    figure, axes = canvas(sum(heights) + 7)
    for (block, rows), height in zip(panels, heights, strict=True):
        draw_panel(axes, top, block, rows, seed_values(scores, block))
        top += height
    figure.legend(handles=legend(), loc="lower left", ncols=5, fontsize=6.5)
    return figure


def draw_panel(axes: Axes, top: float, block: Block, rows: list[Row], seeds: Seeds) -> None:
    """One scenario and track, from `top` down (mm): names on the left, then a box per column."""
    found, planned = (sum(getattr(row, key) for row in block.rows) for key in ("found", "planned"))
    track = "" if block.track == "inductive" else f", {block.track}"
    text = (
        f"Trained on {short_source(block.scenario)}{track}: found {found} of {planned} planned runs"
    )
    if waiting := sum(row.planned > 0 for row in block.rows) - len(rows):
        text += f" ({waiting} method{'s have' if waiting > 1 else ' has'} none and no row)"
    axes.text(1.5, top + 1.5, text, va="top", fontsize=8, fontweight="bold")
    shown = [c for c in block.columns if c.key != "shift_drop" and not c.beside]
    longest = max(map(len, names_of(rows)))
    points = 5.0 if longest > LONG else 6.5
    left = 0.2 * points * longest + 3
    side = (PAGE_WIDTH - left - 4 - GAP * (len(shown) - 1)) / len(shown)
    y = (top + 12, top + 12 + ROW * len(rows))
    for place, name in enumerate(names_of(rows)):
        middle = y[0] + ROW * (place + 0.5)
        axes.text(left - 1.5, middle, name, ha="right", va="center", fontsize=points)
    for place, column in enumerate(shown):
        x = left + place * (side + GAP)
        draw_column(axes, (x, x + side), y, block, rows, column, seeds)
    axes.text(left, y[1] + 4, "macro-F1 (%)", va="top", fontsize=6.5)


def seed_values(scores: Scores, block: Block) -> Seeds:
    """Per cent of each seed that is done anywhere in the profile, in every column."""
    found: Seeds = {}
    scenario = block.scenario
    for row in block.rows:
        ids = scores.runs.get((scenario.name, row.method), [])
        table = 100 * values(scores, ids, scenario.test_sets, HEADLINE)
        columns = summarise(list(table.T), scenario, block.counted)
        found |= {(row.method, name): own for name, own in columns.items()}
    return found


def not_worse(cell: Cell, column: list[Cell]) -> bool:
    """Whether a cell is not shown to be worse than another one; where none is best, none is."""
    return cell.best or cell.as_good or not any(other.best for other in column)


def draw_column(
    axes: Axes,
    x: tuple[float, float],
    y: tuple[float, float],
    block: Block,
    rows: list[Row],
    column: Column,
    seeds: Seeds,
) -> None:
    """Means, intervals and seeds of every method in one column, in a box that spans x and y."""
    place = block.place(column.key)
    colour = {"in_domain": IN_DOMAIN, "mean_target": SHIFTED}.get(column.key, INK)
    height = y[0] + ROW * (np.arange(len(rows)) + 0.5)

    def at(value: np.ndarray | float) -> np.ndarray | float:
        return x[0] + (x[1] - x[0]) * value / 100

    bands = [(x[0], start - ROW / 2) for start in height[::2]]
    axes.add_collection(
        PatchCollection(
            [Rectangle(corner, x[1] - x[0], ROW) for corner in bands],
            facecolor="#F5F5F5", linewidth=0, zorder=0,
        )
    )  # fmt: skip
    narrow = x[1] - x[0] < NARROW
    ruler(axes, x, y, (0, 100) if narrow else (0, 50, 100))
    cells = [row.cells[place] for row in rows]
    low, high, mean = (
        at(np.array([getattr(c, key) for c in cells])) for key in ("low", "high", "mean")
    )
    some = ~np.isnan(low)
    axes.hlines(height[some], low[some], high[some], colors=colour, linewidth=0.9, zorder=2)
    dots = [
        (at(value), middle + 0.28 * ROW)
        for row, middle in zip(rows, height, strict=True)
        for value in seeds.get((row.method, column.key), ())
    ]
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", color=FAINT, markersize=2.2, zorder=1)
    good = np.array([not_worse(cell, cells) for cell in cells])
    for chosen, face in ((good, colour), (~good, "white")):
        axes.plot(
            mean[chosen], height[chosen], "o", markersize=3.6, markeredgewidth=0.8,
            markeredgecolor=colour, markerfacecolor=face, zorder=3,
        )  # fmt: skip
    constant = [row.cells[place].mean for row in block.rows if row.method == MAJORITY]
    if constant and not math.isnan(constant[0]):
        axes.vlines(at(constant[0]), *y, colors=CONSTANT, linewidth=0.8, linestyle=(0, (3, 2)),
                    zorder=1)  # fmt: skip
    name = {"in_domain": "in-domain"}.get(column.key, column.title)
    lines = (name, f"n = {column.n}") if column.n else name.rsplit(" ", 1)
    axes.text(
        (x[0] + x[1]) / 2, y[0] - 0.8, "\n".join(lines), ha="center", va="bottom",
        fontsize=5.8 if narrow else 6.5, color=colour,
        fontweight="bold" if colour != INK else "normal",
    )  # fmt: skip


def names_of(rows: list[Row]) -> list[str]:
    """Names of methods, with found of planned runs where some are missing."""
    return [
        row.method + ("" if row.found == row.planned else f" ({row.found}/{row.planned})")
        for row in rows
    ]


def legend() -> list[Line2D]:
    def mark(label: str, **style: object) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "none", "color": INK} | style)

    return [
        mark("mean, best or not shown to be worse", marker="o", markersize=3.6),
        mark("shown to be worse", marker="o", markersize=3.6, markerfacecolor="white"),
        mark("95 % interval", linestyle="-", linewidth=0.9),
        mark("one seed", marker=".", markersize=2.2, color=FAINT),
        mark("majority constant", linestyle=(0, (3, 2)), linewidth=0.8, color=CONSTANT),
    ]
