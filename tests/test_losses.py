"""Losses of logits: limiting cases, hand-computed values, gradients, extreme input."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.errors import UserError
from benchmark.models.build import build_model
from benchmark.models.heads import features_and_logits
from benchmark.parts import check_block
from benchmark.training.contracts import Loss, effective_number, join, median_frequency
from benchmark.training.losses import LOSSES, NormalisedHead

COUNTS = torch.tensor([60, 20, 10, 8, 2])
UNIFORM = torch.full((5,), 7)
LOGITS = torch.tensor([[2.0, 0.5, -1.0, 0.0, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]])
LABELS = torch.tensor([0, 4])
EQUAL = torch.zeros(1, 2)

OF_LOGITS = [name for name, build in LOSSES.items() if not isinstance(build(COUNTS), Loss)]
OF_LOGITS += ["ldam"]  # its margins are a function of logits; its head is tested on its own
OF_COUNTS = [
    "weighted_ce", "balanced_softmax", "logit_adjusted", "class_balanced", "hybrid", "ldam",
    "focal_ccl",
]  # fmt: skip


def label(index: int) -> Tensor:
    return torch.tensor([index])


@pytest.mark.parametrize(
    ("name", "parameters", "counts"),
    [
        ("ce", {}, COUNTS),
        ("weighted_ce", {}, UNIFORM),
        ("label_smoothing", {"smoothing": 0.0}, COUNTS),
        ("focal", {"gamma": 0.0}, COUNTS),
        ("balanced_softmax", {}, UNIFORM),
        ("logit_adjusted", {"tau": 0.0}, COUNTS),
        ("logit_adjusted", {"tau": 1.7}, UNIFORM),
        ("class_balanced", {"beta": 0.0}, COUNTS),
        ("class_balanced", {"beta": 0.99}, UNIFORM),
        ("hybrid", {"r": 0.0, "beta": 0.0}, COUNTS),
        ("hybrid", {"r": 1.0, "beta": 0.0, "gamma": 0.0}, COUNTS),
        ("ldam", {"max_margin": 0.0}, COUNTS),
    ],
)
def test_every_loss_has_the_cross_entropy_as_its_limit(
    name: str, parameters: dict, counts: Tensor
) -> None:
    value = LOSSES[name](counts, **parameters)(LOGITS, LABELS)
    assert torch.allclose(value, F.cross_entropy(LOGITS, LABELS))


@pytest.mark.parametrize(
    ("special", "general"),
    [
        (("balanced_softmax", {}), ("logit_adjusted", {"tau": 1.0})),
        (("class_balanced", {"beta": 0.9}), ("hybrid", {"r": 0.0, "beta": 0.9})),
        (("focal", {"gamma": 1.5}), ("hybrid", {"r": 1.0, "beta": 0.0, "gamma": 1.5})),
        (("focal", {}), ("hybrid", {"r": 1.0, "beta": 0.0, "p_t": "released"})),
    ],
)
def test_a_general_loss_holds_the_special_one(special: tuple, general: tuple) -> None:
    values = [LOSSES[name](COUNTS, **more)(LOGITS, LABELS) for name, more in (special, general)]
    assert torch.allclose(*values)


def test_label_smoothing_by_hand() -> None:
    # p = (3/4, 1/4); targets (0.9, 0.1)
    value = LOSSES["label_smoothing"](COUNTS[:2], smoothing=0.2)(
        torch.tensor([[math.log(3), 0.0]]), label(0)
    )
    assert value.item() == pytest.approx(-0.9 * math.log(3 / 4) - 0.1 * math.log(1 / 4))


def test_focal_by_hand() -> None:
    # two equal logits: p = 1/2, so (1/2)² · ln 2
    value = LOSSES["focal"](torch.tensor([1, 1]), gamma=2.0)(EQUAL, label(0))
    assert value.item() == pytest.approx(0.25 * math.log(2))


def test_balanced_softmax_by_hand() -> None:
    # counts 3 : 1, equal logits: the rare class has probability 1/4
    loss = LOSSES["balanced_softmax"](torch.tensor([3, 1]))
    assert loss(EQUAL, label(1)).item() == pytest.approx(math.log(4))


def test_logit_adjusted_by_hand() -> None:
    # shares 3/4 and 1/4 to the power 2 are as 9 : 1
    loss = LOSSES["logit_adjusted"](torch.tensor([3, 1]), tau=2.0)
    assert loss(EQUAL, label(1)).item() == pytest.approx(math.log(10))


def test_median_frequency_weights_by_hand() -> None:
    assert median_frequency(COUNTS).tolist() == pytest.approx([10 / 60, 0.5, 1, 1.25, 5])
    assert median_frequency(torch.tensor([4, 2])).tolist() == pytest.approx([0.75, 1.5])


def test_weighted_cross_entropy_by_hand() -> None:
    log_p = F.log_softmax(LOGITS, 1)
    weights = [10 / 60, 5.0]
    expected = -(weights[0] * log_p[0, 0] + weights[1] * log_p[1, 4]) / sum(weights)
    assert torch.allclose(LOSSES["weighted_ce"](COUNTS)(LOGITS, LABELS), expected)


def test_effective_number_weights_by_hand() -> None:
    # (1 - 1/2) / (1 - 1/2) = 1 and (1 - 1/2) / (1 - 1/4) = 2/3, whose mean is 5/6
    assert effective_number(torch.tensor([1, 2]), 0.5).tolist() == pytest.approx([1.2, 0.8])


def test_effective_number_weights_go_to_the_inverse_frequency() -> None:
    inverse = 1 / COUNTS
    expected = (inverse / inverse.mean()).tolist()
    assert effective_number(COUNTS, 1 - 1e-9).tolist() == pytest.approx(expected, rel=1e-5)


def test_class_balanced_by_hand() -> None:
    # the mean of weights 1.2, 1.2, 0.8 over the batch, not over the sum of weights
    loss = LOSSES["class_balanced"](torch.tensor([1, 2]), beta=0.5)
    value = loss(torch.zeros(3, 2), torch.tensor([0, 0, 1]))
    assert value.item() == pytest.approx(3.2 / 3 * math.log(2))


@pytest.mark.parametrize(("p_t", "p"), [("plain", 0.5), ("released", 0.5**1.2)])
def test_hybrid_by_hand(p_t: str, p: float) -> None:
    loss = LOSSES["hybrid"](torch.tensor([1, 2]), r=0.5, beta=0.5, gamma=2.0, p_t=p_t)
    ce = 1.2 * math.log(2)
    assert loss(EQUAL, label(0)).item() == pytest.approx(0.5 * ce + 0.5 * (1 - p) ** 2 * ce)


def test_ldam_by_hand() -> None:
    # counts 16 : 1: margins are as 1/2 : 1, the largest 1/2; s = 2 takes 0.5 and 1 off the logit
    loss = LOSSES["ldam"](torch.tensor([16, 1]), max_margin=0.5, scale=2.0)
    assert loss(EQUAL, label(0)).item() == pytest.approx(math.log(1 + math.exp(0.5)))
    assert loss(EQUAL, label(1)).item() == pytest.approx(math.log(1 + math.exp(1.0)))


def test_ldam_brings_a_head_of_scaled_cosines() -> None:
    head = NormalisedHead(width=3, classes=2, scale=30.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 5.0]]))
    logits = head(torch.tensor([[7.0, 0.0, 0.0], [0.3, 0.0, 0.4]]))
    assert torch.allclose(logits, torch.tensor([[30.0, 0.0], [18.0, 24.0]]))
    features = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = head(features)
    assert torch.equal(under_autocast, head(features))
    model = build_model("resnet10t", "bn", {}, 5, 32, seed=0)
    join(LOSSES["ldam"](COUNTS, scale=9.0), model, seed=0)
    logits = model.eval()(torch.randn(3, 3, 32, 32))
    assert logits.shape == (3, 5)
    assert 0 < logits.abs().max() <= 9.0


@pytest.mark.parametrize("name", OF_LOGITS)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    loss = LOSSES[name](COUNTS)
    logits = LOGITS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, LABELS), logits)


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("scale", [1e4, 60.0, 0.0])
def test_extreme_logits_and_a_batch_of_one_class_stay_finite(name: str, scale: float) -> None:
    logits = (torch.eye(5) * scale).requires_grad_()
    value = LOSSES[name](COUNTS)(logits, torch.zeros(5, dtype=torch.int64))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", OF_LOGITS)
def test_the_right_answer_costs_less_than_a_wrong_one(name: str) -> None:
    loss = LOSSES[name](COUNTS)
    right = F.one_hot(LABELS, 5).float() * 8
    assert loss(right, LABELS) < loss(right.roll(1, dims=1), LABELS)


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_without_training_images_is_refused_where_its_count_matters(name: str) -> None:
    build: Callable = LOSSES[name]
    counts = torch.tensor([60, 20, 0, 8, 2])
    if name in OF_COUNTS:
        with pytest.raises(UserError, match=r"class 2 \(counted from 0\) has no training image"):
            build(counts)
    elif name in OF_LOGITS:
        assert torch.isfinite(build(counts)(LOGITS, LABELS))
    else:
        build(counts)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("hybrid", {"p_t": "plane"}, "hybrid.p_t: Input should be 'plain' or 'released', found"),
        ("class_balanced", {"beta": 1.0}, "beta: Input should be less than 1, found 1.0"),
        ("triplet_centre_hard", {"mining": "batches"}, "Input should be 'batch', 'per_class' or"),
    ],
)
def test_a_parameter_without_sense_is_one_line(name: str, parameters: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_block("loss", name, parameters)


def value_and_gradient(name: str, counts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of a small network on a batch, and the gradient at its first layer."""
    classes = len(counts)
    model = build_model("resnet10t", "bn", {}, classes, 32, seed=0)
    loss = join(LOSSES[name](counts), model, seed=0)
    images = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features, logits = features_and_logits(model, images)
    assert logits.shape == (len(labels), classes)
    value = loss(logits, labels, features)
    value.backward()
    with torch.no_grad():
        loss.update(features.detach(), labels)
    assert all(math.isfinite(fact) for fact in loss.facts().values())
    return value, next(model.parameters()).grad


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [1, 1, 1]])
def test_a04_every_loss_trains_on_two_classes_and_on_a_batch_of_one(
    name: str, labels: list[int]
) -> None:
    value, gradient = value_and_gradient(name, torch.tensor([9, 4]), torch.tensor(labels))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("absent", [0, 2])
def test_a04_a_class_missing_from_training_is_one_line_or_a_finite_loss(
    name: str, absent: int
) -> None:
    counts = torch.tensor([9, 4, 5])
    counts[absent] = 0
    labels = torch.tensor([label for label in range(3) if label != absent] * 2)
    if name in OF_COUNTS:
        with pytest.raises(UserError, match=rf"class {absent} \(counted from 0\) has no training"):
            LOSSES[name](counts)
        return
    value, gradient = value_and_gradient(name, counts, labels)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
