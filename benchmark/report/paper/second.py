"""Study two: what its results say so far, or in one sentence what is to come.

The text is built from whatever runs are done, so that it may be written at any time: a part whose
runs are missing is named as missing, and no sentence speaks of it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.factorial import analysis_of_variance
from benchmark.metrics import HEADLINE
from benchmark.report.crossed import SHIFTED, grids
from benchmark.report.paper.latex import joined, tex
from benchmark.report.paper.numbers import counted
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.tables import COLUMNS, line, printed, table
from benchmark.report.paper.words import SOURCES
from benchmark.report.results import Results, by_method, cell
from benchmark.report.shift_parts import shift_parts_sheet
from benchmark.report.table import Cell
from benchmark.report.write import NOTHING, cell_text, number

LADDER = {
    "lite0": "ImageNet weights alone",
    "lite0-stain": "+ stain augmentation",
    "lite0-wide": "+ wider stain and zoom",
    "lite0-standardised": "+ channels standardised",
    "robust2": "+ smoothed labels, averaging",
}
PARTS = {
    "backbone": "the backbone",
    "normalisation": "the normalisation",
    "loss": "the loss",
    "augmentation": "the augmentation",
    "stain": "the colour step",
    "recipe": "the recipe",
}


def read_second(folder: Path) -> Results | None:
    """The results of study two; None before `train` and `evaluate` have written some."""
    if not (folder / "experiments").is_dir() or not (folder / "metrics.parquet").is_file():
        return None
    try:
        results = Results.of(folder)
        _ = results.scores
    except UserError:  # more runs were added after `evaluate`
        return None
    return results if results.done else None


def second_study(results: Results | None) -> str:
    """LaTeX of the section's findings."""
    if results is None:
        return (
            "Its runs are being computed; the same tables and figures will be made from them, and "
            "nothing in this text rests on them.\n"
        )
    readings = Readings(results)
    done = sum(run.done for e in results.experiments for run in e.runs)
    planned = sum(len(e.runs) for e in results.experiments)
    parts = [
        f"So far {done} of {planned} planned runs of "
        f"{counted(len(results.experiments), 'experiment')} are done"
        + (", so that what follows is a first look and no result.\n" if done < planned else ".\n")
    ]
    own = {experiment.experiment: experiment for experiment in results.experiments}
    if "robust" in own:
        parts += ladder(readings, own["robust"])
    if "decomposition" in own:
        parts += decomposition(results, own["decomposition"])
    if "grid" in own:
        parts += grid(results, own["grid"])
    return "\n".join(parts)


def ladder(readings: Readings, experiment: Experiment) -> list[str]:
    """The parts of `robust2`, each with all before it: a table, and its two ends in words."""
    scenarios = [name for name in SOURCES if name in readings.scenarios]
    runs = {
        (scenario.name, method): planned
        for (scenario, _), block in experiment.blocks().items()
        for method, planned in by_method(block).items()
    }
    lines, ends = [], []
    for scenario in scenarios:
        found = {
            method: {
                column: score_or_nothing(readings, scenario, method, column) for column in COLUMNS
            }
            for method in LADDER
            if (scenario, method) in runs
        }
        if not any(cells["mean_target"] for cells in found.values()):
            continue
        lines += ["\\addlinespace[2pt]"] if lines else []
        lines.append(line(f"\\emph{{trained on {SOURCES[scenario]}}}", "", *["&"] * 3))
        for method, cells in found.items():
            planned = runs[scenario, method]
            count = f"{sum(run.done for run in planned)}/{len(planned)}"
            shown = (
                printed(cells[column]) if cells[column] else f"\\multicolumn{{2}}{{c}}{{{NOTHING}}}"
                for column in COLUMNS
            )
            lines.append(line(f"\\quad {tex(LADDER[method])}", count, *shown))
        first, last = (found[name]["mean_target"] for name in ("lite0", "robust2"))
        if first and last:
            ends.append(
                f"from {SOURCES[scenario]} {tex(cell_text(first))}\\,\\% without and "
                f"{tex(cell_text(last))}\\,\\% with all parts"
            )
    if not lines:
        return []
    head = line("", "seeds", *(f"\\multicolumn{{2}}{{c}}{{{text}}}" for text in COLUMNS.values()))
    caption = (
        "Study two: EfficientNet-Lite0 at a larger image, from the weights of ImageNet; each row "
        "adds a part to all before it. Macro-F1 in per cent and 95\\,\\% interval; seeds found of "
        "planned; an interval of one seed covers test images alone."
    )
    text = (
        "A pre-trained EfficientNet-Lite0 \\citep{tan2019efficientnet}, to which augmentation, "
        "standardised channels, smoothed labels and averaged weights are added in turn "
        "(Table~\\ref{tab:ladder}), has on the mean of targets "
    )
    sentences = [f"{text}{joined(ends)}.\n"] if ends else []
    made = table("ladder", caption, "lr" + "r@{\\,}l" * 3, [head, "\\midrule", *lines], wide=False)
    return [*sentences, made]


def score_or_nothing(readings: Readings, scenario: str, method: str, column: str) -> Cell | None:
    if not readings.has(scenario, method):
        return None
    track = readings.methods[scenario][method]
    found = cell(readings.results.scores, ("", scenario, track), method, HEADLINE, "", column)
    return None if math.isnan(found.mean) else found


def decomposition(results: Results, experiment: Experiment) -> list[str]:
    """What of the loss colour and framing account for, mean of targets, plain network."""
    sheet = shift_parts_sheet(experiment, results.scores)
    if sheet is None:
        return []
    (block,) = sheet.blocks
    places = {column.title: place for place, column in enumerate(block.columns)}
    parts = []
    for row in block.rows:
        if row.cells[places["target"]] != "mean of targets":
            continue
        method, source = row.cells[places["method"]], row.cells[places["trained on"]]
        if method != "resnet18-bn-ce-small":
            continue
        loss, colour, framing, rest = (
            row.cells[places[name]].mean for name in ("loss", "colour", "framing", "rest")
        )
        parts.append(
            f"from \\textsf{{{tex(source)}}}, of {tex(number(loss))} points lost, colour accounts "
            f"for {tex(number(colour))}, framing for {tex(number(framing))}, and "
            f"{tex(number(rest))} remain"
        )
    if not parts:
        return []
    return [
        "Where a target's colours (mean and deviation of three channels) and the size of its "
        f"nuclei are made those of the source, {'; '.join(parts)} (plain network, mean of "
        "targets).\n"
    ]


def grid(results: Results, experiment: Experiment) -> list[str]:
    """How much of the variance between runs goes with each part, where a grid has no empty cell."""
    shares = []
    waiting = []
    for own in grids(experiment, results.scores, results.records):
        if own.empty_cells:
            waiting.append(f"{own.source} ({own.cells - own.empty_cells} of {own.cells} cells)")
            continue
        runs = own.runs.rename(columns={SHIFTED: "score"})
        terms = analysis_of_variance(runs, list(own.choices)).set_index("term")
        named = [
            f"{PARTS.get(part, part)} for {tex(number(100 * terms['share'][part]))}\\,\\%"
            for part in own.choices
            if part in terms.index and np.isfinite(terms["share"][part])
        ]
        if named:
            shares.append(f"from \\textsf{{{tex(own.source)}}} {joined(named)}")
    sentences = []
    if shares:
        sentences.append(
            "In the crossed grid of backbone, normalisation and loss the variance of the mean of "
            f"targets between runs is accounted for as follows: {'; '.join(shares)}.\n"
        )
    if waiting:
        sentences.append(
            "The crossed grid of backbone, normalisation and loss still has empty cells, and no "
            f"effect is told before it has none: {tex(joined(waiting))}.\n"
        )
    return sentences
