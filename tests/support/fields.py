"""Drawn fields of blood, 720 x 576 px as LISC's: one white cell among red cells dense in red light.

The white cell is a phantom's; everything around it is drawn here, since what misleads a finder is
around it: thick and overlapping red cells, platelets, dirt, uneven light, and the dark lines that a
frame grabber leaves along the lower edge.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from conftest import edit
from PIL import Image, ImageDraw
from scipy import ndimage

from benchmark.phantom.acquisition import OD_AZURE, OD_EOSIN
from benchmark.phantom.specimen import MORPHOLOGIES, SUPERSAMPLING, specimen

BACKGROUND, NUCLEUS = (235, 225, 225), (95, 60, 150)
WIDTH, HEIGHT = 720, 576
PIXEL = 0.175
"""Side of a pixel on the slide, µm: a neutrophil of 13 µm is 75 px wide."""
DIAMETER = 75
"""What a card would state: pixels of a typical white cell."""
RED_CELL = np.array([0.42, 0.56, 0.48])
"""Optical density of a thick red cell in R, G, B. In red light it is half as dense as a nucleus, in
the excess of green over red and blue a fifth, as red cells of cellavision and bccd are."""


class Field(NamedTuple):
    """A drawn field and the truth about its white cell."""

    pixels: np.ndarray
    """uint8 [576, 720, 3]."""
    nucleus: tuple[float, float] | None
    """Centre (x, y) of the nucleus, px; None of a field without a white cell."""
    cell: tuple[float, float] | None
    """Centre of the whole cell."""
    outline: np.ndarray
    """Where the cell is: bool [576, 720]."""


def draw_field(seed: int, white_cell: bool = True) -> Field:
    """One field; the seed gives the class, places, stain, light and noise of everything in it."""
    rng = np.random.default_rng([seed, 7])
    density = np.zeros((HEIGHT, WIDTH, 3))
    outline, middle = np.zeros((HEIGHT, WIDTH), bool), None
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    place = rng.uniform((50, 50), (WIDTH - 50, HEIGHT - 50))
    density += red_cells(rng, place if white_cell else None)
    for _ in range(rng.poisson(5)):  # platelets
        x, y, radius = *rng.uniform((0, 0), (WIDTH, HEIGHT)), rng.uniform(4, 8)
        if not white_cell or np.hypot(x - place[0], y - place[1]) > 60:
            speck = np.clip(radius - np.hypot(columns - x, rows - y), 0, 3) / 3
            density += speck[..., None] * (0.35 * OD_AZURE + 0.3 * OD_EOSIN)
    if white_cell:
        kind = list(MORPHOLOGIES)[seed % len(MORPHOLOGIES)]
        size = 128
        slide = specimen(kind, seed, size, PIXEL)
        shrink = lambda a: a.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING).mean((1, 3))  # noqa: E731
        azure, eosin, cover, nucleus = map(
            shrink, (slide.azure, slide.eosin, slide.cell, slide.nucleus)
        )
        left, top = (np.round(place) - size // 2).astype(int)
        inside = np.s_[max(0, -top) : HEIGHT - top, max(0, -left) : WIDTH - left]
        area = np.s_[max(0, top) : top + size, max(0, left) : left + size]
        dyes = rng.lognormal(0, 0.15, 2)
        stain = dyes[0] * azure[..., None] * OD_AZURE + dyes[1] * eosin[..., None] * OD_EOSIN
        cover, stain, nucleus = cover[inside], stain[inside], nucleus[inside]
        density[area] = density[area] * (1 - cover[..., None]) + stain * cover[..., None]
        outline[area] = cover > 0.5
        middle = [
            (x + max(0, left) + 0.5, y + max(0, top) + 0.5)
            for y, x in (ndimage.center_of_mass(nucleus), ndimage.center_of_mass(cover))
        ]
    for channel in range(3):
        density[..., channel] = ndimage.gaussian_filter(density[..., channel], 1.2)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
    ramp = (columns / WIDTH - 0.5) * np.cos(angle) + (rows / HEIGHT - 0.5) * np.sin(angle)
    lamp = np.array([0.9, 0.88, 0.82]) * rng.uniform(0.92, 1.05, 3) * (1 + fall * ramp[..., None])
    light = lamp * np.exp(-rng.uniform(0.85, 1.15) * density)
    light += rng.uniform(0.01, 0.03) * rng.standard_normal(light.shape)
    pixels = np.rint(255 * light.clip(0, 1)).astype(np.uint8)
    lines = rng.integers(3, 5)
    pixels[-lines:] = np.array([24, 14, 20]) + rng.integers(0, 8, (lines, WIDTH, 3))
    return Field(pixels, *(middle or (None, None)), outline)


def red_cells(rng: np.random.Generator, white_cell: np.ndarray | None) -> np.ndarray:
    """Density [576, 720, 3] of red cells, up to three deep, which may touch the white cell."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    thickness = np.zeros((HEIGHT, WIDTH))
    for _ in range(rng.integers(90, 200)):
        x, y = rng.uniform((-20, -20), (WIDTH + 20, HEIGHT + 20))
        radius, dense = rng.normal(21, 1.5), rng.lognormal(0, 0.25)
        if white_cell is not None and np.hypot(*(white_cell - (x, y))) < 30 + radius:
            continue
        area = np.s_[max(0, int(y - 26)) : int(y + 28), max(0, int(x - 26)) : int(x + 28)]
        s = np.hypot(columns[area] - x, rows[area] - y) / radius
        # As in the phantoms, Evans and Fung 1972; 2.2 is its greatest thickness.
        disc = np.sqrt((1 - s**2).clip(0)) * (0.81 + 7.83 * s**2 - 4.39 * s**4) / 2.2
        thickness[area] += dense * disc
    return np.minimum(thickness, 3)[..., None] * RED_CELL


def fields_of_toy(empty: int) -> None:
    """Make toy-a a domain of fields, the first `empty` of which show nothing but the slide."""
    generator = np.random.default_rng(1)
    paths = sorted(p for p in Path("datasets/raw/toy/a").rglob("*.*") if p.suffix != ".csv")
    for number, path in enumerate(paths):
        picture = Image.new("RGB", (200, 160), BACKGROUND)
        if number >= empty:
            x, y = generator.integers((40, 40), (160, 120))
            ImageDraw.Draw(picture).ellipse((x - 14, y - 14, x + 14, y + 14), NUCLEUS)
        picture.save(path)
    edit(
        Path("datasets/toy.yaml"),
        "toy-a: {title: Toy A, crop: 0.9,",
        "toy-a: {title: Toy A, crop: {around_cell: 60, cell_diameter: 40},",
    )
