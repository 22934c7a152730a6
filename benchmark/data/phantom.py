"""Phantoms: drawn blood cells, so that the pipeline runs without a download and the shift is known.

A cell type and a seed make a *specimen*: where each of two stains lies, in µm, free of any camera.
A specimen and an `Acquisition` make an image: light through two stains by Beer and Lambert,
I = I0 * exp(-(azure * od_azure + eosin * od_eosin)) per RGB channel, then optics, sensor, camera.
The same seed is the same cell under every acquisition. Knobs and pictures: docs/phantom.md.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import Field
from scipy.ndimage import gaussian_filter1d

from benchmark.errors import UserError, suggest
from benchmark.files import atomic, digest, read_yaml, write_text
from benchmark.progress import say, track
from benchmark.schema import Strict, parse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1
"""Numerics version: raise it when the same seed and acquisition give other pixels."""
SIZE = 96
"""Side of a drawn image, px."""
SUPERSAMPLING = 2
"""Specimen points per pixel and axis."""
EXPOSURE = 0.93
"""Brightness of the empty slide in the reference, as a fraction of full scale."""
OD_AZURE = np.array([0.86, 0.74, 0.17])
OD_EOSIN = np.array([0.06, 0.68, 0.66])
"""Optical density (natural) of one unit of stain in R, G, B. Nuclei bind both dyes: purple."""


class Acquisition(Strict):
    """How a slide was stained and photographed. The defaults are the reference (phantom-a)."""

    azure_strength: float = Field(1.0, ge=0, le=3)
    """Azure B (blue; nuclei, basophilic cytoplasm), × reference."""
    eosin_strength: float = Field(1.0, ge=0, le=3)
    """Eosin Y (orange-pink; red cells, eosinophil granules), × reference."""
    ph_shift: float = Field(0.0, ge=-1, le=1)
    """Buffer pH minus the reference: azure × 2^shift, eosin × 2^-shift (alkaline is bluer)."""
    stain_rotation_deg: float = Field(0.0, ge=-45, le=45)
    """Rotation of both stains' optical densities about the grey axis of RGB, degrees."""
    white_balance: tuple[
        Annotated[float, Field(ge=0.4, le=1.6)],
        Annotated[float, Field(ge=0.4, le=1.6)],
        Annotated[float, Field(ge=0.4, le=1.6)],
    ] = (1.0, 1.0, 1.0)
    """Gain of the light in R, G, B, × reference."""
    gamma: float = Field(1.0, ge=0.4, le=2.5)
    """Camera curve: value = light^gamma; above 1 darkens the middle tones."""
    contrast: float = Field(1.0, ge=0.3, le=2)
    """Gain about middle grey."""
    saturation: float = Field(1.0, ge=0, le=2)
    """Gain of colour about its own grey: 0 is a grey image."""
    pixel_size_um: float = Field(0.25, ge=0.1, le=0.5)
    """Side of a pixel on the slide, µm: larger means a smaller cell in a wider field."""
    blur_um: float = Field(0.2, ge=0, le=3)
    """Standard deviation of the optical blur, µm."""
    noise_sd: float = Field(0.015, ge=0, le=0.3)
    """Standard deviation of the sensor's noise, fraction of full scale."""
    uneven: float = Field(0.0, ge=0, le=0.8)
    """Fall of the light from one edge of the field to the other, fraction of its mean."""
    jpeg_quality: int | None = Field(None, ge=5, le=100)
    """Quality of a JPEG round trip before the image is stored as PNG; null: none."""


# ---------------------------------------------------------------------------- specimen


@dataclass(frozen=True)
class Specimen:
    """Stain on the slide, before any camera. All arrays [n, n], n = size * SUPERSAMPLING."""

    azure: np.ndarray
    eosin: np.ndarray
    """Concentration × path length, in units of `OD_AZURE` and `OD_EOSIN`."""
    nucleus: np.ndarray
    """Cover of the white cell's nucleus, 0..1."""
    cell: np.ndarray
    """Cover of the whole white cell, 0..1."""


@dataclass(frozen=True)
class Granules:
    """Granules on a jittered lattice.

    `spread` is the log-sd of their stain between cells. `pale` is the share of cells whose granules
    hold 15 to 45 % of it (degranulated): the look-alikes that keep the task from being easy.
    """

    spacing_um: float
    filled: tuple[float, float]
    radius_um: tuple[float, float]
    azure: float
    eosin: float
    over_nucleus: float
    spread: float
    pale: float


@dataclass(frozen=True)
class Morphology:
    """What makes a class: pairs are the range between cells, or (azure, eosin) of a part."""

    radius_um: tuple[float, float]
    outline_um: float
    nucleus: Callable[[np.random.Generator, float, np.ndarray, np.ndarray], np.ndarray]
    chromatin: tuple[float, float]
    clumping: float
    cytoplasm: tuple[float, float]
    granules: Granules
    vacuoles: int = 0


def cover(distance: np.ndarray, edge_um: float = 0.2) -> np.ndarray:
    """Signed distance (µm, negative inside) → cover 0..1 with a soft edge."""
    return np.clip(0.5 - distance / edge_um, 0, 1)


def disc(x: np.ndarray, y: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to a disc, µm."""
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2) - radius


def rod(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to a rod with round ends, µm."""
    run = b - a
    along = np.clip(((x - a[0]) * run[0] + (y - a[1]) * run[1]) / (run @ run + 1e-9), 0, 1)
    return np.sqrt((x - a[0] - along * run[0]) ** 2 + (y - a[1] - along * run[1]) ** 2) - radius


def join(a: np.ndarray, b: np.ndarray, blend_um: float) -> np.ndarray:
    """Smooth union of two signed distances (polynomial smooth minimum)."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend_um, 0, 1)
    return b + (a - b) * h - blend_um * h * (1 - h)


def polar(radius: float, angle: float) -> np.ndarray:
    """Point [2] at a radius (µm) and an angle (rad)."""
    return radius * np.array([np.cos(angle), np.sin(angle)])


def lobes(rng, x, y, count: int, lobe: float, orbit: float, sweep: float, bridge: float):
    """Lobes of radius `lobe` on an arc, tied by bridges of half-width `bridge` (all µm, rad)."""
    angles = rng.uniform(0, 2 * np.pi) + np.linspace(0, sweep, count) + rng.normal(0, 0.12, count)
    orbits = orbit * rng.uniform(0.85, 1.15, count)
    sizes = lobe * rng.uniform(0.82, 1.15, count)
    stretch = rng.uniform(0.15, 0.75, count) * lobe
    turn = rng.uniform(0, np.pi, count)
    centres = [polar(o, a) for o, a in zip(orbits, angles, strict=True)]
    distance = None
    for i, centre in enumerate(centres):
        half = polar(stretch[i], turn[i])
        part = rod(x, y, centre - half, centre + half, sizes[i] - 0.4 * stretch[i])
        distance = part if distance is None else join(distance, part, 0.4)
        if i:
            distance = join(distance, rod(x, y, centres[i - 1], centre, bridge), 0.5)
    return distance


def segmented_nucleus(rng, radius, x, y):
    """Neutrophil: three to five lobes on thin bridges, at times two; one in eight is a band."""
    band = rng.random() < 0.12
    count = int(rng.choice([2, 3, 4, 5], p=[0.1, 0.4, 0.35, 0.15]))
    sweep = rng.uniform(3.3, 4.6) if count > 2 else rng.uniform(2.0, 3.0)
    lobe = radius * {2: 0.34, 3: 0.30, 4: 0.265, 5: 0.24}[count] * rng.uniform(0.92, 1.08)
    bridge = lobe * 0.75 if band else rng.uniform(0.22, 0.5)
    return lobes(rng, x, y, count, lobe, 0.50 * radius, sweep, bridge)


def round_nucleus(rng, radius, x, y):
    """Lymphocyte: one dense disc that leaves a thin rim, at times with a dent."""
    small = radius < 5.4
    size = radius * (rng.uniform(0.80, 0.91) if small else rng.uniform(0.64, 0.80))
    angle = rng.uniform(0, 2 * np.pi)
    offset = polar((radius - size) * rng.uniform(0.1, 0.85), angle)
    stretch = polar(size * rng.uniform(0, 0.14), rng.uniform(0, np.pi))
    distance = rod(x, y, offset - stretch, offset + stretch, size - 0.5 * np.hypot(*stretch))
    depth = rng.choice([0.0, 0.9], p=[0.65, 0.35])
    dent = disc(x, y, offset + polar(size * 1.22, angle + rng.uniform(-1, 1)), 0.35 * size * depth)
    return -join(-distance, dent, 0.5)


def kidney_nucleus(rng, radius, x, y):
    """Monocyte: a large folded nucleus, from an oval through a kidney to a horseshoe."""
    size = radius * rng.uniform(0.50, 0.60)
    angle = rng.uniform(0, 2 * np.pi)
    bend = rng.choice([rng.uniform(-0.5, 0.2), rng.uniform(0.2, 1.35)], p=[0.25, 0.75])
    axis = rng.uniform(0.30, 0.48) * radius
    centre = polar(radius * 0.14, angle)
    tips = [centre + polar(axis, angle + side * (np.pi / 2 + 0.35 * bend)) for side in (-1, 1)]
    back = centre + polar(0.28 * radius, angle)
    distance = join(
        rod(x, y, tips[0], back, size * rng.uniform(0.72, 0.9)),
        rod(x, y, back, tips[1], size * rng.uniform(0.72, 0.9)),
        1.2,
    )
    hollow = centre - polar(radius * (0.72 - 0.20 * bend), angle)
    return -join(-distance, disc(x, y, hollow, radius * max(0.16 + 0.17 * bend, 0.02)), 0.9)


def bilobed_nucleus(rng, radius, x, y):
    """Eosinophil: two plump lobes like spectacles, at times three."""
    count = int(rng.choice([2, 3], p=[0.85, 0.15]))
    lobe = radius * (0.36 if count == 2 else 0.29) * rng.uniform(0.9, 1.1)
    sweep = rng.uniform(1.9, 2.9) if count == 2 else rng.uniform(2.8, 3.8)
    return lobes(rng, x, y, count, lobe, 0.47 * radius, sweep, rng.uniform(0.25, 0.7))


def veiled_nucleus(rng, radius, x, y):
    """Basophil: two or three broad lobes run together; the granules hide their outline."""
    count = int(rng.choice([2, 3]))
    return lobes(rng, x, y, count, radius * 0.40, 0.34 * radius, rng.uniform(2.0, 3.6), 1.4)


MORPHOLOGIES: dict[str, Morphology] = {
    "neutrophil": Morphology(
        (5.6, 7.2), 0.30, segmented_nucleus, (1.15, 0.90), 0.16, (0.09, 0.17),
        Granules(0.62, (0.45, 0.8), (0.15, 0.26), 0.10, 0.19, 0.1, spread=0.55, pale=0.1),
    ),
    "lymphocyte": Morphology(
        (4.1, 7.2), 0.35, round_nucleus, (1.36, 0.92), 0.17, (0.38, 0.08),
        Granules(1.60, (0.0, 0.2), (0.20, 0.32), 0.45, 0.45, 0.0, spread=0.25, pale=0.1),
    ),
    "monocyte": Morphology(
        (6.1, 8.6), 0.60, kidney_nucleus, (1.08, 0.78), 0.22, (0.31, 0.15),
        Granules(0.75, (0.3, 0.7), (0.14, 0.22), 0.12, 0.12, 0.1, spread=0.45, pale=0.1),
        vacuoles=6,
    ),
    "eosinophil": Morphology(
        (5.7, 7.3), 0.30, bilobed_nucleus, (1.10, 0.85), 0.15, (0.09, 0.21),
        Granules(0.86, (0.6, 1.0), (0.32, 0.46), 0.02, 0.62, 0.3, spread=0.35, pale=0.25),
    ),
    "basophil": Morphology(
        (5.3, 7.0), 0.30, veiled_nucleus, (0.86, 0.66), 0.14, (0.14, 0.17),
        Granules(1.05, (0.15, 0.85), (0.30, 0.56), 1.20, 0.92, 1.0, spread=0.35, pale=0.25),
    ),
}  # fmt: skip


def texture(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, scale_um: float) -> np.ndarray:
    """Smooth random field [y, x] of mean 0 and variance 1, fixed to the slide, not to the grid."""
    nodes = np.arange(-12, 12 + scale_um, scale_um)
    values = rng.standard_normal((len(nodes), len(nodes)))

    def weights(axis: np.ndarray) -> np.ndarray:
        bumps = np.exp(-0.5 * ((axis[:, None] - nodes) / (0.6 * scale_um)) ** 2)
        return bumps / np.sqrt((bumps**2).sum(1, keepdims=True))

    return weights(y) @ values @ weights(x).T


def scatter(rng, x: np.ndarray, y: np.ndarray, radius: float, style: Granules) -> np.ndarray:
    """Cover [y, x] of granules on a jittered lattice within `radius` µm of the cell's centre."""
    count = int(np.ceil(9.5 / style.spacing_um))
    lattice = np.arange(-count, count + 1) * style.spacing_um
    points = np.stack(np.meshgrid(lattice, lattice), -1).reshape(-1, 2)
    points = points + rng.uniform(-0.45, 0.45, points.shape) * style.spacing_um
    sizes = rng.uniform(*style.radius_um, len(points))
    kept = rng.random(len(points)) < rng.uniform(*style.filled)
    kept &= (points**2).sum(1) < (radius - 0.6 * sizes) ** 2
    points, sizes = points[kept], sizes[kept]
    step = x[1] - x[0]
    near = np.arange(int(2 * style.radius_um[1] / step) + 3)
    corner = np.floor((points - style.radius_um[1] - (x[0], y[0])) / step).astype(int)
    column = np.clip(corner[:, :1] + near, 0, len(x) - 1)
    row = np.clip(corner[:, 1:] + near, 0, len(y) - 1)
    square = ((y[row] - points[:, 1:]) ** 2)[:, :, None]
    square = square + ((x[column] - points[:, :1]) ** 2)[:, None, :]
    field = np.zeros((len(y), len(x)))
    value = cover(np.sqrt(square) - sizes[:, None, None])
    np.maximum.at(field, (row[:, :, None], column[:, None, :]), value)
    return field


def windows(axis: np.ndarray, centre: np.ndarray, reach: float) -> tuple[slice, slice]:
    """Rows and columns of the field within `reach` µm of a centre (x, y)."""
    spans = np.searchsorted(axis, [[c - reach, c + reach] for c in centre[::-1]])
    return slice(*spans[0]), slice(*spans[1])


def add_surroundings(rng, axis: np.ndarray, centre, radius: float, azure, eosin) -> None:
    """Add red cells and platelets around the white cell, in place.

    Red cells have the thickness of Evans & Fung 1972: sqrt(1-s²)(0.81 + 7.83 s² - 4.39 s⁴) µm,
    s = distance / radius, so the centre is pale.
    """
    tries = int(rng.integers(25, 70))
    spots = rng.uniform(-30, 30, (70, 2))
    radii, stretch = rng.normal(3.55, 0.17, 70), rng.uniform(0.9, 1.1, 70)
    amount = rng.lognormal(np.log(0.25), 0.08, 70)
    clear = np.hypot(*(spots - centre).T) > radius + 3.1
    crowd = ((spots[:, None] - spots) ** 2).sum(2) < 6.7**2
    placed = np.zeros(70, dtype=bool)
    for i in range(tries):
        placed[i] = clear[i] and not (crowd[i] & placed).any()
    for i in np.flatnonzero(placed):
        area = rows, columns = windows(axis, spots[i], 1.15 * radii[i])
        if rows.start < rows.stop and columns.start < columns.stop:
            x = (axis[columns] - spots[i, 0]) / (radii[i] * stretch[i])
            y = (axis[rows] - spots[i, 1]) / (radii[i] / stretch[i])
            s = np.minimum(x[None, :] ** 2 + y[:, None] ** 2, 1)
            thickness = np.sqrt(1 - s) * (0.81 + 7.83 * s - 4.39 * s**2)
            eosin[area] += amount[i] * thickness
    count = int(rng.poisson(3))
    for spot, size in zip(
        rng.uniform(-15, 15, (count, 2)), rng.uniform(0.7, 1.2, count), strict=True
    ):
        area = rows, columns = windows(axis, spot, 1.5)
        free = not (((spots[placed] - spot) ** 2).sum(1) < 4.6**2).any()
        if free and np.hypot(*(spot - centre)) > radius + 1.2 and columns.start < columns.stop:
            x, y = axis[columns][None, :], axis[rows][:, None]
            speck = cover(disc(x, y, spot, size), 0.9)
            azure[area] += 0.40 * speck
            eosin[area] += 0.35 * speck


def specimen(cell_type: str, seed: int, size: int = SIZE, pixel_size_um: float = 0.25) -> Specimen:
    """Lay out one white cell among red cells and platelets.

    The random numbers do not depend on `size` or `pixel_size_um`: these only choose at which
    points of the same slide the stain is asked for. Nothing lies beyond 30 µm from the centre.

    Raises:
        UserError: unknown `cell_type`.
    """
    if cell_type not in MORPHOLOGIES:
        raise UserError(f"unknown cell type '{cell_type}'{suggest(cell_type, MORPHOLOGIES)}")
    form = MORPHOLOGIES[cell_type]
    rng = np.random.default_rng([seed, 0])
    n = size * SUPERSAMPLING
    axis = (np.arange(n) - (n - 1) / 2) * pixel_size_um / SUPERSAMPLING
    azure, eosin = np.full((n, n), 0.012), np.full((n, n), 0.02)
    nucleus_cover, cell_cover = np.zeros((n, n)), np.zeros((n, n))
    radius = rng.uniform(*form.radius_um)
    centre = np.clip(rng.normal(0, 0.5, 2), -1.2, 1.2)
    add_surroundings(rng, axis, centre, radius, azure, eosin)

    # The white cell is drawn in its own window only: two thirds of the time.
    area = windows(axis, centre, radius + 4 * form.outline_um + 0.3)
    grid_x, grid_y = axis[area[1]] - centre[0], axis[area[0]] - centre[1]
    bent_x = grid_x[None, :] + form.outline_um * texture(rng, grid_x, grid_y, 3.0)
    bent_y = grid_y[:, None] + form.outline_um * texture(rng, grid_x, grid_y, 3.0)
    body = cover(np.sqrt(bent_x**2 + bent_y**2) - radius)
    nucleus = cover(form.nucleus(rng, radius, bent_x, bent_y), 0.3) * body
    uptake, tint = rng.lognormal(0, 0.15, 2), rng.lognormal(0, 0.2, 2)
    chromatin = 1 + form.clumping * texture(rng, grid_x, grid_y, 0.8)
    ground = 1 + 0.22 * texture(rng, grid_x, grid_y, 0.9)
    for _ in range(int(rng.integers(0, form.vacuoles + 1))):
        spot = polar(radius * rng.uniform(0.3, 0.85), rng.uniform(0, 2 * np.pi))
        ground -= 0.8 * cover(disc(bent_x, bent_y, spot, rng.uniform(0.3, 0.6)), 0.4)
    style = form.granules
    grains = scatter(rng, grid_x, grid_y, radius, style) * body
    strength = rng.lognormal(0, style.spread)
    strength *= rng.uniform(0.15, 0.45) if rng.random() < style.pale else 1
    grains *= strength * (1 - (1 - style.over_nucleus) * nucleus)
    for field, part, dye in ((azure, 0, style.azure), (eosin, 1, style.eosin)):
        cytoplasm = tint[part] * form.cytoplasm[part] * np.maximum(ground, 0.1) * (body - nucleus)
        dense = form.chromatin[part] * np.maximum(chromatin, 0.3) * nucleus
        field[area] *= 1 - body
        field[area] += uptake[part] * (cytoplasm + dense + dye * grains)
    nucleus_cover[area], cell_cover[area] = nucleus, body
    return Specimen(azure, eosin, nucleus_cover, cell_cover)


# ------------------------------------------------------------------------------- image


def optical_densities(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """Optical density [3] of one unit of azure and of eosin, as this acquisition stains them.

    Both vectors are turned about the grey axis by Rodrigues' formula; no density is below zero.
    """
    angle, grey = np.deg2rad(acquisition.stain_rotation_deg), np.ones(3) / np.sqrt(3)
    strengths = (
        acquisition.azure_strength * 2**acquisition.ph_shift,
        acquisition.eosin_strength * 2**-acquisition.ph_shift,
    )
    turned = []
    for vector, strength in zip((OD_AZURE, OD_EOSIN), strengths, strict=True):
        along = grey * (grey @ vector) * (1 - np.cos(angle))
        turn = vector * np.cos(angle) + np.cross(grey, vector) * np.sin(angle) + along
        turned.append(np.maximum(turn, 0) * strength)
    return turned[0], turned[1]


def through_optics(passed: np.ndarray, blur: float) -> np.ndarray:
    """Blur by a Gaussian (sd in specimen points), then mean over each pixel: [n, n] → [size, size].

    Axis by axis, so that the second axis is blurred on half the rows only.
    """
    for _ in range(2):
        passed = gaussian_filter1d(passed, blur, axis=0, mode="nearest") if blur else passed
        parts = (passed[start::SUPERSAMPLING] for start in range(SUPERSAMPLING))
        passed = (sum(parts) / SUPERSAMPLING).T
    return passed


def photograph(slide: Specimen, acquisition: Acquisition, seed: int) -> np.ndarray:
    """Specimen → image uint8 [size, size, 3].

    In the order of the light: lamp (white balance, unevenness), two stains (Beer and Lambert),
    optics, sensor noise, camera (saturation, contrast, gamma), eight bits, JPEG. The seed gives
    the noise and the direction of the unevenness.
    """
    rng = np.random.default_rng([seed, 1])
    size = len(slide.azure) // SUPERSAMPLING
    azure, eosin = optical_densities(acquisition)
    blur = acquisition.blur_um / acquisition.pixel_size_um * SUPERSAMPLING
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, size)
    ramp = ramp[None, :] * np.cos(angle) + ramp[:, None] * np.sin(angle)
    lamp = EXPOSURE * (1 + acquisition.uneven * ramp)
    light = np.empty((size, size, 3))
    for channel, gain in enumerate(acquisition.white_balance):
        passed = np.exp(-(azure[channel] * slide.azure + eosin[channel] * slide.eosin))
        light[..., channel] = gain * lamp * through_optics(passed, blur)
    light += acquisition.noise_sd * rng.standard_normal(light.shape)
    if acquisition.saturation != 1:
        grey = light.mean(2, keepdims=True)
        light = grey + acquisition.saturation * (light - grey)
    light = np.clip(0.5 + acquisition.contrast * (light - 0.5), 0, 1)
    if acquisition.gamma != 1:
        light = light**acquisition.gamma
    image = np.rint(255 * light).astype(np.uint8)
    if acquisition.jpeg_quality is not None:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=acquisition.jpeg_quality)
        image = np.asarray(Image.open(buffer))
    return image


def draw(cell_type: str, acquisition: Acquisition, seed: int, size: int = SIZE) -> np.ndarray:
    """One phantom, uint8 [size, size, 3]; the field is size * pixel_size_um wide.

    The same `cell_type` and `seed` is the same cell under every acquisition, on every machine:
    all arithmetic is in double precision, where rounding differences do not reach eight bits.

    Raises:
        UserError: unknown `cell_type`.
    """
    slide = specimen(cell_type, seed, size, acquisition.pixel_size_um)
    return photograph(slide, acquisition, seed)


# ------------------------------------------------------------------------------- files


def seed_of(text: str) -> int:
    """Seed of an image from its path, or of a slide from its group: 63 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def limits(knob: str) -> tuple[float, float]:
    """Lowest and highest value of a number knob of `Acquisition`."""
    metadata = Acquisition.model_fields[knob].metadata
    bounds = {side: getattr(m, side) for m in metadata for side in ("ge", "le") if hasattr(m, side)}
    return bounds["ge"], bounds["le"]


def slide_acquisition(acquisition: Acquisition, group: str) -> Acquisition:
    """A slide's own small departure from its domain: stain strengths, buffer and lamp."""
    rng = np.random.default_rng(seed_of(group))
    draws = rng.standard_normal(6)
    values = {
        "azure_strength": acquisition.azure_strength * np.exp(0.1 * draws[0]),
        "eosin_strength": acquisition.eosin_strength * np.exp(0.1 * draws[1]),
        "ph_shift": acquisition.ph_shift + 0.07 * draws[2],
    }
    values = {knob: float(np.clip(value, *limits(knob))) for knob, value in values.items()}
    gains = np.array(acquisition.white_balance) * np.exp(0.02 * draws[3:])
    values["white_balance"] = tuple(np.clip(gains, 0.4, 1.6).tolist())
    return acquisition.model_copy(update=values)


DOMAINS: dict[str, tuple[int, tuple[int, int, int, int, int]]] = {
    "phantom-a": (12, (180, 150, 80, 70, 40)),
    "phantom-b": (5, (30, 30, 30, 30, 30)),
    "phantom-c": (5, (30, 30, 30, 30, 30)),
    "phantom-d": (5, (30, 30, 30, 30, 30)),
}
"""Acquisition → slides, and images per class in the order of `MORPHOLOGIES`."""


def manifest(
    domains: Mapping[str, tuple[int, tuple[int, ...]]] = DOMAINS, size: int = SIZE
) -> pd.DataFrame:
    """The table of images to draw: path, label, group (slide), acquisition, width, height (px).

    Each class is dealt to the slides in turn, so that every slide holds every class.
    """
    rows = []
    for name, (slides, counts) in domains.items():
        for label, count in zip(MORPHOLOGIES, counts, strict=True):
            for i in range(count):
                slide = f"slide{i % slides + 1:02d}"
                path = f"{name}/{label}/{slide}_{i // slides + 1:03d}.png"
                rows.append((path, label, f"{name}-{slide}", name, size, size))
    return pd.DataFrame(rows, columns=["path", "label", "group", "acquisition", "width", "height"])


def draw_images(
    rows: pd.DataFrame, acquisitions: Mapping[str, Acquisition], folder: Path, processes: int = 2
) -> int:
    """Draw the images of a manifest that `folder` lacks, as PNG, each written whole or not at all.

    An image is redrawn when its recipe (label, slide's acquisition, size, `VERSION`), kept in the
    file, is another.

    Args:
        rows: columns path, label, group, acquisition, width.
        acquisitions: value of the column `acquisition` → how it looks.
        folder: where the paths begin.
        processes: drawn in this process where 1, or where there is little to draw.

    Returns:
        How many were drawn.

    Raises:
        UserError: a missing column, an acquisition without knobs, an unknown cell type, a folder
            that cannot be written.
    """
    columns = ["path", "label", "group", "acquisition", "width"]
    for column in columns:
        if column not in rows:
            raise UserError(f"{folder}: the phantom manifest has no column '{column}': add it")
    missing = sorted(set(rows["acquisition"]) - set(acquisitions))
    if missing:
        near = suggest(missing[0], acquisitions)
        raise UserError(f"{folder}: no knobs for the manifest's acquisition '{missing[0]}'{near}")
    jobs = []
    for path, label, group, name, width in rows[columns].itertuples(index=False):
        acquisition = slide_acquisition(acquisitions[name], group)
        knobs = acquisition.model_dump(mode="json")
        recipe = digest({"version": VERSION, "label": label, "size": int(width), **knobs})
        if recipe_of(Path(folder) / path) != recipe:
            jobs.append((Path(folder), path, label, acquisition, int(width), recipe))
    if len(jobs) < 64 or processes == 1:
        for job in track(jobs, "drawing phantoms"):
            draw_file(*job)
        return len(jobs)
    # spawn: a fork of a process that holds threads (torch, BLAS) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(draw_file, *job) for job in jobs]
        try:
            for future in track(as_completed(futures), "drawing phantoms", total=len(jobs)):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return len(jobs)


def draw_file(
    folder: Path, path: str, label: str, acquisition: Acquisition, size: int, recipe: str
) -> None:
    """Draw one image to folder/path; its seed is the path's."""
    image = Image.fromarray(draw(label, acquisition, seed_of(path), size))
    note = PngImagePlugin.PngInfo()
    note.add_text("phantom", recipe)
    with atomic(folder / path) as temporary:
        image.save(temporary, "PNG", pnginfo=note)


def recipe_of(path: Path) -> str | None:
    """The recipe kept in a drawn image; None where there is no such image."""
    try:
        with Image.open(path) as image:
            return image.info.get("phantom")
    except (FileNotFoundError, UnidentifiedImageError):
        return None


# ---------------------------------------------------------------------------- pictures

STEPS: dict[str, tuple] = {
    "azure_strength": (0.25, 0.6, 1.0, 1.5, 2.2),
    "eosin_strength": (0.25, 0.6, 1.0, 1.5, 2.2),
    "ph_shift": (-0.8, -0.4, 0.0, 0.4, 0.8),
    "stain_rotation_deg": (-30.0, -15.0, 0.0, 15.0, 30.0),
    "white_balance": ((1.0, 0.9, 0.7), (1.0, 0.95, 0.85), (1.0, 1.0, 1.0), (0.9, 0.95, 1.05),
                      (0.75, 0.85, 1.05)),
    "gamma": (0.5, 0.75, 1.0, 1.5, 2.2),
    "contrast": (0.4, 0.7, 1.0, 1.3, 1.7),
    "saturation": (0.0, 0.5, 1.0, 1.4, 1.9),
    "pixel_size_um": (0.14, 0.19, 0.25, 0.33, 0.45),
    "blur_um": (0.0, 0.2, 0.5, 1.0, 2.0),
    "noise_sd": (0.0, 0.015, 0.05, 0.1, 0.2),
    "uneven": (0.0, 0.15, 0.3, 0.5, 0.8),
    "jpeg_quality": (100, 60, 30, 15, 5),
}  # fmt: skip
"""Values of each knob shown in docs/phantom_knobs.png."""


def picture_domains(acquisitions: Mapping[str, Acquisition], path: Path, cells: int = 3) -> None:
    """Montage classes × acquisitions: the same `cells` cells of each class under each one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # lazy: drawing needs no plots
    from matplotlib.figure import Figure

    grid = [
        np.hstack(
            [draw(label, look, 40 + i) for look in acquisitions.values() for i in range(cells)]
        )
        for label in MORPHOLOGIES
    ]
    figure = Figure(figsize=(4.0 * len(acquisitions), 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(np.vstack(grid))
    axes.set_yticks((np.arange(len(grid)) + 0.5) * SIZE, MORPHOLOGIES)
    axes.set_xticks((np.arange(len(acquisitions)) + 0.5) * SIZE * cells, acquisitions)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for column in range(1, len(acquisitions)):
        axes.axvline(column * SIZE * cells - 0.5, color="black", linewidth=2)
    axes.spines[:].set_visible(False)
    save_picture(figure, path)


def picture_knobs(path: Path, cell_type: str = "eosinophil", seed: int = 26) -> None:
    """One cell, a row per knob, the knob alone turned from left to right (`STEPS`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(next(iter(STEPS.values())))
    figure = Figure(figsize=(1.35 * count + 1.3, 1.5 * len(STEPS)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(STEPS), count)
    for row, (knob, values) in zip(axes, STEPS.items(), strict=True):
        row[0].set_ylabel(knob, rotation=0, ha="right", va="center")
        for axis, value in zip(row, values, strict=True):
            axis.imshow(draw(cell_type, Acquisition(**{knob: value}), seed))
            axis.set_title(", ".join(map(str, np.atleast_1d(value).tolist())), size=8, pad=2)
            axis.set(xticks=[], yticks=[])
    save_picture(figure, path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG of 256 colours (a third of the bytes), always the same bytes."""
    figure.set_dpi(80)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    with atomic(path) as temporary:
        Image.fromarray(np.ascontiguousarray(pixels)).quantize(256).save(temporary, "PNG")


def read_acquisitions(card: Path) -> dict[str, Acquisition]:
    """Value of `select.acquisition` → knobs, for each domain of a drawn card."""
    looks = {}
    for name, domain in read_yaml(card)["domains"].items():
        where = f"{card}: domains.{name}.acquisition"
        looks[domain["select"]["acquisition"]] = parse(Acquisition, domain["acquisition"], where)
    return looks


def main(root: Path = Path(".")) -> None:
    """Rewrite the manifest and the pictures of docs/phantom.md; run in the project's root."""
    acquisitions = read_acquisitions(root / "datasets" / "phantom.yaml")
    table = manifest()
    target = root / "datasets" / "manifests" / "phantom.csv"
    write_text(target, table.to_csv(index=False, lineterminator="\n"))
    picture_domains(acquisitions, root / "docs" / "phantom.png")
    picture_knobs(root / "docs" / "phantom_knobs.png")
    say(f"{target}: {len(table)} images; docs/phantom.png and docs/phantom_knobs.png are drawn")


if __name__ == "__main__":
    main()
