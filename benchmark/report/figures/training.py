"""Training: loss and selection score by epoch, from the records of the runs."""

from __future__ import annotations

from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.evaluation.experiments import Experiment, Run
from benchmark.report.figures.style import STYLE, line_handles, mark_of, page, shown_methods
from benchmark.report.tables import Scores, by_method

Records = dict[str, dict[str, Any]]
"""run id → its `run.json`"""
PANELS = (("train_loss", "training loss"), ("id_val_macro_f1", "macro-F1 on id_val (%)"))


def training_figure(experiment: Experiment, records: Records, scores: Scores) -> Figure | None:
    """A row per source and two panels: thin lines are seeds, thick ones means of common epochs."""
    rows: list[tuple[str, list[Run], list[str]]] = []
    seen: set[str] = set()
    for (scenario, _), runs in experiment.blocks().items():
        own = [run for run in runs if run.done and records.get(run.run_id, {}).get("history")]
        if own and scenario.source not in seen:
            seen.add(scenario.source)
            shown, note = shown_methods(scenario, own, scores)
            rows.append((f"Trained on {scenario.short_source}{note}", own, shown))
    if not rows:
        return None
    names = list(dict.fromkeys(name for *_, shown in rows for name in shown))
    with matplotlib.style.context(STYLE):
        figure = page(44 * len(rows) + 8 + 3 * -(-len(names) // 3))
        grid = figure.subplots(len(rows), 2, squeeze=False, sharex=True)
        for pair, (title, runs, shown) in zip(grid, rows, strict=True):
            for axes, (key, label) in zip(pair, PANELS, strict=True):
                for method in shown:
                    draw(axes, key, by_method(runs)[method], records, mark_of(method, names))
                axes.set_ylabel(label)
                axes.grid(axis="y")
            pair[0].set_yscale("log")
            pair[0].set_title(title, fontsize=7.5)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        figure.legend(handles=line_handles(names), loc="outside lower left", ncols=3, fontsize=6.5)
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
