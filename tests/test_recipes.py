"""Recipes: every formula against numbers worked out by hand, limiting cases, short trainings."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import REPOSITORY
from timm.data.mixup import Mixup as TimmMixup

from benchmark.data.arrays import Images
from benchmark.errors import UserError
from benchmark.models.build import build_model
from benchmark.settings import Training, load_params
from benchmark.training.alignment import alignment, discrepancy
from benchmark.training.contracts import Batch, OfLogits, Recipe, join
from benchmark.training.fit import Fit, fit
from benchmark.training.losses import LOSSES
from benchmark.training.mixing import early_stages, mix_statistics
from benchmark.training.recipes import RECIPES

CPU = torch.device("cpu")
SEVERAL = ("interdomain_mixup", "coral", "groupdro", "idg_boda")
CE = OfLogits(F.cross_entropy)


def images(n: int, seed: int, domains: int = 2) -> Images:
    """Noise, its brightness by class and its contrast by domain, uint8 [n, 32, 32, 3]."""
    labels, of = np.arange(n) % 3, np.arange(n) // 3 % domains
    pixels = (
        np.random.default_rng(seed).integers(0, 40, (n, 32, 32, 3)) * (1 + of)[:, None, None, None]
    )
    pixels += 60 * labels[:, None, None, None]
    return Images(
        pixels.astype(np.uint8), labels.astype(np.int64), pd.DataFrame(index=range(n)), of
    )


TRAIN, ID_VAL = images(24, seed=0), images(12, seed=1)


def train(recipe: Recipe | None, loss: str = "ce", data: Images = TRAIN, **changes: object) -> Fit:
    values = {
        "epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "weight_decay": 0.05,
        "warmup_epochs": 0, "patience": 2, "precision": "fp32",
    }  # fmt: skip
    model = build_model("resnet10t", "bn", {}, 3, 32, seed=0)
    joined = join(LOSSES[loss](torch.tensor([8, 8, 8])), model, seed=0)
    settings = Training.model_validate(values | changes)
    return fit(model, joined, data, ID_VAL, settings, 0, CPU, recipe=recipe)


def same(first: Fit, second: Fit) -> bool:
    return all(torch.equal(first.state[k], second.state[k]) for k in first.state)


def groups(*positions: list[int]) -> list[torch.Tensor]:
    return [torch.tensor(p, dtype=torch.int64) for p in positions]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_to_finite_numbers_and_the_same_bits_again(name: str) -> None:
    sampler = "domain_balanced" if name in SEVERAL else "instance"
    first = train(RECIPES[name](), sampler=sampler)
    assert len(first.history) == 2
    assert all(math.isfinite(v) for epoch in first.history for v in epoch.values())
    json.dumps(first.history, allow_nan=False)
    assert all(torch.isfinite(v).all() for v in first.state.values())
    assert same(first, train(RECIPES[name](), sampler=sampler))


def test_no_recipe_is_erm_and_a_coral_of_weight_zero_too() -> None:
    plain = train(None)
    assert same(plain, train(RECIPES["erm"]()))
    assert same(plain, train(RECIPES["coral"](weight=0.0)))
    assert not same(plain, train(RECIPES["coral"](weight=1.0)))


@pytest.mark.parametrize("name", SEVERAL)
def test_what_compares_domains_refuses_a_single_one(name: str) -> None:
    one = images(12, seed=0, domains=1)
    with pytest.raises(UserError, match="needs several, this training has one"):
        train(RECIPES[name](), data=one)
    without = Images(one.pixels, one.labels, one.table)
    with pytest.raises(UserError, match="needs several, this training has one"):
        train(RECIPES[name](), data=without)
    train(RECIPES["mixup"](), data=without, epochs=1)


def test_a_recipe_refuses_a_loss_that_it_cannot_serve() -> None:
    with pytest.raises(UserError, match="Mixup gives an image two labels, and loss Centre"):
        train(RECIPES["mixup"](), loss="centre")
    with pytest.raises(UserError, match="brings its own loss"):
        train(RECIPES["idg_boda"](), loss="focal")
    RECIPES["idg_boda"]().check(2, LOSSES["ce"](torch.ones(2)))


def test_mixup_is_timms_with_the_label_smoothing_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand((6, 3, 4, 4), generator=generator)
    logits = torch.randn((6, 5), generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    recipe = RECIPES["mixup"](alpha=1.0)
    recipe.attach(torch.ones(1, 5), epochs=1, seed=3)
    mixed = recipe.mix(pictures, [])
    timm = TimmMixup(mixup_alpha=1.0, mode="batch", label_smoothing=0.1, num_classes=5)
    timm._params_per_batch = lambda: (recipe.share, False)
    expected, targets = timm(pictures.clone(), labels)
    assert 0 < recipe.share < 1
    assert torch.allclose(mixed, expected)
    smoothed = OfLogits(LOSSES["label_smoothing"](torch.ones(5), smoothing=0.1))
    value = recipe(smoothed, Batch(logits, labels, None, []))
    assert value.item() == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-6)


def test_the_shares_of_mixup_at_alpha_1_are_uniform() -> None:
    recipe = RECIPES["mixup"]()
    recipe.attach(torch.ones(1, 2), epochs=1, seed=0)
    shares = []
    for _ in range(2000):
        recipe.mix(torch.zeros(1), [])
        shares.append(recipe.share)
    # standard errors of the mean and of the share below 0.1
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 2000))
    assert np.mean(np.array(shares) < 0.1) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))


def test_mixup_at_share_1_is_plain_training_with_label_smoothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = RECIPES["mixup"]()

    class One:
        def beta(self, a: float, b: float) -> float:
            return 1.0

    monkeypatch.setattr(recipe, "attach", lambda *_: setattr(recipe, "generator", One()))
    assert same(train(recipe, "label_smoothing"), train(None, "label_smoothing"))


def test_coral_compares_means_and_covariances() -> None:
    a = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    b = np.array([[1.0, 1.0], [5.0, 3.0]])
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).mean() + ((cov_a - cov_b) ** 2).mean()
    # by hand: means (1, 1) and (3, 2); covariances [[1, 0], [0, 3]] and [[8, 4], [4, 2]]
    assert expected == pytest.approx((4 + 1) / 2 + (49 + 16 + 16 + 1) / 4)
    features = torch.tensor(np.concatenate([a, b]))[[0, 3, 1, 4, 2]]
    value = discrepancy(features, groups([0, 2, 4], [1, 3]))
    assert value.item() == pytest.approx(expected)


def test_coral_averages_over_pairs_of_domains() -> None:
    features = torch.tensor([[0.0], [2.0], [1.0], [3.0], [4.0], [6.0]])
    value = discrepancy(features, groups([0, 1], [2, 3], [4, 5]))
    # all covariances are 2; means 1, 2, 5
    assert value.item() == pytest.approx((1 + 16 + 9) / 3)


def test_a_domain_of_one_image_in_the_batch_has_no_covariance_and_is_left_out() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    value = discrepancy(features, groups([0], [1, 2, 3], []))
    assert value.item() == 0
    (features.sum() * 0 + value).backward()
    assert torch.isfinite(features.grad).all()


def logits_of_loss(*values: float) -> torch.Tensor:
    """Logits [N, 2] whose cross-entropy for class 0 is as given: log(1 + e^z)."""
    return torch.tensor([[0.0, math.log(math.expm1(v))] for v in values])


def test_groupdro_raises_the_weight_of_the_worse_domain() -> None:
    recipe = RECIPES["groupdro"](eta=0.5)
    recipe.attach(torch.ones(2, 2), epochs=1, seed=0)
    logits = logits_of_loss(1.0, 3.0, 0.5)
    batch = Batch(logits, torch.zeros(3, dtype=torch.int64), None, groups([0, 1], [2]))
    value = recipe(CE, batch)
    # losses 2 and 0.5: q = e^1 / (e^1 + e^0.25) and the rest
    q = math.e / (math.e + math.exp(0.25))
    assert recipe.weights.tolist() == pytest.approx([q, 1 - q])
    assert value.item() == pytest.approx(2 * q + 0.5 * (1 - q), rel=1e-5)
    recipe(CE, batch)
    again = math.exp(2) / (math.exp(2) + math.exp(0.5))
    assert recipe.facts() == pytest.approx({"domain_weight_0": again, "domain_weight_1": 1 - again})


def test_groupdro_without_a_rate_is_the_mean_over_domains_and_an_absent_one_costs_nothing() -> None:
    recipe = RECIPES["groupdro"](eta=0.0)
    recipe.attach(torch.ones(2, 2), epochs=1, seed=0)
    labels = torch.zeros(3, dtype=torch.int64)
    logits = logits_of_loss(1.0, 3.0, 0.5)
    both = recipe(CE, Batch(logits, labels, None, groups([0, 1], [2])))
    assert both.item() == pytest.approx((2 + 0.5) / 2, rel=1e-5)
    alone = recipe(CE, Batch(logits, labels, None, groups([0, 1, 2], [])))
    assert alone.item() == pytest.approx(0.5 * 1.5, rel=1e-5)


# --------------------------------------------------------------------------------------- idg_boda

CENTROIDS = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0], [6.0, 8.0]])
"""Of pairs (0, 0), (0, 1), (1, 0), (1, 1)."""
COUNTS = np.array([4.0, 1.0, 9.0, 1.0])


def boda_by_hand(z: np.ndarray, pairs: list[int], seen: list[bool], nu: float, tau: float) -> float:
    """The loss of METHODS, one image and one pair at a time."""
    terms = []
    for point, own in zip(z, pairs, strict=True):
        logits = [
            -np.linalg.norm(CENTROIDS[p] - point)
            / COUNTS[own]
            * (COUNTS[p] / COUNTS[own]) ** nu
            / tau
            for p in range(4)
        ]
        total = sum(math.exp(logits[p]) for p in range(4) if p != own and seen[p])
        other = own + 2 if own < 2 else own - 2
        if seen[other]:
            terms.append(logits[other] - math.log(total))
    return -sum(terms) / max(1, len(terms))


@pytest.mark.parametrize("seen", [[True] * 4, [True, True, True, False]])
@pytest.mark.parametrize(("nu", "tau"), [(0.5, 1.0), (0.0, 2.0)])
def test_alignment_equals_the_sum_by_hand(nu: float, tau: float, seen: list[bool]) -> None:
    z, pairs = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0]]), [0, 1, 2]
    value = alignment(
        torch.tensor(z), torch.tensor(pairs), torch.tensor(CENTROIDS), torch.tensor(COUNTS),
        torch.tensor(seen), 2, nu, tau,
    )  # fmt: skip
    assert value.item() == pytest.approx(boda_by_hand(z, pairs, seen, nu, tau))


def test_alignment_of_one_image_in_plain_numbers() -> None:
    # z at its own centroid (0, 0); others at 5, 2, 10 with counts 1, 9, 1, own count 4:
    # logits -5/4·½, -2/4·(9/4)^½, -10/4·½ = -0.625, -0.75, -1.25
    point = torch.zeros(1, 2, requires_grad=True)
    value = alignment(
        point, torch.tensor([0]), torch.tensor(CENTROIDS).float(), torch.tensor(COUNTS).float(),
        torch.ones(4, dtype=torch.bool), 2, 0.5, 1.0,
    )  # fmt: skip
    expected = 0.75 + math.log(math.exp(-0.625) + math.exp(-0.75) + math.exp(-1.25))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    value.backward()
    assert torch.isfinite(point.grad).all()  # at distance zero of its own centroid too


def boda(**parameters: float) -> Recipe:
    recipe = RECIPES["idg_boda"](**parameters)
    recipe.attach(torch.tensor([[4, 1], [9, 1]]), epochs=10, seed=0)
    return recipe


def test_classes_are_balanced_within_each_domain() -> None:
    recipe = boda(coral=0.0)
    losses = [1.0, 3.0, 0.5]
    labels, features = torch.tensor([0, 1, 0]), torch.zeros(3, 2)
    logits = logits_of_loss(*losses)
    logits[1] = logits[1].flip(0)
    value = recipe(CE, Batch(logits, labels, features, groups([0, 1], [2])))
    first = (1.0 / 4 + 3.0 / 1) / (1 / 4 + 1 / 1)
    assert value.item() == pytest.approx((first + 0.5) / 2, rel=1e-5)


def test_centroids_are_epoch_means_with_momentum_and_alignment_waits_for_them() -> None:
    recipe = boda(momentum=0.2, coral=1.0, boda=0.1, warmup=0.1)
    labels, where = torch.tensor([0, 0, 1, 0]), groups([0, 1, 2], [3])
    logits = torch.zeros(4, 2)

    def epoch(features: torch.Tensor) -> None:
        batch = Batch(logits, labels, features, where)
        recipe(CE, batch)
        recipe.update(batch)
        recipe.end_epoch()

    first = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0], [2.0, 2.0]])
    before = recipe(CE, Batch(logits, labels, first, where))
    assert before.item() == pytest.approx(
        math.log(2), rel=1e-6
    )  # one domain has one image: no coral
    epoch(first)
    assert recipe.centroids[[0, 1, 2]].tolist() == [[2.0, 0.0], [0.0, 5.0], [2.0, 2.0]]
    assert recipe.seen.tolist() == [True, True, True, False]
    after = recipe(CE, Batch(logits, labels, first, where))
    aligned = alignment(
        first, torch.tensor([0, 0, 1, 2]), recipe.centroids, torch.tensor([4.0, 1.0, 9.0, 1.0]),
        recipe.seen, 2, 0.5, 1.0,
    )  # fmt: skip
    assert after.item() == pytest.approx(math.log(2) + 0.1 * aligned.item(), rel=1e-6)
    epoch(first + 10)
    expected = 0.2 * torch.tensor([2.0, 0.0]) + 0.8 * torch.tensor([12.0, 10.0])
    assert torch.allclose(recipe.centroids[0], expected)


def drawn(circle: list[int], shares: list[float]) -> object:
    """A generator that gives this circle of domains and these shares."""

    class Drawn:
        def permutation(self, number: int) -> list[int]:
            assert number == len(circle)
            return circle

        def beta(self, a: float, b: float) -> float:
            assert a == b == 0.2
            return shares.pop(0)

    return Drawn()


def test_a12_interdomain_mixup_mixes_each_domain_with_the_next_of_a_random_circle() -> None:
    """By hand: domains 2 → 0 → 1 → 2, each pair at a share of its own, losses averaged."""
    recipe = RECIPES["interdomain_mixup"]()
    recipe.attach(torch.ones(3, 5), epochs=1, seed=0)
    recipe.generator = drawn([2, 0, 1], [0.9, 0.6, 0.0])
    groups = [torch.tensor([0, 3]), torch.tensor([1, 4]), torch.tensor([2, 5])]
    pictures = torch.eye(6)
    mixed = recipe.mix(pictures, groups)
    expected = torch.zeros(6, 6)
    mixtures = [
        (2, 0, 0.9), (5, 3, 0.9), (0, 1, 0.6), (3, 4, 0.6), (1, 2, 0.0), (4, 5, 0.0),
    ]  # fmt: skip
    for image, partner, share in mixtures:
        expected[image, image] += share
        expected[image, partner] += 1 - share
    torch.testing.assert_close(mixed, expected)
    assert torch.equal(pictures, torch.eye(6))
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    value = recipe(OfLogits(F.cross_entropy), Batch(logits, labels, None, groups))
    entropies = -logits.log_softmax(1)
    by_hand = [
        share * entropies[image, labels[image]] + (1 - share) * entropies[image, labels[partner]]
        for image, partner, share in mixtures
    ]
    assert value.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)


def test_a12_interdomain_mixup_leaves_out_what_finds_no_partner() -> None:
    recipe = RECIPES["interdomain_mixup"]()
    recipe.attach(torch.ones(2, 5), epochs=1, seed=0)
    groups = [torch.tensor([0, 1, 2]), torch.tensor([3])]
    recipe.mix(torch.randn(4, 3, 2, 2), groups)
    assert sorted(len(first) for first, _, _ in recipe.pairs) == [1, 1]
    logits, labels = torch.randn(4, 5, requires_grad=True), torch.arange(4)
    recipe(OfLogits(F.cross_entropy), Batch(logits, labels, None, groups)).backward()
    assert (logits.grad.abs().sum(1) > 0).tolist() == [True, False, False, True]
    recipe.mix(torch.randn(2, 3, 2, 2), [torch.tensor([0, 1]), torch.tensor([], dtype=int)])
    batch = Batch(logits[:2], labels[:2], None, [])
    plain = F.cross_entropy(logits[:2], labels[:2])
    assert recipe(OfLogits(F.cross_entropy), batch).item() == pytest.approx(plain.item())


def test_a12_lodo_mixup_is_domainbeds() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert params.methods["lodo-mixup"].recipe == "interdomain_mixup"
    assert params.recipes["interdomain_mixup"] == {"alpha": 0.2}
    # Finished runs rest on this one, whose departure its comment tells.
    assert params.methods["pair-mixup"].recipe == "mixup"


def test_mixstyle_mixes_mean_and_deviation_of_each_channel_and_keeps_the_rest() -> None:
    maps = torch.randn(4, 3, 6, 5) * torch.tensor([1.0, 2, 3, 4])[:, None, None, None] + 1
    partners, shares = torch.tensor([2, 3, 1, 0]), torch.tensor([1.0, 0.5, 0.0, 0.25])
    mixed = mix_statistics(maps, partners, shares)
    for image in range(4):
        for channel in range(3):
            own, other = maps[image, channel].numpy(), maps[partners[image], channel].numpy()
            share = float(shares[image])
            mean = share * own.mean() + (1 - share) * other.mean()
            spread = share * own.std(ddof=1) + (1 - share) * other.std(ddof=1)
            expected = (own - own.mean()) / own.std(ddof=1) * spread + mean
            assert mixed[image, channel].numpy() == pytest.approx(expected, abs=1e-4)


def test_no_gradient_of_mixstyle_flows_through_the_statistics() -> None:
    """The statistics are constants: what is left is one factor σ'/σ per channel."""
    maps = torch.randn(2, 1, 4, 4, requires_grad=True)
    mix_statistics(maps, torch.tensor([1, 0]), torch.zeros(2))[0].sum().backward()
    first, second = maps.detach().std((2, 3)).flatten().tolist()
    assert maps.grad[0].flatten().tolist() == pytest.approx([second / first] * 16, rel=1e-4)
    assert not maps.grad[1].any()


def test_mixstyle_acts_after_the_first_two_stages_of_a_training_batch_and_never_else() -> None:
    model = build_model("resnet10t", "bn", {}, 3, 64, seed=0).eval()
    batch, seen = torch.rand(4, 3, 64, 64), []
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(lambda *io: seen.append(io[2].shape[2]))
    plain = model(batch)
    recipe = RECIPES["mixstyle"](probability=1.0)
    recipe.attach(torch.ones(1, 3), 1, seed=0)
    with recipe.inside(model):
        assert not torch.allclose(model(batch), plain, atol=1e-3)
    assert torch.equal(model(batch), plain)
    assert early_stages(model) == [model.layer1, model.layer2]
    assert [64 // side for side in seen[:2]] == [4, 8]
    never = RECIPES["mixstyle"](probability=0.0)
    never.attach(torch.ones(1, 3), 1, seed=0)
    with never.inside(model):
        assert torch.equal(model(batch), plain)


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_mixstyle_is_refused_where_a_network_has_no_such_feature_maps(backbone: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=3)
    with pytest.raises(UserError, match="recipe mixstyle mixes feature maps"):
        early_stages(model)


def test_mixstyle_of_probability_zero_is_erm() -> None:
    plain = train(None)
    assert same(plain, train(RECIPES["mixstyle"](probability=0.0)))
    assert not same(plain, train(RECIPES["mixstyle"](probability=1.0)))
