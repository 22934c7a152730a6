"""Dose and response: macro-F1 on drawn cells as a function of the one setting that was changed."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from pathlib import Path

from matplotlib.figure import Figure

from benchmark.domains.alarm import dose_axis, dose_levels
from benchmark.drawing import line_handles, mark_of, panels, title
from benchmark.evaluation.experiments import Experiment
from benchmark.metrics import HEADLINE
from benchmark.phantom.acquisition import DOSES, dose_of
from benchmark.report.facts import data_cards
from benchmark.report.results import (
    Group,
    Results,
    by_method,
    done_ids,
    shown_methods,
    unmarked_cell,
)
from benchmark.report.table import Cell, Table, sheet

Doses = dict[str, tuple[str, float]]
"""Domain → the knob that was changed, and its value; `none` where none was."""


@lru_cache
def doses_of(folder: Path) -> Doses:
    """The drawn domains of `results/<profile>` of which at most one setting is not that of
    training."""
    looks = {n: u.card.domains[n].acquisition for u in data_cards(folder) for n in u.domains}
    found = {name: dose_of(look) for name, look in looks.items() if look is not None}
    return {name: dose for name, dose in found.items() if dose is not None}


def dosed(doses: Doses, targets: list[str]) -> list[str]:
    """The knobs of which targets have a level, in the order of `DOSES`."""
    knobs = {doses[target][0] for target in targets if target in doses}
    return [knob for knob in DOSES if knob in knobs]


def doses_sheet(results: Results, experiment: Experiment) -> Table | None:
    """A line per setting, level and method; None where no target has a dose."""
    doses = doses_of(results.folder)
    rows = []
    for (scenario, track), runs in experiment.blocks().items():
        where = (scenario.name, track)
        for knob in dosed(doses, scenario.targets):
            levels = dose_levels(doses, knob, scenario.targets)
            for (value, domain), (method, planned) in product(levels, by_method(runs).items()):
                first, shown = (
                    unmarked_cell(results.scores, where, method, HEADLINE, "", name)
                    for name in (levels[0][1], domain)
                )
                done = f"{len(done_ids(planned))}/{len(planned)}"
                drop = Cell(first.mean - shown.mean)
                rows.append((DOSES[knob].label, f"{value:g}", method, done, shown, drop))
    if not rows:
        return None
    return sheet(
        f"{experiment.experiment}_response",
        f"{experiment.title}: macro-F1 in % with its 95 % interval against the dose, mean over "
        "seeds. The first level of a setting is that of training, on the same new cells; drop: "
        "from there, in points. Drawn cells are not blood: this shows which cause moves which "
        "network, and not by how much one laboratory differs from another.",
        ("setting", "level", "method", "runs", "macro-F1", "drop"),
        rows,
        [],
        words=4,
    )


def dose_response_figure(results: Results, group: Group) -> Figure:
    """Macro-F1 against the dose: a panel per setting, a line per network."""
    doses, scenario, scores = doses_of(results.folder), group.scenario, results.scores
    shown, note = shown_methods(scores, group)
    where = (scenario.name, group.track)
    knobs = dosed(doses, scenario.targets)
    figure, found = panels(len(knobs), 3, (49, 34), (9, 17), (13, 10, 3, 19))
    for place, (axes, knob) in enumerate(zip(found, knobs, strict=True)):
        levels = dose_levels(doses, knob, scenario.targets)
        x = [value for value, _ in levels]
        for method in shown:
            cells = [
                unmarked_cell(scores, where, method, HEADLINE, "", domain) for _, domain in levels
            ]
            marker, colour = mark_of(method, shown)
            axes.plot(x, [c.mean for c in cells], color=colour, marker=marker, markersize=3)
            low, high = ([getattr(c, end) for c in cells] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        dose_axis(axes, knob, x)
        axes.set(ylim=(0, 100), ylabel="" if place % 3 else "macro-F1 (%)")
    figure.legend(handles=line_handles(shown), loc="lower left", ncols=3, fontsize=6.5)
    title(figure, f"Drawn cells, one setting changed at a time; dashed: as in training{note}")
    return figure
