"""Answers: views, adaptation to a test set, prior correction; no label is an argument of any."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from benchmark.data.cell_finder import nucleus_diameter
from benchmark.data.stain import matched, moments_of
from benchmark.models.normalisation import normalise
from benchmark.models.predict import (
    INFERENCES,
    VIEWS,
    Conditions,
    log_mean_probability,
    log_prior_ratio,
    magnified,
    typical_nucleus,
)
from benchmark.models.weights import IMAGENET

SOURCE = np.random.default_rng(1).integers(60, 200, (30, 8, 8, 3), dtype=np.uint8)
"""The source's training images."""


@pytest.fixture
def where():
    prior = np.array([0.5, 0.3, 0.2])
    return Conditions("fp32", torch.device("cpu"), IMAGENET, prior, SOURCE)


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


def test_each_view_is_seen_at_each_zoom_and_standardised_as_it_is_then_shown(pixels, where):
    class Middle(nn.Module):
        """As logits, the pixel in the middle: it is the same at any zoom, its standing is not."""

        def forward(self, batch):
            side = batch.shape[-1] // 2
            return batch[:, :, side, side].clone()

    each = replace(where, preprocessing=replace(IMAGENET, each_image=True))
    zoomed = INFERENCES["tta"](views="two", zooms=[0.5, 1.0, 2.0])(Middle(), pixels, each)
    shown = [INFERENCES["single"]()(Middle(), magnified(pixels, z), each) for z in (0.5, 1.0, 2.0)]
    turned = [
        INFERENCES["single"]()(Middle(), magnified(pixels, z).swapaxes(1, 2).copy(), each)
        for z in (0.5, 1.0, 2.0)
    ]
    expected = np.mean([softmax(logits, axis=1) for logits in (*shown, *turned)], axis=0)
    np.testing.assert_allclose(np.exp(zoomed), expected, atol=1e-5)


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


def test_matched_images_have_the_source_s_mean_and_deviation_of_each_channel(where):
    """By numpy, over every pixel of the set; nothing is clipped here."""
    dark = np.random.default_rng(2).integers([20, 40, 90], [120, 90, 250], (50, 8, 8, 3), np.uint8)
    shown = []

    class Seen(nn.Module):
        def forward(self, batch):
            shown.append(batch)
            return batch.flatten(1)[:, :3]

    INFERENCES["moments"]()(Seen(), dark, where)
    mean, deviation = (np.array(three)[:, None, None] for three in (IMAGENET.mean, IMAGENET.std))
    seen = 255 * (torch.cat(shown).numpy() * deviation + mean)
    np.testing.assert_allclose(seen.mean((0, 2, 3)), SOURCE.mean((0, 1, 2)), atol=0.1)
    np.testing.assert_allclose(seen.std((0, 2, 3)), SOURCE.std((0, 1, 2)), rtol=0.01)
    # One line per channel for the whole set: images go on differing as they did.
    for channel in range(3):
        before = dark[..., channel].ravel().astype(float)
        slope, shift = np.polyfit(before, seen[:, channel].ravel(), 1)
        np.testing.assert_allclose(seen[:, channel].ravel(), slope * before + shift, atol=0.6)
        assert slope == pytest.approx(SOURCE[..., channel].std() / before.std(), rel=0.01)


def test_a_set_matched_to_itself_or_without_contrast_stays_as_it_is(pixels):
    np.testing.assert_array_equal(matched(pixels, moments_of(pixels)), pixels)
    blank = np.full((4, 8, 8, 3), 200, np.uint8)
    np.testing.assert_array_equal(matched(blank, moments_of(pixels)), blank)


def test_matching_undoes_another_lamp(pixels):
    """A gain and a shift per channel, whatever they are, give the same answers but for rounding."""
    half = pixels // 2 + 60
    other = np.rint(half * [1.1, 0.8, 0.9] + [-20, 10, 5]).astype(np.uint8)
    distance = matched(other, moments_of(half)).astype(int) - half
    assert np.abs(distance).max() <= 1


def discs(radius, colour=(90, 40, 140), number=5):
    """Purple nuclei of a radius in pixels in the middle of pale pictures of 64."""
    y, x = np.mgrid[:64, :64] - 31.5
    picture = np.full((64, 64, 3), 230, np.uint8)
    picture[np.hypot(x, y) < radius] = colour
    return np.repeat(picture[None], number, axis=0)


@pytest.mark.parametrize("radius", [9, 14, 20])
@pytest.mark.parametrize("colour", [(90, 40, 140), (70, 70, 70)], ids=["purple", "grey"])
def test_a_nucleus_is_as_wide_as_it_was_drawn(radius, colour):
    """In a picture without any colour it is what is dark."""
    found = nucleus_diameter(discs(radius, colour)[0])
    assert found == pytest.approx(2 * radius / 64, rel=0.02)


@pytest.mark.parametrize("radius", [9, 20])
def test_cells_are_shown_as_large_as_the_source_s(radius, where):
    shown = []

    class Seen(nn.Module):
        def forward(self, batch):
            shown.append(batch)
            return batch.flatten(1)[:, :3]

    source = discs(14)
    INFERENCES["scale"]()(Seen(), discs(radius), replace(where, source_images=source))
    deviation = np.array(IMAGENET.std)[:, None, None]
    seen = 255 * (torch.cat(shown).numpy() * deviation + np.array(IMAGENET.mean)[:, None, None])
    dark = seen[:, 1] < 135  # half-way between nucleus and background
    assert np.sqrt(4 / np.pi * dark.sum((1, 2))) == pytest.approx(2 * 14, abs=1)
    assert typical_nucleus(source) == pytest.approx(28 / 64, rel=0.02)


def test_magnified_by_one_is_the_image_and_mirrors_what_lies_beyond(pixels):
    np.testing.assert_array_equal(magnified(pixels, 1.0), pixels)
    stripes = np.zeros((1, 8, 8, 3), np.uint8)
    stripes[:, :, 0] = stripes[:, :, 7] = 200
    half = magnified(stripes, 0.5)[0, :, :, 0].astype(int)
    np.testing.assert_array_equal(half, half[:, ::-1])
    # Column 0 of the picture lies a quarter from the left, its mirror image left of it.
    assert half[4].tolist() == [0, 100, 100, 0, 0, 100, 100, 0]


def test_a_set_without_a_nucleus_is_not_magnified(where):
    blank = np.full((3, 8, 8, 3), 200, np.uint8)
    flat = nn.Flatten()
    plain = INFERENCES["single"]()(flat, blank, where)
    np.testing.assert_array_equal(INFERENCES["scale"]()(flat, blank, where), plain)


def test_scale_and_moments_is_one_after_the_other(where):
    target, near = discs(20, (120, 90, 160)), replace(where, source_images=discs(14))
    factor = typical_nucleus(near.source_images) / typical_nucleus(target)
    moved = magnified(target, factor)
    by_hand = INFERENCES["moments"]()(nn.Flatten(), moved, near)
    both = INFERENCES["scale_and_moments"]()(nn.Flatten(), target, near)
    np.testing.assert_array_equal(both, by_hand)


def test_scale_alone_computes_no_colours(where, monkeypatch):
    """They take a pass over all of the source's images, and are not matched."""
    target, near = discs(20, (120, 90, 160)), replace(where, source_images=discs(14))
    monkeypatch.delattr("benchmark.models.predict.moments_of")
    INFERENCES["scale"]()(nn.Flatten(), target, near)


@pytest.mark.parametrize("name", ["moments", "scale", "scale_and_moments"])
def test_what_is_matched_to_the_source_needs_its_images(name, model, pixels, where):
    with pytest.raises(ValueError, match="source"):
        INFERENCES[name]()(model, pixels, replace(where, source_images=None))


def test_shares_of_a_test_set_are_found_again():
    generator = np.random.default_rng(0)
    true = np.array([0.1, 0.9])
    labels = generator.choice(2, 5000, p=true)
    evidence = generator.normal(np.where(labels == 1, 1.0, -1.0), 1.0)  # log-odds 2x, prior 1/2
    logits = np.stack([-evidence, evidence], axis=1).astype(np.float32)
    ratio = log_prior_ratio(logits, np.array([0.5, 0.5]), iterations=100)
    np.testing.assert_allclose(np.exp(ratio) / 2, true, atol=0.03)


class Noted(nn.Module):
    """Passes batches through and notes how many images each of them held."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def forward(self, batch):
        self.sizes.append(len(batch))
        return batch

    def __deepcopy__(self, memo):
        return self


def batches_of(name, model, pixels, where, **parameters):
    sizes = []
    INFERENCES[name](**parameters)(nn.Sequential(Noted(sizes), model), pixels, where)
    return sizes


def test_a09_tent_answers_batches_of_the_size_asked_for_and_the_rest_by_itself(
    model, pixels, where
):
    hundred = np.concatenate([pixels, pixels[:30]])
    assert batches_of("tent", model, hundred, where, batch_size=64) == [64, 36]
    assert batches_of("tent", model, hundred, where, batch_size=50) == [50, 50]
    assert batches_of("tent", model, hundred, where, batch_size=256) == [100]


def test_a09_tent_answers_a_batch_before_it_learns_from_it(model, pixels, where):
    """By hand: statistics of the batch, an answer, a step of Adam; the second batch sees one."""
    tent = INFERENCES["tent"](learning_rate=0.05, batch_size=40)
    order = np.random.default_rng(0).permutation(70)
    by_hand = nn.Sequential(*model).train()  # a BatchNorm2d in training normalises by its batch
    norm = by_hand[1]
    optimiser = torch.optim.Adam(norm.parameters(), 0.05)
    expected = []
    for rows in (order[:40], order[40:]):
        logits = by_hand(where.standardised(pixels[rows]))
        expected.append(logits.detach())
        loss = torch.distributions.Categorical(logits=logits).entropy().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    norm.reset_parameters()
    found = tent(model.eval(), pixels, where)
    np.testing.assert_allclose(found[order], torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize("side", [1, 8])
def test_a09_a_single_image_that_is_left_is_answered_among_those_before_it(side, where):
    pixels = np.random.default_rng(0).integers(0, 256, (9, side, side, 3), dtype=np.uint8)
    pooled = (nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model = nn.Sequential(*pooled).eval()
    assert batches_of("tent", model, pixels, where, batch_size=4) == [4, 4, 4]
    logits = INFERENCES["tent"](batch_size=4, learning_rate=0.0)(model, pixels, where)
    assert logits.shape == (9, 2)
    order = np.random.default_rng(0).permutation(9)
    last = model.train()(where.standardised(pixels[order[-4:]]))[-1].detach()
    np.testing.assert_allclose(logits[order[-1]], last, atol=1e-6)


@pytest.mark.parametrize("name", [n for n, i in INFERENCES.items() if i().batch_statistics])
def test_a09_a_test_set_of_one_image_is_answered_by_the_source_s_statistics(name, model, where):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    plain = INFERENCES["single"]()(model, pixels, where)
    np.testing.assert_array_equal(INFERENCES[name]()(model, pixels, where), plain)


def test_a09_batches_of_adabn_hold_nearly_as_many_images_since_each_weighs_the_same(where):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (515, 2, 2, 3), dtype=np.uint8)
    assert batches_of("adabn", model, pixels, where) == [258, 257, 256, 256, 3]
    assert batches_of("adabn", model, pixels[:300], where)[0] == 300


@pytest.mark.parametrize("name", [n for n, i in INFERENCES.items() if i().batch_statistics])
def test_a_frozen_batch_normalisation_is_adapted_like_any_other(name, model, pixels, where):
    plain = INFERENCES[name]()(model, pixels, where)
    normalise(model, "bn_frozen", {})
    np.testing.assert_array_equal(INFERENCES[name]()(model, pixels, where), plain)


@pytest.mark.parametrize("name", INFERENCES)
@pytest.mark.parametrize("prior", [[0.7, 0.3], [1.0, 0.0], [0.6, 0.0, 0.4]])
def test_a04_every_inference_answers_two_classes_and_one_that_training_lacked(name, prior, pixels):
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, len(prior)))
    where = Conditions("fp32", torch.device("cpu"), IMAGENET, np.array(prior), SOURCE)
    logits = INFERENCES[name]()(nn.Sequential(*layers).eval(), pixels, where)
    assert logits.shape == (70, len(prior))
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", INFERENCES)
def test_what_is_fitted_to_some_images_predicts_each_other_image_by_itself(
    name, model, pixels, where
):
    before = state(model)
    predictor = INFERENCES[name]().fit(model, pixels[:30], where)
    others = predictor(pixels[30:])
    np.testing.assert_allclose(predictor(pixels[50:51]), others[20:21], atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [n for n in INFERENCES if n != "tent"])
def test_a_whole_test_set_is_fitted_to_and_predicted(name, model, pixels, where):
    inference = INFERENCES[name]()
    whole = inference(model, pixels, where)
    np.testing.assert_array_equal(inference.fit(model, pixels, where)(pixels.copy()), whole)


def test_other_images_are_normalised_by_the_statistics_of_those_adapted_to(pixels, where):
    layer = nn.BatchNorm2d(3, affine=False, eps=1e-12)
    network = nn.Sequential(layer, nn.Flatten()).eval()
    seen, others = pixels[:40], pixels[40:] // 3
    found = INFERENCES["adabn"]().fit(network, seen, where)(others).reshape(30, 3, 64)
    values = where.standardised(seen).numpy()
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), ddof=1)
    by_hand = where.standardised(others).numpy() - mean[:, None, None]
    by_hand = by_hand / np.sqrt(variance)[:, None, None]
    np.testing.assert_allclose(found, by_hand.reshape(30, 3, 64), atol=1e-4)


def test_other_images_get_the_gain_and_shift_of_those_that_moments_were_taken_of(where):
    generator = np.random.default_rng(2)
    seen = generator.integers([20, 40, 90], [120, 90, 250], (50, 8, 8, 3), np.uint8)
    others = generator.integers([50, 50, 100], [90, 80, 200], (10, 8, 8, 3), np.uint8)
    shown = {}

    def note(_, model, pixels):
        shown[len(pixels)] = pixels
        return np.zeros((len(pixels), 3), np.float32)

    class Noting(Conditions):
        predict = note

    noting = Noting("fp32", where.device, IMAGENET, where.source_prior, SOURCE)
    INFERENCES["moments"]().fit(None, seen, noting)(others)
    own, source = seen.reshape(-1, 3).astype(float), SOURCE.reshape(-1, 3).astype(float)
    by_hand = (others - own.mean(0)) / own.std(0) * source.std(0) + source.mean(0)
    assert np.abs(shown[10] - by_hand.clip(0, 255)).max() <= 0.5 + 1e-6


def test_cells_are_magnified_by_what_those_adapted_to_lack(where):
    fitted = replace(where, source_images=discs(14))
    small = INFERENCES["scale"]().fit(nn.Flatten(), discs(7), fitted)
    factor = typical_nucleus(discs(14)) / typical_nucleus(discs(7))
    assert factor == pytest.approx(2, rel=0.05)
    by_hand = INFERENCES["single"]()(nn.Flatten(), magnified(discs(9), factor), fitted)
    np.testing.assert_array_equal(small(discs(9)), by_hand)


def test_tent_predicts_others_with_what_it_learnt_and_adabn_s_statistics(model, pixels, where):
    still = INFERENCES["tent"](learning_rate=0.0).fit(model, pixels[:40], where)(pixels[40:])
    adabn = INFERENCES["adabn"]().fit(model, pixels[:40], where)(pixels[40:])
    np.testing.assert_array_equal(still, adabn)
    moved = INFERENCES["tent"](learning_rate=0.05).fit(model, pixels[:40], where)(pixels[40:])
    assert not np.allclose(moved, adabn, atol=1e-3)
