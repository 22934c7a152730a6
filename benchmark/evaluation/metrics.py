"""Metrics of one test set: true and predicted classes in, numbers in [0, 1] out.

Everything is computed from the confusion matrix, whose entry [t, p] counts the images of true
class t that were predicted as class p. The rules for the corner cases:

* A class is *present* if at least one label names it. Macro-F1 and balanced accuracy average over
  the present classes only; predicting an absent class still costs the recall of the true one.
* An absent class has no precision, recall or F1: they are NaN, with n = 0.
* A present class that is never predicted has precision 0 and F1 0.
* `macro_f1_all` averages over every class of the label space; an absent class counts as F1 = 0
  (`zero_division=0`, the rule of the WBCBench scorer).
* Equal highest logits go to the class that stands first in the label space.
* No images, labels outside the label space and non-finite logits are errors, never a number.
"""

from __future__ import annotations

import numpy as np

MINIMUM_SUPPORT = 10
"""A class with fewer test images than this carries no claim (it is flagged, not removed)."""


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
    """(classes,) number of images of each true class."""
    return confusion.sum(axis=1)


def accuracy(confusion: np.ndarray) -> float:
    """Share of images predicted correctly."""
    return float(np.trace(confusion) / confusion.sum())


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall over the present classes."""
    return float(np.nanmean(recall(confusion)))


def macro_f1(confusion: np.ndarray) -> float:
    """Mean F1 over the present classes: the headline metric."""
    return float(np.nanmean(f1(confusion)))


def macro_f1_all(confusion: np.ndarray) -> float:
    """Mean F1 over every class of the label space; an absent class counts as 0."""
    return float(np.nan_to_num(f1(confusion)).mean())


def precision(confusion: np.ndarray) -> np.ndarray:
    """(classes,) true positives / predicted; 0 if never predicted, NaN if absent."""
    return _ratio(np.diag(confusion), confusion.sum(axis=0), support(confusion))


def recall(confusion: np.ndarray) -> np.ndarray:
    """(classes,) true positives / images of the class; NaN if absent."""
    return _ratio(np.diag(confusion), support(confusion), support(confusion))


def f1(confusion: np.ndarray) -> np.ndarray:
    """(classes,) 2 TP / (2 TP + FP + FN); NaN if absent."""
    either = support(confusion) + confusion.sum(axis=0)
    return _ratio(2 * np.diag(confusion), either, support(confusion))


def constant_confusion(counts: np.ndarray) -> np.ndarray:
    """Confusion matrix of the classifier that always answers the commonest class of the test set.

    It knows the test labels, so it is an oracle constant and not a method: no constant has a
    higher accuracy. A tie goes to the class that stands first.

    Args:
        counts: (classes,) test images of each class.
    """
    confusion = np.zeros((len(counts), len(counts)), np.int64)
    confusion[:, np.argmax(counts)] = counts
    return confusion


def _ratio(part: np.ndarray, whole: np.ndarray, present: np.ndarray) -> np.ndarray:
    """part / whole, 0 where the whole is 0, NaN for classes that are not present."""
    value = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return np.where(present > 0, value, np.nan)


OVERALL = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "macro_f1_all": macro_f1_all,
}
PER_CLASS = {"precision": precision, "recall": recall, "f1": f1}
