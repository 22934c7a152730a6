"""Corruptions: macro-F1 against severity, a panel per corruption and a line per method."""

from __future__ import annotations

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

from benchmark.config import corruption_of
from benchmark.evaluation.experiments import Experiment, Run, Scenario
from benchmark.report.figures.forest import HEADLINE
from benchmark.report.figures.style import STYLE, line_handles, mark_of, page, shown_methods
from benchmark.report.tables import Scores, cell

ACROSS = 5
BANDS = 3
"""With more methods, intervals would hide each other."""


def corruption_figure(
    experiment: Experiment, scenario: Scenario, track: str, runs: list[Run], scores: Scores
) -> Figure:
    """Mean over seeds at severity 0 (in-domain test) to 4."""
    shown, note = shown_methods(scenario, runs, scores)
    where = (experiment.experiment, scenario.name, track)
    targets: dict[str, list[tuple[int, str]]] = {}
    for target in scenario.targets:
        if found := corruption_of(target):
            targets.setdefault(found[1], []).append((found[2], target))
    across = min(ACROSS, len(targets))
    down = -(-len(targets) // across)
    with matplotlib.style.context(STYLE):
        figure = page(36 * down + 12 + 3 * -(-len(shown) // 3))
        panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        for axes in panels[len(targets) :]:
            axes.set_visible(False)
        for axes, (corruption, own) in zip(panels, targets.items(), strict=False):
            for method in shown:
                points = [(0, "in_domain"), *sorted(own)]
                cells = [cell(scores, where, method, HEADLINE, "", name) for _, name in points]
                x = [severity for severity, _ in points]
                marker, colour = mark_of(method, shown)
                axes.plot(x, [c.mean for c in cells], color=colour, marker=marker, markersize=3)
                if len(shown) <= BANDS:
                    low, high = ([getattr(c, end) for c in cells] for end in ("low", "high"))
                    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set_title(corruption.replace("_", " "), fontsize=6.5)
            axes.set(ylim=(0, 100), xticks=range(5))
            axes.set_yticks(np.arange(0, 101, 20))
            axes.grid(axis="y")
        for axes in panels[: len(targets)][-across:]:
            axes.set_xlabel("severity (0: unchanged)")
            axes.tick_params(labelbottom=True)
        for axes in panels[::across]:
            axes.set_ylabel("macro-F1 (%)")
        figure.legend(handles=line_handles(shown), loc="outside lower left", ncols=3, fontsize=6.5)
        figure.suptitle(
            f"Trained on {scenario.source}{note}", x=0.01, ha="left", fontsize=7.5,
            fontweight="bold",
        )  # fmt: skip
    return figure
