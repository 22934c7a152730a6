"""Numbers that tell domains apart: colour, diameter of the nucleus, Fréchet distances."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from scipy import linalg, ndimage

from benchmark.data.cell_finder import otsu
from benchmark.data.stain import lab_of

COLOURS = ["L* mean", "a* mean", "b* mean", "L* spread", "a* spread", "b* spread"]
COMPONENTS = 16
"""Principal components that features are reduced to, so that small samples have a covariance."""
DRAWS = 10
"""Samples that a distance is the mean of."""
CELL = 0.4
"""Radius of the disc in which a centred cell lies, as a fraction of the image's side."""


def colour_vectors(pixels: np.ndarray) -> np.ndarray:
    """CIELAB mean and standard deviation of each image: uint8 [N, S, S, 3] → float64 [N, 6]."""
    vectors = np.empty((len(pixels), len(COLOURS)))
    for start in range(0, len(pixels), 64):
        lab = lab_of(pixels[start : start + 64])
        moments = [lab.mean(axis=(1, 2)), lab.std(axis=(1, 2))]
        vectors[start : start + 64] = np.concatenate(moments, axis=1)
    return vectors


def nucleus_diameters(pixels: np.ndarray) -> np.ndarray:
    """Diameter of the disc that has the nucleus's area, as a fraction of the side: float64 [N].

    The nucleus is what is dense in red light: Otsu's threshold of the central disc, and of the
    connected parts those that lie there for the most part. Against the published masks of jtsc and
    cellavision its median is 7 % and 1 % too large. Granules as dense as a nucleus count as
    nucleus: compare domains by their lymphocytes. NaN where nothing is found.
    """
    areas = np.array([nucleus_of(image).sum() for image in pixels], float)
    return np.where(areas > 0, 2 * np.sqrt(areas / np.pi) / pixels.shape[1], np.nan)


def nucleus_of(image: np.ndarray) -> np.ndarray:
    """Where the nucleus of a centred cell is, as `nucleus_diameters` says: bool [S, S]."""
    side = len(image)
    place = (np.arange(side) + 0.5) / side - 0.5
    cell = np.hypot(place, place[:, None]) < CELL
    density = ndimage.gaussian_filter(-np.log((image[..., 0] + 1.0) / 256), side / 160)
    if np.ptp(density[cell]) == 0:
        return np.zeros((side, side), bool)
    parts, number = ndimage.label(density > otsu(density[cell]))
    sizes = np.bincount(parts.ravel(), minlength=number + 1)
    inside = np.bincount(parts[cell], minlength=number + 1)
    nucleus = inside > sizes / 2
    nucleus[0] = False  # what is not dense
    return nucleus[parts]


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to two samples [N, D] and [M, D], in their unit.

    d² = |μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½) (Dowson & Landau 1982); d, not d², is returned.
    """
    means = first.mean(axis=0) - second.mean(axis=0)
    one, two = np.atleast_2d(np.cov(first.T)), np.atleast_2d(np.cov(second.T))
    # The eigenvalues of a product of covariances are real and not negative, but for rounding.
    cross = np.sqrt(linalg.eigvals(one @ two).real.clip(0)).sum()
    return float(np.sqrt(max(0.0, means @ means + np.trace(one) + np.trace(two) - 2 * cross)))


def distances(vectors: dict[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Fréchet distance of every two domains, each time of equally many images.

    A sample's covariance is off by more the smaller it is, so all samples have half the size of
    the smallest domain; the distance is the mean over `DRAWS` draws. On the diagonal stand two
    samples of one domain without a common image: what chance gives.

    Args:
        vectors: domain → float [N, D].

    Returns:
        A symmetric table, domains × domains.
    """
    size = min(map(len, vectors.values())) // 2
    table = pd.DataFrame(np.nan, index=list(vectors), columns=list(vectors))
    for first, second in combinations_with_replacement(vectors, 2):
        generator = np.random.default_rng(seed)
        found = []
        for _ in range(DRAWS):
            order = generator.permutation(len(vectors[first]))
            one = vectors[first][order[:size]]
            if first == second:
                two = vectors[second][order[size : 2 * size]]
            else:
                two = vectors[second][generator.permutation(len(vectors[second]))[:size]]
            found.append(frechet(one, two))
        table.loc[first, second] = table.loc[second, first] = np.mean(found)
    return table


def principal_components(vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features of all domains on their first common principal components, in units of the first's
    standard deviation; every domain counts alike."""
    size = min(map(len, vectors.values()))
    generator = np.random.default_rng(0)
    pooled = np.concatenate([v[generator.permutation(len(v))[:size]] for v in vectors.values()])
    mean = pooled.mean(axis=0)
    _, spread, axes = np.linalg.svd(pooled - mean, full_matrices=False)
    axes = axes[:COMPONENTS] * np.sqrt(len(pooled)) / spread[0]
    return {domain: (v - mean) @ axes.T for domain, v in vectors.items()}


Features = Callable[[np.ndarray], np.ndarray]
"""uint8 [N, S, S, 3] → frozen features float [N, D]."""
