"""Resampling: a Bayesian bootstrap of the images of test sets, for all runs at once.

A resample gives each group of images (patient, smear, source image) a random weight of mean 1, the
same for every run, so that runs stay paired. The weights are exponential (Bayesian bootstrap, Rubin
1981): unlike drawing with replacement, no class ever vanishes from a resample. A class with three
images, all predicted correctly, would still show no spread; so every resample also holds about
three *pseudo images*. What they do to the coverage of intervals is simulated in
tests/test_bootstrap.py.

Weights come from the name of the test set alone: a run added tomorrow meets the same resamples.

Metrics of tables follow from a few sums over the confusion matrix (`metrics.Tally`). Its cells are
sums over groups of images, so that thousands of resamples or swaps of every run are one matrix
product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import sparse, special

from benchmark.metrics import Metric, Tally, supported

RESAMPLES = 2000
PSEUDO_RIGHT = 2.0
"""Pseudo images that are predicted correctly, in all classes together."""
PSEUDO_TABLE = 1.0
"""Pseudo images spread evenly over the confusion table; those on its diagonal are the ones above.
Both numbers were found by simulation: without any, an interval that says 95 % covers 45 % where a
class of three images is mostly predicted correctly; with them, every case tried lay in 93 to
97 %."""
CHUNK = 250
"""Resamples held in memory at once. Part of the result: another size draws other pseudo images."""


class JointPredictions(NamedTuple):
    """The images of a test set and what each of several runs predicted."""

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

    def value(self, metric: Metric, tally: Tally) -> np.ndarray:
        """A metric under a tally of these images."""
        return metric.resampled(tally, self.counts[self.present])


def generator(*names: str) -> np.random.Generator:
    """Random numbers that depend on these names and on nothing else."""
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:16])
    )


def group_counts(images: JointPredictions) -> sparse.csr_array:
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


def tally_of(
    images: JointPredictions,
    counts: sparse.csr_array,
    weights: np.ndarray,
    plus: np.ndarray | None = None,
) -> Tally:
    """(classes, runs, n) tally of `group_counts` under (groups, n) weights.

    Args:
        plus: (present classes, classes, n) weight to add to every cell.
    """
    present, runs = images.present, len(images.predicted)
    cells = (counts @ weights).reshape(len(present), images.classes, runs, -1)
    if plus is not None:
        cells += plus[:, :, None]
    total = partial(np.sum, dtype=cells.dtype)  # of whole numbers no wider ones: half the memory
    return Tally(
        total(cells, axis=1),
        cells[np.arange(len(present)), present],
        total(cells, axis=0)[present],
        total(cells.reshape(-1, *cells.shape[2:]), axis=0),
    )


def observed(images: JointPredictions) -> Tally:
    """(classes, runs) tally of the images as they are."""
    counts = group_counts(images)
    whole = tally_of(images, counts, np.ones((counts.shape[1], 1), np.int32))
    return Tally(*(part[..., 0] for part in whole))


def pseudo_images(labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) expected weight of pseudo images; a class without images gets none."""
    prior = np.full((classes, classes), PSEUDO_TABLE / classes**2)
    np.fill_diagonal(prior, PSEUDO_RIGHT / classes)
    present = np.bincount(labels, minlength=classes) > 0
    return prior * present[:, None]


def resampled_tallies(images: JointPredictions, resamples: int = RESAMPLES) -> Iterator[Tally]:
    """Tallies of every run, `(classes, runs, some resamples)` at a time."""
    counts, size = group_counts(images), images.classes
    prior = pseudo_images(images.labels, size).ravel()
    weigh, imagine = generator("weights", images.name), generator("pseudo images", images.name)
    for start in range(0, resamples, CHUNK):
        number = min(CHUNK, resamples - start)
        # One column a resample, so that the product adds whole rows: fast, and the same bits.
        weights = weigh.standard_exponential((number, counts.shape[1])).T
        pseudo = imagine.standard_gamma(prior, (number, len(prior))).T.reshape(size, size, -1)
        yield tally_of(images, counts, np.ascontiguousarray(weights), pseudo[images.present])


def draw(
    images: JointPredictions, metrics: dict[str, Metric], resamples: int = RESAMPLES
) -> dict[str, np.ndarray]:
    """(runs, resamples) values of each metric, or (classes, runs, resamples) of the present
    classes; stretched to the spread that so few groups call for.
    """
    chunks = [
        {name: images.value(metric, drawn) for name, metric in metrics.items()}
        for drawn in resampled_tallies(images, resamples)
    ]
    draws = {}
    for name, metric in metrics.items():
        values = np.concatenate([chunk[name] for chunk in chunks], axis=-1)
        centre = values.mean(axis=-1, keepdims=True)
        groups = groups_behind(images, metric)
        number = groups[:, None, None] if values.ndim == 3 else groups
        draws[name] = centre + small_sample_factor(number) * (values - centre)
    return draws


def observed_and_drawn(
    images: JointPredictions, metrics: dict[str, Metric]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each metric as observed (runs,) and in resamples (runs, resamples).

    A metric of each class has an axis of all classes before. NaN for an absent class, and where
    no image is left.
    """
    if not len(images.labels):
        nothing = np.full((len(images.predicted), RESAMPLES), np.nan)
        return {name: (nothing[:, 0], nothing) for name in metrics}
    seen, drawn = observed(images), draw(images, metrics)
    return {
        name: tuple(
            by_class(found, images) if metric.over == "each class" else found
            for found in (images.value(metric, seen), drawn[name])
        )
        for name, metric in metrics.items()
    }


def by_class(found: np.ndarray, images: JointPredictions) -> np.ndarray:
    """(present classes, ...) → (classes, ...), NaN for the absent ones."""
    whole = np.full((images.classes, *found.shape[1:]), np.nan)
    whole[images.present] = found
    return whole


def groups_behind(images: JointPredictions, metric: Metric) -> np.ndarray | float:
    """How many equal groups would carry as much of a metric.

    Of a mean over classes the mean over these classes; of each present class its own; of a share of
    all images that of all images together. NaN where the metric runs over no class.
    """
    if metric.over == "all images":
        return effective_groups(images._replace(labels=np.zeros_like(images.labels)))[0]
    by_class = effective_groups(images)[images.present]
    if metric.over == "each class":
        return by_class
    if metric.over == "supported classes":
        by_class = by_class[supported(images.counts[images.present])]
    return by_class.mean() if len(by_class) else np.nan


def effective_groups(images: JointPredictions) -> np.ndarray:
    """(classes,) number of equal groups that would carry as much of a class: (Σ n)² / Σ n² (Kish).

    However many smears there are, a class that lies in two of them says little about a third. Where
    every image is a group of its own, the number of images stands for every class: what rare
    classes then need, the pseudo images give. NaN for an absent class.
    """
    counts = np.zeros((int(images.groups.max()) + 1, images.classes))
    np.add.at(counts, (images.groups, images.labels), 1)
    total = counts.sum(axis=0)
    if counts.sum(axis=1).max() == 1:
        return np.where(total > 0, len(images.labels), np.nan)
    squares = (counts**2).sum(axis=0)
    return np.divide(total**2, squares, out=np.full(len(total), np.nan), where=total > 0)


def small_sample_factor(groups: np.ndarray | float) -> np.ndarray | float:
    """√((G+1)/(G-1)) · t(0.975, G-1) / z(0.975).

    Exponential weights of G groups spread by √((G-1)/(G+1)) too little, and few groups call for
    Student's quantiles instead of Gauss' (Hesterberg 2015). Matters for a dozen smears and not for
    hundreds of images. Of a single group nothing is known: as if there were one and a half, which
    with one degree of freedom gives a factor of 14.
    """
    groups = np.maximum(groups, 1.5)
    quantile = special.stdtrit(np.maximum(groups - 1, 1), 0.975) / special.ndtri(0.975)
    return np.sqrt((groups + 1) / (groups - 1)) * quantile
