"""Robustness index: does a representation know the cell or the laboratory?

The robustness index is that of PathoROB (Kömen et al. 2026, Nature Communications 17:5218, arXiv
2507.17845): among the k nearest neighbours of all cells, by cosine and without those of the cell's
own slide or patient,

    index = SO / (SO + OS),

SO the neighbours of the same class and another laboratory, OS those of another class and the same
laboratory. It is counted in blocks of two laboratories × two classes with equally many cells, all
blocks together, so that one half is what a representation without either would have. k is the
one at which neighbours tell the class best; sets of features are compared at one k, the median of
theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from benchmark.evaluation.resampling import generator
from benchmark.progress import track

CELLS = 20
"""Drawn of each class of each laboratory of a block; what has fewer is in none."""
DRAWS = 10
NEIGHBOURS = (1, 3, 5, 7, 9, 11, 21, 31)
"""Odd, so that of two classes one has more votes."""


class Neighbourhood(NamedTuple):
    """What the neighbours are, for each k of `NEIGHBOURS`, all draws together."""

    index: np.ndarray
    """(k,) robustness index"""
    low: np.ndarray
    """(k,) the lowest of the draws"""
    high: np.ndarray
    class_told: np.ndarray
    """(k,) share of cells whose class is that of most neighbours"""


def robustness(
    features: np.ndarray, labels: np.ndarray, laboratories: np.ndarray, groups: np.ndarray
) -> Neighbourhood:
    """The robustness index at every k.

    Args:
        features: [N, D].
        labels, laboratories, groups: [N] indices; groups are slides or patients.

    Returns:
        NaN throughout where no two laboratories have two classes with `CELLS` cells in common.
    """
    vectors = normalised(features)
    counts = np.zeros((DRAWS, len(NEIGHBOURS), 4))
    for draw in track(range(DRAWS), "robustness index"):
        for rows in blocks(labels, laboratories, draw):
            own = (each[rows] for each in (vectors, labels, laboratories, groups))
            counts[draw] += neighbour_counts(*own)
    same_class_other, other_class_same, right, cells = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore"):
        each = same_class_other / (same_class_other + other_class_same)
        whole = same_class_other.sum(0) / (same_class_other + other_class_same).sum(0)
        told = right.sum(0) / cells.sum(0)
    return Neighbourhood(whole, each.min(0), each.max(0), told)


def blocks(labels: np.ndarray, laboratories: np.ndarray, draw: int) -> Iterator[np.ndarray]:
    """Rows of `CELLS` cells of each of two classes of each of two laboratories, for every such pair
    of pairs; the cells of a class of a laboratory are the same in all of its blocks."""
    drawn = drawn_cells(labels, laboratories, draw)
    for pair in combinations(np.unique(laboratories), 2):
        shared = [c for c in np.unique(labels) if all((lab, c) in drawn for lab in pair)]
        for classes in combinations(shared, 2):
            yield np.concatenate([drawn[lab, c] for lab in pair for c in classes])


def drawn_cells(
    labels: np.ndarray, laboratories: np.ndarray, draw: int
) -> dict[tuple[int, int], np.ndarray]:
    """(laboratory, class) → rows of `CELLS` cells, of those that have so many."""
    found = {}
    for laboratory in np.unique(laboratories):
        for label in np.unique(labels):
            rows = np.flatnonzero((laboratories == laboratory) & (labels == label))
            if len(rows) >= CELLS:
                order = generator("robustness", str(laboratory), str(label), str(draw))
                found[laboratory, label] = order.permutation(rows)[:CELLS]
    return found


def neighbour_counts(
    vectors: np.ndarray, labels: np.ndarray, laboratories: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """(k, 4) over the cells of a block: neighbours SO, neighbours OS, cells whose class is told,
    cells. Where a cell has fewer than k neighbours outside its group, those that it has.

    Args:
        vectors: [N, D] of unit length.
    """
    similarity = vectors @ vectors.T
    similarity[groups == groups[:, None]] = -np.inf  # the cell itself among them
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : max(NEIGHBOURS)]
    known = np.isfinite(np.take_along_axis(similarity, nearest, axis=1))
    same_class = labels[nearest] == labels[:, None]
    same_laboratory = laboratories[nearest] == laboratories[:, None]
    found = np.zeros((len(NEIGHBOURS), 4))
    for at, k in enumerate(NEIGHBOURS):
        near, alike, here = known[:, :k], same_class[:, :k], same_laboratory[:, :k]
        told = 2 * (near & alike).sum(axis=1) > near.sum(axis=1)
        pairs = (near & alike & ~here).sum(), (near & ~alike & here).sum()
        found[at] = *pairs, told.sum(), len(vectors)
    return found


def normalised(features: np.ndarray) -> np.ndarray:
    """Vectors of unit length; a vector of zeros stays one."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length > 0, length, 1)
