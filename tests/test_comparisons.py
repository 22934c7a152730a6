"""Paired comparisons: p-values hold their size, and every helper agrees with another route."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from benchmark import metrics
from benchmark.evaluation import comparisons, evidence
from benchmark.evaluation.columns import Resampled, summarise
from benchmark.evaluation.experiments import Scenario, ScenarioRuns
from benchmark.evaluation.resampling import JointPredictions, generator
from benchmark.metrics import TABLED

ALONE = Scenario(name="a->", source="a", targets=())
SHIFTED = Scenario(name="a->b,c", source="a", targets=("b", "c"))
CLASSES = 3


def resampled(scenario, tables):
    """Runs as rows of predictions, without the draws, which permutations do not need.

    Args:
        tables: for each test set labels, groups and (runs, images) predictions.
    """
    images, points = {}, []
    for test_set, (labels, groups, predicted) in zip(scenario.test_sets, tables, strict=True):
        images[test_set] = JointPredictions("/".join(test_set), labels, groups, predicted, CLASSES)
        confusions = [metrics.confusion_matrix(labels, own, CLASSES) for own in predicted]
        points.append(np.stack(confusions))
    observed = {
        (name, ""): summarise(
            [metric.of_confusion(stack) for stack in points], scenario, scenario.targets
        )
        for name, metric in TABLED.items()
    }
    places = {str(row): row for row in range(len(tables[0][2]))}
    return Resampled(
        ScenarioRuns(scenario, (), ()), scenario.targets, TABLED, places, images, observed, {}
    )


def p_values_of(runs, pairs, permutations):
    """p-values by pair and column, for macro-F1 over the present classes."""
    name = "macro_f1_present"
    return comparisons.permutation_tests(runs, {name: pairs}, permutations)[name]


def answers(random, labels, skill, runs=2):
    """Predictions that follow the label with a chance, and an image's own lure otherwise."""
    lure = random.integers(0, CLASSES, len(labels))
    right = random.random((runs, len(labels))) < np.reshape(skill, (-1, 1))
    return np.where(right, labels, lure)


def macro_f1(labels, predicted):
    present = np.unique(labels)
    return f1_score(labels, predicted, labels=present, average="macro", zero_division=0)


def test_p_values_agree_with_swapping_image_by_image():
    random = np.random.default_rng(0)
    tables = []
    for n in (30, 20, 25):
        labels = random.integers(0, CLASSES, n)
        predicted = answers(random, labels, [0.7, 0.7, 0.5, 0.5], runs=4)
        tables.append((labels, np.arange(n) // 2, predicted))
    runs = resampled(SHIFTED, tables)
    pair = ("one", "other")
    found = p_values_of(runs, {pair: [(0, 2), (1, 3)]}, permutations=60)[pair]

    swaps = []
    for (domain, part), (_, groups, _) in zip(SHIFTED.test_sets, tables, strict=True):
        random = generator("swaps", f"{domain}/{part}")
        swaps.append(random.integers(0, 2, (60, groups.max() + 1)).astype(bool))

    def columns(b):
        """Difference by column after permutation b (None: as observed), mean over two seeds."""
        total = dict.fromkeys(found, 0.0)
        for first, second in ((0, 2), (1, 3)):
            sides = [[], []]
            for (labels, groups, predicted), chosen in zip(tables, swaps, strict=True):
                swap = chosen[b][groups] if b is not None else np.zeros(len(labels), bool)
                one = np.where(swap, predicted[second], predicted[first])
                other = np.where(swap, predicted[first], predicted[second])
                for side, answer in zip(sides, (one, other), strict=True):
                    side.append(macro_f1(labels, answer))
            for sign, (a, b_, c) in zip((1, -1), sides, strict=True):
                total["in_domain"] += sign * a / 2
                total["b"] += sign * b_ / 2
                total["c"] += sign * c / 2
                total["mean_target"] += sign * (b_ + c) / 2 / 2
                total["worst_target"] += sign * min(b_, c) / 2
                total["shift_drop"] += sign * (a - (b_ + c) / 2) / 2
        return total

    observed = columns(None)
    permuted = [columns(b) for b in range(60)]
    for name, value in observed.items():
        extreme = sum(abs(d[name]) >= abs(value) - 1e-9 for d in permuted)
        assert found[name] == pytest.approx((1 + extreme) / 61)


def rejected(random, grouped, repeats=300):
    """How often two methods that answer alike differ at p < 0.05; images come in threes."""
    count = 0
    for _ in range(repeats):
        labels = np.repeat(random.choice(CLASSES, 30, p=[0.6, 0.3, 0.1]), 3)
        # All three images of a group meet the same fate with each method.
        predicted = np.repeat(answers(random, labels[::3], [0.6, 0.6]), 3, axis=1)
        groups = np.arange(90) // 3 if grouped else np.arange(90)
        runs = resampled(ALONE, [(labels, groups, predicted)])
        found = p_values_of(runs, {("a", "b"): [(0, 1)]}, permutations=199)
        count += found["a", "b"]["in_domain"] < 0.05
    return count / repeats


def test_the_permutation_test_holds_its_size_and_only_by_group():
    random = np.random.default_rng(1)
    # Standard error at 5 %: 1.3 points.
    assert 0.02 <= rejected(random, grouped=True) <= 0.085
    assert rejected(random, grouped=False) > 0.12


def test_a_clear_difference_is_found_whichever_comes_first():
    random = np.random.default_rng(2)
    labels = random.integers(0, CLASSES, 200)
    runs = resampled(ALONE, [(labels, np.arange(200), answers(random, labels, [0.9, 0.6]))])
    pairs = {("a", "b"): [(0, 1)], ("b", "a"): [(1, 0)]}
    found = comparisons.permutation_tests(runs, dict.fromkeys(TABLED, pairs), 400)
    for metric in TABLED:
        assert found[metric]["a", "b"]["in_domain"] == 1 / 401
        assert found[metric]["b", "a"]["in_domain"] == 1 / 401


def test_identical_answers_have_p_one():
    labels = np.array([0, 1, 2, 0])
    predicted = np.array([[0, 1, 1, 0], [0, 1, 1, 0]])
    runs = resampled(ALONE, [(labels, np.arange(4), predicted)])
    found = p_values_of(runs, {("a", "b"): [(0, 1)]}, permutations=99)
    assert found["a", "b"]["in_domain"] == 1


def test_holm_by_hand_and_step_by_step():
    # Sorted 0.01, 0.02, 0.04 times 3, 2, 1, never falling.
    assert comparisons.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    p = np.random.default_rng(3).random(40) ** 3
    p[4] = p[7]
    # Holm 1979: at a level hypotheses are rejected in turn, up to the first that is not.
    for level in (0.01, 0.05, 0.3, 0.9):
        order = np.argsort(p)
        kept = [p[place] * (len(p) - step) <= level for step, place in enumerate(order)]
        rejected = order[: kept.index(False) if False in kept else None]
        assert set(np.flatnonzero(comparisons.holm(p) <= level)) == set(rejected)


def test_a_comparison_that_could_not_be_made_is_not_counted():
    found = comparisons.holm([0.02, math.nan, 0.03])
    assert found[[0, 2]] == pytest.approx([0.04, 0.04])
    assert math.isnan(found[1])
    assert len(comparisons.holm([])) == 0


def test_a_detectable_difference_is_found_four_times_in_five():
    error = 0.013
    assert comparisons.detectable_difference(error) == pytest.approx((1.959964 + 0.841621) * error)
    seen = np.random.default_rng(4).normal(comparisons.detectable_difference(error), error, 40000)
    assert np.mean(np.abs(seen) > 1.959964 * error) == pytest.approx(0.8, abs=0.01)


def test_ranks_by_hand():
    points = np.array([0.5, 0.9, math.nan, 0.9])
    draws = np.array([[0.5, 0.95, 0.5, 0.5], [0.9] * 4, [math.nan] * 4, [0.8] * 4])
    found = evidence.rank_stability(points, draws)
    np.testing.assert_equal(found["rank"], [3, 1, math.nan, 1])
    np.testing.assert_equal(found["rank_low"], [1, 1, math.nan, 2])
    np.testing.assert_equal(found["rank_high"], [3, 2, math.nan, 3])
    np.testing.assert_equal(found["first"], [0.25, 0.75, math.nan, 0])
    drops = evidence.rank_stability(points, draws, descending=False)
    np.testing.assert_equal(drops["rank"], [1, 2, math.nan, 2])


def test_rank_agreement_is_kendalls_tau():
    random = np.random.default_rng(5)
    first, second = random.random((2, 7, 3))
    expected = [stats.kendalltau(first[:, b], second[:, b]).statistic for b in range(3)]
    assert evidence.rank_agreement(first, second) == pytest.approx(expected)
    assert evidence.rank_agreement(first[:, 0], -first[:, 0]) == -1
    assert math.isnan(evidence.rank_agreement(np.array([0.3]), np.array([0.4])))


def test_variance_components_are_found_again():
    """Normal effects of known spread; an image's effect is partly shared by seeds and methods."""
    random = np.random.default_rng(6)
    methods, seeds, resamples = 12, 6, 3000
    by_method, by_seed = 0.05, 0.02
    shares = {"all": 0.010, "method": 0.006, "run": 0.004}

    def noise(columns):
        shape = (methods, seeds, columns)
        return (
            shares["all"] * random.normal(size=(1, 1, columns))
            + shares["method"] * random.normal(size=(methods, 1, columns))
            + shares["run"] * random.normal(size=shape)
        )

    found = []
    for _ in range(40):
        true = by_method * random.normal(size=(methods, 1)) + by_seed * random.normal(
            size=(methods, seeds)
        )
        points = 0.5 + true + noise(1)[..., 0]
        draws = points[..., None] + noise(resamples // 10)
        found.append([*evidence.variance_components(list(points), list(draws)).values()])
    squares = np.mean(np.square(found), axis=0)
    image = sum(share**2 for share in shares.values())
    assert np.sqrt(squares) == pytest.approx([by_method, by_seed, math.sqrt(image)], rel=0.1)


def test_components_that_nothing_tells_are_unknown():
    draws = np.random.default_rng(7).random((1, 50))
    found = evidence.variance_components([np.array([0.4])], [draws])
    assert math.isnan(found["sd_method"])
    assert math.isnan(found["sd_seed"])
    assert found["sd_image"] == pytest.approx(draws.std(ddof=1))
