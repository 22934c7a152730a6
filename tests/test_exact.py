"""Exact limits of shares: those of scipy, those of a survey statistician, and counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest, t

from benchmark.evaluation.exact import exact_limits, images_to_settle, independent_images, share


@pytest.mark.parametrize(("right", "number"), [(0, 1), (1, 1), (0, 7), (7, 7), (3, 7), (97, 100)])
def test_limits_are_clopper_and_pearsons(right: int, number: int) -> None:
    known = binomtest(right, number).proportion_ci(0.95, "exact")
    assert exact_limits(right, number) == pytest.approx((known.low, known.high), abs=1e-12)
    low, high = exact_limits(right, number)
    if right:
        assert binom.sf(right - 1, number, low) == pytest.approx(0.025)
    if right < number:
        assert binom.cdf(right, number, high) == pytest.approx(0.025)


def test_limits_of_independent_images_contain_the_rate_in_95_of_100_repetitions() -> None:
    for number, rate in ((12, 0.9), (60, 0.5), (200, 0.97)):
        possible = np.arange(number + 1)
        low, high = np.array([exact_limits(k, number) for k in possible]).T
        inside = (low <= rate) & (rate <= high)
        assert binom.pmf(possible, number, rate)[inside].sum() >= 0.95


def test_of_nothing_nothing_is_known() -> None:
    found = share(np.array([], bool), np.array([]))
    assert (found.number, found.low, found.high) == (0, 0, 1)
    assert math.isnan(found.rate)


def test_images_of_their_own_groups_are_as_many_as_there_are() -> None:
    right = np.arange(40) % 5 > 0
    found = share(right, np.arange(40))
    assert found == (32, 40, 0.8, *exact_limits(32, 40), 40)


def test_groups_weigh_as_korn_and_graubard_say() -> None:
    """By the textbook: the variance of a ratio between clusters, and Student's quantiles."""
    right = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1])
    groups = np.array(list("aaaabbbbcccc"))
    rate = 8 / 12
    residuals = [4 - 4 * rate, 1 - 4 * rate, 3 - 4 * rate]
    variance = 3 / 2 * sum(r**2 for r in residuals) / 12**2
    degrees = (t.ppf(0.975, 11) / t.ppf(0.975, 2)) ** 2
    expected = rate * (1 - rate) / variance * degrees
    assert expected < 12
    found = share(right, groups)
    assert found.independent == pytest.approx(expected)
    k = rate * expected
    assert found.low == pytest.approx(beta.ppf(0.025, k, expected - k + 1))
    assert found.high == pytest.approx(beta.ppf(0.975, k + 1, expected - k))


def test_groups_never_make_more_of_images_and_one_group_nothing() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        groups = generator.integers(0, 6, 60)
        right = generator.random(60) < generator.random()
        assert independent_images(right, groups) <= 60
    assert share(np.ones(50), np.zeros(50))[3:] == (0, 1, 0)


def test_limits_of_grouped_images_contain_the_rate_as_often_as_they_say() -> None:
    """Twenty smears of ten cells, whose rates differ: of 2,000 repetitions 95 % but for chance.

    Limits that take the cells for independent contain it too rarely."""
    generator = np.random.default_rng(1)
    covered, naive = 0, 0
    groups = np.repeat(np.arange(20), 10)
    for _ in range(2000):
        rates = generator.beta(4, 1, 20)  # of mean 0.8
        right = generator.random(200) < rates[groups]
        found = share(right, groups)
        covered += found.low <= 0.8 <= found.high
        low, high = exact_limits(right.sum(), 200)
        naive += low <= 0.8 <= high
    assert covered / 2000 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)
    assert naive / 2000 < 0.92


@pytest.mark.parametrize(
    ("rate", "level"), [(1.0, 0.9), (0.97, 0.9), (0.95, 0.9), (0.8, 0.9), (0.0, 0.5), (0.5, 0.3)]
)
def test_the_number_that_settles_is_the_first_that_does(rate: float, level: float) -> None:
    needed = images_to_settle(rate, level)
    for number in range(1, needed + 200):
        k = rate * number
        low = beta.ppf(0.025, k, number - k + 1) if k > 0 else 0
        high = beta.ppf(0.975, k + 1, number - k) if k < number else 1
        settled = low >= level if rate > level else high < level
        assert settled == (number >= needed), number


def test_all_right_settle_a_level_by_the_power_that_falls_below_the_tail() -> None:
    for level in (0.5, 0.8, 0.9, 0.95, 0.99):
        assert images_to_settle(1.0, level) == math.ceil(math.log(0.025) / math.log(level))
    assert images_to_settle(0.9, 0.9) is None
    assert images_to_settle(0.9 + 1e-7, 0.9) is None
