"""Dumbbell: the way from in-domain to the mean of targets, a line per method, by normalisation."""

from __future__ import annotations

import math

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.evaluation.experiments import Experiment, Run, Scenario
from benchmark.report.figures.forest import HEADLINE
from benchmark.report.figures.style import FAINT, IN_DOMAIN, SHIFTED, STYLE, page
from benchmark.report.tables import Scores, by_method, cell

ROW = 4.2
"""mm"""
ACROSS = 2
"""panels side by side"""


def dumbbell_figure(experiment: Experiment, scores: Scores) -> Figure:
    """In-domain and mean of targets of every method with intervals, grouped by normalisation."""
    blocks = list(experiment.blocks().items())
    lines = [(where, grouped(runs)) for where, runs in blocks]
    rows = -(-len(lines) // ACROSS)
    most = [
        max(len(methods) for _, methods in lines[start : start + ACROSS])
        for start in range(0, len(lines), ACROSS)
    ]
    heights = [ROW * count + 13 for count in most]
    with matplotlib.style.context(STYLE):
        figure = page(sum(heights) + 6)
        panels = figure.subplots(
            rows, min(ACROSS, len(lines)), squeeze=False, height_ratios=heights
        ).ravel()
        for axes in panels[len(lines) :]:
            axes.set_visible(False)
        for axes, ((scenario, track), methods) in zip(panels, lines, strict=False):
            draw(axes, experiment, scores, (scenario, track), methods)
        handles = [
            Line2D([], [], marker=m, color=c, label=label, markerfacecolor="white", linewidth=0.9)
            for m, c, label in (
                ("o", IN_DOMAIN, "in-domain, 95 % interval"),
                ("D", SHIFTED, "mean of targets, 95 % interval"),
            )
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return figure


def grouped(runs: list[Run]) -> list[tuple[str, str]]:
    """(normalisation, method) of a block, methods of one normalisation together."""
    named = {method: own[0].method.normalisation or "–" for method, own in by_method(runs).items()}
    order = list(dict.fromkeys(named.values()))
    return sorted(((kind, m) for m, kind in named.items()), key=lambda pair: order.index(pair[0]))


def draw(
    axes: Axes,
    experiment: Experiment,
    scores: Scores,
    where: tuple[Scenario, str],
    methods: list[tuple[str, str]],
) -> None:
    """One scenario and track."""
    scenario, track = where
    block = (experiment.experiment, scenario.name, track)
    kinds = list(dict.fromkeys(kind for kind, _ in methods))
    for y, (kind, method) in enumerate(methods):
        if kinds.index(kind) % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#F1F1F1", linewidth=0, zorder=0)
        ends = [
            cell(scores, block, method, HEADLINE, "", key) for key in ("in_domain", "mean_target")
        ]
        axes.plot([end.mean for end in ends], [y, y], color=FAINT, linewidth=2.2, zorder=1)
        styles = ((IN_DOMAIN, "o", -0.22), (SHIFTED, "D", 0.22))
        for end, (colour, marker, shift) in zip(ends, styles, strict=True):
            if math.isnan(end.mean):
                continue
            if not math.isnan(end.low):
                axes.plot([end.low, end.high], [y + shift] * 2, color=colour, linewidth=0.9)
            axes.plot(
                [end.mean], [y], marker, color=colour, markersize=4, markerfacecolor="white",
                markeredgewidth=0.9, zorder=3, clip_on=False,
            )  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(len(methods) - 0.5, -0.5))
    axes.set_yticks(range(len(methods)), [method for _, method in methods], fontsize=6.5)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("macro-F1 (%)")
    suffix = "" if track == "inductive" else f", {track}"
    axes.set_title(f"Trained on {scenario.short_source}{suffix}", fontsize=7.5)
