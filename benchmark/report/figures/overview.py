"""Overview: all experiments of a profile in one picture, source × target."""

from __future__ import annotations

import math
from collections import Counter

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmark.evaluation.experiments import Run
from benchmark.metrics import HEADLINE
from benchmark.report.figures.style import INK, MARKS, STYLE, page
from benchmark.report.results import Results, Scores, plain_targets, values
from benchmark.scenarios import sources_of

OTHERS = "several"
"""Row of the scenarios that train on several domains at once."""
BEST = "best inductive method of each cell"
ACROSS = 3
Cells = dict[tuple[str, str], list[float]]
"""(source, target) → per cent of each seed"""


def heat_maps(results: Results) -> dict[str, Cells]:
    """Macro-F1 by source and target: of each normalisation in plain training, and of the best.

    Plain is from scratch, cross-entropy, no recipe, the profile's own augmentation, one view and a
    trained head. The best is of the inductive methods, chosen on the target itself by its mean over
    seeds; what sees the target's images may lie higher.
    """
    plain: dict[str, Cells] = {}
    every: dict[tuple[str, str], dict[str, list[float]]] = {}
    backbones = Counter(run.method.backbone for run in results.done.values())
    common = max(backbones, key=backbones.get, default="")
    for run in results.done.values():
        if run.track != "inductive":
            continue
        for (source, target), value in cells_of(run, results.scores).items():
            every.setdefault((source, target), {}).setdefault(run.method.name, []).append(value)
            if run.method.is_plain() and run.method.backbone == common:
                kind = f"{common}, {run.method.normalisation}"
                plain.setdefault(kind, {}).setdefault((source, target), []).append(value)
    best = {key: max(methods.values(), key=np.mean) for key, methods in every.items()}
    return plain | ({BEST: best} if best else {})


def cells_of(run: Run, scores: Scores) -> dict[tuple[str, str], float]:
    """Per cent of one run: its own domain and its targets; corruptions are left out."""
    scenario = run.scenario
    several = len(sources_of(scenario.source)) > 1
    row = OTHERS if several else scenario.source
    targets = plain_targets(scenario)
    if len(targets) < len(scenario.targets):
        return {}
    test_sets = tuple((target, "shifted") for target in targets)
    found = dict(zip(targets, values(scores, [run.run_id], test_sets, HEADLINE)[0], strict=True))
    if not several:
        found[scenario.source] = values(scores, [run.run_id], scenario.test_sets[:1], HEADLINE)[
            0, 0
        ]
    return {(row, t): 100 * float(v) for t, v in found.items() if not math.isnan(v)}


def heat_figure(maps: dict[str, Cells]) -> Figure:
    """One map per normalisation and one of the best; in a cell the mean over seeds and their n."""
    keys = dict.fromkeys(key for cells in maps.values() for key in cells)
    sources = sorted({source for source, _ in keys}, key=lambda s: (s == OTHERS, s))
    targets = list(dict.fromkeys(target for _, target in sorted(keys)))
    names = 1.1 * max(map(len, (*sources, *targets))) + 4
    across = min(ACROSS, len(maps))
    down = -(-len(maps) // across)
    gap = 4.0
    side = min((180 - names - gap * (across - 1)) / across / len(targets), 12)
    size = (side * len(targets), max(side, 6) * len(sources))
    width, height = names + across * (size[0] + gap), down * (size[1] + 8) + names + 2
    with matplotlib.style.context(STYLE):
        figure = page(height, width=width, automatic=False)
        for place, (title, cells) in enumerate(maps.items()):
            row, column = divmod(place, across)
            x = names + column * (size[0] + gap)
            y = height - 6 - (row + 1) * size[1] - row * 8
            box = (x / width, y / height, size[0] / width, size[1] / height)
            axes = figure.add_axes(box)
            draw_map(axes, cells, sources, targets)
            axes.set_title(title, fontsize=6.5, pad=3)
            if column:
                axes.set_yticklabels([])
            if place + across < len(maps):
                axes.set_xticklabels([])
        figure.text(
            1.5 / width, 1 / height,
            "Down: trained on; across: tested on. Macro-F1 in %, mean of seeds. Framed: in-domain.",
            fontsize=6.2, color=INK,
        )  # fmt: skip
    return figure


def draw_map(axes: Axes, cells: Cells, sources: list[str], targets: list[str]) -> None:
    """One source × target map; hatched where nothing was run."""
    grid = np.full((len(sources), len(targets)), np.nan)
    for (source, target), seeds in cells.items():
        grid[sources.index(source), targets.index(target)] = np.mean(seeds)
    edges = [np.arange(n + 1) - 0.5 for n in (len(targets), len(sources))]
    axes.pcolormesh(*edges, grid, cmap="cividis", vmin=0, vmax=100, edgecolors="white",
                    linewidth=0.8)  # fmt: skip
    for i, j in np.ndindex(grid.shape):
        if math.isnan(grid[i, j]):
            axes.text(j, i, "–", ha="center", va="center", fontsize=6, color=INK)
            continue
        colour = "white" if grid[i, j] < 55 else "black"
        axes.text(j, i, f"{grid[i, j]:.0f}", ha="center", va="center", fontsize=6.2, color=colour)
        if sources[i] == targets[j]:
            axes.add_patch(
                Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=MARKS[1][1])
            )
    axes.set_xticks(range(len(targets)), targets, rotation=90, fontsize=6)
    axes.set_yticks(range(len(sources)), sources, fontsize=6)
    axes.set(xlim=(-0.5, len(targets) - 0.5), ylim=(len(sources) - 0.5, -0.5))
    axes.tick_params(length=0, pad=1.5)
    axes.spines[:].set_visible(False)
