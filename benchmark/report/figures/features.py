"""Sets of features: what they know of the laboratory against what they are worth elsewhere, and
what labelled cells buy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.drawing import CONSTANT, INK, line_handles, mark_of, panels, title
from benchmark.evaluation.features import budget_scores, common_neighbours, robustness_at
from benchmark.report.features import ordered
from benchmark.report.results import Results

MOST_SETS = 8
"""Marks that can be told apart."""
MOST_TARGETS = 8


def features_figure(results: Results) -> Figure:
    """Left: mean macro-F1 of the targets against the robustness index; then a panel per target:
    macro-F1 against labelled cells of each class. Of the first source."""
    values = {score[:4]: score.value for score in results.feature_scores}
    scenario = results.feature_sets[0].record.scenarios[0]
    sets = ordered(results.feature_sets, values, scenario.name)[:MOST_SETS]
    names, k = [own.record.name for own in sets], common_neighbours(results.feature_sets)
    frame = pd.concat([budget_scores(own) for own in sets])
    frame = frame[frame["method"] == "logistic"]
    budgets = sorted(set(frame["per_class"]))
    targets = [t for t in scenario.targets if (frame["target"] == t).any()][:MOST_TARGETS]
    across = 3
    legend = 5 * -(-len(names) // 4)
    figure, (first, *others) = panels(
        1 + len(targets), across, (46, 38), (13, 17), (13, 11, 3, 13 + legend)
    )
    for own in sets:
        value = values.get((own.record.name, scenario.name, "logistic", "mean_target"))
        marker, colour = mark_of(own.record.name, names)
        index, low, high = robustness_at(own, k)
        if value is not None:
            first.plot(
                [index] * 2, [100 * value.low, 100 * value.high], color=colour, linewidth=0.8
            )
            first.plot([low, high], [100 * value.mean] * 2, color=colour, linewidth=0.8)
            first.plot(index, 100 * value.mean, marker, color=colour, markersize=4)
    first.axvline(0.5, color=CONSTANT, linewidth=0.7, linestyle=":")
    first.set(xlim=(0, 1), ylim=(0, 100), xlabel=f"robustness index (k = {k})")
    first.set_ylabel("mean macro-F1 of targets (%)")
    first.set_title("laboratory or cell", fontsize=6.5, color=INK)
    for axes, target in zip(others, targets, strict=True):
        curves(axes, frame[frame["target"] == target], scenario.source, names, budgets)
        axes.set_title(f"labelled cells of {target}", fontsize=6.5, color=INK)
    figure.legend(handles=line_handles(names), loc="lower left", ncols=4, fontsize=6.5)
    title(figure, f"Frozen features with logistic regression (source: {scenario.source})")
    return figure


def curves(
    axes: Axes, frame: pd.DataFrame, source: str, names: list[str], budgets: list[int]
) -> None:
    """Mean macro-F1 over draws by labelled cells of each class, and the range of draws as a band;
    at 0 the source's readout."""
    for name in names:
        own = frame[(frame["features"] == name) & frame["source"].isin(["", source])]
        found = own.groupby("per_class")["macro_f1"].agg(["mean", "min", "max"])
        x = [budgets.index(k) for k in found.index]
        marker, colour = mark_of(name, names)
        # The source's readout at 0 is another one than those of labelled cells: no line joins them.
        axes.fill_between(x[1:], *(100 * found[n].to_numpy()[1:] for n in ("min", "max")),
                          color=colour, alpha=0.08, linewidth=0)  # fmt: skip
        axes.plot(x[1:], 100 * found["mean"].to_numpy()[1:], color=colour, marker=marker,
                  markersize=2.5, linewidth=0.9)  # fmt: skip
        axes.plot(x[:1], 100 * found["mean"].to_numpy()[:1], marker, color=colour, markersize=3)
    axes.axvline(0.5, color=CONSTANT, linewidth=0.6, linestyle=":")
    axes.set_xticks(np.arange(len(budgets)), ["source", *map(str, budgets[1:])], fontsize=5.5)
    axes.set(xlim=(-0.4, len(budgets) - 0.6), ylim=(0, 100))
    axes.set(xlabel="labelled cells of each class", ylabel="macro-F1 (%)")
    axes.grid(axis="y")
