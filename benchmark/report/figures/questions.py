"""What laboratories and model makers ask, a figure each."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from benchmark.drawing import CONSTANT, FAINT, INK, MARKS, outer_labels, panels, title
from benchmark.evaluation.acceptance import ACCURACY, LABELS
from benchmark.evaluation.differential import CORRECTED, CORRECTIONS, PERFECT
from benchmark.evaluation.unlabelled import ESTIMATORS, REGRESSION
from benchmark.report.questions import (
    BRANCHES,
    CORRECTION_NAMES,
    ESTIMATOR_NAMES,
    GOAL,
    Line,
    classes_of,
    errors_by_height,
    heights_of,
    lines_of,
    place_name,
    severity_lines,
    shown,
    unlabelled_frame,
)
from benchmark.report.results import Results, short_source

PATIENT = "adult normal"
SHORT = {
    "neutrophil": "neut.",
    "lymphocyte": "lymph.",
    "monocyte": "mono.",
    "eosinophil": "eos.",
    "basophil": "baso.",
}
"""Classes as haematology laboratories abbreviate them."""
MOST_ROWS = 2
"""Scenarios of a figure: the first of the plan."""
KINDS = ("in-domain", "corruptions", "other domains")
SHADES = ("#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#7F1D1D")
"""Of heights, the least severe first."""


def best_lines(results: Results, table: pd.DataFrame, more: tuple[str, ...] = ()) -> list[Line]:
    """As `lines_of`, of the best method of the first scenarios alone."""
    lines = lines_of(results, table, more)
    names = list(dict.fromkeys(line.scenario.name for line in lines))[:MOST_ROWS]
    best = {name: own[-1] for name, own in shown(results).items() if name in names}
    return [ln for ln in lines if ln.method in (best.get(ln.scenario.name), *more)
            and ln.scenario.name in best]  # fmt: skip


def methods_text(lines: list[Line]) -> str:
    """Which method a source is shown by."""
    names = {short_source(ln.scenario): ln.method for ln in lines if ln.method != PERFECT}
    return "; ".join(f"{source}: {method}" for source, method in names.items())


def panel_title(line: Line) -> str:
    return f"{short_source(line.scenario)} → {place_name(*line.place)}"


def differential_figure(results: Results) -> Figure:
    """Difference from a faultless count, by class: a panel per source and test set."""
    table = results.differential
    table = table[(table["cells"] == CORRECTED) & (table["patient"] == PATIENT)]
    lines = best_lines(results, table, (PERFECT,))
    faultless = {(ln.scenario.name, ln.place): ln for ln in lines if ln.method == PERFECT}
    lines = [line for line in lines if line.method != PERFECT]
    classes = classes_of(results, set(table["class_name"]))
    across = min(3, len(lines))
    figure, found = panels(len(lines), across, (49, 34), (9, 12), (13, 10, 3, 20))
    for axes, line in zip(found, lines, strict=True):
        axes.axhline(0, color=INK, linewidth=0.6)
        pairs = [(faultless[line.scenario.name, line.place].rows, "none", CONSTANT)]
        pairs += [(line.rows, correction, colour) for correction, colour in PAIRS]
        for at, (rows, correction, colour) in enumerate(pairs):
            own = [row for row in rows if row["correction"] == correction]
            x = [classes.index(row["class_name"]) + 0.18 * (at - 1.5) for row in own]
            low, high = (np.array([100 * row[end] for row in own]) for end in ("low", "high"))
            axes.vlines(x, low, high, color=colour, linewidth=1.2)
            axes.plot(x, (low + high) / 2, "o", color=colour, markersize=2.6)
        axes.set_title(panel_title(line), fontsize=6.5, color=INK)
        axes.grid(axis="y")
        axes.set(xlim=(-0.5, len(classes) - 0.5))
    outer_labels(found, across, "", "difference (points)", range(len(classes)))
    for axes in found:
        axes.set_xticks(range(len(classes)), [SHORT.get(name, name) for name in classes])
    names = ["no error: drawing of cells alone", "as counted"]
    names += [f"corrected: {CORRECTION_NAMES[c]}" for c in CORRECTIONS[1:]]
    colours = [CONSTANT, *(colour for _, colour in PAIRS)]
    handles = [
        Line2D([], [], color=colour, marker="o", markersize=3, label=name)
        for name, colour in zip(names, colours, strict=True)
    ]
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=6.5)
    title(figure, f"Differential counts of {CORRECTED} cells, {PATIENT} ({methods_text(lines)})")
    return figure


PAIRS = [(name, MARKS[place][1]) for place, name in enumerate(CORRECTIONS)]
"""Correction and colour."""


def labels_figure(results: Results) -> Figure:
    """Coverage and accuracy of the accepted against the number of labelled local cells."""
    lines = best_lines(results, results.local_thresholds)
    across = min(3, len(lines))
    figure, found = panels(len(lines), across, (49, 32), (9, 12), (12, 10, 3, 20))
    for axes, line in zip(found, lines, strict=True):
        rows = {(row["fit"], row["labels"]): row for row in line.rows}
        steps = [("source", 0), *(("plain", size) for size in LABELS)]
        x = [at for at, key in enumerate(steps) if key in rows]
        for name, (marker, colour) in zip(("coverage", "accuracy"), MARKS, strict=False):
            y = [100 * rows[steps[at]][name] for at in x]
            axes.plot(x, y, color=colour, marker=marker, markersize=3)
        axes.axhline(100 * ACCURACY, color=CONSTANT, linestyle=(0, (3, 2)), linewidth=0.8)
        axes.axhline(100 * rows["oracle", 0]["coverage"], color=MARKS[0][1], linestyle=":",
                     linewidth=1)  # fmt: skip
        axes.set_title(panel_title(line), fontsize=6.5, color=INK)
        axes.set(ylim=(0, 102), xlim=(-0.3, len(LABELS) + 0.3))
        axes.grid(axis="y")
    outer_labels(found, across, "labelled local cells", "%", range(5), range(0, 101, 20))
    for axes in found:
        axes.set_xticks(range(len(LABELS) + 1), ["none", *map(str, LABELS)])
    handles = [
        Line2D([], [], color=MARKS[0][1], marker="o", markersize=3, label="coverage"),
        Line2D([], [], color=MARKS[1][1], marker="s", markersize=3, label="accuracy of accepted"),
        Line2D([], [], color=MARKS[0][1], linestyle=":", label="largest coverage possible"),
        Line2D([], [], color=CONSTANT, linestyle=(0, (3, 2)), label="accuracy asked for"),
    ]
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=6.5)
    title(figure, f"Thresholds from labelled local cells ({methods_text(lines)})")
    return figure


def unlabelled_figure(results: Results) -> Figure:
    """Estimated against true macro-F1, a panel per estimator and a mark per run and test set."""
    table = unlabelled_frame(results)
    table = table[table["metric"] == "macro_f1"]
    names = [name for name in (*ESTIMATORS, REGRESSION) if (table["estimator"] == name).any()]
    figure, found = panels(len(names), 3, (47, 40), (8, 9), (13, 10, 3, 20))
    for axes, name in zip(found, names, strict=True):
        own = table[table["estimator"] == name]
        axes.fill_between([0, 100], [-GOAL, 100 - GOAL], [GOAL, 100 + GOAL], color=FAINT, alpha=0.5,
                          linewidth=0)  # fmt: skip
        for kind, (_, colour) in zip(KINDS, KIND_MARKS, strict=True):
            rows = own[own["tested"] == kind]
            x, y = 100 * rows["truth"], 100 * rows["estimate"]
            axes.plot(x, y, ".", color=colour, markersize=1.6, alpha=0.6, rasterized=True)
        off = own.loc[own["tested"] == KINDS[2], "error"].abs()
        text = ESTIMATOR_NAMES[name].split(" (")[0]
        text += f": {off.mean():.0f} points off" if len(off) else ""
        axes.set_title(text, fontsize=5.8, color=INK)
        axes.set(xlim=(0, 100), ylim=(0, 100))
    ticks = range(0, 101, 20)
    outer_labels(found, 3, "true macro-F1 (%)", "estimated macro-F1 (%)", ticks, ticks)
    handles = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=3, label=kind)
        for kind, (_, colour) in zip(KINDS, KIND_MARKS, strict=True)
    ]
    handles.append(Patch(color=FAINT, alpha=0.5, label=f"within {GOAL:g} points"))
    figure.legend(handles=handles, loc="lower left", ncols=4, fontsize=6.5)
    title(figure, "Macro-F1 estimated without labels")
    return figure


KIND_MARKS = (MARKS[0], MARKS[4], MARKS[1])


def severity_figure(results: Results) -> Figure:
    """Errors by height in % of the cells: a bar per source, method and test set."""
    lines = severity_lines(results)
    names = list(dict.fromkeys(line.scenario.name for line in lines))[:MOST_ROWS]
    lines = [line for line in lines if line.scenario.name in names]
    figure, found = panels(1, 1, (112, 3.6 * len(lines)), (0, 0), (65, 10, 3, 20))
    axes = found[0]
    heights = heights_of(results.severity)
    shades = {height: SHADES[height % len(SHADES)] for height in heights}
    for at, line in enumerate(lines):
        cells = sum({row["run_id"]: row["n"] for row in line.rows}.values())
        errors, _, chance = errors_by_height(line.rows)
        left = 0.0
        for height in heights:
            width = 100 * errors[height] / cells
            axes.barh(at, width, left=left, color=shades[height], height=0.72)
            left += width
        if chance:
            # Where the most severe would begin by chance.
            edge = left * (1 - chance[heights[-1]])
            axes.plot([edge, edge], [at - 0.36, at + 0.36], color="black", linewidth=0.9)
    names = [f"{short_source(ln.scenario)}, {ln.method} → {place_name(*ln.place)}" for ln in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=5.5)
    axes.set(xlim=(0, 100), ylim=(len(lines) - 0.4, -0.6), xlabel="errors (% of the cells)")
    axes.grid(axis="x")
    handles = [Patch(color=colour, label=BRANCHES[h]) for h, colour in shades.items()]
    text = "where the most severe errors would begin by chance"
    handles.append(Line2D([], [], color="black", linewidth=0.9, label=text))
    figure.legend(handles=handles, loc="lower left", ncols=2, fontsize=6.5)
    title(figure, "Severity of errors: where the lineages of cell and answer part")
    return figure


def has_patient(results: Results) -> bool:
    """Whether there is a differential of the patient that is drawn."""
    return bool((results.differential["patient"] == PATIENT).any())


def has_targets(results: Results) -> bool:
    return not results.local_thresholds.empty


def heights_seen(results: Results) -> bool:
    return bool(results.severity["errors"].any()) and bool(severity_lines(results))
