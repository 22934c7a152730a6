"""Confusion matrices of a scenario: methods down, test sets across."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.config import corruption_of
from benchmark.evaluation.experiments import Experiment, Run, Scenario, done_runs
from benchmark.report.figures.style import INK, MILLIMETRE, PAGE_WIDTH, STYLE, shown_methods
from benchmark.report.tables import Scores, by_method, done_ids, read_evaluated

MOST_METHODS = 4
"""rows of a confusion figure"""
MOST_CLASSES = 8
"""classes for which the cells of a confusion matrix have room for numbers"""

Confusions = dict[tuple[str, str, str], np.ndarray]
"""(run_id, domain, part) → counts, true × predicted."""


def load_confusions(results: Path, experiments: list[Experiment]) -> Confusions:
    """Read `confusion.parquet`; corruptions are left out."""
    classes = {run_id: classes for run_id, (_, classes) in done_runs(experiments).items()}
    table = read_evaluated(Path(results) / "confusion.parquet", experiments)
    confusions: Confusions = {}
    columns = ("run_id", "domain", "part", "true", "predicted", "count")
    rows = zip(*(table[name] for name in columns), strict=True)
    for run_id, domain, part, true, predicted, count in rows:
        if corruption_of(domain) is None:
            names = classes[run_id]
            matrix = confusions.get((run_id, domain, part))
            if matrix is None:
                matrix = confusions[run_id, domain, part] = np.zeros((len(names),) * 2, np.int64)
            matrix[names.index(true), names.index(predicted)] = count
    return confusions


def confusion_figure(
    experiment: Experiment,
    scenario: Scenario,
    runs: list[Run],
    scores: Scores,
    confusions: Confusions,
) -> Figure:
    """Confusion matrices of a scenario: methods down, test sets across, summed over seeds.

    Rows are normalised: a cell is the share of the true class in per cent. The number beside a
    row is n, the class's images in the test set (per seed).
    """
    methods = by_method(runs)
    shown, _ = shown_methods(scenario, runs, scores, MOST_METHODS)
    shown = shown or list(methods)[:MOST_METHODS]
    classes = experiment.classes
    test_sets = [t for t in scenario.test_sets if corruption_of(t[0]) is None]
    columns = len(test_sets)
    # In mm. Placed by hand: hundreds of numbers make an automatic layout slow.
    names = 1.5 + 1.3 * max(map(len, classes))
    left, gutter, gap, top, bottom = names + 9, 6, 3, 9, names + 8
    side = min((PAGE_WIDTH - left) / columns - gutter, 32)
    height = top + len(shown) * (side + gap) - gap + bottom
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH * MILLIMETRE, height * MILLIMETRE))
        for down, method in enumerate(shown):
            found = done_ids(methods[method])
            for across, (domain, part) in enumerate(test_sets):
                x, y = (
                    left + across * (side + gutter),
                    bottom + (len(shown) - 1 - down) * (side + gap),
                )
                axes = figure.add_axes(
                    (x / PAGE_WIDTH, y / height, side / PAGE_WIDTH, side / height)
                )
                matrices = [confusions[run_id, domain, part] for run_id in found]
                total = sum(matrices, np.zeros((len(classes),) * 2, np.int64))
                draw_confusion(axes, total, max(len(found), 1))
                ticks = np.arange(len(classes))
                last = down == len(shown) - 1
                size = 6 if len(classes) <= MOST_CLASSES else 4
                axes.set_xticks(ticks, classes if last else [], rotation=90, fontsize=size)
                axes.set_yticks(ticks, classes if across == 0 else [], fontsize=size)
                if down == 0:
                    count = int(total.sum()) // max(len(found), 1)
                    place = "in-domain" if part == "id_test" else "target"
                    axes.set_title("sources" if "+" in domain else domain, loc="center", pad=11)
                    axes.annotate(
                        f"{place}, n = {count or '–'}", (0.5, 1), xytext=(0, 3),
                        xycoords="axes fraction", textcoords="offset points", ha="center",
                    )  # fmt: skip
            lines = [*textwrap.wrap(method, 17), f"{len(found)} of {len(methods[method])} seeds"]
            middle = (bottom + (len(shown) - 1 - down) * (side + gap) + side / 2) / height
            figure.text(
                4.5 / PAGE_WIDTH, middle, "\n".join(lines), rotation=90, ha="center", va="center",
                fontsize=6.5,
            )  # fmt: skip
        some = f" Shown: {len(shown)} of {len(methods)} methods (highest mean of targets)."
        figure.text(
            left / PAGE_WIDTH,
            1.5 / height,
            "Down: true class; across: predicted class. Cell: % of the true class, summed over "
            "seeds; empty: rounds to 0.\nBeside a row: n, images of the class in the test set."
            + (some if len(shown) < len(methods) else "")
            + f" Found {len(done_ids(runs))} of {len(runs)} planned runs.",
            fontsize=6.5,
            color=INK,
            va="bottom",
        )
    return figure


def draw_confusion(axes: Axes, counts: np.ndarray, seeds: int) -> None:
    """One row-normalised matrix; a class without images is a hatched row."""
    size = len(counts)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    axes.pcolormesh(
        np.arange(size + 1) - 0.5, np.arange(size + 1) - 0.5, share, cmap="Blues", vmin=0, vmax=1,
        edgecolors="white", linewidth=0.5,
    )  # fmt: skip
    crowded = size > MOST_CLASSES
    for true in range(size):
        n = int(totals[true, 0]) // seeds
        axes.text(size - 0.35, true, str(n), ha="left", va="center",
                  fontsize=4 if crowded else 5.5, color=INK)  # fmt: skip
        if n == 0:
            axes.axhspan(true - 0.5, true + 0.5, facecolor="white", edgecolor="#BBBBBB",
                         hatch="////", linewidth=0)  # fmt: skip
            continue
        for predicted in range(size):
            value = share[true, predicted]
            if crowded or f"{100 * value:.0f}" == "0":
                continue
            axes.text(
                predicted, true, f"{100 * value:.0f}", ha="center", va="center_baseline",
                fontsize=6 if value < 0.995 else 5, color="white" if value > 0.55 else INK,
            )  # fmt: skip
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    axes.tick_params(length=0, pad=1.5)
    axes.spines[:].set_visible(False)
