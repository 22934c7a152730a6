"""Figures: in-domain against shifted macro-F1 per method, and confusion matrices by domain."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path

import matplotlib.style
import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from benchmark.evaluation.evaluate import majority_id
from benchmark.evaluation.experiments import Experiment, Run, Scenario
from benchmark.files import atomic
from benchmark.report.tables import Scores, by_method, done_ids, values

STYLE = Path(__file__).with_name("journal.mplstyle")
MILLIMETRE = 1 / 25.4
"""inches"""
PAGE_WIDTH = 180.0
"""mm, both columns of a page"""
MOST_METHODS = 4
"""rows of a confusion figure"""
MOST_CLASSES = 8
"""classes for which the cells of a confusion matrix have room for numbers"""

# Okabe-Ito: told apart by readers with any common colour blindness; the shapes differ as well.
IN_DOMAIN = "#0072B2"
SHIFTED = "#D55E00"
TARGETS = [
    ("s", "#009E73"),
    ("^", "#CC79A7"),
    ("v", "#E69F00"),
    ("<", "#56B4E9"),
    (">", "#000000"),
    ("p", "#009E73"),
    ("h", "#CC79A7"),
]
CONSTANT = "#8A8A8A"
INK = "#333333"

Confusions = dict[tuple[str, str, str], np.ndarray]
"""(run_id, domain, part) → counts, true × predicted."""


def load_confusions(results: Path, experiment: Experiment) -> Confusions:
    """Read the confusion matrices of an experiment's done runs from `confusion.parquet`."""
    wanted = set(done_ids(list(experiment.runs)))
    table = pq.read_table(Path(results) / "confusion.parquet", partitioning=None)
    index = {name: place for place, name in enumerate(experiment.classes)}
    confusions: Confusions = {}
    columns = ("run_id", "domain", "part", "true", "predicted", "count")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    for run_id, domain, part, true, predicted, count in rows:
        if run_id in wanted:
            empty = np.zeros((len(index), len(index)), np.int64)
            matrix = confusions.setdefault((run_id, domain, part), empty)
            matrix[index[true], index[predicted]] = count
    return confusions


def shift_figure(experiment: Experiment, scores: Scores) -> Figure:
    """Macro-F1 of every method, in-domain and on each target: one panel per scenario and track.

    A method is a strip of lanes: the first joins the in-domain mean to the mean of targets, and
    each target has a lane below it. Outlines are means over seeds, dots are single seeds.
    """
    blocks = experiment.blocks()
    targets = list(dict.fromkeys(name for scenario, _ in blocks for name in scenario.targets))
    strips = [len(by_method(runs)) for runs in blocks.values()]
    heights = [
        10 + count * strip_height(scenario) * 1.45
        for (scenario, _), count in zip(blocks, strips, strict=True)
    ]
    with matplotlib.style.context(STYLE):
        figure = Figure(
            figsize=(PAGE_WIDTH * MILLIMETRE, (sum(heights) + 14) * MILLIMETRE),
            layout="constrained",
        )
        panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, ((scenario, track), runs) in zip(panels, blocks.items(), strict=True):
            draw_panel(axes, scenario, runs, scores, targets)
            name = "" if track == "inductive" else f", {track}"
            axes.set_title(f"Trained on {scenario.source}{name}")
            found = f"found {len(done_ids(runs))} of {len(runs)} planned runs"
            axes.set_title(found, loc="right", fontweight="normal", fontsize=7, color=INK)
        panels[-1].set_xlabel("macro-F1 over the classes present")
        figure.legend(handles=legend_handles(targets), loc="outside upper left", ncols=5)
    return figure


def strip_height(scenario: Scenario) -> float:
    """Lanes of a method's strip, the gap to the next one included."""
    return len(scenario.targets) + 2.4


def draw_panel(
    axes: Axes, scenario: Scenario, runs: list[Run], scores: Scores, targets: list[str]
) -> None:
    """Draw one strip per method; y counts lanes downwards."""
    methods = by_method(runs)
    height = strip_height(scenario)
    constant = values(scores, [majority_id(scenario.name)], scenario.test_sets, "macro_f1")[0]
    for place, planned in enumerate(methods.values()):
        top = place * height
        if place % 2 == 0:
            axes.axhspan(top, top + height, color="#F5F5F5", linewidth=0, zorder=0)
        found = done_ids(planned)
        if not found:
            continue
        per_seed = values(scores, found, scenario.test_sets, "macro_f1")
        mean_of_targets = per_seed[:, 1:].mean(axis=1)
        lane = top + 1.1
        ends = [per_seed[:, 0].mean(), mean_of_targets.mean()]
        axes.plot(ends, [lane, lane], color="#BBBBBB", linewidth=1.6, zorder=1)
        draw_seeds(axes, per_seed[:, 0], lane, "o", IN_DOMAIN, 5.5)
        draw_seeds(axes, mean_of_targets, lane, "D", SHIFTED, 4.8)
        draw_constant(axes, constant[1:].mean(), lane)
        for column, target in enumerate(scenario.targets, start=1):
            marker, colour = TARGETS[targets.index(target) % len(TARGETS)]
            below = lane + 0.5 + column
            draw_seeds(axes, per_seed[:, column], below, marker, colour, 3.6)
            draw_constant(axes, constant[column], below)
    names = [
        name
        if len(done_ids(own)) == len(own)
        else f"{name}\n{len(done_ids(own))} of {len(own)} runs"
        for name, own in methods.items()
    ]
    axes.set_yticks([(place + 0.5) * height for place in range(len(methods))], names)
    axes.set(xlim=(0, 1), ylim=(len(methods) * height, 0))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def draw_seeds(
    axes: Axes, seeds: np.ndarray, lane: float, marker: str, colour: str, size: float
) -> None:
    """An outline at the mean over seeds and a dot for every seed."""
    style = {"linestyle": "none", "clip_on": False}
    axes.plot(
        [seeds.mean()], [lane], marker=marker, markersize=size, markeredgewidth=0.9,
        markeredgecolor=colour, markerfacecolor="white", zorder=3, **style,
    )  # fmt: skip
    axes.plot(
        seeds, np.full(len(seeds), lane), marker="o", markersize=1.9, markeredgewidth=0,
        color=colour, zorder=4, **style,
    )  # fmt: skip


def draw_constant(axes: Axes, value: float, lane: float) -> None:
    """The majority constant: a grey tick across the lane."""
    if not math.isnan(value):
        axes.plot([value, value], [lane - 0.38, lane + 0.38], color=CONSTANT, linewidth=1, zorder=2)


def legend_handles(targets: list[str]) -> list[Line2D]:
    """One entry per mark of the shift figure."""

    def mark(marker: str, colour: str, size: float, label: str, **style) -> Line2D:
        style = {"markerfacecolor": "white", "markeredgewidth": 0.9} | style
        return Line2D(
            [], [], linestyle="none", marker=marker, color=colour, markersize=size, label=label,
            **style,
        )  # fmt: skip

    dot = {"markerfacecolor": INK, "markeredgewidth": 0}
    return [
        mark("o", IN_DOMAIN, 5.5, "in-domain"),
        mark("D", SHIFTED, 4.8, "mean of targets"),
        mark("o", INK, 2.2, "one seed (outline: mean)", **dot),
        mark("|", CONSTANT, 6, "majority constant"),
        *(
            mark(*TARGETS[place % len(TARGETS)], 3.6, target)
            for place, target in enumerate(targets)
        ),
    ]


def shown_methods(runs: list[Run]) -> list[str]:
    """What there is room for: all methods if at most four, else the first four of one loss."""
    methods = by_method(runs)
    if len(methods) <= MOST_METHODS:
        return list(methods)
    first = runs[0].method.loss
    return [name for name, own in methods.items() if own[0].method.loss == first][:MOST_METHODS]


def confusion_figure(
    experiment: Experiment, scenario: Scenario, runs: list[Run], confusions: Confusions
) -> Figure:
    """Confusion matrices of a scenario: methods down, test sets across, summed over seeds.

    Rows are normalised: a cell is the share of the true class in per cent. The number beside a
    row is n, the class's images in the test set (per seed).
    """
    methods = by_method(runs)
    shown = shown_methods(runs)
    classes = experiment.classes
    columns = len(scenario.test_sets)
    # In mm. Placed by hand: hundreds of numbers make an automatic layout slow.
    names = 1.5 + 1.3 * max(map(len, classes))
    left, gutter, gap, top, bottom = names + 9, 6, 3, 9, names + 8
    side = min((PAGE_WIDTH - left) / columns - gutter, 32)
    height = top + len(shown) * (side + gap) - gap + bottom
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH * MILLIMETRE, height * MILLIMETRE))
        for down, method in enumerate(shown):
            found = done_ids(methods[method])
            for across, (domain, part) in enumerate(scenario.test_sets):
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
                    axes.set_title(domain, loc="center", pad=11)
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
        some = f" Shown: {len(shown)} of {len(methods)} methods (loss {runs[0].method.loss})."
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


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as PDF and as PNG (200 dpi, 256 colours).

    Neither date nor version goes into a file, so that equal input gives equal bytes.
    """
    buffer = io.BytesIO()
    with matplotlib.style.context(STYLE):
        nothing = {"CreationDate": None, "Producer": None, "Creator": None}
        with atomic(stem.with_name(f"{stem.name}.pdf")) as path:
            figure.savefig(path, format="pdf", metadata=nothing)
        figure.savefig(buffer, format="png", metadata={"Software": None})
    picture = Image.open(buffer)
    with atomic(stem.with_name(f"{stem.name}.png")) as path:
        # A palette makes it a third of the size, which every clone then carries.
        picture.convert("RGB").quantize(256).save(
            path, format="png", optimize=True, dpi=picture.info["dpi"]
        )
