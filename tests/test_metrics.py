"""Metrics agree with scikit-learn and with hand-computed values, also in the corner cases."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from benchmark.evaluation import metrics
from benchmark.evaluation.intervals import t_interval

# True class down, predicted class across; class 3 is absent but predicted twice.
BY_HAND = np.array(
    [
        [6, 2, 0, 2],
        [1, 4, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
    ]
)
F1_BY_HAND = [2 * 6 / (10 + 7), 2 * 4 / (5 + 7), 0.0]


def images(confusion):
    """Labels and predictions whose confusion matrix is the given one."""
    pairs = [
        (true, predicted)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        for _ in range(count)
    ]
    return np.array(pairs).T


def test_confusion_counts_true_down_and_predicted_across():
    labels, predicted = images(BY_HAND)
    assert metrics.confusion_matrix(labels, predicted, 4).tolist() == BY_HAND.tolist()


def test_metrics_by_hand():
    assert metrics.accuracy(BY_HAND) == pytest.approx(10 / 16)
    assert metrics.balanced_accuracy(BY_HAND) == pytest.approx((6 / 10 + 4 / 5 + 0 / 1) / 3)
    assert metrics.macro_f1(BY_HAND) == pytest.approx(sum(F1_BY_HAND) / 3)
    assert metrics.macro_f1_all(BY_HAND) == pytest.approx(sum(F1_BY_HAND) / 4)
    assert metrics.precision(BY_HAND)[:3] == pytest.approx([6 / 7, 4 / 7, 0])
    assert metrics.recall(BY_HAND)[:3] == pytest.approx([6 / 10, 4 / 5, 0])
    assert metrics.f1(BY_HAND)[:3] == pytest.approx(F1_BY_HAND)
    assert metrics.support(BY_HAND).tolist() == [10, 5, 1, 0]


def test_an_absent_class_has_no_precision_recall_or_f1():
    for metric in metrics.PER_CLASS.values():
        assert math.isnan(metric(BY_HAND)[3])


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn warns of classes never seen
@pytest.mark.parametrize("case", range(30))
def test_metrics_agree_with_scikit_learn(case):
    random = np.random.default_rng(case)
    classes = int(random.integers(2, 8))
    size = int(random.integers(1, 40))
    # Few images and a narrowed range leave classes absent, and others never predicted.
    labels = random.integers(0, random.integers(1, classes + 1), size)
    predicted = random.integers(0, random.integers(1, classes + 1), size)
    confusion = metrics.confusion_matrix(labels, predicted, classes)
    present = np.unique(labels)
    averages = {"average": "macro", "zero_division": 0}
    f1 = sklearn_metrics.f1_score(labels, predicted, labels=present, **averages)
    f1_all = sklearn_metrics.f1_score(labels, predicted, labels=range(classes), **averages)
    balanced = sklearn_metrics.balanced_accuracy_score(labels, predicted)
    assert metrics.accuracy(confusion) == pytest.approx(np.mean(labels == predicted))
    assert metrics.balanced_accuracy(confusion) == pytest.approx(balanced)
    assert metrics.macro_f1(confusion) == pytest.approx(f1)
    assert metrics.macro_f1_all(confusion) == pytest.approx(f1_all)
    theirs = sklearn_metrics.precision_recall_fscore_support(
        labels, predicted, labels=present, zero_division=0
    )
    ours = (metrics.precision, metrics.recall, metrics.f1, metrics.support)
    for metric, values in zip(ours, theirs, strict=True):
        assert metric(confusion)[present] == pytest.approx(values)


def test_the_constant_has_the_highest_accuracy_of_all_constants():
    counts = np.array([3, 9, 5])
    confusion = metrics.constant_confusion(counts)
    assert confusion.tolist() == [[0, 3, 0], [0, 9, 0], [0, 5, 0]]
    assert metrics.accuracy(confusion) == pytest.approx(9 / 17)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(1 / 3)
    assert metrics.macro_f1(confusion) == pytest.approx((2 * 9 / (9 + 17)) / 3)


def test_empty_input_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        metrics.confusion_matrix(np.array([]), np.array([]), 3)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([3], [0], "a label lies outside the 3 classes"),
        ([0], [3], "a prediction lies outside the 3 classes"),
        ([-1], [0], "a label lies outside the 3 classes"),
        ([0, 1], [0], "labels for"),
    ],
)
def test_classes_outside_the_label_space_and_unequal_lengths_are_errors(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(np.array(labels), np.array(predicted), 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_logit_is_an_error(value):
    logits = np.zeros((4, 3), np.float16)
    logits[2, 1] = value
    with pytest.raises(ValueError, match="1 of 4 images"):
        metrics.predicted_classes(logits)


def test_a_tie_goes_to_the_first_class():
    assert metrics.predicted_classes(np.array([[0.0, 2.0, 2.0]])).tolist() == [1]


def test_t_interval_by_hand():
    # Mean 4, s = 2, t(0.975, 2) = 4.302653 from a printed table: 4.302653 · 2 / √3.
    interval = t_interval([2.0, 4.0, 6.0])
    assert interval.mean == pytest.approx(4)
    assert interval.half_width == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)
    # Two values d apart: s / √2 = d / 2, and t(0.975, 1) = 12.7062.
    assert t_interval([0.5, 0.7]).half_width == pytest.approx(12.7062 * 0.1, rel=1e-5)


def test_one_seed_has_a_mean_but_no_interval_and_none_has_neither():
    one, none = t_interval([0.3]), t_interval([])
    assert one.mean == 0.3
    assert math.isnan(one.half_width)
    assert one.seeds == 1
    assert math.isnan(none.mean)
    assert math.isnan(none.half_width)
    assert none.seeds == 0


def test_a_missing_value_is_never_averaged_away():
    assert math.isnan(t_interval([0.3, math.nan, 0.5]).mean)
