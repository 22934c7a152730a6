"""Forest: macro-F1 with 95 % intervals, a row per method and a column per test set."""

from __future__ import annotations

import math

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.evaluation.evaluate import MAJORITY
from benchmark.evaluation.experiments import Experiment
from benchmark.report.figures.style import (
    CONSTANT,
    FAINT,
    IN_DOMAIN,
    INK,
    PAGE_WIDTH,
    SHIFTED,
    STYLE,
    page,
)
from benchmark.report.tables import (
    METRICS,
    Block,
    Column,
    Row,
    Scores,
    build_block,
    by_method,
    done_ids,
    values,
)

HEADLINE = next(iter(METRICS))
ROW = 3.9
"""mm"""
FRAME = 20.0
"""mm of a panel's titles and axis"""
GAP = 3.6
"""mm between columns"""
PAGE_HEIGHT = 225.0
"""mm; what is longer goes on to the next figure"""
TEXT = "95 % intervals hold other test images and, where several seeds ran, other seeds."

Panel = tuple[Block, list[Row]]
Seeds = dict[tuple[str, str], np.ndarray]
"""(method, column) → per cent of each seed"""


def forest_figures(experiment: Experiment, scores: Scores) -> list[Figure]:
    """Macro-F1 of every method with intervals; one panel per scenario and track.

    Methods are sorted by their mean of targets, the best on top. A filled mark is the best of its
    column or not shown to be worse, an outline is shown to be worse.
    """
    pages: list[list[Panel]] = []
    room = 0.0
    for scenario, track in experiment.blocks():
        block = build_block(scores, experiment, scenario, track, HEADLINE)
        rows = sorted_rows(block)
        height = FRAME + ROW * len(rows)
        if not pages or room < height:
            pages.append([])
            room = PAGE_HEIGHT
        pages[-1].append((block, rows))
        room -= height
    return [draw_page(experiment, scores, panels) for panels in pages]


def sorted_rows(block: Block) -> list[Row]:
    """Methods by mean of targets (in-domain without one), what was not run last."""
    keys = [column.key for column in block.columns]
    place = keys.index("mean_target" if "mean_target" in keys else "in_domain")

    def rank(row: Row) -> float:
        mean = row.cells[place].mean
        return math.inf if math.isnan(mean) else -mean

    return sorted((row for row in block.rows if row.method != MAJORITY), key=rank)


def draw_page(experiment: Experiment, scores: Scores, panels: list[Panel]) -> Figure:
    """One figure of panels below each other, placed by hand: an automatic layout is slow."""
    heights = [FRAME + ROW * len(rows) for _, rows in panels]
    total = sum(heights) + 7
    top = total
    with matplotlib.style.context(STYLE):
        figure = page(total, automatic=False)
        for (block, rows), height in zip(panels, heights, strict=True):
            found, planned = (
                sum(getattr(row, key) for row in rows) for key in ("found", "planned")
            )
            track = "" if block.track == "inductive" else f", {block.track}"
            figure.text(
                1.5 / PAGE_WIDTH,
                (top - 1.5) / total,
                f"Trained on {block.scenario.short_source}{track}: "
                f"found {found} of {planned} planned runs",
                va="top",
                fontsize=8,
                fontweight="bold",
            )
            shown = [column for column in block.columns if column.key != "shift_drop"]
            seeds = seed_values(experiment, scores, block)
            left = 1.3 * max(map(len, names_of(rows))) + 3
            side = (PAGE_WIDTH - left - 3 - GAP * (len(shown) - 1)) / len(shown)
            tall = ROW * len(rows)
            for place, column in enumerate(shown):
                x, y = left + place * (side + GAP), top - 12 - tall
                axes = figure.add_axes((x / PAGE_WIDTH, y / total, side / PAGE_WIDTH, tall / total))
                draw_column(axes, block, rows, column, seeds)
                axes.set_yticks(range(len(rows)), [] if place else names_of(rows), fontsize=6.5)
                if not place:
                    axes.set_xlabel("macro-F1 (%)", fontsize=6.5)
            top -= height
        figure.legend(handles=legend(), loc="lower left", ncols=5, fontsize=6.5)
    return figure


def seed_values(experiment: Experiment, scores: Scores, block: Block) -> Seeds:
    """Per cent of each seed on each test set, and the mean of targets of each."""
    found: Seeds = {}
    scenario = block.scenario
    runs = experiment.blocks()[scenario, block.track]
    names = ["in_domain", *scenario.targets]
    for method, planned in by_method(runs).items():
        table = 100 * values(scores, done_ids(planned), scenario.test_sets, HEADLINE)
        found |= {(method, name): table[:, place] for place, name in enumerate(names)}
        if scenario.targets:
            found[method, "mean_target"] = table[:, 1:].mean(axis=1)
            found[method, "worst_target"] = table[:, 1:].min(axis=1)
    return found


def draw_column(axes: Axes, block: Block, rows: list[Row], column: Column, seeds: Seeds) -> None:
    """Means, intervals and seeds of every method in one column."""
    place = [c.key for c in block.columns].index(column.key)
    colour = {"in_domain": IN_DOMAIN, "mean_target": SHIFTED}.get(column.key, INK)
    for y, row in enumerate(rows):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#F5F5F5", linewidth=0, zorder=0)
        cell = row.cells[place]
        if math.isnan(cell.mean):
            continue
        if not math.isnan(cell.low):
            axes.plot([cell.low, cell.high], [y, y], color=colour, linewidth=0.9, zorder=2)
        dots = seeds.get((row.method, column.key), ())
        axes.plot(dots, [y + 0.28] * len(dots), ".", color=FAINT, markersize=2.2, zorder=1)
        axes.plot(
            [cell.mean], [y], "o", markersize=3.6, markeredgewidth=0.8, markeredgecolor=colour,
            markerfacecolor=colour if cell.best or cell.as_good else "white", zorder=3,
            clip_on=False,
        )  # fmt: skip
    constant = [row.cells[place].mean for row in block.rows if row.method == MAJORITY]
    if constant and not math.isnan(constant[0]):
        axes.axvline(constant[0], color=CONSTANT, linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    title = {"in_domain": "in-domain"}.get(column.key, column.title)
    n = f"n = {column.n}" if column.n else ""
    axes.set_title(
        f"{title}\n{n}", loc="center", fontsize=6.5, color=colour,
        fontweight="bold" if colour != INK else "normal", pad=2,
    )  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks([0, 50, 100], ["0", "50", "100"], fontsize=6)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def names_of(rows: list[Row]) -> list[str]:
    """Names of methods, with found of planned runs where some are missing."""
    return [
        row.method + ("" if row.found == row.planned else f" ({row.found}/{row.planned})")
        for row in rows
    ]


def legend() -> list[Line2D]:
    """What the marks mean."""

    def mark(label: str, **style: object) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "none", "color": INK} | style)

    return [
        mark("mean, best or not shown to be worse", marker="o", markersize=3.6),
        mark("shown to be worse", marker="o", markersize=3.6, markerfacecolor="white"),
        mark("95 % interval", linestyle="-", linewidth=0.9),
        mark("one seed", marker=".", markersize=2.2, color=FAINT),
        mark("majority constant", linestyle=(0, (3, 2)), linewidth=0.8, color=CONSTANT),
    ]
