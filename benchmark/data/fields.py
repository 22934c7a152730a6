"""Cells in fields: the square around a cell's box, in which it keeps its size.

A field shows many cells, and a box says where one of them lies. What is cut is a square of one size
for all cells of a set, around the centre of the box: cut tight around each box, a lymphocyte would
be as large as a monocyte. Where the square leaves the field, its pixels are mirrored at the edge.
"""

from __future__ import annotations

from math import ceil, isfinite
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.errors import UserError

BOX = ("box_x", "box_y", "box_w", "box_h")
"""Columns of a manifest: left, top, width and height of a cell's box, in pixels of its field."""


class Square(NamedTuple):
    """A square of a published image, in its pixels; it may lie partly outside."""

    x: float
    """Of its centre, from the left."""
    y: float
    """Of its centre, from the top."""
    side: float

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def squares_around(table: pd.DataFrame, side: float, where: str) -> list[Square]:
    """The square around the box of each row.

    Args:
        table: columns path and those of `BOX`, as text or numbers.
        side: in pixels of the published images.
        where: the table's name, for messages.

    Raises:
        UserError: a column is missing; a row has no box, or one without area.
    """
    if missing := [column for column in BOX if column not in table]:
        raise UserError(f"{where} has no column {missing[0]}: a crop around boxes needs them")
    numbers = table[list(BOX)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    found = []
    for path, (left, top, width, height) in zip(table["path"], numbers, strict=True):
        if not all(map(isfinite, (left, top, width, height))) or min(width, height) <= 0:
            raise UserError(f"{where}: {path} has no box with an area: correct {', '.join(BOX)}")
        found.append(Square(left + width / 2, top + height / 2, side))
    return found


def cut(image: Image.Image, square: Square, size: int) -> Image.Image:
    """What a square shows, resized (antialiased, Lanczos) to `size` pixels.

    Outside the image its pixels are mirrored, without the outermost line twice.
    """
    left, top, right, bottom = square.edges
    # Lanczos looks three pixels of the coarser of the two images beyond what it resizes.
    reach = ceil(3 * max(1.0, square.side / size))
    over = (reach - left, reach - top, reach + right - image.width, reach + bottom - image.height)
    west, north, east, south = (max(0, ceil(beyond)) for beyond in over)
    if west or north or east or south:
        beyond = ((north, south), (west, east), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), beyond, mode="reflect"))
    box = (left + west, top + north, right + west, bottom + north)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)
