"""Dumbbell: the way from in-domain to the mean of targets, a line per method, by normalisation."""

from __future__ import annotations

import math

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.evaluation.experiments import Experiment, Run, Scenario
from benchmark.metrics import HEADLINE
from benchmark.report.figures.style import (
    FAINT,
    IN_DOMAIN,
    PAGE_WIDTH,
    SHIFTED,
    STYLE,
    canvas,
    ruler,
)
from benchmark.report.results import Scores, by_method, cell

ROW = 4.2
"""mm"""
FRAME = 16.0
"""mm of a panel's title and scale"""
ACROSS = 2
"""panels side by side"""


def dumbbell_figure(experiment: Experiment, scores: Scores) -> Figure:
    """In-domain and mean of targets of every method with intervals, grouped by normalisation."""
    lines = [(where, grouped(runs)) for where, runs in experiment.blocks().items()]
    rows = [lines[start : start + ACROSS] for start in range(0, len(lines), ACROSS)]
    heights = [FRAME + ROW * max(len(methods) for _, methods in row) for row in rows]
    names = 1.3 * max(len(name) for _, methods in lines for _, name in methods) + 3
    across = PAGE_WIDTH / min(ACROSS, len(lines))
    top = 0.0
    with matplotlib.style.context(STYLE):
        figure, axes = canvas(sum(heights) + 6)
        for row, height in zip(rows, heights, strict=True):
            for place, (where, methods) in enumerate(row):
                x = (place * across + names, (place + 1) * across - 4)
                draw(axes, x, top, experiment, scores, where, methods)
            top += height
        handles = [
            Line2D([], [], marker=m, color=c, label=label, markerfacecolor="white", linewidth=0.9)
            for m, c, label in (
                ("o", IN_DOMAIN, "in-domain, 95 % interval"),
                ("D", SHIFTED, "mean of targets, 95 % interval"),
            )
        ]
        figure.legend(handles=handles, loc="lower left", ncols=2)
    return figure


def grouped(runs: list[Run]) -> list[tuple[str, str]]:
    """(normalisation, method) of a block, methods of one normalisation together."""
    named = {method: own[0].method.normalisation or "–" for method, own in by_method(runs).items()}
    order = list(dict.fromkeys(named.values()))
    return sorted(((kind, m) for m, kind in named.items()), key=lambda pair: order.index(pair[0]))


def draw(
    axes: Axes,
    x: tuple[float, float],
    top: float,
    experiment: Experiment,
    scores: Scores,
    where: tuple[Scenario, str],
    methods: list[tuple[str, str]],
) -> None:
    """One scenario and track, its scale spanning x, from `top` down (mm)."""
    scenario, track = where
    block = (experiment.experiment, scenario.name, track)
    kinds = list(dict.fromkeys(kind for kind, _ in methods))
    y = (top + 6, top + 6 + ROW * len(methods))
    ruler(axes, x, y, range(0, 101, 20))

    def at(value: float) -> float:
        return x[0] + (x[1] - x[0]) * value / 100

    for place, (kind, method) in enumerate(methods):
        middle = y[0] + ROW * (place + 0.5)
        axes.text(x[0] - 1.5, middle, method, ha="right", va="center", fontsize=6.5)
        if kinds.index(kind) % 2 == 0:
            axes.fill_between(x, middle - ROW / 2, middle + ROW / 2, color="#F1F1F1", linewidth=0,
                              zorder=0)  # fmt: skip
        ends = [
            cell(scores, block, method, HEADLINE, "", key) for key in ("in_domain", "mean_target")
        ]
        axes.plot([at(e.mean) for e in ends], [middle] * 2, color=FAINT, linewidth=2.2, zorder=1)
        styles = ((IN_DOMAIN, "o", -0.22), (SHIFTED, "D", 0.22))
        for end, (colour, marker, shift) in zip(ends, styles, strict=True):
            if math.isnan(end.mean):
                continue
            if not math.isnan(end.low):
                beside = [middle + ROW * shift] * 2
                axes.plot([at(end.low), at(end.high)], beside, color=colour, linewidth=0.9)
            axes.plot(
                [at(end.mean)], [middle], marker, color=colour, markersize=4,
                markerfacecolor="white", markeredgewidth=0.9, zorder=3,
            )  # fmt: skip
    axes.text((x[0] + x[1]) / 2, y[1] + 4.6, "macro-F1 (%)", ha="center", va="top")
    suffix = "" if track == "inductive" else f", {track}"
    text = f"Trained on {scenario.short_source}{suffix}"
    axes.text(x[0], y[0] - 1.2, text, va="bottom", fontsize=7.5, fontweight="bold")
