"""Throughput: what a method scores on the targets against how fast its network trains."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from benchmark.metrics import HEADLINE
from benchmark.report.facts import device_text
from benchmark.report.figures.style import FAINT, INK, STYLE, mark_of, page
from benchmark.report.figures.training import trained
from benchmark.report.results import Results, by_method, counted_sets, plain_targets, values
from benchmark.speed.records import Workload


class Speed(NamedTuple):
    """A method's score, and the training throughput of its network on one device."""

    images_per_s: float
    score: float
    """per cent, mean of targets over its seeds"""
    backbone: str


class Speeds(NamedTuple):
    """The methods of a figure."""

    methods: dict[str, Speed]
    where: str
    """device and scenario"""
    left_out: int
    """methods that ran there, but whose network was not measured"""


def speeds(results: Results, measured: dict[Workload, float]) -> Speeds:
    """Methods that were trained for themselves, in the scenario that the most runs share.

    A run's own speed is not shown: what else the machine did at that time decides it. What counts
    is the speed of the network measured alone, on the device that the most runs were trained on.
    """
    records, scores = results.records, results.scores
    found = {
        run_id: run
        for run_id, run in results.done.items()
        if records.get(run_id, {}).get("train_images_per_s")
        and (run.track, trained(run)) == ("inductive", True)
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
    with matplotlib.style.context(STYLE):
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
            figure.add_artist(
                Line2D([0.605], [y + 0.012], marker=shape, color=colour, markersize=5)
            )
            count = f"{len(own)} method{'' if len(own) == 1 else 's'}"
            figure.text(0.62, y, f"{backbone}, {count}", fontsize=6, color=INK)
            figure.text(0.62, y - 0.045, f"best: {first}, {own[first].score:.1f} %", fontsize=6,
                        color=INK, weight="bold" if first in best else "normal")  # fmt: skip
    return figure
