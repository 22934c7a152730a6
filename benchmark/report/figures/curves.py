"""Curves: reliability, risk against coverage, and macro-F1 by severity."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmark.drawing import (
    CONSTANT,
    IN_DOMAIN,
    INK,
    SHIFTED,
    line_handles,
    mark_of,
    outer_labels,
    panels,
    title,
)
from benchmark.evaluation.experiments import RecordedRun
from benchmark.metrics import HEADLINE
from benchmark.report.results import (
    Curves,
    Group,
    Results,
    by_method,
    cell,
    counted_sets,
    done_ids,
    plain_targets,
    short_source,
    shown_methods,
    values,
)
from benchmark.scenarios import corruption_of

ACROSS = 4
"""panels side by side"""
FEWEST_IMAGES = 10
"""images for which a bin is drawn"""
COVERAGES = np.linspace(0.025, 1, 40)
"""coverages at which curves of several seeds are averaged"""


def reliability_figure(results: Results, group: Group) -> Figure:
    """Accuracy against stated confidence, in-domain and on all targets together; seeds pooled.

    The area of a mark is the share of images in its bin; a bin of fewer than ten is left out.
    """
    scenario, scores, methods = group.scenario, results.scores, by_method(group.runs)
    shown, note = shown_methods(scores, group)
    across = min(ACROSS, len(shown))
    ticks = np.linspace(0, 1, 5)
    figure, found = panels(len(shown), across, (37.4, 37.4), (5, 8), (11, 10, 4, 9))
    for axes, method in zip(found, shown, strict=True):
        ids = done_ids(methods[method])
        axes.plot([0, 1], [0, 1], color=CONSTANT, linewidth=0.7, linestyle=(0, (3, 2)))
        texts = []
        for test_sets, colour, marker, label in (
            (scenario.test_sets[:1], IN_DOMAIN, "o", "in-domain"),
            ([(t, "shifted") for t in plain_targets(scenario)], SHIFTED, "D", "targets"),
        ):
            keys = ((i, *t, "reliability") for i, t in itertools.product(ids, test_sets))
            x, y, share = pooled_bins(
                [results.curves[key] for key in keys if key in results.curves]
            )
            axes.plot(x, y, color=colour, linewidth=0.9, zorder=2)
            axes.scatter(x, y, 2 + 90 * share, color=colour, marker=marker, alpha=0.55,
                         linewidth=0, zorder=3)  # fmt: skip
            error = (
                100 * np.nanmean(values(scores, ids, tuple(test_sets), "ece")) if len(x) else np.nan
            )
            texts.append((f"ECE {label} {error:.1f}", colour))
        for line, (text, colour) in enumerate(texts):
            axes.text(0.97, 0.11 - 0.08 * line, text, transform=axes.transAxes, ha="right",
                      fontsize=6, color=colour)  # fmt: skip
        # The longest names of a grid fill a panel at this size.
        axes.set_title(method, fontsize=5.6, fontweight="normal")
        axes.set(xlim=(0, 1), ylim=(0, 1))
    outer_labels(found, across, "stated confidence", "accuracy", ticks, ticks)
    title(figure, f"Trained on {short_source(scenario)}{note}")
    return figure


def pooled_bins(found: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and share of images by bin, over several runs and test sets."""
    if not found:
        return np.empty(0), np.empty(0), np.empty(0)
    x, y, n = np.concatenate(found).T
    place = np.clip(np.ceil(x * 15).astype(int) - 1, 0, 14)
    total = np.bincount(place, n, 15)
    full = total >= FEWEST_IMAGES
    means = [np.bincount(place, n * what, 15)[full] / total[full] for what in (x, y)]
    return *means, total[full] / total.sum()


def risk_figure(results: Results, group: Group) -> Figure:
    """Error rate of the accepted images against their share: a panel per test set, a line each."""
    scenario, scores, methods = group.scenario, results.scores, by_method(group.runs)
    shown, note = shown_methods(scores, group)
    test_sets = [scenario.test_sets[0], *((t, "shifted") for t in plain_targets(scenario))]
    across = min(3, len(test_sets))
    below = 13 + 3.2 * len(shown)
    width = 49 if across == 3 else 75
    figure, found = panels(len(test_sets), across, (width, 32), (9, 8), (12, 10, 3, below))
    for axes, test_set in zip(found, test_sets, strict=True):
        draw_risk(axes, test_set, methods, shown, results.curves)
    labels = ("coverage (most confident first)", "errors among the accepted")
    outer_labels(found, across, *labels, np.linspace(0, 1, 6), np.linspace(0, 1, 6))
    handles = []
    for method in shown:
        marker, colour = mark_of(method, shown)
        ids = done_ids(methods[method])
        home, away = (
            100 * np.nanmean(values(scores, ids, tuple(where), "aurc"))
            for where in (test_sets[:1], counted_sets(scenario, scores) or test_sets)
        )
        text = f"{method}: AURC {home:.1f} in-domain, {away:.1f} mean of targets (× 100)"
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=3, label=text))
    figure.legend(handles=handles, loc="lower left", ncols=1, fontsize=6.5)
    title(figure, f"Trained on {short_source(scenario)}{note}")
    return figure


def draw_risk(
    axes: Axes,
    test_set: tuple[str, str],
    methods: dict[str, list[RecordedRun]],
    shown: list[str],
    curves: Curves,
) -> None:
    n = 0
    for method in shown:
        ids = done_ids(methods[method])
        keys = ((i, *test_set, "risk_coverage") for i in ids)
        found = [curves[key] for key in keys if key in curves]
        if not found:
            continue
        n = int(found[0][-1, 2])
        mean = np.mean([np.interp(COVERAGES, c[:, 0], c[:, 1]) for c in found], axis=0)
        marker, colour = mark_of(method, shown)
        axes.plot(COVERAGES, mean, color=colour, marker=marker, markevery=(7, 8), markersize=2.8)
    place = "in-domain" if test_set[1] == "id_test" else "target"
    name = "sources" if "+" in test_set[0] else test_set[0]
    axes.set_title(f"{name} ({place}), n = {n or '–'}", fontsize=6.5, color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid(axis="y")


CORRUPTIONS_ACROSS = 5
BANDS = 3
"""With more methods, intervals would hide each other."""


def corruption_figure(results: Results, group: Group) -> Figure:
    """Mean over seeds at every severity; 0 is the in-domain test."""
    scenario, scores = group.scenario, results.scores
    shown, note = shown_methods(scores, group)
    where = (group.experiment.experiment, scenario.name, group.track)
    targets: dict[str, list[tuple[int, str]]] = {}
    for target in scenario.targets:
        if found := corruption_of(target):
            targets.setdefault(found[1], []).append((found[2], target))
    across = min(CORRUPTIONS_ACROSS, len(targets))
    below = 14 + 3.2 * -(-len(shown) // 3)
    figure, found = panels(len(targets), across, (30, 25), (4, 8), (11, 10, 3, below))
    for axes, (corruption, own) in zip(found, targets.items(), strict=True):
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
    steps = range(1 + max(severity for own in targets.values() for severity, _ in own))
    outer_labels(found, across, "severity", "macro-F1 (%)", steps, range(0, 101, 20))
    figure.legend(handles=line_handles(shown), loc="lower left", ncols=3, fontsize=6.5)
    title(figure, f"Trained on {scenario.source}; severity 0 is the unchanged image{note}")
    return figure
