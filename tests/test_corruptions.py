"""Corruptions: as strong as they say, on every image its own, and the same for everybody."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from benchmark.data.corruptions import CORRUPTIONS, corrupt, generator_of
from benchmark.errors import UserError
from benchmark.phantom.acquisition import Acquisition, draw

OURS = [name for name, one in CORRUPTIONS.items() if one.family == "corruptions"]
MEDMNIST = [name for name in CORRUPTIONS if name not in OURS]
SEVERITIES = (1, 2, 3, 4)
BLURS = ["gaussian_blur", "defocus_blur", "motion_blur"]

PINNED = {
    "gaussian_noise": [6.16, 12.24, 20.27, 31.31],
    "salt_and_pepper": [1.33, 3.5, 7.8, 15.51],
    "gaussian_blur": [3.73, 8.16, 12.39, 17.39],
    "defocus_blur": [2.58, 6.94, 10.48, 14.65],
    "motion_blur": [3.96, 8.54, 12.53, 16.63],
    "brightness": [18.82, 31.98, 48.82, 68.78],
    "contrast": [9.35, 18.7, 28.09, 35.1],
    "uneven_illumination": [8.2, 16.36, 24.02, 30.87],
    "colour_cast": [8.29, 13.09, 27.15, 33.71],
    "jpeg": [21.92, 28.16, 33.12, 34.14],
}
"""Mean absolute change of a drawn pattern, grey levels, at severities 1 to 4."""


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return np.stack([draw("monocyte", Acquisition(), seed, size=48) for seed in range(12)])


def names(count: int) -> list[str]:
    return [f"cells/{i}.png" for i in range(count)]


def apply(name: str, light: np.ndarray, severity: int) -> np.ndarray:
    """Light before it is cut to eight bits."""
    corruption = CORRUPTIONS[name]
    generators = [generator_of(image, name, severity) for image in names(len(light))]
    return corruption.apply(light, generators, corruption.strengths[severity - 1])


def spread_of_a_point(name: str, severity: int, size: int) -> np.ndarray:
    """Covariance [2, 2] in px² of what a point of light becomes."""
    light = np.zeros((1, size, size, 3))
    light[0, size // 2, size // 2] = 1
    spot = apply(name, light, severity)[0, :, :, 0]
    assert spot.sum() == pytest.approx(1, abs=1e-3)
    axis = np.arange(size) - size // 2
    return np.array(
        [
            [(spot * axis[:, None] ** 2).sum(), (spot * axis[:, None] * axis).sum()],
            [(spot * axis[:, None] * axis).sum(), (spot * axis**2).sum()],
        ]
    )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_image_depends_on_its_path_and_on_nothing_else(
    name: str, cells: np.ndarray
) -> None:
    whole = corrupt(cells, names(12), name, 2)
    backwards = corrupt(cells[::-1], names(12)[::-1], name, 2)[::-1]
    assert np.array_equal(backwards, whole)
    assert np.array_equal(corrupt(cells[7:9], names(12)[7:9], name, 2), whole[7:9])
    assert whole.shape == cells.shape
    assert whole.dtype == np.uint8


@pytest.mark.parametrize("name", OURS)
def test_each_severity_is_worse_than_the_one_before(name: str, cells: np.ndarray) -> None:
    before = cells.copy()
    changes = [
        np.abs(corrupt(cells, names(12), name, severity).astype(int) - cells).mean()
        for severity in SEVERITIES
    ]
    assert changes[0] > 0.3
    assert (np.diff(changes) > 0.3).all()
    assert np.array_equal(cells, before)


@pytest.mark.parametrize(
    "name",
    ["gaussian_noise", "salt_and_pepper", "motion_blur", "uneven_illumination", "colour_cast"],
)
def test_images_draw_their_own_numbers(name: str, cells: np.ndarray) -> None:
    same = np.repeat(cells[:1], 6, 0)
    assert len(np.unique(corrupt(same, names(6), name, 3).reshape(6, -1), axis=0)) == 6


def test_the_random_numbers_are_pinned() -> None:
    drawn = generator_of("cells/1.png", "gaussian_noise", 1).integers(0, 1000, 4)
    assert drawn.tolist() == [747, 878, 664, 56]


@pytest.mark.parametrize("name", OURS)
def test_a_corruption_is_pinned_until_its_version_is_raised(name: str) -> None:
    """Where it fails on purpose: raise `corruption.<name>` in study/numerics.py, pin anew."""
    y, x = np.mgrid[:40, :40]
    pattern = np.stack([40 + 3 * x, 60 + (x // 5 + y // 5) % 2 * 140, 200 - 2 * y], 2)
    images = np.tile(pattern.astype(np.uint8), (4, 1, 1, 1))
    changes = [
        np.abs(corrupt(images, names(4), name, severity).astype(int) - images).mean()
        for severity in SEVERITIES
    ]
    assert changes == pytest.approx(PINNED[name], abs=0.03)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_deviation_it_names(severity: int) -> None:
    noise = apply("gaussian_noise", np.full((4, 64, 64, 3), 0.5), severity) - 0.5
    expected = CORRUPTIONS["gaussian_noise"].strengths[severity - 1]
    assert noise.std() == pytest.approx(expected, rel=0.02)
    assert np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1] == pytest.approx(
        0, abs=0.05
    )


@pytest.mark.parametrize("severity", SEVERITIES)
def test_salt_and_pepper_hits_whole_pixels_white_and_black_alike(severity: int) -> None:
    changed = corrupt(np.full((8, 64, 64, 3), 120, np.uint8), names(8), "salt_and_pepper", severity)
    white, black = (changed == 255).all(3).mean(), (changed == 0).all(3).mean()
    share = CORRUPTIONS["salt_and_pepper"].strengths[severity - 1]
    assert white == pytest.approx(share / 2, rel=0.2)
    assert black == pytest.approx(share / 2, rel=0.2)
    assert (changed == 120).all(3).mean() == pytest.approx(1 - white - black)


@pytest.mark.parametrize("size", [48, 96])
@pytest.mark.parametrize("severity", [2, 4])
def test_blurs_spread_a_point_as_their_shapes_do_at_every_size(severity: int, size: int) -> None:
    deviation, radius, length = (CORRUPTIONS[n].strengths[severity - 1] * size for n in BLURS)
    gaussian, disc, line = (spread_of_a_point(n, severity, size) for n in BLURS)
    assert gaussian == pytest.approx(deviation**2 * np.eye(2), rel=0.01, abs=0.02)
    assert disc == pytest.approx(radius**2 / 4 * np.eye(2), rel=0.1, abs=0.1)
    along = np.linalg.eigvalsh(line)
    assert along[1] == pytest.approx(length**2 / 12, rel=0.1, abs=0.3)
    assert along[0] == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("name", BLURS)
def test_blurs_leave_an_even_image_even_up_to_its_edges(name: str) -> None:
    even = np.full((2, 40, 40, 3), 0.7)
    assert apply(name, even, 4) == pytest.approx(even)


def test_brightness_is_a_factor_up_for_some_images_and_down_for_others() -> None:
    ratio = apply("brightness", np.full((40, 4, 4, 3), 0.5), 3)[:, 0, 0, 0] / 0.5
    factor = CORRUPTIONS["brightness"].strengths[2]
    up = ratio > 1
    assert ratio[up] == pytest.approx(factor)
    assert ratio[~up] == pytest.approx(1 / factor)
    assert 8 < up.sum() < 32


def test_contrast_keeps_the_mean_and_shrinks_what_lies_about_it() -> None:
    light = np.random.default_rng(0).random((3, 8, 8, 3))
    changed = apply("contrast", light, 4)
    assert changed.mean(axis=(1, 2, 3)) == pytest.approx(light.mean(axis=(1, 2, 3)))
    assert changed.std(axis=(1, 2, 3)) == pytest.approx(0.25 * light.std(axis=(1, 2, 3)))


def test_uneven_light_is_a_plane_of_unchanged_mean() -> None:
    gain = apply("uneven_illumination", np.ones((6, 33, 33, 3)), 2)[..., 0]
    down, right = gain[:, -1, 16] - gain[:, 0, 16], gain[:, 16, -1] - gain[:, 16, 0]
    assert np.hypot(down, right) == pytest.approx(0.5)
    assert gain.mean(axis=(1, 2)) == pytest.approx(1)
    assert gain[:, 0, 0] + gain[:, -1, -1] == pytest.approx(2)


def test_a_colour_cast_is_a_filter_of_the_density_it_names() -> None:
    light = np.random.default_rng(0).random((20, 5, 5, 3)) + 0.1
    density = -np.log(apply("colour_cast", light, 4) / light)
    assert density == pytest.approx(np.broadcast_to(density[:, :1, :1], density.shape))
    tint = density[:, 0, 0]
    assert tint.min(1) == pytest.approx(0)
    across_grey = tint - tint.mean(1, keepdims=True)
    assert np.linalg.norm(across_grey, axis=1) == pytest.approx(0.5)


def test_jpeg_is_pillows_at_the_quality_it_names(cells: np.ndarray) -> None:
    changed = corrupt(cells, names(12), "jpeg", 3)
    for image, ours in zip(cells, changed, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=20)
        assert np.array_equal(ours, np.asarray(Image.open(buffer)))


def test_unknown_names_and_severities_are_refused(cells: np.ndarray) -> None:
    with pytest.raises(UserError, match="'motion-blur'; did you mean 'motion_blur'"):
        corrupt(cells, names(12), "motion-blur", 1)
    with pytest.raises(UserError, match="no severity 5"):
        corrupt(cells, names(12), "jpeg", 5)
