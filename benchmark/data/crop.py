"""The square of an image that shows one cell: by fraction, by pixels, or around the cell found.

A published set is either centred on its cells, and the crop says how much of an image to keep, or
it shows fields in which the cell must be found first. A crop is part of the protocol: nothing in
it is fitted to labels or to any model.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from benchmark.schema import Strict

FINDER = "largest nucleus by Otsu of optical density in red light; version 1"
"""Named in the digest of every array that is cropped around found cells."""
WORKING_SIDE = 160
"""Longer side in pixels of the reduced image in which the nucleus is looked for."""
BLUR = 1.0
"""Standard deviation of the blur in the reduced image, in pixels: joins lobes that nearly touch."""
BLACK = 30
"""No channel above this: the black that rotated images are filled up with, not stain."""


class CentredPixels(Strict):
    """The centred square of so many pixels of the published image; all of a smaller image."""

    pixels: int = Field(ge=16)


class AroundCell(Strict):
    """The square of so many pixels around the cell with the largest nucleus, within the image."""

    around_cell: int = Field(ge=16)


Crop = Annotated[float, Field(gt=0, le=1)] | CentredPixels | AroundCell
"""A number is the side of the centred square as a fraction of the image's shorter side."""


def scaled(crop: Crop, factor: float) -> Crop:
    """The crop whose square has `factor` times the side."""
    if factor == 1:
        return crop
    if isinstance(crop, int | float):
        return min(1.0, crop * factor)
    return type(crop)(**{name: round(side * factor) for name, side in crop.model_dump().items()})


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


def crop_box(image: Image.Image, crop: Crop, fraction: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square, in pixels of an RGB image.

    Args:
        fraction: the square's side as a fraction of the image's shorter side.
    """
    side = fraction * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if isinstance(crop, AroundCell):
        x, y = find_cell(image)
        left = min(max(x - side / 2, 0.0), image.width - side)
        top = min(max(y - side / 2, 0.0), image.height - side)
    return (left, top, left + side, top + side)


def find_cell(image: Image.Image) -> tuple[float, float]:
    """Centre (x, y) of the largest nucleus of an RGB image, in its pixels; else the image's centre.

    Azure, which stains nuclei, absorbs red light; eosin and haemoglobin let it pass. So a nucleus
    is what is dense in the red channel: Otsu's threshold (IEEE Trans. SMC 9:62, 1979), and of the
    connected parts the one with the most density above it.
    """
    # Lazy: every command reads cards and so this module; few look for cells.
    from scipy import ndimage

    scale = WORKING_SIDE / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
    density = -np.log((pixels[..., 0] + 1.0) / 256)
    filled = pixels.max(axis=2) < BLACK
    if filled.any():
        filled = ndimage.binary_dilation(filled, iterations=2)  # and its grey edge
        density[filled] = 0
    density = ndimage.gaussian_filter(density, BLUR)
    if filled.all() or np.ptp(density[~filled]) == 0:
        return image.width / 2, image.height / 2
    excess = density - otsu(density[~filled])
    parts, number = ndimage.label(excess > 0)
    mass = ndimage.sum(excess, parts, np.arange(1, number + 1))
    y, x = ndimage.center_of_mass(parts == 1 + int(np.argmax(mass)))
    return (x + 0.5) * image.width / size[0], (y + 0.5) * image.height / size[1]


def otsu(values: np.ndarray) -> float:
    """Threshold between two groups of values that maximises the variance between the groups."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    # Below and above every edge but the last: numbers and sums of the two groups.
    below = np.cumsum(counts)[:-1].astype(float)
    sums = np.cumsum(counts * centres)
    above, total = counts.sum() - below, sums[-1]
    difference = sums[:-1] / below - (total - sums[:-1]) / above
    return float(edges[1:-1][np.argmax(below * above * difference**2)])
