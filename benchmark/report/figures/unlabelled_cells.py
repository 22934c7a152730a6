"""What unlabelled cells buy: gain against their number, a row per network, a column per order."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.drawing import INK, PAGE_WIDTH, line_handles, mark_of, outer_labels, panels, title
from benchmark.evaluation.unlabelled_cells import METHODS, NONE, NUMBERS, ORDERS
from benchmark.report.unlabelled_cells import by_target, network_name

SHOWN = [name for name in METHODS if name != NONE]
STEP = 0.09
"""Between the lines of two methods at one number, so that their ranges stand side by side."""


def unlabelled_cells_figure(table: pd.DataFrame) -> Figure:
    """Mean over targets, and their range, of every method.

    Args:
        table: `adapted_scores` of a profile.
    """
    means = by_target(table)
    networks = list(dict.fromkeys(zip(means["source"], means["network"], strict=True)))
    orders = [name for name in ORDERS if (means["order"] == name).any()]
    across = len(orders)
    size = ((PAGE_WIDTH - 13 - 3 - 4 * (across - 1)) / across, 36)
    figure, found = panels(len(networks) * across, across, size, (4, 9), (13, 10, 3, 19))
    for place, axes in enumerate(found):
        (_, network), order = networks[place // across], orders[place % across]
        own = means[(means["network"] == network) & (means["order"] == order)]
        draw(axes, own)
        if own.empty:
            axes.text(0.5, 0.9, "not run", ha="center", transform=axes.transAxes, fontsize=6.5)
        shown = means[means["network"] == network]
        low, high = 100 * shown["gain"].min(), 100 * shown["gain"].max()
        axes.set(xlim=(-0.5, len(NUMBERS) - 0.5), ylim=(min(low, 0) - 3, max(high, 0) + 3))
        axes.set_title(f"{ORDERS[order]} ({own['target'].nunique()})", fontsize=6.5, color=INK)
        axes.grid(axis="y")
    outer_labels(found, across, "unlabelled cells", "", range(len(NUMBERS)))
    for place, axes in enumerate(found):
        lowest = place + across >= len(found)
        axes.set_xticks(range(len(NUMBERS)), NUMBERS if lowest else [""] * len(NUMBERS))
        if place % across:
            axes.set_yticklabels([])
        else:
            source, network = networks[place // across]
            axes.set_ylabel(f"{network_name(network)}\n({source}), points", fontsize=6)
    handles = line_handles([METHODS[name] for name in SHOWN])
    figure.legend(handles=handles, loc="lower left", ncols=5, fontsize=6.5)
    title(figure, "Macro-F1 gained by adapting to unlabelled cells of the target")
    return figure


def draw(axes: Axes, means: pd.DataFrame) -> None:
    """The methods of a network in one order, from the means that `by_target` gives.

    Where a number has fewer targets than others its mean is of other ones: the mark is hollow, and
    no line leads to it.
    """
    axes.axhline(0, color=INK, linewidth=0.6)
    targets = means["target"].nunique()
    names = [METHODS[name] for name in SHOWN]
    for place, method in enumerate(SHOWN):
        marker, colour = mark_of(METHODS[method], names)
        own = means[means["method"] == method].groupby("number")["gain"]
        if not len(own):
            continue
        gains = 100 * own.agg(["min", "max", "mean"])
        at = np.array([NUMBERS.index(number) for number in gains.index])
        x, whole = at + STEP * (place - (len(SHOWN) - 1) / 2), (own.size() == targets).to_numpy()
        axes.vlines(x, gains["min"], gains["max"], color=colour, linewidth=0.7, alpha=0.7)
        axes.plot(x[whole], gains["mean"][whole], marker, color=colour, markersize=3,
                  linestyle="-", linewidth=0.9)  # fmt: skip
        axes.plot(x[~whole], gains["mean"][~whole], marker, color=colour, markersize=3,
                  markerfacecolor="white", markeredgewidth=0.7, linestyle="")  # fmt: skip
