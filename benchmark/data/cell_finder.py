"""Find the white cell of a field of blood, and how far it stands out from the rest.

Azure and eosin together stain a nucleus purple: it absorbs most in green, less in red, least in
blue. Red cells absorb green and blue alike, however dense they are, and dirt, edges and shadows
absorb all three alike. So what is looked for is a blob, of the size of a nucleus, of the excess of
green density over red and blue; a density in red light alone finds thick red cells too. Every
length is a share of a white cell's diameter: the same rule holds at any magnification.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

FINDER = "strongest blob of 2 OD_G - OD_R - OD_B, the centre of its nucleus; version 2"
"""Named in the digest of every array that is cropped around found cells."""
DIAMETER = 24
"""Pixels of a cell's diameter in the reduced image that is searched."""
BLOB, GROUND = 0.2, 0.5
"""Standard deviations of the two blurs, in diameters, whose difference answers to blobs of a
nucleus's size, its lobes together (difference of Gaussians), and not to a slope of the light."""
MARGIN = 0.1
"""Rim of the field in which no centre is looked for, in diameters: frame grabbers leave lines."""
DETAIL = 0.05
"""Standard deviation of the blur under which the nucleus is told from its cell, in diameters."""
REACH = 0.6
"""Radius around the centre in which everything dense is that cell's nucleus, in diameters."""
SURROUNDINGS = 0.75
"""Radius that holds a whole cell and a rim: what lies beyond is the rest of the field."""
STEPS = 10
"""Moves from the blob's peak towards the centre of the nucleus; a few do."""
LEAST_CONTRAST = 4.0
"""Standard deviations of the rest of the field by which a blob must stand out to be a cell. In the
364 fields of BCCD 99 in 100 white cells reach 5.6, and red cells and platelets, where the white
cells are covered, 3.6 in 5 of 100. Clumps of thick red cells may reach 7: where a field may hold no
white cell, look at the domain's card, which shows the least sure ones."""
FLATTEST = 0.01
"""Least standard deviation that the rest of a field is taken to have: two grey levels of light."""
BLACK = 30
"""No channel above this: the black that rotated images are filled up with, not stain."""


class Found(NamedTuple):
    """A cell's centre in pixels of the image, and how far the cell stands out (see `contrast`)."""

    x: float
    y: float
    contrast: float

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y)."""
        return self.x, self.y

    @property
    def is_cell(self) -> bool:
        """Whether it stands out enough to be taken for a white cell."""
        return self.contrast >= LEAST_CONTRAST


def find_cell(image: Image.Image, diameter: float) -> Found:
    """Where the most purple nucleus of an RGB image is; an image of one colour: its middle, 0.

    The strongest blob of excess tells which cell it is; the mean of the dense pixels around it,
    taken again around each new mean, is the middle of that cell's nucleus (mean shift, Fukunaga and
    Hostetler 1975).

    Args:
        diameter: of a typical white cell, in pixels of the image.
    """
    # Lazy: every command reads cards and so this module; few look for cells.
    from scipy import ndimage

    scale = min(1.0, DIAMETER / diameter)
    size = [max(1, round(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
    diameter *= scale
    excess = purple(pixels)
    filled = pixels.max(axis=2) < BLACK
    if filled.any():
        filled = ndimage.binary_dilation(filled, iterations=2)  # and its grey edge
        excess[filled] = 0
    if np.ptp(excess) == 0:
        return Found(image.width / 2, image.height / 2, 0.0)
    narrow, wide = (ndimage.gaussian_filter(excess, blur * diameter) for blur in (BLOB, GROUND))
    blobs = narrow - wide
    rim = [min(round(MARGIN * diameter), (side - 1) // 2) for side in excess.shape]
    inner = blobs[rim[0] : len(blobs) - rim[0], rim[1] : blobs.shape[1] - rim[1]]
    peak = np.add(np.unravel_index(int(np.argmax(inner)), inner.shape), rim)
    around = distance_from(peak, excess.shape)
    rest = blobs[(around > SURROUNDINGS * diameter) & ~filled]
    rest = rest if rest.size else blobs
    contrast = (blobs[tuple(peak)] - np.median(rest)) / max(float(rest.std()), FLATTEST)
    sharp = ndimage.gaussian_filter(excess, DETAIL * diameter)
    nucleus = sharp > otsu(sharp[around < SURROUNDINGS * diameter])
    centre = peak.astype(float)
    for _ in range(STEPS):
        near = np.argwhere(nucleus & (distance_from(centre, excess.shape) < REACH * diameter))
        if not len(near) or np.allclose(near.mean(axis=0), centre):
            break
        centre = near.mean(axis=0)
    x, y = ((centre[::-1] + 0.5) * image.size / size).tolist()
    return Found(x, y, float(contrast))


NUCLEUS_WITHIN = 0.45
"""Radius around the middle of a cell's picture in which its nucleus is looked for, in sides."""


def nucleus_diameter(pixels: np.ndarray) -> float:
    """Equivalent diameter of the nucleus in a picture of one cell, as a share of its side.

    That of a disc of the area that stands out (Otsu) around the middle: in purple, or in a picture
    without any colour, in darkness; 0 where nothing does. A single picture's may be wrong, a set's
    median says how large its cells are shown.

    Args:
        pixels: uint8 [S, S, 3], the cell in the middle.
    """
    excess, side = purple(pixels), len(pixels)
    if not np.ptp(excess):
        excess = -np.log((pixels[..., 1] + 1.0) / 256)
    around = distance_from(np.full(2, (side - 1) / 2), excess.shape) < NUCLEUS_WITHIN * side
    inner = excess[around]
    return float(np.sqrt(4 / np.pi * (inner > otsu(inner)).sum()) / side)


def purple(pixels: np.ndarray) -> np.ndarray:
    """Density in green above those in red and blue: uint8 [H, W, 3] → float64 [H, W].

    Natural optical densities: 0 for grey of any darkness.
    """
    red, green, blue = np.moveaxis(-np.log((pixels + 1.0) / 256), 2, 0)
    return 2 * green - red - blue


def distance_from(centre: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Distance of each pixel of an array from a (row, column)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - centre[0], columns - centre[1])


def otsu(values: np.ndarray) -> float:
    """Threshold between two groups of values that maximises the variance between the groups
    (IEEE Trans. SMC 9:62, 1979); of equal values, that value."""
    if np.ptp(values) == 0:
        return float(values.flat[0])
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    # Below and above every edge but the last: numbers and sums of the two groups.
    below = np.cumsum(counts)[:-1].astype(float)
    sums = np.cumsum(counts * centres)
    above, total = counts.sum() - below, sums[-1]
    difference = sums[:-1] / below - (total - sums[:-1]) / above
    return float(edges[1:-1][np.argmax(below * above * difference**2)])
