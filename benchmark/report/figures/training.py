"""Training: loss and selection score by epoch, from the records of the runs."""

from __future__ import annotations

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from benchmark.evaluation.experiments import Experiment, Run
from benchmark.report.figures.style import STYLE, line_handles, mark_of, panels, shown_methods
from benchmark.report.results import Records, Scores, by_method

Row = tuple[str, list[Run], list[str]]
"""title, runs, and the methods shown of them"""
FEWEST = 3
"""methods that make curves worth comparing"""
MOST_ROWS = 3
"""sources that a figure has room for"""
PANELS = (("train_loss", "training loss"), ("id_val_macro_f1", "macro-F1 on id_val (%)"))


def training_rows(experiment: Experiment, records: Records, scores: Scores) -> list[Row]:
    """What there is to show: the first scenario of each source, runs that trained for themselves.

    Readouts, inferences and ensembles answer from the training of another run, whose curves stand
    with that run.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for (scenario, _), runs in experiment.blocks().items():
        own = [run for run in runs if trained(run) and records.get(run.run_id, {}).get("history")]
        if len(by_method(own)) >= FEWEST and scenario.source not in seen:
            seen.add(scenario.source)
            shown, note = shown_methods(scenario, own, scores)
            rows.append((f"Trained on {scenario.short_source}{note}", own, shown))
    return rows[:MOST_ROWS]


def trained(run: Run) -> bool:
    """Whether a run is the plain answer of a training, and no other answer drawn from it."""
    return run.done and run.method.answers_itself


def training_figure(rows: list[Row], records: Records) -> Figure:
    """A row per source and two panels: thin lines are seeds, thick ones means of common epochs."""
    names = list(dict.fromkeys(name for *_, shown in rows for name in shown))
    with matplotlib.style.context(STYLE):
        below = 12 + 3.2 * -(-len(names) // 3)
        figure, found = panels(2 * len(rows), 2, (74, 32), (14, 9), (14, 6, 4, below))
        for place, (text, runs, shown) in enumerate(rows):
            pair = found[2 * place : 2 * place + 2]
            for axes, (key, label) in zip(pair, PANELS, strict=True):
                for method in shown:
                    draw(axes, key, by_method(runs)[method], records, mark_of(method, names))
                axes.set_ylabel(label)
                axes.grid(axis="y")
            pair[0].set_yscale("log")
            pair[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            pair[0].yaxis.set_major_formatter("{x:g}")
            pair[0].yaxis.set_minor_locator(NullLocator())
            pair[0].set_title(text, fontsize=7.5)
        for axes in found[-2:]:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(handles=line_handles(names), loc="lower left", ncols=3, fontsize=6.5)
    return figure


def draw(axes: Axes, key: str, runs: list[Run], records: Records, mark: tuple[str, str]) -> None:
    """Seeds of one method and, over the epochs that all have, their mean."""
    factor = 100 if key.startswith("id_val") else 1
    lines = [
        [factor * epoch[key] for epoch in records[run.run_id]["history"] if key in epoch]
        for run in runs
    ]
    lines = [line for line in lines if line]
    if not lines:
        return
    for line in lines:
        axes.plot(range(1, len(line) + 1), line, color=mark[1], linewidth=0.4, alpha=0.5)
    common = min(map(len, lines))
    mean = np.mean([line[:common] for line in lines], axis=0)
    axes.plot(range(1, common + 1), mean, color=mark[1], marker=mark[0], markersize=2.6,
              linewidth=1.1)  # fmt: skip
