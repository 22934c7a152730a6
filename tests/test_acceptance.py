"""Site acceptance: labels needed and local thresholds, against exhaustive counting and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from benchmark.evaluation.acceptance import (
    ACCURACY,
    cells_to_label,
    other_cells,
    permitted_errors,
    trials,
)
from benchmark.evaluation.rejection import threshold_at
from benchmark.study.predictions import Predictions


def states(right: int, cells: int, stated: float) -> bool:
    """Whether the one-sided Clopper-Pearson bound of a count is as high as what is stated."""
    interval = binomtest(right, cells, alternative="greater").proportion_ci(0.95, method="exact")
    return interval.low >= stated


@pytest.mark.parametrize("stated", [0.8, 0.9, 0.95])
def test_the_smallest_samples_are_those_of_the_clopper_pearson_bound(stated) -> None:
    for errors, cells in enumerate(permitted_errors(stated)[:6].tolist()):
        assert states(cells - errors, cells, stated)
        assert not states(cells - 1 - errors, cells - 1, stated)


def test_without_an_error_59_cells_state_95_percent() -> None:
    assert cells_to_label(1.0, 0.95) == (59, 0)  # 0.95^59 = 0.0485, 0.95^58 = 0.0510
    assert cells_to_label(1.0, 0.8) == (14, 0)  # 0.8^14 = 0.0440, 0.8^13 = 0.0550


@pytest.mark.parametrize("sensitivity", [0.87, 0.93, 0.98])
def test_a_network_passes_with_the_stated_probability_and_with_no_smaller_sample(sensitivity):
    cells, errors = cells_to_label(sensitivity, 0.8)
    passing = {
        n: sum(binom.pmf(right, n, sensitivity) for right in range(n + 1) if states(right, n, 0.8))
        for n in {*permitted_errors(0.8)[: errors + 1].tolist()}
    }
    assert passing.pop(cells) >= 0.8
    assert all(value < 0.8 for value in passing.values())


def test_what_the_network_does_not_have_no_sample_can_state() -> None:
    assert cells_to_label(0.9, 0.9) is None
    assert cells_to_label(0.5, 0.8) is None
    assert cells_to_label(0.805, 0.8) is None  # of more than 2000 cells


def answered(images: int, seed: int = 0) -> tuple[np.ndarray, Predictions]:
    """Confidences that tell right from wrong in part, and the answers."""
    random = np.random.default_rng(seed)
    confidence = random.random(images)
    labels = np.zeros(images, int)
    predicted = (random.random(images) > confidence).astype(int)
    names = np.arange(images).astype(str)
    fields = (names, labels, np.arange(images), "0", predicted, None, np.zeros((images, 2)))
    return confidence, Predictions(*fields)


def test_a_local_threshold_is_tried_on_the_cells_that_did_not_choose_it() -> None:
    confidence, own = answered(300)
    order = np.stack([np.random.default_rng(draw).permutation(300) for draw in range(4)])
    found = trials(confidence, own, order, 0.7)
    for labels in (25, 50, 100):
        for draw in range(4):
            local, rest = order[draw, :labels], order[draw, labels:]
            threshold = threshold_at(confidence[local], own.correct[local], ACCURACY)
            accepted = rest[confidence[rest] >= threshold]
            expected = [len(accepted), own.correct[accepted].sum(), len(rest)]
            assert found["plain", labels][:, draw].tolist() == expected
    assert ("plain", 200) not in found  # more than half of the cells
    assert ("guaranteed", 50) not in found  # 59 right cells prove 95 %, and no fewer
    accepted = confidence >= 0.7
    assert found["source", 0][:, 0].tolist() == [
        accepted.sum(),
        own.correct[accepted].sum(),
        300,
    ]


def test_no_threshold_accepts_more_than_the_oracle_at_that_accuracy() -> None:
    confidence, own = answered(300)
    found = trials(confidence, own, np.arange(300)[None], None)
    accepted, right, _ = found["oracle", 0][:, 0]
    assert right >= ACCURACY * accepted
    for threshold in confidence[confidence < threshold_at(confidence, own.correct, ACCURACY)]:
        more = confidence >= threshold
        assert own.correct[more].sum() < ACCURACY * more.sum()


def test_other_cells_are_of_other_slides_where_they_are_half_of_all() -> None:
    groups = np.repeat(np.arange(10), 10)
    local = np.array([[0, 1, 2], [50, 61, 99]])
    others = other_cells(local, groups)
    assert not others[0][groups == 0].any()
    assert others.sum(axis=1).tolist() == [90, 70]
    few = np.repeat([0, 1], 50)  # the first draw has cells of both
    local = np.array([[0, 1, 60], [50, 61, 99]])
    others = other_cells(local, few)
    assert others.sum(axis=1).tolist() == [97, 97]
    assert not others[1, [50, 61, 99]].any()
