"""Specimens: a drawn blood cell as stain on a slide, in µm, before any camera.

A cell type and a seed make a *specimen*: where each of two stains lies. Nothing here knows how it
is stained, lit or photographed: that is `benchmark.phantom.acquisition`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.errors import UserError, suggest

SIZE = 96
"""Side of a drawn image, px."""
SUPERSAMPLING = 2
"""Specimen points per pixel and axis."""


@dataclass(frozen=True)
class Specimen:
    """Stain on the slide, before any camera. All arrays [n, n], n = size * SUPERSAMPLING."""

    azure: np.ndarray
    eosin: np.ndarray
    """Concentration × path length, in units of `phantom.OD_AZURE` and `OD_EOSIN`."""
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
    seen = (np.abs(spots) < axis[-1] + 1.15 * radii[:, None]).all(1)
    for i in np.flatnonzero(placed & seen):
        area = rows, columns = windows(axis, spots[i], 1.15 * radii[i])
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
        if free and np.hypot(*(spot - centre)) > radius + 1.2:
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
