"""Metrics: of confusion matrices, one or a stack of them; `METRICS` declares each in one place.

Every function takes counts `(..., classes, classes)`, true × predicted, and works along the last
two axes. Counts may be fractional. The rules for the corner cases:

* A class is *present* if at least one label names it. Averages over classes are over the present
  ones; predicting an absent class still costs the recall of the true one.
* An absent class has no precision, recall, specificity or F1: they are NaN, with n = 0.
* A present class that is never predicted has precision 0 and F1 0.
* A class is *supported* by a test set with `MINIMUM_SUPPORT` images of it. The headline `macro_f1`
  averages over the supported classes, `macro_f1_present` over the present ones. All images count
  in both: a cell of a rare class that is taken for another costs that one's precision.
* A class that every image belongs to has no specificity: NaN, and left out of the average.
* `macro_f1_all` averages over every class of the label space; an absent class counts as F1 = 0
  (`zero_division=0`, the rule of the WBCBench scorer).
* Equal highest logits go to the class that stands first in the label space.
* No images, labels outside the label space and non-finite logits are errors, never a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

MINIMUM_SUPPORT = 10
"""A class with fewer images in a test set carries no claim there: it is flagged, and the headline
leaves it out of its average. Its images stay."""


def predicted_classes(logits: np.ndarray) -> np.ndarray:
    """The class with the highest logit of each image.

    Args:
        logits: (images, classes), any float type.

    Returns:
        (images,) class indices.

    Raises:
        ValueError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        broken = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ValueError(f"{broken} of {len(logits)} images have a non-finite logit")
    return logits.argmax(axis=1)


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(images, classes) softmax of logits divided by the temperature, in float64.

    Divided by a sum over *sorted* terms: two images with the same logits in another order of the
    classes have the same confidence to the last bit, so that they tie.
    """
    powers = np.exp(below_the_highest(np.asarray(logits, np.float64) / temperature))
    return (powers / np.sort(powers, axis=0).sum(axis=0)).T


def below_the_highest(logits: np.ndarray) -> np.ndarray:
    """(classes, images) logits minus the highest of each image.

    Classes first: of a few classes SciPy's softmax, image by image, takes five times as long.
    """
    logits = np.ascontiguousarray(np.asarray(logits).T, np.float64)
    return logits - logits.max(axis=0)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count images by true and predicted class.

    Args:
        labels, predicted: (images,) class indices.
        classes: size of the label space.

    Returns:
        (classes, classes) counts, true × predicted.

    Raises:
        ValueError: no images, different lengths, or an index outside the label space.
    """
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"{labels.shape} labels for {predicted.shape} predictions")
    if not len(labels):
        raise ValueError("no images to score")
    for name, values in (("label", labels), ("prediction", predicted)):
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(f"a {name} lies outside the {classes} classes of the label space")
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def support(confusion: np.ndarray) -> np.ndarray:
    """(..., classes) number of images of each true class."""
    return confusion.sum(axis=-1)


def supported(counts: np.ndarray) -> np.ndarray:
    """Which classes have images enough to enter the headline, by number of images: booleans."""
    return counts >= MINIMUM_SUPPORT


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of images predicted correctly."""
    return _hits(confusion).sum(axis=-1) / confusion.sum(axis=(-2, -1))


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean recall over the present classes: macro recall."""
    return _mean_present(recall(confusion))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """The headline metric: mean F1 over the supported classes; NaN if there is none."""
    return _mean_present(np.where(supported(support(confusion)), f1(confusion), np.nan))


def macro_f1_present(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over the present classes, rare ones included: what training selects epochs by."""
    return _mean_present(f1(confusion))


def macro_f1_all(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over every class of the label space; an absent class counts as 0."""
    return np.nan_to_num(f1(confusion)).mean(axis=-1)


def macro_precision(confusion: np.ndarray) -> np.ndarray:
    """Mean precision over the present classes."""
    return _mean_present(precision(confusion))


def macro_specificity(confusion: np.ndarray) -> np.ndarray:
    """Mean specificity over the present classes; NaN if there is one class only."""
    return _mean_present(specificity(confusion))


def f1_of_macro(confusion: np.ndarray) -> np.ndarray:
    """Harmonic mean of macro precision and macro recall: the "F1" of he2023's tables.

    Reported beside macro-F1, which ranks: the mean of F1s is not the F1 of means.
    """
    both = macro_precision(confusion), balanced_accuracy(confusion)
    total = np.asarray(both[0] + both[1])
    return _ratio(2 * both[0] * both[1], total, np.ones(total.shape))


def ld(confusion: np.ndarray) -> np.ndarray:
    """he2023's Ld = 1 - Σ k_i (1 - F1_i), k_i = 1/C - n_i/N, over the present classes.

    The k_i add up to zero, so Ld is 1 for *any* uniform F1, a useless one included, and falls when
    the common classes improve. Reported, never ranked by.
    """
    counts = support(confusion)
    present = counts > 0
    share = counts / counts.sum(axis=-1, keepdims=True)
    weight = np.where(present, 1 / present.sum(axis=-1, keepdims=True) - share, 0)
    return 1 - np.nansum(weight * (1 - f1(confusion)), axis=-1)


def matthews(confusion: np.ndarray) -> np.ndarray:
    """Matthews correlation coefficient for several classes (Gorodkin 2004, R_K).

    0 where it is not defined (one class among the labels, or among the predictions).
    """
    true, predicted = support(confusion), confusion.sum(axis=-2)
    total = confusion.sum(axis=(-2, -1))
    covariance = total * _hits(confusion).sum(axis=-1) - (true * predicted).sum(axis=-1)
    spread = total**2 - (true**2).sum(axis=-1), total**2 - (predicted**2).sum(axis=-1)
    scale = np.sqrt(np.asarray(spread[0], float) * spread[1])
    return _ratio(covariance, scale, np.ones(scale.shape))


def precision(confusion: np.ndarray) -> np.ndarray:
    """(..., classes) true positives / predicted; 0 if never predicted, NaN if absent."""
    return _ratio(_hits(confusion), confusion.sum(axis=-2), support(confusion))


def recall(confusion: np.ndarray) -> np.ndarray:
    """(..., classes) true positives / images of the class; NaN if absent."""
    counts = support(confusion)
    return _ratio(_hits(confusion), counts, counts)


def specificity(confusion: np.ndarray) -> np.ndarray:
    """(..., classes) true negatives / images of other classes; NaN if absent or if all are it."""
    others = confusion.sum(axis=(-2, -1))[..., None] - support(confusion)
    false_positives = confusion.sum(axis=-2) - _hits(confusion)
    return _ratio(others - false_positives, others, np.minimum(support(confusion), others))


def f1(confusion: np.ndarray) -> np.ndarray:
    """(..., classes) 2 TP / (2 TP + FP + FN); NaN if absent."""
    counts = support(confusion)
    return _ratio(2 * _hits(confusion), counts + confusion.sum(axis=-2), counts)


def constant_confusion(counts: np.ndarray) -> np.ndarray:
    """Confusion matrix of the classifier that always predicts the commonest class of the test set.

    It knows the test labels, so it is an oracle constant and not a method: no constant has a
    higher accuracy. A tie goes to the class that stands first.

    Args:
        counts: (classes,) test images of each class.
    """
    confusion = np.zeros((len(counts), len(counts)), np.int64)
    confusion[:, np.argmax(counts)] = counts
    return confusion


def _hits(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _mean_present(values: np.ndarray) -> np.ndarray:
    """Mean along the last axis of what is not NaN; NaN if all is (numpy's nanmean would warn)."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return _ratio(np.where(known, values, 0).sum(axis=-1), count, count)


def _ratio(part: np.ndarray, whole: np.ndarray, present: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is 0, NaN where there is nothing present."""
    part = np.asarray(part)
    value = np.divide(part, whole, out=np.zeros_like(part, np.float64), where=whole > 0)
    return np.where(present > 0, value, np.nan)[()]


class Tally(NamedTuple):
    """What metrics of resamples need of confusion matrices, by present class: (classes, ...) sums.

    Classes come first so that each step runs over long rows.
    """

    labels: np.ndarray
    """of the class"""
    right: np.ndarray
    """of the class and predicted as it"""
    predicted: np.ndarray
    """predicted as the class"""
    images: np.ndarray
    """(...) all"""


def tallied_f1(tally: Tally) -> np.ndarray:
    value = tally.right / (tally.labels + tally.predicted)
    value *= 2
    return value


def tallied_macro_f1(tally: Tally) -> np.ndarray:
    # One class after the other: arrays of all are too large for the cache, and three times as slow.
    by_class = (Tally(*parts, tally.images) for parts in zip(*tally[:3], strict=True))
    return sum(map(tallied_f1, by_class)) / len(tally.right)


def tallied_balanced_accuracy(tally: Tally) -> np.ndarray:
    return (tally.right / tally.labels).mean(axis=0)


def tallied_accuracy(tally: Tally) -> np.ndarray:
    return tally.right.sum(axis=0) / tally.images


Over = Literal["each class", "supported classes", "present classes", "all images"]


@dataclass(frozen=True)
class Metric:
    """A score of a confusion matrix, the higher the better.

    With an `of_tally` beside, it can be computed in thousands of resamples, and has intervals and
    comparisons; with a title as well, tables.
    """

    of_confusion: Callable[[np.ndarray], np.ndarray]
    """(..., classes, classes) → (...), or (..., classes) for a metric of each class"""
    over: Over = "present classes"
    title: str = ""
    """its name in print"""
    of_tally: Callable[[Tally], np.ndarray] | None = None
    """the same of a tally of (classes, ...)"""
    linear: bool = False
    """whether, over the same labels, it is the sum of its values on two parts of the images"""

    def resampled(self, tally: Tally, counts: np.ndarray) -> np.ndarray:
        """Its values under a tally; NaN where it runs over no class.

        Args:
            counts: (present classes,) images. Which classes are supported is told by the images as
                they are, not by what they weigh in a resample.
        """
        if self.over == "supported classes":
            chosen = supported(counts)
            if not chosen.any():
                return np.full(tally.right.shape[1:], np.nan)
            if not chosen.all():
                tally = Tally(*(part[chosen] for part in tally[:3]), tally.images)
        return self.of_tally(tally)


METRICS = {
    "macro_f1": Metric(macro_f1, "supported classes", "macro-F1", tallied_macro_f1),
    "macro_f1_present": Metric(
        macro_f1_present, "present classes", "macro-F1 over all present classes", tallied_macro_f1
    ),
    "balanced_accuracy": Metric(
        balanced_accuracy,
        "present classes",
        "balanced accuracy",
        tallied_balanced_accuracy,
        linear=True,
    ),
    "accuracy": Metric(accuracy, "all images", "accuracy", tallied_accuracy, linear=True),
    "macro_f1_all": Metric(macro_f1_all),
    "macro_precision": Metric(macro_precision),
    "macro_specificity": Metric(macro_specificity),
    "f1_of_macro": Metric(f1_of_macro),
    "ld": Metric(ld),
    "matthews": Metric(matthews),
    "f1": Metric(f1, "each class", of_tally=tallied_f1),
    "precision": Metric(precision, "each class"),
    "recall": Metric(recall, "each class"),
    "specificity": Metric(specificity, "each class"),
}
"""Every metric by its name in `metrics.parquet`. A new one is a function and its line here."""
HEADLINE = "macro_f1"
"""The metric that ranks."""
TABLED = {name: metric for name, metric in METRICS.items() if metric.title}
"""Those that have a table, in the order of the tables."""
