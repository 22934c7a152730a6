"""The square of an image that shows one cell: by fraction, by pixels, or around the cell found.

A published set is either centred on its cells, and the crop says how much of an image to keep, or
it shows fields in which the cell must be found first. A crop is part of the protocol: nothing in
it is fitted to labels or to any model.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from benchmark.data.cell_finder import FINDER
from benchmark.schema import Strict


class CentredPixels(Strict):
    """The centred square of so many pixels of the published image; all of a smaller image."""

    pixels: int = Field(ge=16)


class AroundCell(Strict):
    """The square of so many pixels around the white cell of a field, within the image."""

    around_cell: int = Field(ge=16)
    """The square's side in pixels of the published image."""
    cell_diameter: int = Field(ge=8)
    """Of a typical white cell, in the same pixels: the size that is looked for in every framing."""


Crop = Annotated[float, Field(gt=0, le=1)] | CentredPixels | AroundCell
"""A number is the side of the centred square as a fraction of the image's shorter side."""


def scaled(crop: Crop, factor: float) -> Crop:
    """The crop whose square has `factor` times the side, around the same centre."""
    if factor == 1:
        return crop
    if isinstance(crop, int | float):
        return min(1.0, crop * factor)
    side = "pixels" if isinstance(crop, CentredPixels) else "around_cell"
    return crop.model_copy(update={side: round(getattr(crop, side) * factor)})


def crop_facts(crop: Crop) -> float | dict[str, int | str]:
    """A crop as it stands in digests and reports; a fraction stands for itself."""
    if isinstance(crop, int | float):
        return crop
    finder = {"finder": FINDER} if isinstance(crop, AroundCell) else {}
    return crop.model_dump() | finder


def crop_fraction(crop: Crop, size: tuple[int, int]) -> float:
    """Side of the square as a fraction of the shorter side of an image of (width, height)."""
    if isinstance(crop, int | float):
        return crop
    pixels = crop.pixels if isinstance(crop, CentredPixels) else crop.around_cell
    return min(1.0, pixels / min(size))


def crop_box(
    size: tuple[int, int], fraction: float, centre: tuple[float, float] | None = None
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square, in pixels of an image of (width, height).

    Args:
        fraction: the square's side as a fraction of the image's shorter side.
        centre: (x, y) that the square is around, as far as it stays in the image; None: its middle.
    """
    side = fraction * min(size)
    x, y = centre or (size[0] / 2, size[1] / 2)
    left = min(max(x - side / 2, 0.0), size[0] - side)
    top = min(max(y - side / 2, 0.0), size[1] - side)
    return (left, top, left + side, top + side)
