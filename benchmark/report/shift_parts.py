"""What the shift is made of: how much of a network's loss colour and framing account for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.drawing import GRID, INK, mark_of, panels, title
from benchmark.evaluation.experiments import Experiment, RecordedRun
from benchmark.metrics import HEADLINE
from benchmark.parts import PLAIN
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.results import Scores, counted_sets, values
from benchmark.report.table import Cell, Table, Value, sheet

ANSWERS = (PLAIN["inference"], "moments", "scale", "scale_and_moments")
"""Images as they are, with the source's colours, in the source's framing, and with both."""
MEAN = "mean of targets"
PARTS = ("colour", "framing", "rest")


class ShiftParts(NamedTuple):
    """What one training loses on one target, in points of macro-F1, a value per seed."""

    source: str
    method: str
    target: str
    planned: int
    """seeds"""
    home: np.ndarray
    plain: np.ndarray
    """with images as they are"""
    colour: np.ndarray
    framing: np.ndarray
    rest: np.ndarray


def shift_parts(experiment: Experiment, scores: Scores) -> list[ShiftParts]:
    """Of each training that is answered in all four ways: each target, and the mean of targets.

    What colour accounts for is what matching it wins, with framing as it is and with framing
    matched, halved (Shapley's value of two players); so that colour, framing and the rest add up to
    the loss.
    """
    groups: dict[tuple, dict[str, list[RecordedRun]]] = {}
    for run in experiment.runs:
        key = run.scenario, run.method.training_parts(), run.method.readout
        groups.setdefault(key, {}).setdefault(run.method.inference, []).append(run)
    found = []
    for (scenario, *_), answers in groups.items():
        if not all(name in answers for name in ANSWERS):
            continue
        done = [{run.seed: run for run in answers[name] if run.done} for name in ANSWERS]
        seeds = sorted(set.intersection(*map(set, done)))
        if not seeds:
            continue
        counted = counted_sets(scenario, scores)
        home = values(scores, ids_of(done[0], seeds), scenario.test_sets[:1], HEADLINE)[:, 0]
        of = [values(scores, ids_of(runs, seeds), counted, HEADLINE) for runs in done]
        targets = {target: [own[:, i] for own in of] for i, (target, _) in enumerate(counted)}
        if counted:
            targets[MEAN] = [own.mean(axis=1) for own in of]
        about = scenario.source, answers[ANSWERS[0]][0].method.name
        for target, (plain, moments, scale, both) in targets.items():
            colour = (moments - plain + both - scale) / 2
            framing = (scale - plain + both - moments) / 2
            points = (100 * own for own in (home, plain, colour, framing, home - both))
            found.append(ShiftParts(*about, target, len(answers[ANSWERS[0]]), *points))
    return found


def shift_parts_sheet(experiment: Experiment, scores: Scores) -> Table | None:
    """A line per training and target; None where no training is answered in all four ways."""
    rows: list[tuple[Value, ...]] = []
    for own in shift_parts(experiment, scores):
        points = (own.home, own.plain, own.home - own.plain, own.colour, own.framing, own.rest)
        cells = (Cell(float(np.mean(one))) for one in points)
        done = f"{len(own.home)}/{own.planned}"
        rows.append((own.source, own.method, own.target, done, *cells))
    if not rows:
        return None
    return sheet(
        f"{experiment.experiment}_shares",
        f"{experiment.title}: what of the loss of macro-F1 colour and framing account for, in "
        f"points, mean over seeds; {found_of_planned(experiment)} runs. Colour: mean and deviation "
        "of R, G and B of the whole target made the source's; framing: its median nucleus made as "
        "large as the source's; each is the mean of what it wins alone and what it wins beside the "
        "other. Colour, framing and the rest, which is what is lost with both matched, add up to "
        "the loss (in-domain minus as is). In-domain: of each run's own held-out part. Matching "
        "takes the target's images, unlabelled, of mixed classes.",
        ("trained on", "method", "target", "seeds", "in-domain", "as is", "loss", "colour")
        + ("framing", "rest"),
        rows,
        gap_notes(experiment),
        words=3,
    )


def shift_parts_figure(experiment: Experiment, parts: list[ShiftParts]) -> Figure:
    """A row of panels per source, a panel per part of the loss, a line per training."""
    sources = list(dict.fromkeys(own.source for own in parts))
    targets = list(dict.fromkeys(own.target for own in parts if own.target != MEAN))
    methods = list(dict.fromkeys(own.method for own in parts))
    points = [getattr(own, name).mean() for own in parts for name in PARTS]
    limits = min(*points, 0) - 4, max(*points, 0) + 4
    size = (36.0, 4.0 * len(methods) + 2)
    figure, found = panels(3 * len(sources), 3, size, (4, 17), (62, 14, 4, 20))
    for row, source in enumerate(sources):
        for axes, name in zip(found[3 * row : 3 * row + 3], PARTS, strict=True):
            axes.axvline(0, color=INK, linewidth=0.6, zorder=0.5)
            for own in (own for own in parts if own.source == source):
                value, y = getattr(own, name).mean(), methods.index(own.method)
                if own.target == MEAN:
                    axes.vlines(value, y - 0.42, y + 0.42, colors="black", linewidth=1.6)
                else:
                    marker, colour = mark_of(own.target, targets)
                    axes.plot(value, y, marker, color=colour, markersize=2.6, alpha=0.85)
            axes.set(xlim=limits, ylim=(len(methods) - 0.5, -0.5), title=f"{name}, from {source}")
            axes.set_yticks(range(len(methods)), methods if name == PARTS[0] else [])
            axes.grid(axis="x", color=GRID, linewidth=0.5)
        found[3 * row + 1].set_xlabel("points of macro-F1")
    marks = [(name, *mark_of(name, targets)) for name in targets]
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=3, label=name)
        for name, marker, colour in marks
    ]
    handles.append(Line2D([], [], color="black", marker="|", linestyle="", label=MEAN))
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=6.5)
    title(figure, f"What the loss is made of: {found_of_planned(experiment)} runs")
    return figure


def ids_of(runs: dict[int, RecordedRun], seeds: list[int]) -> list[str]:
    """Run ids by seed."""
    return [runs[seed].run_id for seed in seeds]
