"""Losses: limiting cases, hand-computed values, gradients, extreme input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.training.losses import LOSSES, median_frequency

COUNTS = torch.tensor([60, 20, 10, 8, 2])
LOGITS = torch.tensor([[2.0, 0.5, -1.0, 0.0, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]])
LABELS = torch.tensor([0, 4])


def test_focal_with_gamma_zero_is_cross_entropy() -> None:
    loss = LOSSES["focal"](COUNTS, gamma=0.0)
    assert torch.allclose(loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))


def test_focal_by_hand() -> None:
    # two equal logits: p = 1/2, so (1/2)² · ln 2
    value = LOSSES["focal"](torch.tensor([1, 1]), gamma=2.0)(torch.zeros(1, 2), torch.tensor([0]))
    assert value.item() == pytest.approx(0.25 * math.log(2))


def test_balanced_softmax_with_uniform_counts_is_cross_entropy() -> None:
    loss = LOSSES["balanced_softmax"](torch.full((5,), 7))
    assert torch.allclose(loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))


def test_balanced_softmax_by_hand() -> None:
    # counts 3 : 1, equal logits: the rare class has probability 1/4
    loss = LOSSES["balanced_softmax"](torch.tensor([3, 1]))
    assert loss(torch.zeros(1, 2), torch.tensor([1])).item() == pytest.approx(math.log(4))


def test_median_frequency_weights_by_hand() -> None:
    assert median_frequency(COUNTS).tolist() == pytest.approx([10 / 60, 0.5, 1, 1.25, 5])
    assert median_frequency(torch.tensor([4, 2])).tolist() == pytest.approx([0.75, 1.5])


def test_weighted_cross_entropy_by_hand() -> None:
    log_p = F.log_softmax(LOGITS, 1)
    weights = [10 / 60, 5.0]
    expected = -(weights[0] * log_p[0, 0] + weights[1] * log_p[1, 4]) / sum(weights)
    assert torch.allclose(LOSSES["weighted_ce"](COUNTS)(LOGITS, LABELS), expected)


def test_weighted_cross_entropy_with_equal_counts_is_cross_entropy() -> None:
    loss = LOSSES["weighted_ce"](torch.full((5,), 3))
    assert torch.allclose(loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    loss = LOSSES[name](COUNTS)
    logits = LOGITS.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: loss(z.float(), LABELS).double(), logits, eps=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e4, 60.0, 0.0])
def test_extreme_logits_and_a_batch_of_one_class_stay_finite(name: str, scale: float) -> None:
    logits = (torch.eye(5) * scale).requires_grad_()
    value = LOSSES[name](COUNTS)(logits, torch.zeros(5, dtype=torch.int64))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_the_right_answer_costs_less_than_a_wrong_one(name: str) -> None:
    loss = LOSSES[name](COUNTS)
    right = F.one_hot(LABELS, 5).float() * 8
    assert loss(right, LABELS) < loss(right.roll(1, dims=1), LABELS)
