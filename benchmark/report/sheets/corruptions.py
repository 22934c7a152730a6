"""Corruptions: macro-F1 of every method by corruption, and one line for each severity of it."""

from __future__ import annotations

from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.metrics import HEADLINE
from benchmark.report.formats import NOTHING, cell_text, number
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.sheets.sheet import Sheet
from benchmark.report.tables import Cell, Scores, by_method, cell, done_ids


def corruption_sheet(experiment: Experiment, scores: Scores) -> Sheet | None:
    """Corruption × severity: a line per method and corruption; None without corruptions."""
    rows: list[tuple[str, ...]] = []
    severities: list[str] = []
    for (scenario, track), runs in experiment.blocks().items():
        groups = scenario.target_groups
        own = [name for name in groups if name.startswith("severity ")]
        severities = own or severities
        where = (experiment.experiment, scenario.name, track)
        for method, planned in by_method(runs).items():

            def of(column: str, method: str = method, where: tuple = where) -> Cell:
                return cell(scores, where, method, HEADLINE, "", column)

            for kind in (name for name in groups if name not in own):
                places = {name: set(groups[name]) & set(groups[kind]) for name in own}
                cells = [
                    of(scenario.targets[place]) for found in places.values() for place in found
                ]
                rows.append(
                    (
                        scenario.source,
                        method if track == "inductive" else f"{method} ({track})",
                        f"{len(done_ids(planned))}/{len(planned)}",
                        kind.replace("_", " "),
                        plain(of("in_domain")),
                        *map(plain, cells),
                        cell_text(of(kind)),
                        drop(of("in_domain"), of(kind)),
                    )
                )
    if not rows:
        return None
    caption = (
        f"{experiment.title}: macro-F1 in % by corruption and severity, mean over seeds; "
        f"{found_of_planned(experiment)} runs. Mean: over severities, with its 95 % interval (the "
        "corruptions of an image stay together). Drop: clean minus mean, in points."
    )
    header = ("source", "method", "runs", "corruption", "clean", *severities, "mean", "drop")
    return Sheet(
        f"{experiment.experiment}_corruptions",
        caption,
        header,
        tuple(rows),
        tuple(gap_notes(experiment)),
        text_columns=4,
    )


def plain(shown: Cell) -> str:
    """A mean without its interval."""
    return cell_text(Cell(shown.mean))


def drop(clean: Cell, mean: Cell) -> str:
    """Clean minus mean in points."""
    difference = clean.mean - mean.mean
    return NOTHING if difference != difference else number(difference)
