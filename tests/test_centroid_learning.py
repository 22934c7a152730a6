"""Class centroid learning: the head, its loss and its centroids against the equations of he2023."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.models.build import build_model
from benchmark.training.centre_losses import (
    CentroidHead,
    CentroidLearning,
    binary_cross_entropy,
    log_odds,
    move,
)
from benchmark.training.contracts import join
from benchmark.training.losses import LOSSES

COUNTS = torch.tensor([4, 2, 1])


def with_head(name: str = "ccl", width: int = 2, **parameters: object) -> CentroidLearning:
    """The loss with a head of three classes whose projections are all the identity."""
    loss = LOSSES[name](COUNTS, **parameters)
    loss.head = CentroidHead(width, 3)
    with torch.no_grad():
        loss.head.projections.weight.copy_(torch.eye(width).repeat(3, 1))
    return loss


def test_log_odds_of_d_by_hand() -> None:
    loss = with_head()
    loss.head.centroids.copy_(torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 0.0]]))
    # mean squares (0, 2, 1/2) over 2: D = 1, e^-1, e^-1/4
    d = [math.exp(-1), math.exp(-0.25)]
    logits = loss.head(torch.tensor([[1.0, 0.0]]))[0]
    assert logits[1:].tolist() == pytest.approx([math.log(x / (1 - x)) for x in d])
    assert torch.isfinite(logits[0])
    assert logits.argmax() == 0


def test_each_class_has_its_own_projection() -> None:
    loss = with_head()
    with torch.no_grad():
        loss.head.projections.weight.copy_(
            torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0], [2, 0], [0, 2]])
        )
    projected = loss.head.project(torch.tensor([[3.0, 5.0]]))
    assert projected.tolist() == [[[3, 5], [5, 3], [6, 10]]]


@pytest.mark.parametrize("q", [1e-30, 1e-7, 1e-3, 0.5, 1.0, 20.0, 700.0])
def test_log_odds_agree_with_their_definition(q: float) -> None:
    # log(D / (1 - D)) with D = e^-q is -log(e^q - 1)
    expected = -math.log(math.expm1(q))
    assert log_odds(torch.tensor(q, dtype=torch.float64)).item() == pytest.approx(expected)
    assert log_odds(torch.tensor(q)).item() == pytest.approx(expected, rel=1e-5)


def test_the_sigmoid_of_the_logits_is_d() -> None:
    q = torch.tensor([1e-3, 0.1, 1.0, 5.0, 15.0])
    assert torch.allclose(torch.sigmoid(log_odds(q)), torch.exp(-q))


def test_far_from_every_centroid_the_nearest_still_wins_and_all_is_finite() -> None:
    q = torch.tensor([0.0, 1e3, 2e3, 1e10, 3e38], requires_grad=True)
    logits = log_odds(q)
    logits[1:].sum().backward()  # at q = 0 the slope is that of the logarithm
    assert torch.exp(-q)[1] == torch.exp(-q)[4] == 0
    assert logits.argsort(descending=True).tolist() == [0, 1, 2, 3, 4]
    assert torch.isfinite(logits).all()
    assert torch.isfinite(q.grad).all()


def test_the_loss_is_the_binary_cross_entropy_of_clamped_d() -> None:
    q = torch.tensor([[1e-9, 3.0, 40.0], [0.7, 1e-3, 800.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    clamped = torch.exp(-q).clamp(1e-7, 1 - 1e-7)
    expected = F.binary_cross_entropy(clamped, F.one_hot(labels, 3).double())
    assert torch.allclose(LOSSES["ccl"](COUNTS)(log_odds(q), labels), expected)


def test_the_clamp_bounds_the_loss_in_float32() -> None:
    values = binary_cross_entropy(torch.tensor([[-1e4, 1e4]]), torch.tensor([0]))
    assert values.tolist() == [[pytest.approx(-math.log(1e-7)), pytest.approx(-math.log(1e-7))]]


def test_focal_ccl_without_focus_on_equal_counts_is_ccl() -> None:
    logits, labels = torch.randn(5, 3) * 3, torch.tensor([0, 1, 2, 2, 1])
    focal = LOSSES["focal_ccl"](torch.full((3,), 9), focusing=0.0)
    assert torch.allclose(focal(logits, labels), LOSSES["ccl"](COUNTS)(logits, labels))


def test_focal_ccl_by_hand() -> None:
    # D = (1/2, 1/4, 1/5), the sample's class is 2: p = 1/2, 3/4, 1/5; its weight is 2 / 1
    d = torch.tensor([[0.5, 0.25, 0.2]])
    value = LOSSES["focal_ccl"](COUNTS, focusing=2.0)(torch.logit(d), torch.tensor([2]))
    terms = [(1 - p) ** 2 * -math.log(p) for p in (1 / 2, 3 / 4, 1 / 5)]
    assert value.item() == pytest.approx(2 * sum(terms) / 3)


def test_centroids_move_as_equations_3_3_and_3_4_say() -> None:
    centroids = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 8.0]])
    projected = torch.full((3, 3, 2), 99.0)  # what other classes project to plays no part
    projected[0, 0], projected[1, 0] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    projected[2, 1] = torch.tensor([8.0, 4.0])
    moved = move(centroids, projected, torch.tensor([0, 0, 1]), gamma=0.5, beta=0.1)
    # 3-3: class 0 half-way to (2, 2), class 1 half-way to (8, 4), class 2 is absent and stays
    # 3-4: away from the mean of the two others, (3, 5), (0.5, 4.5), (3.5, 1.5), by a tenth
    expected = [[1 - 0.2, 1 - 0.4], [6 + 0.55, 2 - 0.25], [0 - 0.35, 8 + 0.65]]
    assert torch.allclose(moved, torch.tensor(expected))


@torch.no_grad()
def norms_over_steps(steps: int, **parameters: object) -> Tensor:
    """Mean centroid norm after each step on features that always equal the class's centroid.

    That is where a network goes that has learned its task: W_i f = CE_i.
    """
    torch.manual_seed(0)
    loss = with_head(width=16, **parameters)
    labels, norms = torch.arange(3), []
    for _ in range(steps):
        loss.update(loss.head.centroids[labels].clone(), labels)
        norms.append(loss.head.centroids.norm(dim=1).mean())
    return torch.stack(norms)


def test_with_repulsion_the_norms_grow_without_bound() -> None:
    norms = norms_over_steps(200, gamma=0.1, beta=0.1)
    assert (norms.diff() > 0).all()
    assert norms[-1] > 1e6 * norms[0]


def test_without_repulsion_the_centroids_rest() -> None:
    norms = norms_over_steps(200, gamma=0.1, beta=0.0)
    assert torch.allclose(norms, norms[0].expand(200))


def test_renorm_caps_the_norms_at_what_they_start_with() -> None:
    norms = norms_over_steps(200, gamma=0.1, beta=0.1, renorm=True)
    assert norms.max() <= 0.05 * math.sqrt(16) + 1e-5
    assert norms[-1].item() == pytest.approx(0.05 * math.sqrt(16), rel=1e-4)


@torch.no_grad()
def test_without_repulsion_a_centroid_settles_at_the_mean_of_its_class() -> None:
    loss = with_head(gamma=0.5, beta=0.0)
    features, labels = torch.randn(30, 2), torch.arange(30) % 3
    for _ in range(60):
        loss.update(features, labels)
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    assert torch.allclose(loss.head.centroids, means, atol=1e-5)


def test_facts_are_the_norms_of_the_centroids() -> None:
    loss = with_head()
    loss.head.centroids.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]))
    assert loss.facts() == {"centroid_norm_mean": pytest.approx(2.0), "centroid_norm_max": 5.0}


def test_initial_values_follow_the_paper() -> None:
    torch.manual_seed(0)
    head = CentroidHead(width=256, classes=5)
    assert head.projections.weight.shape == (5 * 256, 256)
    assert head.projections.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
    assert head.centroids.shape == (5, 256)
    assert head.centroids.std().item() == pytest.approx(0.05, rel=0.1)


def test_the_head_replaces_the_classifier_and_the_state_holds_the_centroids() -> None:
    model = build_model("resnet10t", "bn", {}, 3, 32, seed=0)
    loss = join(LOSSES["ccl"](COUNTS), model, seed=5)
    assert model.state_dict()["fc.centroids"].shape == (3, 512)
    assert "fc.centroids" not in dict(model.named_parameters())
    twin = build_model("resnet10t", "bn", {}, 3, 32, seed=1)
    join(LOSSES["ccl"](COUNTS), twin, seed=6)
    twin.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(twin.eval()(images), model.eval()(images))
    assert loss.head is model.fc


def test_under_autocast_the_head_computes_in_float32() -> None:
    head = CentroidHead(width=8, classes=3)
    features = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head(features))


@pytest.mark.parametrize("name", ["ccl", "focal_ccl"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    loss, labels = with_head(name).double(), torch.tensor([0, 2, 1, 2])
    features = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)

    def value(features: Tensor, weight: Tensor) -> Tensor:
        parameters = {"projections.weight": weight}
        return loss(torch.func.functional_call(loss.head, parameters, features), labels)

    weight = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (features, weight))


@pytest.mark.parametrize("name", ["ccl", "focal_ccl"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_extreme_features_and_a_batch_of_one_class_stay_finite(name: str, scale: float) -> None:
    loss, labels = with_head(name), torch.ones(4, dtype=torch.int64)
    features = (torch.randn(4, 2) * scale).requires_grad_()
    value = loss(loss.head(features), labels, features)
    value.backward()
    with torch.no_grad():
        loss.update(features, labels)
    assert torch.isfinite(value)
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(loss.head.centroids).all()
