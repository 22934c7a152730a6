"""Bootstrap: test sets in, resampled values of every metric of every run out.

A resample gives each group of images (patient, smear, source image) a random weight of mean 1, the
same for every run, so that runs stay paired. The weights are exponential (Bayesian bootstrap, Rubin
1981): unlike drawing with replacement, no class ever vanishes from a resample. A class with three
images, all answered right, would still show no spread; so every resample also holds about three
*pseudo images*. What they do to the coverage of intervals is simulated in tests/test_bootstrap.py.

Weights come from the name of the test set alone: a run added tomorrow meets the same resamples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from scipy import special

from benchmark.evaluation.metrics import supported
from benchmark.evaluation.tallies import Images, Statistic, Tally, group_counts, tally

RESAMPLES = 2000
PSEUDO_RIGHT = 2.0
"""Pseudo images that are answered right, in all classes together."""
PSEUDO_TABLE = 1.0
"""Pseudo images spread evenly over the confusion table; those on its diagonal are the ones above.
Both numbers were found by simulation: without any, an interval that says 95 % covers 45 % where a
class of three images is mostly answered right; with them, every case tried lay in 93 to 97 %."""
CHUNK = 250
"""Resamples held in memory at once. Part of the result: another size draws other pseudo images."""


def generator(*names: str) -> np.random.Generator:
    """Random numbers that depend on these names and on nothing else."""
    return np.random.default_rng(
        int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:16])
    )


def pseudo_images(labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) expected weight of pseudo images; a class without images gets none."""
    prior = np.full((classes, classes), PSEUDO_TABLE / classes**2)
    np.fill_diagonal(prior, PSEUDO_RIGHT / classes)
    present = np.bincount(labels, minlength=classes) > 0
    return prior * present[:, None]


def resampled_tallies(images: Images, resamples: int = RESAMPLES) -> Iterator[Tally]:
    """Tallies of every run, `(classes, runs, some resamples)` at a time."""
    counts, size = group_counts(images), images.classes
    prior = pseudo_images(images.labels, size).ravel()
    weigh, imagine = generator("weights", images.name), generator("pseudo images", images.name)
    for start in range(0, resamples, CHUNK):
        number = min(CHUNK, resamples - start)
        # One column a resample, so that the product adds whole rows: fast, and the same bits.
        weights = weigh.standard_exponential((number, counts.shape[1])).T
        pseudo = imagine.standard_gamma(prior, (number, len(prior))).T.reshape(size, size, -1)
        yield tally(images, counts, np.ascontiguousarray(weights), pseudo[images.present])


def draw(
    images: Images, statistics: dict[str, Statistic], resamples: int = RESAMPLES
) -> dict[str, np.ndarray]:
    """(runs, resamples) values of each statistic, or (classes, runs, resamples) of the present
    classes; stretched to the spread that so few groups call for.
    """
    chunks = [
        {name: statistic(drawn, images) for name, statistic in statistics.items()}
        for drawn in resampled_tallies(images, resamples)
    ]
    draws = {}
    for name, statistic in statistics.items():
        values = np.concatenate([chunk[name] for chunk in chunks], axis=-1)
        centre = values.mean(axis=-1, keepdims=True)
        groups = groups_behind(images, statistic)
        number = groups[:, None, None] if values.ndim == 3 else groups
        draws[name] = centre + small_sample_factor(number) * (values - centre)
    return draws


def groups_behind(images: Images, statistic: Statistic) -> np.ndarray | float:
    """How many equal groups would carry as much of a statistic.

    Of a mean over classes the mean over these classes; of each present class its own; of a share of
    all images that of all images together. NaN where the statistic runs over no class.
    """
    if statistic.over == "all images":
        return effective_groups(images._replace(labels=np.zeros_like(images.labels)))[0]
    by_class = effective_groups(images)[images.present]
    if statistic.over == "each class":
        return by_class
    if statistic.over == "supported classes":
        by_class = by_class[supported(images.counts[images.present])]
    return by_class.mean() if len(by_class) else np.nan


def effective_groups(images: Images) -> np.ndarray:
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
