"""The search for pairs of images of one cell: copies, and one cell photographed twice.

Two measures, one after the other, and a cheap form of the second between them. The *hash* is the
low-frequency cosine transform of a miniature: a perceptual hash that is not cut to bits, for 80
real numbers rank 20,000 smears where 64 bits put hundreds of round cells at one distance; and flips
and quarter turns only change its signs and order. It nominates each image's nearest others over 8
views and small shifts, exactly, as blocks of one matrix product. The *correlation* judges them:
local contrast, which stain, exposure and focus change little, correlated over all small shifts in
each of the 8 views; in full only where its lowest frequencies already let one view stand out.

A round cell on an empty field resembles every other, in all views alike. So resemblance alone is
no proof: it counts where one view stands out, as it does where lobes, granules and neighbouring
red cells agree, or where it is that of a copy.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from scipy.fft import dct, irfft2, rfft2
from scipy.ndimage import affine_transform, gaussian_filter1d

from benchmark.parallel import in_processes, in_threads
from benchmark.progress import track

SIDE = 64
"""Side of a miniature in pixels."""
FREQUENCIES = 9
"""The hash holds the 9 × 9 lowest frequencies but the mean."""
SHIFT = 5
"""The hash tries no shift and ± 5 pixels (8 % of the side) along x or y."""
NEAREST = 12
"""How many others the hash nominates for each image."""
REACH = 7
"""The correlation tries every shift up to ± 7 pixels (11 % of the side) along x and y."""
SAME = [(0.70, 0.20), (0.90, 0.10), (0.97, 0.0)]
"""One cell: at least so large a correlation, standing so far above that of the next best view."""
PRICE = 0.10
"""What the first of these asks beyond 0.70 of a second image that had to be turned, and again of
one that had to be warped: more was tried for it, and nobody turns the slide between two photos."""
DOUBTFUL = (0.35, 0.08)
"""Other pairs from this correlation and margin on are tried again, zoomed and rotated."""
LOW = 8
"""A first look correlates the frequencies up to this one along x and y, of 32."""
PROMISING = [(0.45, 0.05), (0.80, 0.0)]
"""Pairs from one of these first correlations and margins on are correlated in full. Of those that
show one cell in the published sets, none was below 0.66 and 0.15."""
SURROUNDINGS = 0.45
"""Correlation of the outer part of two images, beyond half the way to the rim, that one cell needs:
three round lobes may well lie alike in two cells, their neighbours do not."""
VIEWS = range(8)
WARPS = [(1, 0), (0.87, 0), (0.93, 0), (1.08, 0), (1.15, 0), (1, -8), (1, -4), (1, 4), (1, 8)]
"""Zooms and rotations in degrees, tried in the best view of doubtful pairs; first, neither."""


def near_duplicates(miniatures: np.ndarray, since: int = 0) -> pd.DataFrame:
    """Pairs of images that show one cell.

    Args:
        miniatures: uint8 [N, 64, 64], grey, none of them blank.
        since: only pairs that hold an image from this row on.

    Returns:
        One row per pair, the most similar first: first < second (rows of `miniatures`), view (how
        the second is turned to match), similarity (at most 1), margin (above the next best view),
        warp (0, or how the second was also zoomed or rotated: a row of WARPS).
    """
    pairs = nominate(miniatures)
    pairs = pairs[pairs[:, 1] >= since]
    pairs = correlate(miniatures, pairs[promising(miniatures, pairs)])
    pairs = pairs[same_cell(pairs)]
    pairs = pairs[surroundings(miniatures, pairs) >= SURROUNDINGS]
    return pairs.sort_values(
        ["similarity", "first", "second"], ascending=[False, True, True], ignore_index=True
    )


def same_cell(pairs: pd.DataFrame) -> pd.Series:
    """Whether correlations prove one cell: the more alike two images are, the less one view
    needs to stand out."""
    similarity, margin = pairs["similarity"], pairs["margin"]
    dearer = PRICE * ((pairs["view"] != 0).astype(float) + (pairs["warp"] != 0))
    (least, apart), *others = SAME
    same = (similarity >= least + dearer) & (margin >= apart)
    for least, apart in others:
        same |= (similarity >= least) & (margin >= apart)
    return same


def turned(images: np.ndarray, view: int) -> np.ndarray:
    """Images [..., S, S] in one of the 8 views: bit 4 transposes, then 2 flips y, 1 flips x."""
    if view & 4:
        images = images.swapaxes(-1, -2)
    if view & 2:
        images = images[..., ::-1, :]
    return images[..., ::-1] if view & 1 else images


def nominate(miniatures: np.ndarray) -> np.ndarray:
    """Pairs worth a closer look, by the nearest hashes: int64 [P, 2], first < second, sorted."""
    number = len(miniatures)
    wanted = min(NEAREST, number - 1)
    if wanted < 1:
        return np.empty((0, 2), np.int64)
    # Turning a hash costs nothing, so the others are turned and shifted, not the image asked for.
    shifts = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
    hashes = [cosine_hash(miniatures, SHIFT * y, SHIFT * x) for y, x in shifts]
    asked = hashes[0].reshape(number, -1)
    others = [
        np.ascontiguousarray(turned_hash(shifted, view).reshape(number, -1).T)
        for shifted in hashes
        for view in VIEWS
    ]
    block = 128
    nearest = np.empty((number, wanted), np.int64)
    best, product = np.empty((2, block, number), np.float32)
    for start in track(range(0, number, block), "comparing hashes"):
        rows = np.arange(start, min(start + block, number))
        best, product = best[: len(rows)], product[: len(rows)]
        best.fill(-2)
        for other in others:
            np.matmul(asked[rows], other, out=product)
            np.maximum(best, product, out=best)
        best[rows - start, rows] = -2
        nearest[rows] = np.argpartition(-best, wanted - 1, axis=1)[:, :wanted]
    pairs = np.stack([np.repeat(np.arange(number), wanted), nearest.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def cosine_hash(miniatures: np.ndarray, top: int, left: int) -> np.ndarray:
    """Lowest cosine frequencies of a window: float32 [N, 9, 9], mean left out, of unit length."""
    side = SIDE - 2 * SHIFT
    basis = dct(np.eye(side, dtype=np.float32), axis=0, norm="ortho")[:FREQUENCIES]
    window = miniatures[:, top : top + side, left : left + side].astype(np.float32)
    hashes = basis @ window @ basis.T
    hashes[:, 0, 0] = 0
    return hashes / np.linalg.norm(hashes, axis=(1, 2), keepdims=True).clip(1e-6)


def turned_hash(hashes: np.ndarray, view: int) -> np.ndarray:
    """The hash of the turned image, from the hash: a flip changes the sign of odd frequencies."""
    odd = (-1.0) ** np.arange(FREQUENCIES, dtype=np.float32)
    if view & 4:
        hashes = hashes.swapaxes(-1, -2)
    if view & 2:
        hashes = hashes * odd[:, None]
    return hashes * odd if view & 1 else hashes


def promising(miniatures: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which nominated pairs one view may prove to be one cell, by the lowest frequencies: bool [P].

    Args:
        pairs: int64 [P, 2], rows of `miniatures`.
    """
    frequencies, shifts = np.arange(-LOW, LOW + 1), np.arange(1 - REACH, REACH, 2)
    # About the middle of an image, to flip it is to flip its spectrum.
    waves = np.exp(-2j * np.pi / SIDE * np.outer(frequencies, np.arange(SIDE) - (SIDE - 1) / 2))
    waves = waves.astype(np.complex64)
    spectra = np.empty((len(miniatures), len(waves), len(waves)), np.complex64)
    for start in range(0, len(miniatures), 1024):
        block = slice(start, start + 1024)
        spectra[block] = waves @ local_contrast(miniatures[block]) @ waves.T
    spectra /= np.linalg.norm(spectra, axis=(1, 2), keepdims=True).clip(1e-6)
    # The sum over the left half of a real image's spectrum is the conjugate of that of the right.
    along = np.exp(2j * np.pi / SIDE * np.outer(frequencies, shifts))
    right = along[LOW:] * np.where(frequencies[LOW:] > 0, 2, 1)[:, None]
    phases = np.einsum("ya,xb->yxab", along, right).reshape(-1, len(shifts) ** 2)
    basis = np.stack([phases.real, -phases.imag], axis=1).reshape(-1, len(shifts) ** 2)
    basis = basis.astype(np.float32)
    peaks = np.empty((len(pairs), len(VIEWS)), np.float32)
    for start in track(range(0, len(pairs), 512), "correlating low frequencies"):
        first, second = spectra[pairs[start : start + 512].T]
        for view in VIEWS:
            cross = first[..., LOW:] * turned(second, view)[..., LOW:].conj()
            parts = cross.reshape(len(cross), -1).view(np.float32)
            peaks[start : start + 512, view] = (parts @ basis).max(axis=1)
    peaks.sort(axis=1)
    margin = peaks[:, -1] - peaks[:, -2]
    return np.any([(peaks[:, -1] >= s) & (margin >= m) for s, m in PROMISING], axis=0)


def correlate(miniatures: np.ndarray, pairs: np.ndarray) -> pd.DataFrame:
    """The correlation of nominated pairs: first, second, view, similarity, margin, warp.

    Similarity is the largest normalised cross-correlation of local contrast over all shifts up to
    `REACH` and all views; margin is its distance to the largest one in any other view.

    Args:
        pairs: int64 [P, 2], rows of `miniatures`.
    """
    used, rows = np.unique(pairs, return_inverse=True)
    first, second = rows.reshape(pairs.shape).T
    contrast = local_contrast(miniatures[used])
    spectra = spectrum(contrast)
    peaks = np.empty((len(pairs), len(VIEWS)), np.float32)
    for view in VIEWS:
        others = spectrum(turned(contrast, view))

        def correlate_part(start: int, others: np.ndarray = others, view: int = view) -> None:
            part = slice(start, start + 1024)
            peaks[part, view] = peak(spectra[first[part]], others[second[part]])

        in_threads(correlate_part, range(0, len(pairs), 1024), f"correlating, view {view + 1} of 8")
    ordered = np.sort(peaks, axis=1)
    table = pd.DataFrame(
        {
            "first": pairs[:, 0],
            "second": pairs[:, 1],
            "view": peaks.argmax(axis=1),
            "similarity": ordered[:, -1],
            "margin": ordered[:, -1] - ordered[:, -2],
            "warp": 0,
        }
    )
    retry_warped(table, miniatures)
    return table.assign(similarity=table["similarity"].clip(upper=1))


def retry_warped(table: pd.DataFrame, miniatures: np.ndarray) -> None:
    """Raise similarity and margin, in place, of doubtful pairs that agree zoomed or rotated."""
    doubtful = (table["similarity"] >= DOUBTFUL[0]) & (table["margin"] >= DOUBTFUL[1])
    doubtful = np.flatnonzero(doubtful & ~same_cell(table))
    blocks = [doubtful[start : start + 256] for start in range(0, len(doubtful), 256)]
    jobs = [partial(best_warp, miniatures, table.loc[rows]) for rows in blocks]
    found = in_processes(jobs, "zooming and rotating")
    for rows, (similarity, place) in zip(blocks, found, strict=True):
        gained = similarity - table.loc[rows, "similarity"].to_numpy()
        better = gained > PRICE
        rows, gained = rows[better], gained[better]
        table.loc[rows, "similarity"] += gained
        table.loc[rows, "margin"] += gained
        table.loc[rows, "warp"] = place[better]


def best_warp(miniatures: np.ndarray, pairs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Largest correlation of each pair over all warps, float32 [N], and the place of that warp."""
    firsts = spectrum(local_contrast(miniatures[pairs["first"]]))
    seconds = [as_matched(miniatures, pair) for pair in pairs.itertuples()]
    found = np.stack(
        [
            peak(firsts, spectrum(local_contrast(np.stack([warp(s, *how) for s in seconds]))))
            for how in WARPS[1:]
        ]
    )
    return found.max(axis=0), 1 + found.argmax(axis=0)


def surroundings(miniatures: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """Correlation of the outer parts of matched pairs, laid over each other as they match best."""
    place = np.abs(np.arange(SIDE) - (SIDE - 1) / 2) / (SIDE / 2)
    outer = np.hypot(place, place[:, None]) > 0.5
    found = np.empty(len(pairs))
    for row, pair in enumerate(pairs.itertuples()):
        first, second = miniatures[pair.first], as_matched(miniatures, pair)
        first, second = local_contrast(np.stack([first, second]))
        shift = correlation_map(spectrum(first), spectrum(second))
        down, right = np.unravel_index(shift.argmax(), shift.shape)
        second = np.roll(second, (down - REACH, right - REACH), axis=(0, 1))
        found[row] = np.corrcoef(first[outer], second[outer])[0, 1]
    return found


def as_matched(miniatures: np.ndarray, pair: tuple) -> np.ndarray:
    """The second image of a pair (a row of `correlate`), turned and warped to match the first."""
    return warp(turned(miniatures[pair.second], pair.view), *WARPS[pair.warp])


def warp(image: np.ndarray, zoom: float, degrees: float) -> np.ndarray:
    """An image [S, S] magnified and rotated about its centre, the rim repeated where it lacks."""
    cosine, sine = np.cos(np.radians(degrees)) / zoom, np.sin(np.radians(degrees)) / zoom
    if (zoom, degrees) == (1, 0):
        return image
    matrix = np.array([[cosine, -sine], [sine, cosine]])
    middle = np.array([SIDE - 1, SIDE - 1]) / 2
    return affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="nearest")


def spectrum(contrast: np.ndarray) -> np.ndarray:
    """Fourier transform of real images [N, S, S]: complex64 [N, S, S / 2 + 1].

    In this thread alone: SciPy's own pool of threads, once there, may wait for ever for one of them
    when the process forks twice in a row, as `in_processes` does.
    """
    return rfft2(np.ascontiguousarray(contrast))


def peak(spectra: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Largest cross-correlation of each two images over the shifts within reach: float32 [N]."""
    return correlation_map(spectra, others).max(axis=(-2, -1))


def correlation_map(spectra: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cross-correlation for every shift of the second image within reach: float32 [N, 15, 15]."""
    maps = irfft2(spectra * others.conj(), s=(SIDE, SIDE))
    near = np.arange(-REACH, REACH + 1)
    return maps[..., near[:, None], near]


def local_contrast(miniatures: np.ndarray) -> np.ndarray:
    """Detail over its own local strength, fading to the rim: float32 [N, 64, 64], of unit length.

    Divided by its local strength, a neighbouring red cell weighs as much as the nucleus.
    """
    fine, coarse, wide = (blur(width) for width in (0.7, 4, 5))
    fade = np.hanning(SIDE + 2)[1:-1]
    fade = np.sqrt(np.outer(fade, fade)).astype(np.float32)
    contrast = np.empty(miniatures.shape, np.float32)
    for start in range(0, len(miniatures), 256):
        images = miniatures[start : start + 256].astype(np.float32)
        detail = fine @ images @ fine.T - coarse @ images @ coarse.T
        strength = np.sqrt(wide @ detail**2 @ wide.T)
        detail /= strength + 0.25 * detail.std(axis=(1, 2), keepdims=True) + 1e-6
        detail = (detail - detail.mean(axis=(1, 2), keepdims=True)) * fade
        length = np.linalg.norm(detail, axis=(1, 2), keepdims=True)
        contrast[start : start + 256] = detail / length.clip(1e-6)
    return contrast


def blur(width: float) -> np.ndarray:
    """A Gaussian blur along one axis as a matrix, which many small images share: [64, 64]."""
    return gaussian_filter1d(np.eye(SIDE), width, axis=0).astype(np.float32)
