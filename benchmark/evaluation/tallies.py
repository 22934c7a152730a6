"""Tallies: answers of many runs in; what metrics of tables need of their confusion matrices out.

Macro-F1, balanced accuracy, accuracy and F1 follow from a few sums over the confusion matrix. Its
cells are sums over groups of images, so that thousands of resamples or swaps of every run are one
matrix product. The rules for corner cases are those of `metrics`; absent classes are left out from
the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy import sparse

from benchmark.evaluation.metrics import supported


class Images(NamedTuple):
    """The images of a test set and what each of several runs answered."""

    name: str
    labels: np.ndarray
    """(images,) class indices"""
    groups: np.ndarray
    """(images,) index of the group that an image is drawn with"""
    predicted: np.ndarray
    """(runs, images) class indices"""
    classes: int

    @property
    def counts(self) -> np.ndarray:
        """(classes,) images of each class."""
        return np.bincount(self.labels, minlength=self.classes)

    @property
    def present(self) -> np.ndarray:
        """Indices of the classes that label an image, ascending."""
        return np.flatnonzero(self.counts)


class Tally(NamedTuple):
    """Counts or weights of images, by present class: (classes, ...).

    Classes come first so that each step below runs over long rows.
    """

    labels: np.ndarray
    """of the class"""
    right: np.ndarray
    """of the class and answered right"""
    answers: np.ndarray
    """answered with the class"""
    images: np.ndarray
    """(...) all"""


Over = Literal["each class", "supported classes", "present classes", "all images"]


class Statistic(NamedTuple):
    """A metric as a function of tallies. Which classes it runs over is told by the images as they
    are, not by what they weigh in a resample."""

    title: str
    """its name in print"""
    over: Over
    value: Callable[[Tally], np.ndarray]
    """Tally of (classes, ...) → (...) values, or (classes, ...) where it is of each class"""
    linear: bool = False
    """whether, over the same labels, it is the sum of its values on two parts of the images"""

    def __call__(self, tally: Tally, images: Images) -> np.ndarray:
        """Its values under a tally of these images; NaN where it runs over no class."""
        if self.over == "supported classes":
            chosen = supported(images.counts[images.present])
            if not chosen.any():
                return np.full(tally.right.shape[1:], np.nan)
            if not chosen.all():
                tally = Tally(*(part[chosen] for part in tally[:3]), tally.images)
        return self.value(tally)


def f1(tally: Tally) -> np.ndarray:
    """(classes, ...) F1 of each class."""
    value = tally.right / (tally.labels + tally.answers)
    value *= 2
    return value


def mean_f1(tally: Tally) -> np.ndarray:
    """Mean F1 over the classes of the tally."""
    # One class after the other: arrays of all are too large for the cache, and three times as slow.
    by_class = (Tally(*parts, tally.images) for parts in zip(*tally[:3], strict=True))
    return sum(map(f1, by_class)) / len(tally.right)


def balanced_accuracy(tally: Tally) -> np.ndarray:
    """Mean recall over the classes of the tally."""
    return (tally.right / tally.labels).mean(axis=0)


def accuracy(tally: Tally) -> np.ndarray:
    """Share of images answered right."""
    return tally.right.sum(axis=0) / tally.images


HEADLINE = "macro_f1"
"""The metric that ranks."""
STATISTICS = {
    HEADLINE: Statistic("macro-F1", "supported classes", mean_f1),
    "macro_f1_present": Statistic("macro-F1 over all present classes", "present classes", mean_f1),
    "balanced_accuracy": Statistic(
        "balanced accuracy", "present classes", balanced_accuracy, linear=True
    ),
    "accuracy": Statistic("accuracy", "all images", accuracy, linear=True),
}
"""The metrics of the tables, each of the same name in `metrics.OVERALL`."""
F1 = Statistic("F1", "each class", f1)


def group_counts(images: Images) -> sparse.csr_array:
    """(present classes · classes · runs, groups) images by cell of the confusion matrix, and run.

    Whole numbers, so that sums of them are exact.
    """
    runs, groups = len(images.predicted), int(images.groups.max()) + 1
    present = images.present
    cell = np.searchsorted(present, images.labels) * images.classes + images.predicted
    rows = (cell * runs + np.arange(runs)[:, None]).ravel()
    shape = (len(present) * images.classes * runs, groups)
    ones = np.ones(len(rows), np.int32)
    return sparse.coo_array((ones, (rows, np.tile(images.groups, runs))), shape=shape).tocsr()


def tally(
    images: Images, counts: sparse.csr_array, weights: np.ndarray, plus: np.ndarray | None = None
) -> Tally:
    """(classes, runs, n) tally of `group_counts` under (groups, n) weights.

    Args:
        plus: (present classes, classes, n) weight to add to every cell.
    """
    present, runs = images.present, len(images.predicted)
    cells = (counts @ weights).reshape(len(present), images.classes, runs, -1)
    if plus is not None:
        cells += plus[:, :, None]
    return Tally(
        cells.sum(axis=1),
        cells[np.arange(len(present)), present],
        cells.sum(axis=0)[present],
        cells.reshape(-1, *cells.shape[2:]).sum(axis=0),
    )


def observed(images: Images) -> Tally:
    """(classes, runs) tally of the images as they are."""
    counts = group_counts(images)
    whole = tally(images, counts, np.ones((counts.shape[1], 1), np.int32))
    return Tally(*(part[..., 0] for part in whole))
