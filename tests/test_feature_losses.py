"""Losses of features: centres, triplets and contrast against equations worked by hand and loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.models.build import build_model
from benchmark.training.centre_losses import MINING, contrast, feature_width
from benchmark.training.contracts import Loss, join, membership
from benchmark.training.losses import LOSSES

OF_FEATURES = ["centre", "triplet_centre_hard", "supcon"]


class Network(nn.Module):
    """Features of width 2 are the input itself; the classifier is where timm would say it is."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.pretrained_cfg = {"classifier": "fc"}
        self.fc = nn.Linear(2, classes)


def joined(name: str, classes: int = 3, seed: int = 0, **parameters: object) -> Loss:
    return join(LOSSES[name](torch.full((classes,), 4), **parameters), Network(classes), seed)


def random_batch(n: int = 7, classes: int = 4, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Features [n, width], labels [n] and centres [classes, width], float64."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, width, dtype=torch.float64, generator=generator)
    centres = torch.randn(classes, width, dtype=torch.float64, generator=generator)
    return features, torch.tensor([0, 0, 1, 2, 1, 0, 2])[:n], centres


@pytest.mark.parametrize("name", OF_FEATURES)
def test_with_weight_zero_the_cross_entropy_is_left(name: str) -> None:
    loss = joined(name, weight=0.0)
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.allclose(loss(logits, labels, torch.randn(4, 2)), F.cross_entropy(logits, labels))


def test_the_centre_term_by_hand() -> None:
    loss = joined("centre", weight=0.6)
    loss.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]))
    features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 1])
    # squared distances 0, 4, 4; three equal logits cost ln 3
    value = loss(torch.zeros(3, 3), labels, features)
    assert value.item() == pytest.approx(math.log(3) + 0.6 / 2 * 8 / 3)


def test_a_centre_moves_as_wen_2016_equation_4_says() -> None:
    loss = joined("centre", rate=0.5)
    loss.centres.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]]))
    features, labels = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 1])
    loss.update(features, labels)
    # class 0: (0 + (1 - 3)) / (1 + 2) = -2/3; class 1: (0 - 2) / (1 + 1) = -1; class 2 is absent
    expected = torch.tensor([[1 + 0.5 * 2 / 3, 0.0], [0.0, 0.5], [9.0, 9.0]])
    assert torch.allclose(loss.centres, expected)


def test_centres_settle_at_the_means_of_their_classes() -> None:
    loss = joined("centre")
    features, labels = torch.randn(30, 2), torch.arange(30) % 3
    for _ in range(100):
        loss.update(features, labels)
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    assert torch.allclose(loss.centres, means, atol=1e-5)


def by_loop(mining: str, features: Tensor, labels: Tensor, centres: Tensor, margin: float) -> float:
    """The three triplet terms as METHODS' equations read, sample by sample."""

    def distance(i: int, c: int) -> float:
        return sum((a - b) ** 2 for a, b in zip(features[i], centres[c], strict=True)).item()

    samples, y = range(len(labels)), labels.tolist()
    if mining == "batch":
        hardest = max(samples, key=lambda i: distance(i, y[i]))
        own = y[hardest]
        nearest = min(distance(j, own) for j in samples if y[j] != own)
        return max(0.0, distance(hardest, own) + margin - nearest)
    if mining == "per_class":
        values = []
        for c in sorted(set(y)):
            farthest = max(distance(i, c) for i in samples if y[i] == c)
            nearest = min(distance(j, c) for j in samples if y[j] != c)
            values.append(max(0.0, farthest + margin - nearest))
        return sum(values) / len(values)
    values = []
    for i in samples:
        other = min(distance(i, c) for c in range(len(centres)) if c != y[i])
        values.append(max(0.0, distance(i, y[i]) + margin - other))
    return sum(values) / len(values)


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("margin", [0.0, 1.0, 5.0])
def test_mining_agrees_with_a_loop_over_samples(mining: str, margin: float) -> None:
    features, labels, centres = random_batch()
    distances = (features[:, None] - centres).square().sum(2)
    value = MINING[mining](distances, membership(labels, 4), margin)
    assert value.item() == pytest.approx(by_loop(mining, features, labels, centres, margin))


def test_batch_mining_by_hand() -> None:
    # on a line: class 0 at 0 with samples 1 and 3, class 1 at 10 with sample 4. The farthest from
    # its own centre is 4 (36), and from centre 10 the nearest of class 0 is 3 (49)
    loss = joined("triplet_centre_hard", classes=2, margin=20.0, weight=0.5)
    with torch.no_grad():
        loss.centres.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0]]))
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    value = loss(torch.zeros(3, 2), torch.tensor([0, 0, 1]), features)
    assert value.item() == pytest.approx(math.log(2) + 0.5 * (36 + 20 - 49))


@pytest.mark.parametrize("mining", ["batch", "per_class"])
def test_a_batch_of_one_class_gives_zero_not_nan(mining: str) -> None:
    loss = joined("triplet_centre_hard", mining=mining)
    features = torch.randn(4, 2, requires_grad=True)
    logits, labels = torch.zeros(4, 3), torch.ones(4, dtype=torch.int64)
    value = loss(logits, labels, features)
    value.backward()
    assert value.item() == pytest.approx(math.log(3))
    assert not features.grad.any()
    assert not loss.centres.grad.any()


def test_tcl_needs_no_second_class_in_the_batch() -> None:
    loss = joined("triplet_centre_hard", classes=2, mining="tcl", margin=5.0, weight=1.0)
    with torch.no_grad():
        loss.centres.copy_(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    value = loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    assert value.item() == pytest.approx(math.log(2) + 1 + 5 - 4)


def test_triplet_centres_are_learned_by_their_own_sgd() -> None:
    loss = joined("triplet_centre_hard", mining="tcl", rate=0.1)
    before = loss.centres.detach().clone()
    loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.randn(4, 2)).backward()
    loss.own_optimiser().step()
    assert loss.centres.grad.any()
    assert torch.allclose(loss.centres, before - 0.1 * loss.centres.grad)


def test_supervised_contrast_agrees_with_a_loop_over_anchors() -> None:
    features, labels, _ = random_batch()
    labels = torch.tensor([0, 0, 1, 2, 1, 0, 3])  # 2 and 3 stand alone and are no anchors
    z, tau = F.normalize(features, dim=1), 0.3
    terms = []
    for i in range(7):
        positives = [p for p in range(7) if p != i and labels[p] == labels[i]]
        below = sum(math.exp((z[i] @ z[a]).item() / tau) for a in range(7) if a != i)
        if positives:
            above = [math.log(math.exp((z[i] @ z[p]).item() / tau) / below) for p in positives]
            terms.append(-sum(above) / len(positives))
    assert len(terms) == 5
    assert contrast(z, labels, tau).item() == pytest.approx(sum(terms) / 5)


def test_supervised_contrast_by_hand() -> None:
    # two of a class point along x, the third along y: log(e^(1/τ) / (e^(1/τ) + e^0)) each
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value = contrast(z, torch.tensor([0, 0, 1]), temperature=0.5)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize("labels", [[0, 1, 2], [1]])
def test_contrast_without_a_pair_is_zero_with_zero_gradient(labels: list[int]) -> None:
    z = torch.randn(len(labels), 4, requires_grad=True)
    value = contrast(F.normalize(z, dim=1), torch.tensor(labels), 0.1)
    value.backward()
    assert value.item() == 0.0
    assert not z.grad.any()


def test_the_projection_moves_no_prediction() -> None:
    model = build_model("resnet10t", "bn", {}, 3, 32, seed=0)
    loss = join(LOSSES["supcon"](torch.ones(3)), model, seed=0)
    model.eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    nn.init.normal_(loss.head.projection[0].weight)
    assert torch.equal(model(images), before)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("centre", {}), ("supcon", {})] + [("triplet_centre_hard", {"mining": m}) for m in MINING],
)
def test_gradients_agree_with_finite_differences(name: str, parameters: dict) -> None:
    loss = joined(name, weight=0.7, **parameters).double()
    features, labels, _ = random_batch(6, width=2)
    logits = torch.randn(6, 3, dtype=torch.float64)
    for value in (logits, features):
        value.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, f: loss(z, labels, f), (logits, features))


@pytest.mark.parametrize("mining", MINING)
def test_gradients_of_the_centres_agree_with_finite_differences(mining: str) -> None:
    features, labels, centres = random_batch()

    def value(moved: Tensor) -> Tensor:
        distances = (features[:, None] - moved).square().sum(2)
        return MINING[mining](distances, membership(labels, 4), 5.0)

    assert torch.autograd.gradcheck(value, centres.requires_grad_())


@pytest.mark.parametrize("name", OF_FEATURES)
def test_extreme_features_stay_finite(name: str) -> None:
    loss = joined(name)
    features = (torch.randn(6, 2) * 1e4).requires_grad_()
    labels = torch.arange(6) % 3
    value = loss(torch.randn(6, 3) * 1e4, labels, features)
    value.backward()
    loss.update(features.detach(), labels)
    assert torch.isfinite(value)
    assert torch.isfinite(features.grad).all()
    assert all(torch.isfinite(b).all() for b in loss.buffers())


def test_initial_values_are_drawn_from_the_seed_and_nothing_else() -> None:
    network = Network()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (
        join(LOSSES["triplet_centre_hard"](torch.ones(3)), network, seed).centres
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("backbone", "width"), [("resnet10t", 512), ("vgg11", 4096), ("resnetv2_50d_gn", 2048)]
)
def test_the_width_of_the_features_is_what_enters_the_classifier(backbone: str, width: int) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=3)
    assert feature_width(model) == width
