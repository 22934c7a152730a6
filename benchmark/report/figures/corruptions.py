"""Corruptions: macro-F1 against severity, a panel per corruption and a line per method."""

from __future__ import annotations

import matplotlib.style
from matplotlib.figure import Figure

from benchmark.evaluation.experiments import Experiment, Run, Scenario
from benchmark.metrics import HEADLINE
from benchmark.report.figures.style import (
    STYLE,
    line_handles,
    mark_of,
    panels,
    shown_methods,
    title,
)
from benchmark.report.results import Scores, cell
from benchmark.scenarios import corruption_of

ACROSS = 5
BANDS = 3
"""With more methods, intervals would hide each other."""


def corruption_figure(
    experiment: Experiment, track: str, scenario: Scenario, runs: list[Run], scores: Scores
) -> Figure:
    """Mean over seeds at severity 0 (in-domain test) to 4."""
    shown, note = shown_methods(scenario, runs, scores)
    where = (experiment.experiment, scenario.name, track)
    targets: dict[str, list[tuple[int, str]]] = {}
    for target in scenario.targets:
        if found := corruption_of(target):
            targets.setdefault(found[1], []).append((found[2], target))
    across = min(ACROSS, len(targets))
    with matplotlib.style.context(STYLE):
        below = 14 + 3.2 * -(-len(shown) // 3)
        figure, found = panels(len(targets), across, (30, 25), (4, 8), (11, 10, 3, below))
        for place, (axes, (corruption, own)) in enumerate(zip(found, targets.items(), strict=True)):
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
            axes.set(ylim=(0, 100))
            axes.grid(axis="y")
            lowest = place + across >= len(targets)
            axes.set_xticks(range(5), range(5) if lowest else [])
            axes.set_yticks(range(0, 101, 20), [] if place % across else range(0, 101, 20))
            if lowest:
                axes.set_xlabel("severity")
            if not place % across:
                axes.set_ylabel("macro-F1 (%)")
        figure.legend(handles=line_handles(shown), loc="lower left", ncols=3, fontsize=6.5)
        title(figure, f"Trained on {scenario.source}; severity 0 is the unchanged image{note}")
    return figure
