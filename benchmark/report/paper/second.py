"""Study two: what its results say so far, or in one sentence what is to come.

The text is built from whatever runs are done, so that it may be written at any time: a part whose
runs are missing is named as missing, and no sentence speaks of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluation.experiments import Experiment, RecordedRun
from benchmark.evaluation.factorial import analysis_of_variance
from benchmark.progress import say
from benchmark.report.crossed import SHIFTED, grids
from benchmark.report.paper.cells import frozen_features, unlabelled_cells
from benchmark.report.paper.latex import joined, tex
from benchmark.report.paper.numbers import counted
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.tables import CITED, COLUMNS, line, printed, table
from benchmark.report.paper.words import SOURCES
from benchmark.report.results import Results, by_method
from benchmark.report.shift_parts import MEAN, shift_parts
from benchmark.report.write import cell_text, number

LADDER = {
    "lite0": "ImageNet weights alone",
    "lite0-stain": "+ stain augmentation",
    "lite0-wide": "+ wider stain and zoom",
    "lite0-standardised": "+ channels standardised",
    "robust2": "+ smoothed labels, averaging (robust2)",
}
"""The steps of `robust2`; those that come after it are called as in the code."""
SYSTEMS = ("tsutsui2023", "le2026", "umer2023", "he2023", "ma2020")
"""Experiments with the rows of a published system, from pre-trained weights."""
FIRST, LAST = "lite0", "robust2"
BEYOND = {
    "robust3-long": "stronger augmentation, MixStyle, balanced sampling and twice the epochs",
    "robust3": "ten views of each image on top of these",
}
"""What the methods after the ladder add, in words."""
PARTS = {
    "backbone": "the backbone",
    "normalisation": "the normalisation",
    "loss": "the loss",
    "augmentation": "the augmentation",
    "stain": "the colour step",
    "recipe": "the recipe",
    "weights": "the initial weights",
}


def read_second(folder: Path) -> Results | None:
    """The results of study two; None before `train` and `evaluate` have written some."""
    if not (folder / "experiments").is_dir() or not (folder / "metrics.parquet").is_file():
        return None
    try:
        results = Results.of(folder)
        _ = results.scores
    except UserError as error:  # more runs were added after `evaluate`, for instance
        say(f"note: study two is left out of the paper: {error}")
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
    done = len(results.done)
    planned = len({run.run_id for e in results.experiments for run in e.runs})
    parts = [
        f"So far {done} of {planned} planned runs of "
        f"{counted(len(results.experiments), 'experiment')} are done"
        + (", so that what follows is a first look and no result.\n" if done < planned else ".\n")
    ]
    own = {experiment.experiment: experiment for experiment in results.experiments}
    parts += ladder(readings, own)
    if "decomposition" in own:
        parts += decomposition(results, own["decomposition"])
    for experiment in (own[name] for name in ("grid", "weights") if name in own):
        parts += grid(results, experiment)
    parts += [*unlabelled_cells(results), *frozen_features(results)]
    return "\n".join(parts)


def ladder(readings: Readings, own: dict[str, Experiment]) -> list[str]:
    """The steps of `robust`, each with all before it, and the best row of each published system:
    a table of what was run, and the two ends of the ladder in words."""
    lines: list[str] = []
    ends = []
    for scenario in (name for name in SOURCES if name in readings.scenarios):
        steps = planned_in(own.get("robust"), scenario)
        rows = [
            row_of(readings, scenario, method, LADDER.get(method, method), planned)
            for method, planned in steps.items()
            if readings.has(scenario, method)
        ]
        if rows and (missing := len(steps) - len(rows)):
            rows.append(
                line(f"\\quad \\emph{{{counted(missing, 'step')} not run yet}}", "", *["&"] * 3)
            )
        systems = [
            best_row(readings, scenario, own[name], set(steps)) for name in SYSTEMS if name in own
        ]
        systems = list(filter(None, systems))
        if systems:
            rows += ["\\addlinespace[1pt]", *systems]
        if not rows:
            continue
        lines += ["\\addlinespace[2pt]"] if lines else []
        lines += [line(f"\\emph{{trained on {SOURCES[scenario]}}}", "", *["&"] * 3), *rows]
        if all(readings.has(scenario, name) for name in (FIRST, LAST)):
            first, last = (
                tex(cell_text(readings.score(scenario, name, "mean_target")))
                for name in (FIRST, LAST)
            )
            ends.append(
                f"from {SOURCES[scenario]} {first}\\,\\% without and {last}\\,\\% with them"
            )
    if not lines:
        return []
    head = line("", "seeds", *(f"\\multicolumn{{2}}{{c}}{{{text}}}" for text in COLUMNS.values()))
    caption = (
        "Study two, as far as it is run: EfficientNet-Lite0 at a larger image, from the weights of "
        "ImageNet; each row adds to all before it, those after robust2 several "
        "parts at once. Macro-F1 in per cent and 95\\,\\% interval; seeds found of planned; "
        "an interval of one seed covers test images alone."
    )
    if any("\\citep" in row for row in lines):
        caption += (
            " With a citation: of the rows of a published system, in this network, the one with "
            "the highest mean elsewhere, which is chosen on the targets."
        )
    text = (
        "An EfficientNet-Lite0 \\citep{tan2019efficientnet} from ImageNet, to which stain "
        "augmentation, a wider one, standardised channels, smoothed labels and averaged weights "
        "are added in turn (Table~\\ref{tab:ladder}), has on the mean of targets "
    )
    further = "".join(beyond(readings, method) for method in BEYOND)
    sentences = [f"{text}{joined(ends)}. {further}{alone(own.get('robust'))}\n"] if ends else []
    made = table("ladder", caption, "lr" + "r@{\\,}l" * 3, [head, "\\midrule", *lines], wide=True)
    return [*sentences, made]


def beyond(readings: Readings, method: str) -> str:
    """What a method after the ladder adds, and its mean of targets from each source that has it."""
    scores = [
        f"{tex(cell_text(readings.score(scenario, method, 'mean_target')))}\\,\\% from {source}"
        for scenario, source in SOURCES.items()
        if scenario in readings.scenarios and readings.has(scenario, method)
    ]
    if not scores:
        return ""
    return f"With {BEYOND[method]} (\\emph{{{tex(method)}}}) it has {joined(scores)}. "


def alone(experiment: Experiment | None) -> str:
    """Said while no row has a second seed."""
    runs = experiment.runs if experiment else []
    if len({run.seed for run in runs if run.done}) > 1:
        return ""
    return (
        "These are of one seed: their intervals cover other test images alone, and no difference "
        "between two rows is tested."
    )


def planned_in(experiment: Experiment | None, scenario: str) -> dict[str, list[RecordedRun]]:
    """An experiment's runs in a scenario by method, in plan order; none without the experiment."""
    runs = experiment.runs if experiment else []
    return by_method([run for run in runs if run.scenario.name == scenario])


def row_of(
    readings: Readings, scenario: str, method: str, words: str, planned: list[RecordedRun]
) -> str:
    count = f"{sum(run.done for run in planned)}/{len(planned)}"
    cells = (printed(readings.score(scenario, method, column)) for column in COLUMNS)
    return line(f"\\quad {tex(words)}", count, *cells)


def best_row(
    readings: Readings, scenario: str, experiment: Experiment, steps: set[str]
) -> str | None:
    """The row of an experiment's method with the highest mean of targets; None without a run.

    Args:
        steps: methods of the ladder, which an experiment has for comparison alone.
    """
    planned = {
        method: runs
        for method, runs in planned_in(experiment, scenario).items()
        if readings.has(scenario, method) and runs[0].track == "inductive" and method not in steps
    }
    if not planned:
        return None
    best = max(planned, key=lambda name: readings.score(scenario, name, "mean_target").mean)
    text = row_of(readings, scenario, best, best, planned[best])
    return text.replace(" & ", f" \\citep{{{CITED[experiment.experiment]}}} & ", 1)


def decomposition(results: Results, experiment: Experiment) -> list[str]:
    """What of the loss colour and framing account for, mean of targets, plain network."""
    parts = []
    for own in shift_parts(experiment, results.scores):
        if own.target == MEAN and own.method == "resnet18-bn-ce-small":
            points = (own.home - own.plain, own.colour, own.framing, own.rest)
            loss, colour, framing, rest = (tex(number(float(one.mean()))) for one in points)
            parts.append(
                f"from \\textsf{{{tex(own.source)}}}, of {loss} points lost, colour accounts "
                f"for {colour}, framing for {framing}, and {rest} remain"
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
    shares, waiting, crossed = [], [], ""
    for own in grids(experiment, results.scores, results.records):
        crossed = joined(PARTS.get(part, part) for part in own.choices)
        if own.empty_cells:
            waiting.append(f"{own.source} ({own.empty_cells} of {own.cells} cells without a run)")
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
            f"In the grid that crosses {crossed}, the variance of the mean of targets between runs "
            f"is accounted for as follows: {'; '.join(shares)}.\n"
        )
    if waiting:
        sentences.append(
            f"The grid that crosses {crossed} still has empty cells, and no effect is reported "
            f"until it has none: {tex(joined(waiting))}.\n"
        )
    return sentences
