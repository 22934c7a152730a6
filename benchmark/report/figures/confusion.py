"""Confusion matrices of a scenario: methods down, test sets across."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmark.drawing import INK, PAGE_WIDTH, canvas
from benchmark.report.results import Group, Results, by_method, done_ids, shown_methods
from benchmark.scenarios import corruption_of

MOST_METHODS = 3
"""rows of a confusion figure"""
LEAST = 5
"""per cent of a true class from which a cell has its number"""
MOST_CLASSES = 8
"""classes for which the cells of a confusion matrix have room for numbers"""


def confusion_figure(results: Results, group: Group) -> Figure:
    """Confusion matrices of a scenario: methods down, test sets across, summed over seeds.

    Rows are normalised: a cell is the share of the true class in per cent. The number beside a
    row is n, the class's images in the test set (per seed).
    """
    scenario, methods = group.scenario, by_method(group.runs)
    shown, _ = shown_methods(results.scores, group, MOST_METHODS)
    shown = shown or list(methods)[:MOST_METHODS]
    classes = group.experiment.classes
    test_sets = [t for t in scenario.test_sets if corruption_of(t[0]) is None]
    # In mm.
    names = 1.5 + 1.3 * max(map(len, classes))
    left, gutter, gap, top, bottom = names + 9, 6, 3, 9, names + 8
    side = min((PAGE_WIDTH - left) / len(test_sets) - gutter, 32)
    height = top + len(shown) * (side + gap) - gap + bottom
    small = 6 if len(classes) <= MOST_CLASSES else 4
    middles = side * (np.arange(len(classes)) + 0.5) / len(classes)
    figure, axes = canvas(height)
    for down, method in enumerate(shown):
        found = done_ids(methods[method])
        y = top + down * (side + gap)
        for across, (domain, part) in enumerate(test_sets):
            x = left + across * (side + gutter)
            matrices = [results.confusions[run_id, domain, part] for run_id in found]
            total = sum(matrices, np.zeros((len(classes),) * 2, np.int64))
            draw_confusion(axes, (x, y), side, total, max(len(found), 1))
            if down == 0:
                count = int(total.sum()) // max(len(found), 1)
                place = "in-domain" if part == "id_test" else "target"
                name = "sources" if "+" in domain else domain
                where = {"ha": "center", "va": "bottom"}
                axes.text(x + side / 2, y - 4, name, fontsize=8, fontweight="bold", **where)
                axes.text(x + side / 2, y - 0.8, f"{place}, n = {count or '–'}", **where)
            if down == len(shown) - 1:
                for middle, name in zip(middles, classes, strict=True):
                    axes.text(x + middle, y + side + 0.8, name, rotation=90, ha="center",
                              va="top", fontsize=small)  # fmt: skip
        for middle, name in zip(middles, classes, strict=True):
            axes.text(left - 0.8, y + middle, name, ha="right", va="center", fontsize=small)
        lines = [*textwrap.wrap(method, 17), f"{len(found)} of {len(methods[method])} seeds"]
        axes.text(4.5, y + side / 2, "\n".join(lines), rotation=90, ha="center", va="center",
                  fontsize=6.5)  # fmt: skip
    some = f" Shown: {len(shown)} of {len(methods)} methods (highest mean of targets)."
    axes.text(
        left,
        height - 1.5,
        "Down: true class; across: predicted class. Cell: % of the true class, summed over "
        f"seeds; empty: below {LEAST}.\nBeside a row: n, images of the class in the test set."
        + (some if len(shown) < len(methods) else "")
        + f" Found {len(done_ids(group.runs))} of {len(group.runs)} planned runs.",
        fontsize=6.5,
        color=INK,
        va="bottom",
    )
    return figure


def draw_confusion(
    axes: Axes, corner: tuple[float, float], side: float, counts: np.ndarray, seeds: int
) -> None:
    """One row-normalised matrix below and right of a corner (mm); a class without images is a
    hatched row.
    """
    size = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    edges = side * np.arange(size + 1) / size
    middles = side * (np.arange(size) + 0.5) / size
    axes.pcolormesh(
        corner[0] + edges, corner[1] + edges, share, cmap="Blues", vmin=0, vmax=1,
        edgecolors="white", linewidth=0.5,
    )  # fmt: skip
    crowded = size > MOST_CLASSES
    for true in range(size):
        n = int(totals[true, 0]) // seeds
        y = corner[1] + middles[true]
        axes.text(corner[0] + side + 0.7, y, str(n), ha="left", va="center",
                  fontsize=4 if crowded else 5.5, color=INK)  # fmt: skip
        if n == 0:
            axes.add_patch(Rectangle((corner[0], corner[1] + edges[true]), side, side / size,
                                     facecolor="white", edgecolor="#BBBBBB", hatch="////",
                                     linewidth=0))  # fmt: skip
            continue
        for predicted in range(size):
            value = share[true, predicted]
            if crowded or 100 * value < LEAST:
                continue
            axes.text(
                corner[0] + middles[predicted], y, f"{100 * value:.0f}", ha="center",
                va="center_baseline", fontsize=6 if value < 0.995 else 5,
                color="white" if value > 0.55 else INK,
            )  # fmt: skip
