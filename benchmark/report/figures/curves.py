"""Curves: reliability and risk-coverage of methods, in and out of domain, from `curves.parquet`."""

from __future__ import annotations

import itertools

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.evaluation.experiments import Run, Scenario
from benchmark.report.figures.style import (
    CONSTANT,
    IN_DOMAIN,
    INK,
    SHIFTED,
    STYLE,
    mark_of,
    panels,
    shown_methods,
    title,
)
from benchmark.report.results import (
    Results,
    Scores,
    by_method,
    counted_sets,
    done_ids,
    plain_targets,
    values,
)

ACROSS = 4
"""panels side by side"""
FEWEST = 10
"""images for which a bin is drawn"""
GRID = np.linspace(0.025, 1, 40)
"""coverages at which curves of several seeds are averaged"""

Curves = dict[tuple[str, str, str, str], np.ndarray]
"""(run_id, domain, part, curve) → (points, 3): x, y, n"""


def load_curves(results: Results) -> Curves:
    """Read `curves.parquet`, in which the points of a curve stand together."""
    table = results.read("curves")
    names = ("run_id", "domain", "part", "curve")
    keys = list(zip(*(table[name] for name in names), strict=True))
    points = np.column_stack([np.asarray(table[name], float) for name in ("x", "y", "n")])
    curves: Curves = {}
    start = 0
    for key, group in itertools.groupby(keys):
        size = len(list(group))
        curves[key] = points[start : start + size]
        start += size
    return curves


def reliability_figure(
    scenario: Scenario, runs: list[Run], scores: Scores, curves: Curves
) -> Figure:
    """Accuracy against stated confidence, in-domain and on all targets together; seeds pooled.

    The area of a mark is the share of images in its bin; a bin of fewer than ten is left out.
    """
    shown, note = shown_methods(scenario, runs, scores)
    across = min(ACROSS, len(shown))
    ticks = np.linspace(0, 1, 5)
    with matplotlib.style.context(STYLE):
        figure, found = panels(len(shown), across, (37.4, 37.4), (5, 8), (11, 10, 4, 9))
        for place, (axes, method) in enumerate(zip(found, shown, strict=True)):
            ids = done_ids(by_method(runs)[method])
            axes.plot([0, 1], [0, 1], color=CONSTANT, linewidth=0.7, linestyle=(0, (3, 2)))
            texts = []
            for test_sets, colour, marker, label in (
                (scenario.test_sets[:1], IN_DOMAIN, "o", "in-domain"),
                ([(t, "shifted") for t in plain_targets(scenario)], SHIFTED, "D", "targets"),
            ):
                keys = itertools.product(ids, test_sets)
                x, y, share = pooled_bins(
                    [
                        curves[i, *t, "reliability"]
                        for i, t in keys
                        if (i, *t, "reliability") in curves
                    ]
                )
                axes.plot(x, y, color=colour, linewidth=0.9, zorder=2)
                axes.scatter(x, y, 2 + 90 * share, color=colour, marker=marker, alpha=0.55,
                             linewidth=0, zorder=3)  # fmt: skip
                error = (
                    100 * np.nanmean(values(scores, ids, tuple(test_sets), "ece"))
                    if len(x)
                    else np.nan
                )
                texts.append((f"ECE {label} {error:.1f}", colour))
            for line, (text, colour) in enumerate(texts):
                axes.text(0.97, 0.11 - 0.08 * line, text, transform=axes.transAxes, ha="right",
                          fontsize=6, color=colour)  # fmt: skip
            # The longest names of a grid fill a panel at this size.
            axes.set_title(method, fontsize=5.6, fontweight="normal")
            axes.set(xlim=(0, 1), ylim=(0, 1))
            lowest = place + across >= len(shown)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks] if lowest else [])
            axes.set_yticks(ticks, [] if place % across else [f"{tick:g}" for tick in ticks])
            if not place % across:
                axes.set_ylabel("accuracy")
            if lowest:
                axes.set_xlabel("stated confidence")
        title(figure, f"Trained on {scenario.short_source}{note}")
    return figure


def pooled_bins(found: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and share of images by bin, over several runs and test sets."""
    if not found:
        return np.empty(0), np.empty(0), np.empty(0)
    x, y, n = np.concatenate(found).T
    place = np.clip(np.ceil(x * 15).astype(int) - 1, 0, 14)
    total = np.bincount(place, n, 15)
    full = total >= FEWEST
    means = [np.bincount(place, n * what, 15)[full] / total[full] for what in (x, y)]
    return *means, total[full] / total.sum()


def risk_figure(scenario: Scenario, runs: list[Run], scores: Scores, curves: Curves) -> Figure:
    """Error of the answered images against their share: a panel per test set, a line per method."""
    shown, note = shown_methods(scenario, runs, scores)
    test_sets = [scenario.test_sets[0], *((t, "shifted") for t in plain_targets(scenario))]
    across = min(3, len(test_sets))
    ticks = np.linspace(0, 1, 6)
    with matplotlib.style.context(STYLE):
        below = 13 + 3.2 * len(shown)
        width = 49 if across == 3 else 75
        figure, found = panels(len(test_sets), across, (width, 32), (9, 8), (12, 10, 3, below))
        for place, (axes, test_set) in enumerate(zip(found, test_sets, strict=True)):
            draw_risk(axes, test_set, runs, shown, curves)
            lowest = place + across >= len(test_sets)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks] if lowest else [])
            if lowest:
                axes.set_xlabel("coverage (most confident first)")
            if not place % across:
                axes.set_ylabel("risk: wrong among answered")
        handles = []
        for method in shown:
            marker, colour = mark_of(method, shown)
            ids = done_ids(by_method(runs)[method])
            home, away = (
                100 * np.nanmean(values(scores, ids, tuple(where), "aurc"))
                for where in (test_sets[:1], counted_sets(scenario, scores) or test_sets)
            )
            text = f"{method}: AURC {home:.1f} in-domain, {away:.1f} mean of targets (× 100)"
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=3, label=text))
        figure.legend(handles=handles, loc="lower left", ncols=1, fontsize=6.5)
        title(figure, f"Trained on {scenario.short_source}{note}")
    return figure


def draw_risk(
    axes: Axes, test_set: tuple[str, str], runs: list[Run], shown: list[str], curves: Curves
) -> None:
    """Mean over seeds of the risk of each method on one test set."""
    n = 0
    highest = 0.05
    for method in shown:
        ids = done_ids(by_method(runs)[method])
        found = [curves[i, *test_set, "risk_coverage"] for i in ids
                 if (i, *test_set, "risk_coverage") in curves]  # fmt: skip
        if not found:
            continue
        n = int(found[0][-1, 2])
        mean = np.mean([np.interp(GRID, c[:, 0], c[:, 1]) for c in found], axis=0)
        marker, colour = mark_of(method, shown)
        axes.plot(GRID, mean, color=colour, marker=marker, markevery=(7, 8), markersize=2.8)
        highest = max(highest, mean.max())
    place = "in-domain" if test_set[1] == "id_test" else "target"
    name = "sources" if "+" in test_set[0] else test_set[0]
    axes.set_title(f"{name} ({place}), n = {n or '–'}", fontsize=6.5, color=INK)
    axes.set(xlim=(0, 1), ylim=(0, min(1, 1.12 * highest)))
    axes.grid(axis="y")
