"""Calibration: stated probabilities against what happens, by hand and by independent routes."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from benchmark.evaluation import calibration
from benchmark.metrics import probabilities


def logits_of(chances):
    """Logits whose softmax these are."""
    return np.log(np.asarray(chances, float))


def random_logits(seed=0, images=400, classes=4, sharpness=2.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    logits = sharpness * random.normal(size=(images, classes))
    logits[np.arange(images), labels] += sharpness
    return logits, labels


def calibration_error(stated, labels):
    return calibration.expected_calibration_error(calibration.reliability(stated, labels))


def test_likelihood_and_brier_by_hand():
    logits, labels = logits_of([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]), np.array([0, 2])
    nll = -(math.log(0.7) + math.log(0.25)) / 2
    assert calibration.negative_log_likelihood(logits, labels) == pytest.approx(nll)
    brier = (0.3**2 + 0.2**2 + 0.1**2 + 0.5**2 + 0.25**2 + 0.75**2) / 2
    assert calibration.brier(probabilities(logits), labels) == pytest.approx(brier)


def test_likelihood_and_brier_agree_with_scikit_learn():
    logits, labels = random_logits()
    stated = probabilities(logits)
    expected = sklearn_metrics.log_loss(labels, stated)
    assert calibration.negative_log_likelihood(logits, labels) == pytest.approx(expected)
    binary, truth = random_logits(classes=2)
    # scikit-learn's binary score counts one of two equal squares.
    stated = probabilities(binary)
    expected = 2 * sklearn_metrics.brier_score_loss(truth, stated[:, 1])
    assert calibration.brier(stated, truth) == pytest.approx(expected)


def test_calibration_error_by_hand():
    # Two images at 0.7 of which one is right, one at 0.95 that is right: 15 bins of 1/15.
    stated, labels = np.array([[0.7, 0.3], [0.7, 0.3], [0.95, 0.05]]), np.array([0, 1, 0])
    expected = (2 * abs(0.5 - 0.7) + 1 * abs(1 - 0.95)) / 3
    assert calibration_error(stated, labels) == pytest.approx(expected)


def test_calibration_error_agrees_with_a_loop_over_bins():
    logits, labels = random_logits(1)
    stated = probabilities(logits)
    total = 0.0
    for lower in range(15):
        inside = [i for i in range(len(labels)) if lower / 15 < stated[i].max() <= (lower + 1) / 15]
        if inside:
            right = np.mean([stated[i].argmax() == labels[i] for i in inside])
            total += len(inside) * abs(right - np.mean([stated[i].max() for i in inside]))
    assert calibration_error(stated, labels) == pytest.approx(total / len(labels))


def test_certain_and_right_is_perfectly_calibrated():
    logits = np.array([[60.0, -60.0], [-60.0, 60.0]])
    labels = np.array([0, 1])
    stated = probabilities(logits)
    assert calibration.negative_log_likelihood(logits, labels) == pytest.approx(0, abs=1e-12)
    assert calibration.brier(stated, labels) == pytest.approx(0, abs=1e-12)
    assert calibration_error(stated, labels) == pytest.approx(0, abs=1e-12)


def test_huge_half_precision_logits_give_finite_scores():
    logits, labels = np.array([[65504, -65504, 0]], np.float16), np.array([1])
    assert math.isfinite(calibration.negative_log_likelihood(logits, labels))
    assert calibration.brier(probabilities(logits), labels) == 2
    assert calibration_error(probabilities(logits), labels) == 1


def test_every_image_falls_into_one_bin():
    logits, labels = random_logits(2)
    bins = calibration.reliability(probabilities(logits), labels)
    count, confidence, accuracy = bins
    assert count.sum() == len(labels)
    empty = count == 0
    assert np.isnan(confidence[empty]).all()
    assert np.isnan(accuracy[empty]).all()
    places = np.flatnonzero(~empty)
    assert (confidence[places] > places / 15 - 1e-12).all()
    assert (confidence[places] <= (places + 1) / 15 + 1e-12).all()


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_fitted_temperature_is_the_one_that_was_applied(true):
    # Labels drawn from the softmax of z are calibrated; z · T has the temperature T.
    random = np.random.default_rng(3)
    logits = 2 * random.normal(size=(20000, 5))
    chance = probabilities(logits).cumsum(axis=1)
    labels = (random.random((20000, 1)) > chance).sum(axis=1)
    assert calibration.fit_temperature(logits * true, labels) == pytest.approx(true, rel=0.05)


def test_the_fitted_temperature_beats_every_other_on_a_grid():
    logits, labels = random_logits(4, images=150)
    best = calibration.fit_temperature(logits, labels)

    def loss(temperature):
        return calibration.negative_log_likelihood(logits / temperature, labels)

    assert loss(best) <= min(loss(t) for t in np.geomspace(0.01, 100, 400)) + 1e-9


def test_a13_temperature_without_an_error_is_one():
    logits, labels = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    assert calibration.fit_temperature(logits, labels) == calibration.NO_TEMPERATURE == 1
    # The best logit is the label's, though not alone: colder is always better.
    logits = np.array([[9.0, 0.0]] * 50 + [[0.0, 0.0]])
    assert calibration.fit_temperature(logits, np.array([0] * 50 + [1])) == 1
    # Wrong more often than not: flatter is always better.
    assert calibration.fit_temperature(logits, np.array([1] * 51)) == 1


def test_a_temperature_needs_images():
    with pytest.raises(ValueError, match="no images"):
        calibration.fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
