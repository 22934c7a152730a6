"""Metrics agree with scikit-learn and with hand-computed values, also in the corner cases."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from benchmark import metrics

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
    assert metrics.macro_f1_present(BY_HAND) == pytest.approx(sum(F1_BY_HAND) / 3)
    assert metrics.macro_f1_all(BY_HAND) == pytest.approx(sum(F1_BY_HAND) / 4)
    assert metrics.precision(BY_HAND)[:3] == pytest.approx([6 / 7, 4 / 7, 0])
    assert metrics.recall(BY_HAND)[:3] == pytest.approx([6 / 10, 4 / 5, 0])
    assert metrics.f1(BY_HAND)[:3] == pytest.approx(F1_BY_HAND)
    assert metrics.support(BY_HAND).tolist() == [10, 5, 1, 0]


def test_a6_the_headline_runs_over_classes_of_ten_images_and_counts_all_images():
    """BCCD's class counts: three basophils, two of them taken for neutrophils."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), [207, 33, 20, 88, 3])
    predicted = np.where(random.random(351) < 0.6, labels, random.integers(0, 5, 351))
    predicted[-3:] = [0, 0, 4]
    confusion = metrics.confusion_matrix(labels, predicted, 5)
    four = sklearn_metrics.f1_score(labels, predicted, labels=range(4), average="macro")
    five = sklearn_metrics.f1_score(labels, predicted, labels=range(5), average="macro")
    assert metrics.macro_f1(confusion) == pytest.approx(four)
    assert metrics.macro_f1_present(confusion) == pytest.approx(five)
    # Without the basophils' images neutrophils would have two false positives less.
    assert metrics.macro_f1(confusion[:4, :4]) > metrics.macro_f1(confusion)
    assert metrics.MINIMUM_SUPPORT == 10
    nine, ten = np.diag([9, 30]), np.diag([10, 30])
    nine[0], ten[0] = [0, 9], [0, 10]
    assert metrics.macro_f1(nine) == pytest.approx(2 * 30 / (30 + 39))
    assert metrics.macro_f1(ten) == pytest.approx(2 * 30 / (30 + 40) / 2)
    assert math.isnan(metrics.macro_f1(np.diag([9, 9])))


def test_an_absent_class_has_no_precision_recall_or_f1():
    by_class = [metric for metric in metrics.METRICS.values() if metric.over == "each class"]
    assert by_class
    for metric in by_class:
        assert math.isnan(metric.of_confusion(BY_HAND)[3])


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
    assert metrics.macro_f1_present(confusion) == pytest.approx(f1)
    assert metrics.macro_f1_all(confusion) == pytest.approx(f1_all)
    precision = sklearn_metrics.precision_score(labels, predicted, labels=present, **averages)
    assert metrics.macro_precision(confusion) == pytest.approx(precision)
    theirs = sklearn_metrics.matthews_corrcoef(labels, predicted)
    assert metrics.matthews(confusion) == pytest.approx(theirs)
    one_against_rest = sklearn_metrics.multilabel_confusion_matrix(
        labels, predicted, labels=range(classes)
    )
    for place in present:
        (negative, false_positive), _ = one_against_rest[place]
        others = negative + false_positive
        expected = negative / others if others else math.nan
        assert metrics.specificity(confusion)[place] == pytest.approx(expected, nan_ok=True)
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
    assert metrics.macro_f1_present(confusion) == pytest.approx((2 * 9 / (9 + 17)) / 3)


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


def test_ld_and_its_paradoxes_by_hand():
    # F1 is 12/17, 8/12, 0; n = 10, 5, 1 of 16: k = 1/3 - n/N.
    losses = [1 - f1 for f1 in F1_BY_HAND]
    weights = [1 / 3 - n / 16 for n in (10, 5, 1)]
    expected = 1 - sum(k * loss for k, loss in zip(weights, losses, strict=True))
    assert metrics.ld(BY_HAND) == pytest.approx(expected)
    # Every class is answered right half of the time and wrongly by its twin: uniform F1, Ld = 1.
    useless = np.array([[50, 50, 0, 0], [50, 50, 0, 0], [0, 0, 5, 5], [0, 0, 5, 5]])
    assert metrics.macro_f1(useless) == pytest.approx(0.5)
    assert metrics.ld(useless) == pytest.approx(1)
    # Getting the common class right lowers it.
    before, after = np.array([[60, 40], [4, 6]]), np.array([[90, 10], [4, 6]])
    assert metrics.f1(after)[0] > metrics.f1(before)[0]
    assert metrics.ld(np.array([[90, 0], [10, 0]])) < metrics.ld(np.array([[45, 45], [5, 5]]))


def test_the_f1_of_macros_is_not_the_macro_f1():
    precision, recall = (6 / 7 + 4 / 7 + 0) / 3, (6 / 10 + 4 / 5 + 0) / 3
    assert metrics.macro_precision(BY_HAND) == pytest.approx(precision)
    assert metrics.f1_of_macro(BY_HAND) == pytest.approx(2 / (1 / precision + 1 / recall))
    assert metrics.f1_of_macro(BY_HAND) != pytest.approx(metrics.macro_f1(BY_HAND), abs=0.01)
    assert metrics.f1_of_macro(np.array([[0, 3], [2, 0]])) == 0


def test_specificity_by_hand():
    # Of the 6 images that are not class 0 one is called it; of 11 not class 1, three; of 15, none.
    expected = [5 / 6, 8 / 11, 15 / 15]
    assert metrics.specificity(BY_HAND)[:3] == pytest.approx(expected)
    assert metrics.macro_specificity(BY_HAND) == pytest.approx(sum(expected) / 3)


def test_a_single_class_has_no_specificity():
    confusion = np.array([[3, 1], [0, 0]])
    assert math.isnan(metrics.specificity(confusion)[0])
    assert math.isnan(metrics.macro_specificity(confusion))
    assert metrics.balanced_accuracy(confusion) == 0.75


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_stack_of_matrices_is_scored_like_each_of_them(name):
    metric = metrics.METRICS[name].of_confusion
    random = np.random.default_rng(0)
    stack = random.integers(0, 3, (2, 7, 4, 4)) * random.integers(0, 2, (2, 7, 4, 1))
    stack[..., 0, 0] += 1
    together = metric(stack)
    assert together.shape[:2] == (2, 7)
    for place in np.ndindex(2, 7):
        np.testing.assert_allclose(together[place], metric(stack[place]))
