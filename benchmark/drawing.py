"""Drawing: what all figures share: sizes in mm, colours and marks, and how a figure is written.

Parts of a figure are placed by hand: an automatic layout draws everything once more, and axes of
their own for every column or matrix cost more than all that is in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from benchmark.files import atomic
from benchmark.texts import visible

STYLE = Path(__file__).with_name("journal.mplstyle")
MILLIMETRE = 1 / 25.4
"""inches"""
PAGE_WIDTH = 180.0
"""mm, both columns of a page"""

# Okabe-Ito: told apart by readers with any common colour blindness; the shapes differ as well.
IN_DOMAIN = "#0072B2"
SHIFTED = "#D55E00"
MARKS = [
    ("o", "#0072B2"),
    ("s", "#D55E00"),
    ("^", "#009E73"),
    ("D", "#CC79A7"),
    ("v", "#E69F00"),
    ("<", "#56B4E9"),
    (">", "#000000"),
    ("p", "#7F6A00"),
]
"""(shape, colour) of methods or domains, in order; a ninth has the first again."""
CONSTANT = "#8A8A8A"
FAINT = "#BBBBBB"
INK = "#333333"
GRID = "#D9D9D9"


def mark_of(name: str, names: Sequence[str]) -> tuple[str, str]:
    """Shape and colour of a name by its place among the names."""
    return MARKS[list(names).index(name) % len(MARKS)]


def line_handles(names: Sequence[str]) -> list[Line2D]:
    """What stands for each name in the legend of a figure of lines."""
    marks = [mark_of(name, names) for name in names]
    return [
        Line2D([], [], color=colour, marker=marker, markersize=3, label=name)
        for name, (marker, colour) in zip(names, marks, strict=True)
    ]


def page(height: float, width: float = PAGE_WIDTH, automatic: bool = True) -> Figure:
    """An empty figure of this size in mm, whose parts find their places unless told not to."""
    size = (width * MILLIMETRE, height * MILLIMETRE)
    return Figure(figsize=size, layout="constrained" if automatic else None)


def canvas(height: float, width: float = PAGE_WIDTH) -> tuple[Figure, Axes]:
    """A figure to be drawn on in mm from its top left corner."""
    figure = page(height, width, automatic=False)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def ruler(axes: Axes, x: tuple[float, float], y: tuple[float, float], ticks: Sequence[int]) -> None:
    """A per-cent scale on a `canvas`, below a box that spans x and y, and its grid lines."""
    places = [x[0] + (x[1] - x[0]) * tick / 100 for tick in ticks]
    axes.vlines(places, *y, colors=GRID, linewidth=0.5, zorder=0.5)
    axes.vlines(places, y[1], y[1] + 0.9, colors="black", linewidth=0.6)
    axes.plot(x, [y[1], y[1]], color="black", linewidth=0.6, solid_capstyle="projecting")
    for place, tick in zip(places, ticks, strict=True):
        # The outer two stand within the box, or one's 100 and the next one's 0 would read 1000.
        side = {0: "left", 100: "right"}.get(tick, "center")
        axes.text(place, y[1] + 1.4, str(tick), ha=side, va="top", fontsize=6)


def panels(
    count: int,
    across: int,
    size: tuple[float, float],
    gaps: tuple[float, float],
    margins: tuple[float, float, float, float],
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, row by row.

    Args:
        size: width and height of a panel, in mm like all that follow.
        gaps: between panels, across and down.
        margins: left, top, right and bottom.
    """
    down = -(-count // across)
    left, top, right, bottom = margins
    width = left + across * (size[0] + gaps[0]) - gaps[0] + right
    height = top + down * (size[1] + gaps[1]) - gaps[1] + bottom
    figure = page(height, width, automatic=False)
    found = []
    for row, column in (divmod(place, across) for place in range(count)):
        x, y = left + column * (size[0] + gaps[0]), top + row * (size[1] + gaps[1]) + size[1]
        box = (x / width, 1 - y / height, size[0] / width, size[1] / height)
        found.append(figure.add_axes(box))
    return figure, found


def outer_labels(
    found: Sequence[Axes],
    across: int,
    x: str,
    y: str,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float] | None = None,
) -> None:
    """Ticks on all panels; their numbers and the names of axes at the lowest and leftmost alone."""
    for place, axes in enumerate(found):
        lowest, leftmost = place + across >= len(found), place % across == 0
        axes.set_xticks(x_ticks, [f"{tick:g}" for tick in x_ticks] if lowest else [])
        if y_ticks is not None:
            axes.set_yticks(y_ticks, [f"{tick:g}" for tick in y_ticks] if leftmost else [])
        axes.set(xlabel=x if lowest else "", ylabel=y if leftmost else "")


def title(figure: Figure, text: str) -> None:
    """What a figure of panels is about, in its top left corner."""
    width, height = figure.get_size_inches() / MILLIMETRE
    figure.text(1.5 / width, 1 - 1.2 / height, text, va="top", fontsize=7.5, fontweight="bold")


Form = Literal["pdf", "png"]


def save(figure: Figure, stem: Path, *forms: Form) -> None:
    """Write a figure as PDF and as PNG (200 dpi, 256 colours), or in one of these forms.

    Neither date nor version goes into a file, so that equal input gives equal bytes.
    """
    for text in figure.findobj(Text):
        if (shown := visible(text.get_text())) != text.get_text():
            text.set_text(shown)
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, which says enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        nothing = {"CreationDate": None, "Producer": None, "Creator": None}
        if "pdf" in forms or not forms:
            with atomic(stem.with_name(f"{stem.name}.pdf")) as path:
                figure.savefig(path, format="pdf", metadata=nothing)
            # What was found for the PDF holds, and is the slow part.
            figure.set_layout_engine("none")
        if "png" in forms or not forms:
            with atomic(stem.with_name(f"{stem.name}.png")) as path:
                write_png(figure, path)


def write_png(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    # A palette makes it a third of the size, which every clone then carries.
    dots = (figure.dpi, figure.dpi)
    picture.quantize(256).save(path, format="png", optimize=True, dpi=dots)
