"""Figures of the paper alone: the shift seen and measured, differences, source × target, rejection.

Each is a function of `Readings` that gives a figure, or None where nothing of it was run. They are
drawn in the size in which they are printed: 180 mm over both columns, 86 mm over one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator

from benchmark.data.cards import card_of, load_cards, load_label_spaces
from benchmark.data.manifests import domain_images
from benchmark.data.prepare import decode_all, placed
from benchmark.drawing import (
    CONSTANT,
    FAINT,
    GRID,
    IN_DOMAIN,
    INK,
    MILLIMETRE,
    SHIFTED,
    STYLE,
    page,
    save,
)
from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.scores import MAJORITY
from benchmark.evaluation.selective import ACCURACY
from benchmark.files import read_json
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.words import BEST_SEEN, CHANGES, HEAT, PLAIN_NETWORK, SOURCES
from benchmark.report.results import plain_targets

COLUMN = 86.0
"""mm, one column of a page"""
BOTH = ("#009E73", "s")
LOOKS = {
    "raabin->*": (SHIFTED, "D"),
    "pbc-main->*": (IN_DOMAIN, "o"),
}
"""Scenario → colour and mark; any other has `BOTH`."""
SAMPLED = {"pbc-main": "pbc-main", "pbc-366": "pbc-366", "bccd": "bccd-wide"}
"""Domain → the domain of the images in this repository that stands for it. Images of the others may
not be passed on."""
CELL = 160
"""pixels of a shown cell"""
SHIFT_HEIGHT = 75.0
"""mm"""


def empty_axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes for a picture or a colour, in mm."""
    axes = axes_at(figure, x, y, width, height)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def looks(scenario: str) -> tuple[str, str]:
    return LOOKS.get(scenario, BOTH)


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes whose lower left corner is at (x, y); all in mm."""
    whole = figure.get_size_inches() / MILLIMETRE
    return figure.add_axes((x / whole[0], y / whole[1], width / whole[0], height / whole[1]))


# The shift, seen and measured


def shift_figure(readings: Readings, datasets: Path) -> Figure | None:
    """Cells and mean colour of each domain, and every method at home against elsewhere."""
    scenarios = readings.plain_scenarios()
    if not scenarios:
        return None
    scenarios.sort(key=lambda name: list(SOURCES).index(name) if name in SOURCES else len(SOURCES))
    first = readings.scenarios[scenarios[0]]
    domains = [first.source, *plain_targets(first)]
    figure = page(SHIFT_HEIGHT, automatic=False)
    for x, letter in ((0.5, "a"), (103, "b")):
        figure.text(x / 180, 1 - 1 / SHIFT_HEIGHT, letter, va="top", fontsize=9, fontweight="bold")
    draw_cells(figure, readings, datasets, domains)
    draw_methods(axes_at(figure, 112, 8.5, 65, 65), readings, scenarios)
    return figure


def draw_cells(figure: Figure, readings: Readings, datasets: Path, domains: list[str]) -> None:
    """A row per domain: a cell of each class, where they may be shown, and the mean colour."""
    side = min(69 / len(domains), 13.5)
    label_space = readings.results.experiments[0].label_space
    classes = list(readings.results.experiments[0].classes)
    wide = 13.2
    colours = mean_colours(readings.results.folder)
    cells = sampled_cells(datasets, label_space, domains)
    for row, domain in enumerate(domains):
        y = 70 - (row + 1) * side
        middle = (y + side / 2) / SHIFT_HEIGHT
        figure.text(15.5 / 180, middle, domain, ha="right", va="center", fontsize=6.5)
        boxes = [(17 + place * wide, name) for place, name in enumerate(classes)]
        for x, name in boxes if domain in cells else ():
            axes = empty_axes(figure, x + (wide - side) / 2, y + 0.4, side - 0.8, side - 0.8)
            axes.imshow(cells[domain][name])
        if domain not in cells:
            axes = empty_axes(figure, 17.4, y + 0.4, len(classes) * wide - 0.8, side - 0.8)
            axes.set_facecolor("#F2F2F2")
            axes.text(0.5, 0.5, "not reproduced (licence)", ha="center", va="center",
                      fontsize=6.5, color=INK)  # fmt: skip
        x = 18.5 + len(classes) * wide
        axes = empty_axes(figure, x, y + 0.4, 9, side - 0.8)
        axes.set_facecolor(colours.get(domain, "white"))
        for at, text in [*((x + wide / 2, name) for x, name in boxes), (x + 4.5, "mean colour")]:
            if row == 0:
                figure.text(at / 180, (y + side + 0.7) / SHIFT_HEIGHT, text, fontsize=6,
                            ha="center", va="bottom")  # fmt: skip


def sampled_cells(
    datasets: Path, label_space: str, domains: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Domain → class → a cell in the crop that networks see, where images lie in the repository.

    Which cell is no choice: of each class the one whose file has the smallest SHA-256.
    """
    cards, classes = load_cards(datasets), load_label_spaces(datasets)[label_space]
    found: dict[str, dict[str, np.ndarray]] = {}
    for domain in filter(SAMPLED.get, domains):
        shown = SAMPLED[domain]
        card = card_of(cards, shown)
        images = domain_images(datasets, card, shown, label_space, "sample")
        images = images.sort_values("sha256").drop_duplicates("class_name")
        rows = pd.concat([images[images["class_name"] == name] for name in classes])
        crop = placed(card.domains[shown].crop, rows, card.manifest)
        files = [datasets / "images" / card.folder / path for path in rows["path"]]
        pixels = decode_all(files, crop, CELL, shown)
        found[domain] = dict(zip(rows["class_name"], pixels, strict=True))
    return found


def mean_colours(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Domain → the mean of its images' colour as sRGB; none where no domain cards were written."""
    path = folder / "domains" / "domains.json"
    if not path.is_file():
        return {}
    own = read_json(path, f"run `wbc-shift domain cards -p {folder.name}` again")["domains"]
    return {
        name: srgb(*(facts["colour"][f"{key} mean"]["mean"] for key in ("L*", "a*", "b*")))
        for name, facts in own.items()
        if "colour" in facts
    }


def srgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """CIELAB (D65, 2°) as sRGB in [0, 1]: IEC 61966-2-1."""
    y = (lightness + 16) / 116
    xyz = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29))
    xyz *= (0.95047, 1.0, 1.08883)
    matrix = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    )
    linear = np.clip(matrix @ xyz, 0, 1)
    r, g, b = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return float(r), float(g), float(b)


def draw_methods(axes: Axes, readings: Readings, scenarios: list[str]) -> None:
    """Macro-F1 at home against the mean of targets: a point per method."""
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.7, linestyle=(0, (4, 2)))
    axes.text(38, 41, "no loss", fontsize=6, rotation=45, rotation_mode="anchor", color=INK)
    handles = []
    for scenario in scenarios:
        colour, mark = looks(scenario)
        for name, track in readings.methods[scenario].items():
            home, away = (
                readings.score(scenario, name, column).mean
                for column in ("in_domain", "mean_target")
            )
            fill = colour if track == "inductive" else "white"
            axes.plot(home, away, mark, color=fill, markersize=3.4, markeredgecolor=colour,
                      markeredgewidth=0.7, alpha=0.85)  # fmt: skip
            if name == "colour-histogram":
                axes.plot(home, away, "o", markersize=8, markerfacecolor="none", clip_on=False,
                          markeredgecolor="black", markeredgewidth=0.8)  # fmt: skip
        constant = readings.score(scenario, MAJORITY, "mean_target").mean
        axes.axhline(constant, color=colour, linewidth=0.8, linestyle=":")
        label = f"trained on {SOURCES.get(scenario, readings.scenarios[scenario].source)}"
        handles.append(Line2D([], [], color=colour, marker=mark, linestyle="", markersize=3.4,
                              label=label))  # fmt: skip
    handles += [
        Line2D([], [], color=INK, marker="o", linestyle="", markersize=3.4, label="hollow: saw the "
               "target's images", markerfacecolor="white"),
        Line2D([], [], color="black", marker="o", linestyle="", markersize=7, label="ringed: "
               "colour histogram", markerfacecolor="none"),
        Line2D([], [], color=INK, linestyle=":", linewidth=0.8, label="one constant answer"),
    ]  # fmt: skip
    axes.legend(handles=handles, loc="upper left", fontsize=6, handlelength=1.4, labelspacing=0.35,
                borderaxespad=0.2)  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_xlabel("macro-F1 at home (%)", fontsize=7)
    axes.set_ylabel("macro-F1 elsewhere, mean of targets (%)", fontsize=7)
    axes.grid(color=GRID, linewidth=0.4)


# Paired differences

ROW = 3.05
"""mm"""


def difference_figure(readings: Readings) -> Figure | None:
    """What each single change does to the mean of targets, beside a zero line."""
    scenarios = [*SOURCES, *(set(readings.scenarios) - set(SOURCES))]
    groups = {}
    for group, changes in CHANGES.items():
        rows = {
            change.name: found
            for change in changes
            if (
                found := {
                    name: readings.difference(name, change.method, change.reference, "mean_target")
                    for name in scenarios
                    if readings.has_difference(name, change.method, change.reference)
                    and not name.endswith("->corruptions")
                }
            )
        }
        if rows:
            groups[group] = rows
    if not groups:
        return None
    lines = sum(1.35 + len(rows) for rows in groups.values())
    height = 15 + ROW * lines
    figure = page(height, width=COLUMN, automatic=False)
    axes = axes_at(figure, 31, 8.5, 53, ROW * lines)
    y, ends = 0.0, [0.0]
    for group, rows in groups.items():
        axes.axhline(y, color=FAINT, linewidth=0.5, xmin=-0.55, clip_on=False)
        axes.text(-0.57, y + 0.72, group, fontsize=6.2, fontweight="bold", va="center",
                  transform=axes.get_yaxis_transform())  # fmt: skip
        y += 1.35
        for name, found in rows.items():
            axes.text(-0.55, y + 0.4, name, fontsize=6, va="center", clip_on=False,
                      transform=axes.get_yaxis_transform())  # fmt: skip
            for place, (scenario, row) in enumerate(found.items()):
                colour, mark = looks(scenario)
                at = y + 0.4 + (place - (len(found) - 1) / 2) * 0.42
                points = [100 * row[key] for key in ("low", "mean", "high")]
                ends += points
                shown = bool(significant(row["p_holm"]))
                axes.plot(points[::2], [at, at], color=colour, linewidth=0.9)
                axes.plot(points[1], at, mark, color=colour if shown else "white", markersize=3,
                          markeredgecolor=colour, markeredgewidth=0.8)  # fmt: skip
            y += 1
    axes.axvline(0, color="black", linewidth=0.8)
    low, high = 10 * np.floor(min(ends) / 10), 10 * np.ceil(max(ends) / 10)
    axes.set(xlim=(low, high), ylim=(y, 0), yticks=[])
    axes.xaxis.set_major_locator(MultipleLocator(10))
    axes.grid(axis="x", color=GRID, linewidth=0.4)
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelsize=6)
    axes.set_xlabel("change elsewhere, points of macro-F1", fontsize=6.5)
    marks = [(looks(name), f"from {SOURCES[name]}") for name in SOURCES]
    marks += [(BOTH, "from both")]
    handles = [
        Line2D([], [], color=colour, marker=mark, markersize=3, linewidth=0.9, label=text)
        for (colour, mark), text in marks
    ]
    figure.legend(handles=handles, loc="upper center", ncols=3, fontsize=6.2, handlelength=1.6,
                  borderaxespad=0.3)  # fmt: skip
    return figure


# Source × target


def heat_figure(readings: Readings) -> Figure | None:
    """Macro-F1 of a few methods and of the constant, by source and test set, with a colour bar."""
    scenarios = [name for name in SOURCES if name in readings.scenarios]
    if not scenarios:
        return None
    columns: list[str] = []
    for name in scenarios:
        own = readings.scenarios[name]
        columns += [one for one in (own.source, *own.targets) if one not in columns]
    rows = [
        (scenario, method, words)
        for scenario in scenarios
        for method, words in {**HEAT, MAJORITY: "constant answer"}.items()
        if method == MAJORITY or readings.has(scenario, method)
    ]
    grid = np.full((len(rows), len(columns) + 1), np.nan)
    for i, (scenario, method, _) in enumerate(rows):
        own = readings.scenarios[scenario]
        for j, column in enumerate([*columns, "mean_target"]):
            key = "in_domain" if column == own.source else column
            if column in (own.source, *own.targets, "mean_target"):
                grid[i, j] = readings.score(scenario, method, key).mean
    return drawn_heat(grid, rows, columns, [readings.scenarios[row[0]].source for row in rows])


def drawn_heat(
    grid: np.ndarray, rows: list[tuple[str, str, str]], columns: list[str], homes: list[str]
) -> Figure:
    """The grid as a map; a gap before the mean of targets, and between sources."""
    tall, wide, left, bottom, top = 4.4, 6.9, 27.0, 11.5, 13.5
    sources = list(dict.fromkeys(row[0] for row in rows))
    height = bottom + top + tall * len(rows) + 1.5 * (len(sources) - 1)
    figure = page(height, width=COLUMN, automatic=False)
    axes = axes_at(figure, 0, 0, COLUMN, height)
    axes.set(xlim=(0, COLUMN), ylim=(0, height))
    axes.set_axis_off()
    colours = matplotlib.colormaps["cividis"]
    for i, (scenario, method, words) in enumerate(rows):
        y = height - top - tall * (i + 1) - 1.5 * sources.index(scenario)
        style = "italic" if method == MAJORITY else "normal"
        axes.text(left - 1, y + tall / 2, words, ha="right", va="center", fontsize=6, style=style)
        for j, column in enumerate([*columns, ""]):
            x, value = left + wide * j + (1.5 if not column else 0), grid[i, j]
            if np.isnan(value):
                continue
            home = column == homes[i]
            axes.add_patch(Rectangle((x, y), wide, tall, facecolor=colours(value / 100),
                                     edgecolor="white", linewidth=0.8))  # fmt: skip
            axes.text(x + wide / 2, y + tall / 2, f"{value:.0f}", ha="center", va="center",
                      fontsize=6, color="white" if value < 55 else "black")  # fmt: skip
            if home:
                axes.add_patch(Rectangle((x + 0.35, y + 0.35), wide - 0.7, tall - 0.7, fill=False,
                                         edgecolor=SHIFTED, linewidth=1))  # fmt: skip
    for source in sources:
        own = [i for i, row in enumerate(rows) if row[0] == source]
        y = height - top - tall * (own[0] + len(own) / 2) - 1.5 * sources.index(source)
        axes.text(1.8, y, f"from {SOURCES[source]}", rotation=90, ha="center", va="center",
                  fontsize=6.5, fontweight="bold")  # fmt: skip
    for j, column in enumerate([*columns, "mean of\ntargets"]):
        x = left + wide * (j + 0.5) + (1.5 if j == len(columns) else 0)
        axes.text(x, height - top + 0.8, column, rotation=40, ha="left", va="bottom", fontsize=6,
                  rotation_mode="anchor")  # fmt: skip
    bar = axes_at(figure, left, 7, wide * len(columns), 2)
    bar.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=colours, extent=(0, 100, 0, 1))
    bar.set(yticks=[], xticks=range(0, 101, 20))
    bar.tick_params(labelsize=6, pad=1)
    bar.set_xlabel("macro-F1 (%)", fontsize=6.5, labelpad=1)
    return figure


# Rejection

COVERAGES = np.linspace(0.02, 1, 50)


def risk_figure(readings: Readings, scenario: str = "pbc-main->*") -> Figure | None:
    """Errors among the accepted against coverage: two methods, at home and elsewhere, one scale."""
    shown = {PLAIN_NETWORK: "plain", BEST_SEEN: "ImageNet + stain"}
    shown = {name: words for name, words in shown.items() if readings.has(scenario, name)}
    if not shown:
        return None
    own = readings.scenarios[scenario]
    figure = page(58, width=COLUMN, automatic=False)
    axes = axes_at(figure, 11, 9, 73, 47)
    counted = readings.results.scores.counted[scenario]
    for (name, words), colour in zip(shown.items(), (INK, "#009E73"), strict=False):
        ids = readings.results.scores.runs[scenario, name]
        for place, line, sets in (
            ("home", (0, (3, 1.5)), [(own.source, "id_test")]),
            ("elsewhere", "-", [(target, "shifted") for target in counted]),
        ):
            found = [
                np.interp(COVERAGES, curve[:, 0], curve[:, 1])
                for i in ids
                for where in sets
                if (curve := readings.results.curves.get((i, *where, "risk_coverage"))) is not None
            ]
            if not found:
                continue
            risk = 100 * np.mean(found, axis=0)
            axes.plot(100 * COVERAGES, risk, color=colour, linestyle=line, linewidth=1.3,
                      label=f"{words}, {place}")  # fmt: skip
            # Where the threshold of the source lies, in each test set and seed.
            at = 100 - readings.rejected(scenario, name, place, "rejected")
            wrong = 100 - readings.rejected(scenario, name, place, "accuracy")
            axes.plot(at, wrong, "o", color=colour, markersize=5, markeredgecolor="white")
    asked = 100 * (1 - ACCURACY)
    axes.axhline(
        asked, color=SHIFTED, linewidth=0.9, linestyle=":", label=f"asked for: {asked:g} %"
    )
    axes.plot([], [], "o", color=CONSTANT, markersize=4, label="at the source's threshold")
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 20), yticks=range(0, 101, 20))
    axes.set_xlabel("coverage: cells accepted, most confident first (%)", fontsize=6.5)
    axes.set_ylabel("risk: errors among them (%)", fontsize=6.5)
    axes.tick_params(labelsize=6)
    axes.grid(axis="y", color=GRID, linewidth=0.4)
    axes.legend(loc="upper left", fontsize=6, ncols=2, labelspacing=0.3, borderaxespad=0.1)
    return figure


def draw(folder: Path, name: str, figure: Callable[[], Figure | None]) -> bool:
    """Write a figure as `<folder>/<name>.pdf`; whether there was anything to draw."""
    with matplotlib.style.context(STYLE):
        drawn = figure()
        if drawn is not None:
            save(drawn, folder / name, "pdf")
    return drawn is not None
