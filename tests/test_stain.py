"""Stain normalisation: known stains are recovered, one laboratory becomes the other."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.stain import (
    CHUNK,
    STAINS,
    Macenko,
    Reinhard,
    correlation,
    fit_stain,
    fitted_numbers,
    lab_of,
    masked_percentiles,
    restored_stain,
    rgb_of,
    stains_of,
)
from benchmark.errors import UserError
from benchmark.models.predict import standardise, to_float
from benchmark.models.weights import IMAGENET
from benchmark.phantom.acquisition import Acquisition, draw

AZURE, EOSIN = np.array([0.70, 0.65, 0.30]), np.array([0.15, 0.80, 0.58])
OTHER_AZURE, OTHER_EOSIN = np.array([0.55, 0.75, 0.37]), np.array([0.25, 0.90, 0.35])


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def two_stains(
    azure: np.ndarray, eosin: np.ndarray, seed: int = 0, most: float = 1.6, size: int = 64
) -> np.ndarray:
    """Light through known amounts of two stains: a third of the pixels each stain, or both."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.4, most, (size * size, 2))
    kind = np.arange(size * size) % 3
    amounts[kind == 0, 0] = 0
    amounts[kind == 1, 1] = 0
    light = 240 * np.exp(-amounts @ np.stack([unit(azure), unit(eosin)]))
    return np.rint(light - 1).clip(0, 255).astype(np.uint8).reshape(size, size, 3)


def cells(look: Acquisition, count: int = 10) -> np.ndarray:
    kinds = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
    return np.stack([draw(kinds[i % 5], look, seed=i, size=48) for i in range(count)])


def macenko_by_the_book(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """METHODS B step by step, one image at a time, with numpy's own functions."""

    def fit(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        density = -np.log((picture.reshape(-1, 3).astype(float) + 1) / 240)
        tissue = density[~(density < 0.15).any(1)]
        plane = np.linalg.eigh(np.cov(tissue.T))[1][:, 1:]
        along = tissue @ plane
        # The larger eigenvector is the second: angles lie about ± 90°, far from the cut at 180°.
        angles = np.arctan2(along[:, 1], along[:, 0])
        ends = [plane @ (np.cos(a), np.sin(a)) for a in np.percentile(angles, [1, 99])]
        matrix = np.stack(sorted(ends, key=lambda end: -end[0]), 1)
        amounts = np.linalg.lstsq(matrix, density.T, rcond=None)[0]
        return matrix, amounts, np.percentile(amounts, 99, axis=1)

    _, amounts, maximum = fit(image)
    matrix, _, most = fit(reference)
    light = 240 * np.exp(-matrix @ (amounts * (most / maximum)[:, None]))
    return light.T.reshape(image.shape).clip(0, 255)


def test_macenko_recovers_two_known_stains() -> None:
    matrix, maximum, failed = stains_of(two_stains(AZURE, EOSIN)[None])
    assert not failed[0]
    assert matrix[0, :, 0] == pytest.approx(unit(AZURE), abs=0.01)
    assert matrix[0, :, 1] == pytest.approx(unit(EOSIN), abs=0.01)
    # Two thirds of the pixels hold each stain, uniform on 0.4 … 1.6: 1.6 - 1.2 · 0.01 · 3 / 2.
    assert maximum[0] == pytest.approx([1.582, 1.582], abs=0.02)


def test_the_stain_that_absorbs_more_red_comes_first() -> None:
    matrix, _, _ = stains_of(two_stains(EOSIN, AZURE)[None])
    assert matrix[0, :, 0] == pytest.approx(unit(AZURE), abs=0.01)


def test_macenko_stains_one_laboratory_as_the_other() -> None:
    here = two_stains(AZURE, EOSIN)[None]
    there = two_stains(OTHER_AZURE, OTHER_EOSIN)[None]
    normalised, failed = fit_stain("macenko", here)(there)
    before = np.abs(there.astype(int) - here).mean()
    after = np.abs(normalised.astype(int) - here).mean()
    assert not failed.any()
    assert before > 15
    assert after < 2


def test_macenko_is_the_published_algorithm_on_every_image() -> None:
    images = cells(Acquisition(azure_strength=0.8, eosin_strength=1.2, pixel_size_um=0.3))
    train = cells(Acquisition(), 5)
    stain = fit_stain("macenko", train)
    normalised, failed = stain(images)
    assert not failed.any()
    for image, ours in zip(images, normalised, strict=True):
        assert np.abs(ours - macenko_by_the_book(image, train[stain.image])).max() <= 0.5 + 1e-6


def test_the_reference_is_the_typical_training_image_not_the_freak() -> None:
    freak = two_stains(OTHER_AZURE, 0.3 * OTHER_AZURE + OTHER_EOSIN[::-1], seed=9)
    train = np.stack([freak, *(two_stains(AZURE, EOSIN, seed) for seed in range(4))])
    assert fit_stain("macenko", train).image != 0


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_images_that_cannot_be_fitted_come_back_unchanged_and_counted(name: str) -> None:
    good = two_stains(AZURE, EOSIN)
    white, grey = np.full_like(good, 255), np.full_like(good, 90)
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] + 60, 64, 1).repeat(3, 2)
    images = np.stack([white, good, grey, ramp, np.zeros_like(good)])
    stain = fit_stain(name, two_stains(OTHER_AZURE, OTHER_EOSIN)[None])
    normalised, failed = stain(images)
    assert failed.tolist() == [True, False, True, True, True]
    assert np.array_equal(normalised[failed], images[failed])
    assert not np.array_equal(normalised[1], good)


def test_a_fit_that_turns_the_picture_inside_out_counts_as_failed() -> None:
    # Nuclei so blue that the fit leaves them out: their density in blue is below beta.
    cell = two_stains(np.array([0.45, 0.6, 0.66]), np.array([0.3, 0.55, 0.78]), most=0.6)
    cell[16:48, 16:48] = [110, 95, 235]
    stain = fit_stain("macenko", two_stains(OTHER_AZURE, OTHER_EOSIN)[None])
    normalised, failed = stain(np.stack([cell, two_stains(AZURE, EOSIN)]))
    assert failed.tolist() == [True, False]
    assert np.array_equal(normalised[0], cell)


def test_correlation_is_numpys() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 5, 30))
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    assert correlation(a, b) == pytest.approx(np.array(expected))
    assert correlation(np.ones((1, 9)), np.arange(9.0)[None]) == pytest.approx([0])


def test_macenko_without_one_fit_in_the_training_set_is_refused() -> None:
    with pytest.raises(UserError, match="no training image shows two stains"):
        fit_stain("macenko", np.full((3, 16, 16, 3), 255, np.uint8))


def test_masked_percentiles_are_numpys() -> None:
    rng = np.random.default_rng(0)
    values, kept = rng.normal(size=(6, 50)), rng.random((6, 50)) < 0.6
    expected = [np.percentile(v[k], (1, 40, 99)) for v, k in zip(values, kept, strict=True)]
    assert masked_percentiles(values, kept, (1, 40, 99)) == pytest.approx(np.array(expected))


def test_cielab_has_its_tabulated_values() -> None:
    colours = np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [119, 119, 119]], np.uint8)
    # Lindbloom's calculator, sRGB under D65.
    expected = [[100, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [50.03, 0, 0]]
    assert lab_of(colours) == pytest.approx(np.array(expected), abs=0.05)


def test_cielab_and_back_is_exact_on_eight_bits() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (4096, 3)).astype(np.uint8)
    assert np.array_equal(rgb_of(lab_of(colours)), colours)


def test_reinhard_gives_the_reference_mean_and_spread() -> None:
    images = cells(Acquisition(white_balance=(0.9, 0.95, 1.0), eosin_strength=0.8), 4)
    stain = Reinhard(mean=(70.0, 15.0, -8.0), spread=(9.0, 7.0, 6.0))
    lab = lab_of(stain(images)[0])
    assert lab.mean(axis=(1, 2)) == pytest.approx(np.tile(stain.mean, (4, 1)), abs=0.3)
    assert lab.std(axis=(1, 2)) == pytest.approx(np.tile(stain.spread, (4, 1)), abs=0.3)


def test_reinhard_takes_the_median_of_the_training_images() -> None:
    train = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (50, 119, 255)])
    assert fit_stain("reinhard", train).mean[0] == pytest.approx(50.03, abs=0.01)


def test_jpeg95_is_pillows_round_trip_and_none_is_the_image() -> None:
    images = cells(Acquisition(), 3)
    changed, failed = fit_stain("jpeg95", images)(images)
    for image, ours in zip(images, changed, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=95)
        assert np.array_equal(ours, np.asarray(Image.open(buffer)))
    assert not np.array_equal(changed, images)
    assert np.array_equal(fit_stain("none", images)(images)[0], images)
    assert not failed.any()


@pytest.mark.parametrize("name", STAINS)
def test_the_result_depends_on_neither_neighbours_nor_number(name: str) -> None:
    images = cells(Acquisition(ph_shift=0.3), 6)
    stain = fit_stain(name, cells(Acquisition(), 3))
    many = np.tile(images, (CHUNK // 48**2 // 6 + 1, 1, 1, 1))
    whole, failed = stain(many)
    assert len(failed) == len(many)
    assert np.array_equal(whole[-6:], stain(images)[0])
    assert np.array_equal(whole[-1:], stain(images[-1:])[0])


def test_the_input_is_left_alone_and_the_fit_is_plain_numbers() -> None:
    images = cells(Acquisition(), 4)
    before = images.copy()
    stain = fit_stain("macenko", images)
    assert stain == Macenko(stain.matrix, stain.maximum, stain.image)
    assert stain(images)[0].dtype == np.uint8
    assert np.array_equal(images, before)


def test_an_unknown_name_is_one_line_with_the_nearest() -> None:
    with pytest.raises(UserError, match="'makenko'; did you mean 'macenko'"):
        fit_stain("makenko", np.zeros((1, 8, 8, 3), np.uint8))


def test_image_moments_undo_another_lamp_and_stain_image_by_image() -> None:
    train = cells(Acquisition())
    other = np.rint(train * [0.8, 0.7, 0.9] + [10, 20, 5]).astype(np.uint8)
    for shown in (other, other[:1]):  # an image alone, or among others
        changed, failed = fit_stain("image_moments", train)(shown)
        assert not failed.any()
        expected, _ = fit_stain("image_moments", train)(train[: len(shown)])
        assert np.abs(changed.astype(int) - expected).max() <= 3
    flat = np.full((1, 8, 8, 3), 90, np.uint8)
    changed, failed = fit_stain("image_moments", train)(flat)
    assert failed.all()
    assert np.array_equal(changed, flat)


def test_white_background_takes_the_lamp_off_and_leaves_a_dark_image_alone() -> None:
    picture = np.full((2, 10, 10, 3), [200, 180, 160], np.uint8)
    picture[:, 4:6, 4:6] = [100, 45, 80]
    picture[1] //= 4
    changed, failed = fit_stain("white_background", picture)(picture)
    assert failed.tolist() == [False, True]
    assert changed[0, 0, 0].tolist() == [255, 255, 255]
    # Transmission, and so the optical density beyond the background's, is kept.
    assert changed[0, 4, 4] == pytest.approx(np.array([100 / 200, 45 / 180, 80 / 160]) * 255, abs=1)
    assert np.array_equal(changed[1], picture[1])


def test_grey_is_luma_in_three_channels() -> None:
    picture = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]], np.uint8)
    changed, _ = fit_stain("grey", picture)(picture)
    assert changed[0, 0].tolist() == [[76] * 3, [150] * 3, [29] * 3]


def test_a_standardised_input_has_channels_at_zero_mean_and_unit_deviation_image_by_image() -> None:
    images = cells(Acquisition(), 3)
    stain = fit_stain("standardised", images)
    shown, failed = stain(images)
    assert not failed.any()
    assert np.array_equal(shown, images)  # the images stay: it is the input that changes
    assert stain.standardises_input
    way = replace(IMAGENET, each_image=True)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2)
    found = standardise(to_float(batch), way).numpy()
    grey = images.transpose(0, 3, 1, 2).astype(float)
    mean, deviation = (f(axis=(2, 3), keepdims=True) for f in (grey.mean, grey.std))
    assert found == pytest.approx((grey - mean) / deviation, abs=1e-4)
    lamp = to_float(batch) * torch.tensor([0.7, 0.9, 0.8])[:, None, None] + 0.05
    assert standardise(lamp, way).numpy() == pytest.approx(found, abs=1e-4)


def test_an_image_without_contrast_is_standardised_to_nothing_and_not_to_noise() -> None:
    blank = torch.full((1, 3, 8, 8), 0.5)
    blank[0, :, 0, 0] += 1e-4
    found = standardise(blank, replace(IMAGENET, each_image=True))
    assert found.abs().max() < 0.05


@pytest.mark.parametrize("name", STAINS)
def test_a_stain_is_made_again_from_the_numbers_it_was_fitted_to(name: str) -> None:
    """As they stand in a JSON file: nothing of the source's images is needed."""
    generator = np.random.default_rng(3)
    train, pixels = generator.integers(30, 230, (2, 12, 24, 24, 3)).astype(np.uint8)
    stain = fit_stain(name, train)
    numbers = json.loads(json.dumps(fitted_numbers(stain)))
    again = restored_stain(name, numbers)
    for mine, theirs in zip(again(pixels), stain(pixels), strict=True):
        np.testing.assert_array_equal(mine, theirs)
