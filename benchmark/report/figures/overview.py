"""Overview: all experiments of a profile in one picture: source × target, and score × speed."""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from benchmark.config import sources_of
from benchmark.evaluation.experiments import Experiment, Run, done_runs
from benchmark.report.figures.curves import plain_targets
from benchmark.report.figures.style import FAINT, IN_DOMAIN, INK, MARKS, STYLE, page
from benchmark.report.figures.training import Records, trained
from benchmark.report.tables import HEADLINE, Scores, values

OTHERS = "several"
"""Row of the scenarios that train on several domains at once."""
BEST = "best method of each cell"
ACROSS = 3
Cells = dict[tuple[str, str], list[float]]
"""(source, target) → per cent of each seed"""


def heat_maps(experiments: list[Experiment], scores: Scores) -> dict[str, Cells]:
    """Macro-F1 by source and target: of each normalisation in plain training, and of the best.

    Plain is from scratch, cross-entropy, no recipe, the profile's own augmentation, one view and a
    trained head.
    The best is chosen on the target itself, by its mean over seeds: what could be had at most.
    """
    plain: dict[str, Cells] = {}
    every: dict[tuple[str, str], dict[str, list[float]]] = {}
    backbones = Counter(run.method.backbone for run, _ in done_runs(experiments).values())
    common = max(backbones, key=backbones.get, default="")
    for run, _ in done_runs(experiments).values():
        if run.track != "inductive":
            continue
        for (source, target), value in cells_of(run, scores).items():
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


class Speed(NamedTuple):
    """A method's training throughput and score on one device."""

    images_per_s: float
    score: float
    """per cent, mean of targets over its scenarios and seeds"""


def speeds(
    experiments: list[Experiment], records: Records, scores: Scores
) -> tuple[dict[str, Speed], str, int]:
    """Methods that trained on the commonest device; the device; runs left out for another one.

    Methods are compared on the scenario that the most of them share, with their medians of speed.
    What answers from the training of another method has no speed of its own.
    """
    found = {
        run_id: run
        for run_id, (run, _) in done_runs(experiments).items()
        if records.get(run_id, {}).get("train_images_per_s")
        and (run.track, trained(run)) == ("inductive", True)
        and plain_targets(run.scenario) == list(run.scenario.targets)
    }
    devices = {run_id: device_text(records[run_id]) for run_id in found}
    if not devices:
        return {}, "", 0
    common = Counter(devices.values()).most_common(1)[0][0]
    found = {run_id: run for run_id, run in found.items() if devices[run_id] == common}
    scenario = Counter(run.scenario.name for run in found.values()).most_common(1)[0][0]
    by_method: dict[str, list[tuple[float, float]]] = {}
    for run_id, run in found.items():
        if run.scenario.name == scenario:
            score = 100 * values(scores, [run_id], run.scenario.test_sets[1:], HEADLINE).mean()
            speed = float(records[run_id]["train_images_per_s"])
            by_method.setdefault(run.method.name, []).append((speed, score))
    points = {
        name: Speed(float(np.median([s for s, _ in own])), float(np.mean([v for _, v in own])))
        for name, own in by_method.items()
    }
    return points, f"{common}; {scenario}", len(devices) - len(found)


def device_text(record: dict) -> str:
    """`cpu (Intel Xeon, 1 thread)`."""
    place = record.get("environment", {})
    threads = place.get("threads", 1)
    return (
        f"{place.get('device_type', '?').upper()}, {place.get('device', '?')}, "
        f"{threads} thread{'s' if threads != 1 else ''}"
    )


def front(points: dict[str, Speed]) -> list[str]:
    """Methods that no other one beats in both, from the fastest to the best."""
    ordered = sorted(points, key=lambda name: (-points[name].images_per_s, -points[name].score))
    chosen: list[str] = []
    for name in ordered:
        if not chosen or points[name].score > points[chosen[-1]].score:
            chosen.append(name)
    return chosen


def speed_figure(points: dict[str, Speed], where: str, left_out: int) -> Figure:
    """Mean of targets against training throughput, with the Pareto front."""
    best = front(points)
    numbers = {name: place for place, name in enumerate(sorted(points), start=1)}
    columns = 2 if len(points) > 12 else 1
    with matplotlib.style.context(STYLE):
        figure = page(max(62, 14 + 3.1 * -(-len(points) // columns)), width=180, automatic=False)
        axes = figure.add_axes((0.07, 0.17, 0.43, 0.70))
        path = [points[name] for name in best]
        axes.step([p.images_per_s for p in path], [p.score for p in path], where="post",
                  color=MARKS[1][1], linewidth=0.9, zorder=1)  # fmt: skip
        for name, point in points.items():
            colour = MARKS[1][1] if name in best else IN_DOMAIN
            axes.plot(point.images_per_s, point.score, "o", color=colour, markersize=4)
            axes.annotate(str(numbers[name]), (point.images_per_s, point.score), fontsize=6,
                          xytext=(3, 2), textcoords="offset points", color=INK)  # fmt: skip
        if points:
            speed = [p.images_per_s for p in points.values()]
            axes.set_xlim(min(speed) * 0.8, max(speed) * 1.25)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(which="both", labelsize=6)
        axes.set(xlabel="images per second in training (median of seeds)")
        axes.set_ylabel("macro-F1, mean of targets (%)")
        axes.grid(color=FAINT, alpha=0.4)
        more = f"; {left_out} runs on other devices left out" if left_out else ""
        axes.set_title(f"{where}{more} (line: Pareto front)", fontsize=6)
        each = -(-len(numbers) // columns)
        for place, (name, number) in enumerate(numbers.items()):
            column, row = divmod(place, each)
            text = f"{number}  {name}"
            figure.text(0.53 + 0.24 * column, 0.86 - row * 0.72 / max(each - 1, 12), text,
                        fontsize=5.8, color=MARKS[1][1] if name in best else INK)  # fmt: skip
    return figure
