"""How soon the alarm of `predict` sees another laboratory, and how often it is false.

`predict` calls a folder another laboratory's when too many of its images lie beyond the range of
the source's own (`benchmark.domains.ranges`). Of n cells drawn from a laboratory of whose images a
share p lies beyond, it does so with the probability that a binomial count of n and p exceeds what
is tolerated. Cells of one slide are more alike than cells of many: for a folder of a single slide
the same is taken of each slide's own share, and averaged over slides.

`results/<profile>/domains/appearance.parquet` keeps what each image looks like, in eight numbers,
so that all of it is computed again without images.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binom

from benchmark.data.arrays import PreparedImages, cache_folder, table_path
from benchmark.data.cards import Card, card_of, load_label_spaces
from benchmark.domains.ranges import SourceRange, appearance, read_ranges, tolerated
from benchmark.domains.slide_ranges import slides_table
from benchmark.drawing import (
    CONSTANT,
    STYLE,
    line_handles,
    mark_of,
    outer_labels,
    panels,
    save,
    title,
)
from benchmark.errors import UserError
from benchmark.evaluation.exact import share
from benchmark.files import atomic, write_text
from benchmark.phantom.acquisition import DOSES, dose_of
from benchmark.progress import say
from benchmark.settings import Params, Profile
from benchmark.study.plan import profile_folder

LOOKS = [
    *(f"nucleus {channel}" for channel in "Lab"),
    *(f"around {channel}" for channel in "Lab"),
    "diameter",
    "sharpness",
]
"""Columns of `appearance.parquet`, in the order of `appearance`."""
PARTS = ("train", "id_val", "calibration", "id_test")
OWN = "id_test"
"""The part of a source that its range is not of."""
CELLS = (10, 20, 50, 100, 200, 500)
"""Sizes of a folder."""
FEWEST_OF_SLIDE = 10
"""Images of a slide below which its own share says nothing."""
SHOWN_CELLS = (10, 50, 200)
"""Of the figure of doses."""


def write_alarm(root: Path, params: Params, cards: dict[str, Card], name: str) -> None:
    """Write `appearance.parquet` where the profile's images are prepared, the power of the alarm
    for each source and target (`alarm.csv`) with its figure, and what a range of slides in place of
    one of images would hold (`alarm_slides.csv`).

    Raises:
        UserError: neither images nor `appearance.parquet` are here, or no range of a source.
    """
    profile, folder = params.profile(name), profile_folder(root, name) / "domains"
    path = folder / "appearance.parquet"
    if table_path(cache_folder(root, name)).exists():
        classes = load_label_spaces(root / "datasets")[profile.label_space]
        looks = looks_of(
            PreparedImages(root, name, classes), profile.domains, single_sources(profile)
        )
        with atomic(path) as temporary:
            looks.to_parquet(temporary, index=False)
    elif path.exists():
        looks = pd.read_parquet(path)
        say(f"note: no images are prepared, {path} is taken as it is")
    else:
        raise UserError(f"{path} is missing, and no images are here: `wbc-shift prepare -p {name}`")
    ranges = [read_ranges(root, name, source, None)[0] for source in single_sources(profile)]
    table = alarm_table(looks, ranges, profile.domains)
    by_slide = slides_table(looks, LOOKS, single_sources(profile), profile.domains, OWN)
    for file, own in (("alarm.csv", table), ("alarm_slides.csv", by_slide)):
        text = own.to_csv(index=False, float_format="%.4f", lineterminator="\n")
        write_text(folder / file, text)
    drawn = {domain: dose_of(looked) for domain, looked in acquisitions(cards, profile.domains)}
    doses = {domain: dose for domain, dose in drawn.items() if dose is not None}
    figure = dose_figure(table, doses) if doses else alarm_figure(table)
    save(figure, folder / "alarm")
    say(f"wrote {folder / 'alarm'}.csv, .pdf and .png, and alarm_slides.csv beside them")


def acquisitions(cards: dict[str, Card], domains: list[str]) -> list[tuple]:
    """Domain and settings of those that are drawn."""
    found = [(domain, card_of(cards, domain).domains[domain].acquisition) for domain in domains]
    return [(domain, looked) for domain, looked in found if looked is not None]


def looks_of(images: PreparedImages, domains: list[str], sources: list[str]) -> pd.DataFrame:
    """A row per image: domain, part (of a source; else `shifted`), group, and `LOOKS`, float32."""
    tables = []
    for domain in domains:
        parts = [images.part(domain, part) for part in PARTS] if domain in sources else []
        for own in parts or [images.domain(domain)]:
            looks = pd.DataFrame(appearance(own.pixels).astype(np.float32), columns=LOOKS)
            facts = own.table[["domain", "part", "group"]].reset_index(drop=True)
            tables.append(pd.concat([facts, looks], axis=1))
        say(f"looked at {domain}")
    return pd.concat(tables, ignore_index=True)


def alarm_probability(beyond: float | np.ndarray, cells: int) -> float | np.ndarray:
    """Probability that `predict` calls a folder of so many cells another laboratory's, when each
    is beyond the source's range with a probability `beyond`, for itself."""
    return binom.sf(np.floor(tolerated(cells)), cells, beyond)


def single_sources(profile: Profile) -> list[str]:
    """The domains that some network is trained on alone, sorted: the alarm is of one laboratory."""
    scenarios = {s for one in profile.experiments.values() for s in one.scenarios}
    alone = {scenario.partition("->")[0] for scenario in scenarios}
    return [source for source in profile.sources() if source in alone]


def alarm_table(looks: pd.DataFrame, ranges: list[SourceRange], domains: list[str]) -> pd.DataFrame:
    """A row for each source, laboratory and size of a folder.

    Columns: source; target (the source itself: its own test part); images and slides that the
    share is of; beyond, its share beyond the range, with its exact limits, which mind slides;
    cells; alarm, its probability for cells of many slides, and at the limits of the share;
    slides_counted, and one_slide and one_slide_highest, mean and highest over single slides of
    ten images or more.
    """
    rows = []
    for own in ranges:
        for target in [own.source, *(domain for domain in domains if domain != own.source)]:
            chosen = looks[looks["domain"] == target]
            if target == own.source:
                chosen = chosen[chosen["part"] == OWN]
            outside = own.distances(chosen[LOOKS].to_numpy(float)) > own.limit
            found = share(outside, chosen["group"].to_numpy())
            slides = pd.Series(outside).groupby(chosen["group"].to_numpy()).agg(["size", "mean"])
            counted = slides.loc[slides["size"] >= FEWEST_OF_SLIDE, "mean"].to_numpy()
            for cells in CELLS:
                single = alarm_probability(counted, cells)
                rows.append(
                    {
                        "source": own.source,
                        "target": target,
                        "images": len(chosen),
                        "slides": len(slides),
                        "beyond": found.rate,
                        "beyond_low": found.low,
                        "beyond_high": found.high,
                        "cells": cells,
                        "alarm": alarm_probability(found.rate, cells),
                        "alarm_low": alarm_probability(found.low, cells),
                        "alarm_high": alarm_probability(found.high, cells),
                        "slides_counted": len(counted),
                        "one_slide": single.mean() if len(counted) else np.nan,
                        "one_slide_highest": single.max() if len(counted) else np.nan,
                    }
                )
    return pd.DataFrame(rows)


def alarm_figure(table: pd.DataFrame) -> Figure:
    """Probability of an alarm against the size of the folder: a panel per source, a line per
    laboratory; the source's own cells, false alarms, are dashed."""
    sources = list(dict.fromkeys(table["source"]))
    names = [name for name in dict.fromkeys(table["target"]) if name not in sources]
    names = [*sources, *names]
    with matplotlib.style.context(STYLE):
        below = 14 + 3.4 * -(-(len(names) + 1) // 4)
        figure, found = panels(len(sources), len(sources), (74, 50), (9, 8), (14, 10, 4, below))
        for axes, source in zip(found, sources, strict=True):
            own = table[table["source"] == source]
            for target, rows in own.groupby("target", sort=False):
                marker, colour = mark_of(target, names)
                draw_line(axes, rows, marker, colour, target == source)
            axes.set_title(f"Trained on {source}", fontsize=7)
        outer_labels(found, len(sources), "cells in the folder", "alarm (%)", [], range(0, 101, 20))
        for axes in found:
            cells_axis(axes)
        handles = line_handles(names)
        false = line_handles(["false alarms: the source's own held-out cells"])[0]
        false.set(color="#333333", linestyle=(0, (3, 2)), marker="")
        figure.legend(handles=[*handles, false], loc="lower left", ncols=4, fontsize=6.5)
        title(figure, "How soon a folder is seen to be another laboratory's; 95 % intervals")
    return figure


def draw_line(axes: Axes, rows: pd.DataFrame, marker: str, colour: str, own: bool) -> None:
    """One laboratory's probabilities, with the limits of its share."""
    x = rows["cells"].to_numpy()
    mean, low, high = (100 * rows[name].to_numpy() for name in ("alarm", "alarm_low", "alarm_high"))
    style = {"linestyle": (0, (3, 2))} if own else {}
    axes.plot(x, mean, color=colour, marker=marker, markersize=3, **style)
    axes.vlines(x, low, high, color=colour, linewidth=0.8, alpha=0.6)


def cells_axis(axes: Axes) -> None:
    axes.set(xscale="log", ylim=(-3, 103), xlabel="cells in the folder")
    axes.set_xticks(CELLS, [str(cells) for cells in CELLS])
    axes.minorticks_off()
    axes.grid(axis="y")


def dose_figure(table: pd.DataFrame, doses: dict[str, tuple[str, float]]) -> Figure:
    """Probability of an alarm against the dose: a panel per knob, a line per size of the folder."""
    source = table["source"].iloc[0]
    table = table[(table["source"] == source) & (table["target"] != source)]
    knobs = [knob for knob in DOSES if knob in {knob for knob, _ in doses.values()}]
    names = [f"{cells} cells" for cells in SHOWN_CELLS]
    with matplotlib.style.context(STYLE):
        figure, found = panels(len(knobs), 3, (49, 32), (9, 17), (13, 10, 3, 19))
        for place, (axes, knob) in enumerate(zip(found, knobs, strict=True)):
            for side, (cells, name) in enumerate(zip(SHOWN_CELLS, names, strict=True), start=-1):
                rows = table[table["cells"] == cells].set_index("target")
                levels = dose_levels(doses, knob, list(rows.index))
                x = [value for value, _ in levels]
                marker, colour = mark_of(name, names)
                own = rows.loc[[domain for _, domain in levels]]
                axes.plot(x, 100 * own["alarm"], color=colour, marker=marker, markersize=3)
                low, high = 100 * own["alarm_low"], 100 * own["alarm_high"]
                beside = np.array(x) + 0.007 * side * abs(x[-1] - x[0])
                axes.vlines(beside, low, high, color=colour, linewidth=0.8, alpha=0.6)
            dose_axis(axes, knob, x)
            axes.set(ylim=(-3, 103), ylabel="" if place % 3 else "alarm (%)")
        figure.legend(handles=line_handles(names), loc="lower left", ncols=3, fontsize=6.5)
        title(figure, "Drawn cells: alarm against the dose of one changed setting; 95 % intervals")
    return figure


def dose_levels(
    doses: dict[str, tuple[str, float]], knob: str, domains: list[str]
) -> list[tuple[float, str]]:
    """Value and domain of each level of a knob, the training setting first."""
    none = [(DOSES[knob].reference, d) for d in domains if doses.get(d, ("", 0))[0] == "none"]
    own = [(doses[d][1], d) for d in domains if doses.get(d, ("", 0))[0] == knob]
    return [*none, *own]


def dose_axis(axes: Axes, knob: str, values: list[float]) -> None:
    """The levels as ticks, the training setting on the left and marked."""
    if values[0] > values[-1]:
        axes.invert_xaxis()
    axes.axvline(values[0], color=CONSTANT, linewidth=0.6, linestyle=(0, (3, 2)))
    axes.set_xticks(values, [f"{value:g}" for value in values], fontsize=5.5, rotation=90)
    axes.set_xlabel(DOSES[knob].label)
    axes.grid(axis="y")
