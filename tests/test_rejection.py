"""Rejection: confidences, thresholds with and without a promise, conformal p-values, open set."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import binom
from sklearn import metrics as sklearn_metrics

from benchmark.evaluation import rejection
from benchmark.metrics import probabilities

STATED = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]])
INFINITY = float("inf")


def test_softmax_confidences_by_hand():
    logits = np.log(STATED) + 3
    found = rejection.probability_confidences(probabilities(logits))
    assert rejection.maximum_probability(logits) == pytest.approx([0.7, 0.4])
    assert found["msp"] == pytest.approx([0.7, 0.4])
    assert found["margin"] == pytest.approx([0.5, 0.05])
    assert rejection.energy(logits) == pytest.approx([3, 3])
    entropies = [sum(-p * math.log(p) for p in row) for row in STATED]
    assert found["entropy"] == pytest.approx([-h for h in entropies])


def test_the_energy_is_the_logarithm_of_the_sum_of_powers():
    logits = np.random.default_rng(0).normal(0, 20, (400, 5)).astype(np.float16)
    logits[:3] = [[1, 1, 1, 1, 1], [7, 7, -60000, 0, 0], [60000, 0, 0, 0, 0]]
    expected = logsumexp(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(rejection.energy(logits), expected, rtol=1e-14)


def test_a1_a_confidence_does_not_depend_on_the_order_of_the_classes():
    """Equal votes in another class differed by the last bit of a sum, and so never tied."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 3, (500, 1, 5)).astype(np.float16)
    turned = np.stack([np.roll(scores[:, 0], k, axis=1) for k in range(5)], axis=1)
    shuffled = random.permuted(turned, axis=2).reshape(-1, 5)
    near = 1 / (1 + np.exp(-shuffled.astype(float)))
    found = rejection.probability_confidences(probabilities(shuffled))
    found |= {"energy": rejection.energy(shuffled), "scaled": probabilities(shuffled, 0.7).max(1)}
    found |= {f"ccl {name}": f(near) for name, f in rejection.CCL_CONFIDENCES.items()}
    for name, confidence in found.items():
        of_one_image = confidence.reshape(500, 5)
        assert (of_one_image == of_one_image[:, :1]).all(), name


def test_a_cell_far_from_every_centroid_looks_reliable_to_the_published_confidence_alone():
    near, torn, far = [0.9, 0.1, 0.0], [0.6, 0.5, 0.4], [0.0, 0.0, 0.001]
    found = {n: f(np.array([near, torn, far])) for n, f in rejection.CCL_CONFIDENCES.items()}
    assert found["published"] == pytest.approx([0.9, 0.1, 1.0])
    assert found["max"] == pytest.approx([0.9, 0.6, 0.001])
    assert found["margin"] == pytest.approx([0.8, 0.1, 0.001])


def test_rejecting_by_hand():
    confidence, correct = np.array([0.9, 0.8, 0.5, 0.4, 0.3]), np.array([1, 0, 1, 0, 0], bool)
    rejected, accuracy, right = rejection.reject(confidence, correct, 0.5)
    assert (rejected, accuracy, right) == pytest.approx((2 / 5, 2 / 3, 2 / 5))
    assert right == pytest.approx((1 - rejected) * accuracy)


def test_rejecting_everything_has_no_accuracy():
    rejected, accuracy, right = rejection.reject(np.array([0.2]), np.array([True]), INFINITY)
    assert (rejected, right) == (1, 0)
    assert math.isnan(accuracy)


def test_the_threshold_is_the_smallest_that_reaches_the_accuracy():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    correct = np.array([1, 0, 1, 1, 0], bool)
    # Accuracies from the top: 1, 1/2, 2/3, 3/4, 3/5.
    assert rejection.threshold_at(confidence, correct, 0.75) == 0.6
    assert rejection.threshold_at(confidence, correct, 0.76) == 0.9
    assert rejection.threshold_at(confidence, correct, 0.6) == 0.5
    assert rejection.threshold_at(confidence[1:2], correct[1:2], 0.5) == INFINITY


def test_images_of_equal_confidence_are_accepted_together():
    confidence, correct = np.array([0.9, 0.9, 0.5]), np.array([True, False, True])
    assert rejection.threshold_at(confidence, correct, 0.99) == INFINITY
    assert rejection.threshold_at(confidence, correct, 0.6) == 0.5


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95])
def test_thresholds_of_many_samples_are_those_of_each_by_definition(accuracy):
    """Tried one after the other, from the strictest down, for confidences that tie."""
    random = np.random.default_rng(4)
    confidence = random.integers(0, 40, (50, 80)) / 40
    correct = random.random((50, 80)) < 0.3 + 0.7 * confidence
    plain, proven = [], []
    for own, right in zip(confidence, correct, strict=True):
        plain.append(INFINITY)
        proven.append(INFINITY)
        failed = False
        for threshold in np.unique(own)[::-1]:
            accepted = right[own >= threshold]
            if accepted.mean() >= accuracy:
                plain[-1] = threshold
            if accuracy ** len(accepted) <= 0.05 and not failed:
                failed = binom.sf(accepted.sum() - 1, len(accepted), accuracy) > 0.05
                proven[-1] = proven[-1] if failed else threshold
    np.testing.assert_array_equal(rejection.threshold_at(confidence, correct, accuracy), plain)
    found = rejection.guaranteed_threshold(confidence, correct, accuracy)
    np.testing.assert_array_equal(found, proven)


def test_a_guarantee_needs_enough_images():
    # 0.99^298 > 0.05 ≥ 0.99^299.
    for images, promised in ((298, False), (299, True)):
        found = rejection.guaranteed_threshold(np.arange(images), np.ones(images), 0.99)
        assert math.isfinite(found) == promised


def test_a7_the_fewest_images_of_a_guarantee():
    assert rejection.images_needed(0.99) == 299
    assert rejection.images_needed(0.95) == 59
    assert rejection.images_needed(1.0) == INFINITY


def test_the_fewest_right_are_those_that_a_lower_accuracy_makes_improbable():
    images = np.arange(1, 400)
    fewest = rejection.right_needed(399, 0.9, 0.05)[images]
    assert (binom.sf(fewest - 1, images, 0.9) <= 0.05).all()
    assert (binom.sf(fewest - 2, images, 0.9) > 0.05).all()


def test_one_early_error_voids_the_guarantee():
    correct = np.ones(400, bool)
    confidence = np.arange(400, 0, -1.0)
    assert rejection.guaranteed_threshold(confidence, correct, 0.99) == 1
    correct[0] = False
    assert rejection.guaranteed_threshold(confidence, correct, 0.99) == INFINITY


def test_the_guarantee_holds_and_the_plain_threshold_has_none():
    """P(right | confidence c) = 1 - (1 - c)², so accuracy above t is 1 - (1 - t)²/3."""
    random = np.random.default_rng(0)
    target, error = 0.95, 0.1
    broken = {"plain": 0, "guaranteed": 0}
    finite = 0
    for _ in range(400):
        confidence = random.random(300)
        correct = random.random(300) < 1 - (1 - confidence) ** 2
        thresholds = {
            "plain": rejection.threshold_at(confidence, correct, target),
            "guaranteed": rejection.guaranteed_threshold(confidence, correct, target, error),
        }
        finite += math.isfinite(thresholds["guaranteed"])
        for name, t in thresholds.items():
            broken[name] += math.isfinite(t) and 1 - (1 - t) ** 2 / 3 < target
    assert finite > 200
    assert broken["guaranteed"] / 400 < error + 0.03
    assert broken["plain"] / 400 > 0.4


def area(name, confidence, correct):
    return rejection.areas(rejection.risk_coverage(confidence, correct)[1], correct)[name]


def naive_aurc(confidence, correct):
    """Mean over coverages of the risk of the most confident, without ties."""
    order = sorted(range(len(confidence)), key=lambda i: -confidence[i])
    risks = [np.mean([not correct[i] for i in order[:k]]) for k in range(1, len(order) + 1)]
    return float(np.mean(risks))


def test_aurc_agrees_with_a_naive_loop():
    random = np.random.default_rng(1)
    confidence, correct = random.random(80), random.random(80) < 0.7
    assert area("aurc", confidence, correct) == pytest.approx(naive_aurc(confidence, correct))
    best = naive_aurc(np.arange(80), np.sort(correct))
    expected = naive_aurc(confidence, correct) - best
    assert area("excess_aurc", confidence, correct) == pytest.approx(expected)


def test_tied_images_come_in_random_order():
    random = np.random.default_rng(2)
    confidence, correct = np.array([2, 2, 2, 1, 1, 0.0]), np.array([1, 0, 1, 1, 0, 1], bool)
    shuffled = [naive_aurc(confidence + 1e-3 * random.random(6), correct) for _ in range(4000)]
    assert area("aurc", confidence, correct) == pytest.approx(np.mean(shuffled), abs=0.004)


@pytest.mark.parametrize("correct", [np.ones(5, bool), np.zeros(5, bool)])
def test_excess_is_zero_where_there_is_nothing_to_rank(correct):
    assert area("excess_aurc", np.arange(5.0), correct) == pytest.approx(0)


def cells(random, images, classes=4, rare=0.05):
    """Probabilities and labels of calibration-like images, the last class being rare."""
    share = np.append(np.full(classes - 1, (1 - rare) / (classes - 1)), rare)
    labels = random.choice(classes, images, p=share)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1.5
    return probabilities(logits), labels


def test_p_values_agree_with_the_naive_loop():
    random = np.random.default_rng(0)
    stated, labels = cells(random, 150)
    new, _ = cells(random, 40)
    score = rejection.improbability
    calibration = rejection.conformal_calibration(score(stated), labels)
    found = rejection.p_values(calibration, score(new))
    own = [score(stated)[i, label] for i, label in enumerate(labels)]
    assert list(calibration.marginal) == [False, False, False, True]
    for i, y in np.ndindex(found.shape):
        pool = [a for a, label in zip(own, labels, strict=True) if label == y or y == 3]
        expected = (1 + sum(a >= score(new)[i, y] for a in pool)) / (len(pool) + 1)
        assert found[i, y] == pytest.approx(expected)


def test_nonconformity_by_hand():
    assert rejection.improbability(STATED)[0] == pytest.approx([0.3, 0.8, 0.9])


def test_left_out_p_values_agree_with_calibrating_again_without_the_image():
    stated, labels = cells(np.random.default_rng(3), 90)
    scores = rejection.improbability(stated)
    calibration = rejection.conformal_calibration(scores, labels)
    found = rejection.leave_one_out_p_values(calibration, scores, labels)
    own = scores[np.arange(90), labels]
    for i, y in np.ndindex(found.shape):
        marginal = calibration.marginal[y]
        pool = [own[j] for j in range(90) if j != i and (marginal or labels[j] == y)]
        expected = (1 + sum(a >= scores[i, y] for a in pool)) / (len(pool) + 1)
        assert found[i, y] == pytest.approx(expected)


def test_true_classes_are_left_out_as_rarely_as_promised():
    """Exchangeable data: P(p(y) ≤ ε) ≤ ε within each class that has images enough, and near it."""
    random = np.random.default_rng(4)
    missed = np.zeros(4)
    total = np.zeros(4)
    epsilon = 0.1
    for _ in range(60):
        stated, labels = cells(random, 300, rare=0.25)
        new, truth = cells(random, 300, rare=0.25)
        calibration = rejection.conformal_calibration(rejection.improbability(stated), labels)
        p = rejection.p_values(calibration, rejection.improbability(new))
        out = (p <= epsilon)[np.arange(300), truth]
        missed += np.bincount(truth, weights=out, minlength=4)
        total += np.bincount(truth, minlength=4)
    # Standard error 0.005 within a class.
    assert (missed / total < epsilon + 0.02).all()
    assert (missed / total > epsilon - 0.04).all()


def test_the_chosen_epsilon_accepts_most_at_the_accuracy():
    stated, labels = cells(np.random.default_rng(5), 250, rare=0.25)
    scores = rejection.improbability(stated)
    p = rejection.leave_one_out_p_values(
        rejection.conformal_calibration(scores, labels), scores, labels
    )
    found = rejection.epsilon_at(p, labels, 0.9)

    def accepted(epsilon):
        sets = p > epsilon
        single = sets.sum(axis=1) == 1
        right = sets[np.arange(len(labels)), labels][single]
        return single.sum(), right.mean() if single.any() else 0.0

    count, accuracy = accepted(found)
    assert accuracy >= 0.9
    others = [accepted(epsilon) for epsilon in np.unique(p)]
    assert count == max(n for n, share in others if share >= 0.9)
    assert math.isnan(rejection.epsilon_at(np.array([[0.9, 0.1]]), np.array([1]), 0.5))


@pytest.mark.parametrize("ties", [False, True])
def test_open_set_scores_agree_with_scikit_learn(ties):
    random = np.random.default_rng(6)
    known, foreign = random.normal(1, 1, 130), random.normal(0, 1, 70)
    if ties:
        known, foreign = known.round(), foreign.round()
    truth = np.repeat([1, 0], [130, 70])
    both = np.concatenate([known, foreign])
    assert rejection.auroc(known, foreign) == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, both)
    )
    false, true, _ = sklearn_metrics.roc_curve(truth, both, drop_intermediate=False)
    assert rejection.fpr_at_95(known, foreign) == pytest.approx(false[true >= 0.95].min())


def test_open_set_without_foreign_cells_has_no_score():
    assert math.isnan(rejection.auroc(np.ones(3), np.ones(0)))
    assert math.isnan(rejection.fpr_at_95(np.ones(0), np.ones(3)))
