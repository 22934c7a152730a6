"""Overview: all experiments of a profile in one picture, by source and target, and by speed."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from benchmark.drawing import FAINT, INK, MARKS, mark_of, page
from benchmark.evaluation.experiments import RecordedRun
from benchmark.metrics import HEADLINE
from benchmark.report.facts import device_text
from benchmark.report.results import Results, Scores, by_method, counted_sets, plain_targets, values
from benchmark.scenarios import sources_of
from benchmark.speed.records import Workload

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


def cells_of(run: RecordedRun, scores: Scores) -> dict[tuple[str, str], float]:
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


class Speed(NamedTuple):
    """A method's score, and the training throughput of its network on one device."""

    images_per_s: float
    score: float
    """per cent, mean of targets over its seeds"""
    backbone: str


class Speeds(NamedTuple):
    methods: dict[str, Speed]
    where: str
    """device and scenario"""
    left_out: int
    """methods that ran there, but whose network was not measured"""


def speeds(results: Results, measured: dict[Workload, float]) -> Speeds:
    """Methods with a training run of their own, in the scenario that the most runs share.

    A run's own speed is not shown: what else the machine did at that time decides it. What counts
    is the speed of the network measured alone, on the device that the most runs were trained on.
    """
    records, scores = results.records, results.scores
    found = {
        run_id: run
        for run_id, run in results.done.items()
        if records.get(run_id, {}).get("train_images_per_s")
        and run.track == "inductive"
        and run.method.answers_itself
        and plain_targets(run.scenario) == list(run.scenario.targets)
        and scores.counted[run.scenario.name]
    }
    if not found:
        return Speeds({}, "", 0)
    common = Counter(device_text(records[run_id]) for run_id in found).most_common(1)[0][0]
    scenario = Counter(run.scenario.name for run in found.values()).most_common(1)[0][0]
    compared = by_method(
        [
            run
            for run_id, run in found.items()
            if run.scenario.name == scenario and device_text(records[run_id]) == common
        ]
    )
    methods = {}
    for name, runs in compared.items():
        speed = measured.get(workload(records[runs[0].run_id]))
        if speed is not None:
            targets = counted_sets(runs[0].scenario, scores)
            ids = scores.runs[scenario, name]
            score = 100 * values(scores, ids, targets, HEADLINE).mean()
            methods[name] = Speed(speed, float(score), runs[0].method.backbone)
    return Speeds(methods, f"{common}; {scenario}", len(compared) - len(methods))


def workload(record: dict) -> Workload:
    """What the speed of a run's training is measured on."""
    place, settings, method = record["environment"], record["settings"], record["method"]
    return Workload(
        place.get("device", ""),
        place.get("threads", 1),
        settings["training"]["precision"],
        method["backbone"],
        method["normalisation"],
        settings["image_size"],
    )


def front(points: dict[str, Speed]) -> list[str]:
    """Methods that no other one beats in both, from the fastest to the best."""
    ordered = sorted(points, key=lambda name: (-points[name].images_per_s, -points[name].score))
    chosen: list[str] = []
    for name in ordered:
        if not chosen or points[name].score > points[chosen[-1]].score:
            chosen.append(name)
    return chosen


def speed_figure(found: Speeds) -> Figure:
    """Mean of targets against training throughput, with the Pareto front; marks are backbones."""
    points = found.methods
    best = front(points)
    backbones = sorted({point.backbone for point in points.values()})
    figure = page(max(62, 20 + 6.4 * len(backbones)), width=180, automatic=False)
    axes = figure.add_axes((0.07, 0.17, 0.50, 0.72))
    path = [points[name] for name in best]
    axes.step([p.images_per_s for p in path], [p.score for p in path], where="post",
              color=INK, linewidth=0.9, zorder=1)  # fmt: skip
    for name, point in points.items():
        shape, colour = mark_of(point.backbone, backbones)
        edge, width = ("black", 1.1) if name in best else ("white", 0.4)
        axes.plot(point.images_per_s, point.score, shape, color=colour, markersize=5,
                  markeredgecolor=edge, markeredgewidth=width)  # fmt: skip
    speed = [point.images_per_s for point in points.values()]
    axes.set_xlim(min(speed) * 0.8, max(speed) * 1.25)
    axes.margins(y=0.08)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.tick_params(which="both", labelsize=6)
    axes.set(xlabel="images per second in training, network measured alone")
    axes.set_ylabel("macro-F1, mean of targets (%)")
    axes.grid(color=FAINT, alpha=0.4)
    axes.set_title(f"{found.where} (black edge: Pareto front)", fontsize=6)
    for place, backbone in enumerate(backbones):
        own = {name: point for name, point in points.items() if point.backbone == backbone}
        first = max(own, key=lambda name: own[name].score)
        y = 0.86 - place * 0.76 / max(len(backbones), 6)
        shape, colour = mark_of(backbone, backbones)
        figure.add_artist(Line2D([0.605], [y + 0.012], marker=shape, color=colour, markersize=5))
        count = f"{len(own)} method{'' if len(own) == 1 else 's'}"
        figure.text(0.62, y, f"{backbone}, {count}", fontsize=6, color=INK)
        figure.text(0.62, y - 0.045, f"best: {first}, {own[first].score:.1f} %", fontsize=6,
                    color=INK, weight="bold" if first in best else "normal")  # fmt: skip
    return figure
