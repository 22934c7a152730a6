"""Answers: views, adaptation to a test set, prior correction; no label is an argument of any."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.inference.inferences import (
    INFERENCES,
    VIEWS,
    Conditions,
    log_mean_probability,
    log_prior_ratio,
)
from benchmark.models.weights import IMAGENET


@pytest.fixture
def where():
    prior = np.array([0.5, 0.3, 0.2])
    return Conditions("fp32", torch.device("cpu"), IMAGENET, prior)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return nn.Sequential(*layers).eval()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", INFERENCES)
def test_answers_are_finite_one_row_an_image_and_leave_the_network_as_it_was(
    name, model, pixels, where
):
    before = state(model)
    logits = INFERENCES[name]()(model, pixels, where)
    assert logits.shape == (70, 3)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", [n for n, i in INFERENCES.items() if not i().transductive])
def test_an_inductive_answer_does_not_depend_on_the_other_images(name, model, pixels, where):
    inference = INFERENCES[name]()
    alone = inference(model, pixels[:1], where)
    np.testing.assert_allclose(alone, inference(model, pixels, where)[:1], atol=1e-5)


@pytest.mark.parametrize("name", [n for n, i in INFERENCES.items() if i().transductive])
def test_a_transductive_answer_depends_on_the_other_images(name, model, pixels, where):
    inference = INFERENCES[name]()
    darker = np.concatenate([pixels[:40], pixels[40:] // 8])
    assert not np.allclose(
        inference(model, pixels, where)[:40], inference(model, darker, where)[:40], atol=1e-4
    )


def test_the_dihedral_views_are_eight_and_differ():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = {tuple(view(image).flatten().tolist()) for view in VIEWS["dihedral"]}
    assert len(views) == 8


def test_the_released_views_hold_the_identity_and_half_a_turn_twice():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = [tuple(view(image).flatten().tolist()) for view in VIEWS["as_released"]]
    assert len(set(views)) == 6
    assert views.count(tuple(image.flatten().tolist())) == 2
    assert views.count(tuple(image.flatten().flip(0).tolist())) == 2


def test_views_of_an_invariant_network_change_nothing(pixels, where):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plain = torch.from_numpy(INFERENCES["single"]()(pooled, pixels, where)).log_softmax(1)
    np.testing.assert_allclose(INFERENCES["tta"]()(pooled, pixels, where), plain, atol=1e-5)


def test_probabilities_are_averaged_not_logits():
    logits = torch.log(torch.tensor([[[0.9, 0.1]], [[0.5, 0.5]]]))
    np.testing.assert_allclose(log_mean_probability(logits).exp(), [[0.7, 0.3]], atol=1e-6)


def test_adapted_statistics_are_those_of_the_test_images(pixels, where):
    layer = nn.BatchNorm2d(3, affine=False)
    logits = nn.Sequential(layer, nn.Flatten())
    answer = INFERENCES["adabn"]()(logits.eval(), pixels, where).reshape(70, 3, 64)
    np.testing.assert_allclose(answer.mean((0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(answer.var((0, 2)), 1, atol=1e-2)


def test_mixed_statistics_lie_between_those_of_source_and_test(pixels, where):
    layer = nn.BatchNorm2d(3, affine=False)  # source: mean 0, variance 1
    network = nn.Sequential(layer, nn.Flatten()).eval()
    share = 0.25
    mixed = INFERENCES["bn_mix"](source_share=share)(network, pixels, where).reshape(70, 3, 64)
    values = INFERENCES["single"]()(nn.Flatten(), pixels, where).reshape(70, 3, 64)
    mean, variance = values.mean((0, 2)), values.var((0, 2))
    by_hand = (values - ((1 - share) * mean)[:, None]) / np.sqrt(
        share + (1 - share) * variance + layer.eps
    )[:, None]
    np.testing.assert_allclose(mixed, by_hand, atol=2e-3)


def test_entropy_falls_while_tent_adapts(model, pixels, where):
    def entropy(learning_rate):
        tent = INFERENCES["tent"](learning_rate=learning_rate, batch_size=10)
        logits = torch.from_numpy(tent(model, pixels, where))
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

    assert entropy(0.05) < entropy(0.0)


def test_shares_of_a_test_set_are_found_again():
    generator = np.random.default_rng(0)
    true = np.array([0.1, 0.9])
    labels = generator.choice(2, 5000, p=true)
    evidence = generator.normal(np.where(labels == 1, 1.0, -1.0), 1.0)  # log-odds 2x, prior 1/2
    logits = np.stack([-evidence, evidence], axis=1).astype(np.float32)
    ratio = log_prior_ratio(logits, np.array([0.5, 0.5]), iterations=100)
    np.testing.assert_allclose(np.exp(ratio) / 2, true, atol=0.03)
