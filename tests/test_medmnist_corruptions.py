"""The corruptions of BloodMNIST-C: as defined, or different as docs/corruptions.md says."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from scipy import ndimage

from benchmark.data.corruptions import CORRUPTIONS, corrupt
from benchmark.data.medmnist_corruptions import MEDMNIST_C
from benchmark.scenarios import expand_scenario

NAMES = [f"medmnist_{name}" for name in MEDMNIST_C]
RANDOM = ["medmnist_motion_blur", "medmnist_stain_deposit", "medmnist_bubble"]
SEVERITIES = (1, 2, 3, 4, 5)


PUBLISHED = REPOSITORY / "datasets" / "images" / "pbc" / "PBC_dataset_normal_DIB"


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    """The middle of four cells of PBC, of the side that published lengths are of, and an even grey:
    uint8 [5, 224, 224, 3]."""
    files = [sorted(folder.iterdir())[0] for folder in sorted(PUBLISHED.iterdir())[:4]]
    pictures = [Image.open(file).convert("RGB").crop((80, 80, 280, 280)) for file in files]
    even = Image.new("RGB", (224, 224), (200, 200, 200))
    return np.stack([np.asarray(picture.resize((224, 224))) for picture in (*pictures, even)])


def names(count: int) -> list[str]:
    return [f"cells/{i}.png" for i in range(count)]


def changed(cells: np.ndarray, name: str, severity: int, images: list[str]) -> np.ndarray:
    """Mean absolute change of each image, grey levels."""
    found = corrupt(cells, images, name, severity)
    assert found.shape == cells.shape
    assert found.dtype == np.uint8
    return np.abs(found.astype(int) - cells).mean(axis=(1, 2, 3))


def test_names_and_severities_are_those_of_bloodmnist_c() -> None:
    assert [(name, len(strengths)) for name, (_, strengths) in MEDMNIST_C.items()] == [
        ("pixelate", 5),
        ("jpeg_compression", 5),
        ("defocus_blur", 5),
        ("motion_blur", 5),
        ("brightness_up", 5),
        ("brightness_down", 5),
        ("contrast_up", 5),
        ("contrast_down", 5),
        ("saturate", 5),
        ("stain_deposit", 5),
        ("bubble", 5),
    ]


def test_a_scenario_names_ours_or_theirs_and_never_both() -> None:
    _, ours = expand_scenario("a->corruptions", ["a", "b"])
    _, theirs = expand_scenario("a->corruptions_medmnist", ["a", "b"])
    assert (len(ours), len(theirs)) == (10 * 4, 11 * 5)
    assert not any("medmnist" in target for target in ours)
    assert theirs[:2] == ["a:medmnist_pixelate:1", "a:medmnist_pixelate:2"]
    assert theirs[-1] == "a:medmnist_bubble:5"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", [64, 224])
def test_each_severity_is_farther_from_the_original(
    name: str, side: int, cells: np.ndarray
) -> None:
    shown = [np.asarray(Image.fromarray(c).resize((side, side), 1)) for c in cells[:4]]
    many = np.repeat(np.stack(shown), 10 if name in RANDOM[1:] else 1, axis=0)
    changes = [changed(many, name, s, names(len(many))).mean() for s in SEVERITIES]
    assert changes[0] > 0.1
    # The published numbers of deposits are the same at severities 3 and 4.
    for step, more in enumerate(np.diff(changes), start=1):
        if (name, step) == ("medmnist_stain_deposit", 3):
            assert abs(more) < 0.25 * changes[2]
        else:
            assert more > 0, f"severity {step + 1} after {step}"


@pytest.mark.parametrize("name", NAMES)
def test_chance_is_of_the_image_and_of_nothing_else(name: str, cells: np.ndarray) -> None:
    cells = cells[:, ::4, ::4]
    whole = corrupt(cells, names(5), name, 3)
    assert np.array_equal(corrupt(cells[::-1], names(5)[::-1], name, 3)[::-1], whole)
    same = corrupt(np.repeat(cells[:1], 5, axis=0), names(5), name, 3)
    assert len({image.tobytes() for image in same}) == (5 if name in RANDOM else 1)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_the_mean_of_the_pixels_that_fall_together(
    severity: int, cells: np.ndarray
) -> None:
    """At the fourth of the side, where boxes are of whole pixels: means of 4 × 4."""
    small = int(224 * (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1])
    found = corrupt(cells, names(5), "medmnist_pixelate", severity)
    assert all(len(np.unique(image[:, :1], axis=0)) <= small for image in found)
    if 224 % small == 0:
        step = 224 // small
        boxes = cells.reshape(5, small, step, small, step, 3).mean(axis=(2, 4))
        expected = boxes.repeat(step, axis=1).repeat(step, axis=2)
        assert np.abs(found - expected).max() <= 1  # Pillow rounds after each axis


@pytest.mark.parametrize(("severity", "quality"), [(1, 50), (2, 30), (3, 15), (4, 10), (5, 7)])
def test_jpeg_is_pillows(severity: int, quality: int, cells: np.ndarray) -> None:
    for image, found in zip(
        cells, corrupt(cells, names(5), "medmnist_jpeg_compression", severity), strict=True
    ):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        assert np.array_equal(found, np.asarray(Image.open(buffer)))


@pytest.mark.parametrize(("severity", "radius"), [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)])
def test_defocus_is_a_disc_of_whole_pixels(severity: int, radius: int, cells: np.ndarray) -> None:
    place = np.arange(-8, 9)
    disc = np.hypot(place, place[:, None]) <= radius
    found = corrupt(cells, names(5), "medmnist_defocus_blur", severity)
    for image, own in zip(cells, found, strict=True):
        edge = np.pad(image, ((8, 8), (8, 8), (0, 0)), mode="reflect").astype(float)[:40, :40]
        around = np.lib.stride_tricks.sliding_window_view(edge, (17, 17), axis=(0, 1))
        expected = (around * disc).sum(axis=(3, 4)) / disc.sum()
        assert np.array_equal(own[:24, :24], np.floor(expected + 1e-6))


@pytest.mark.parametrize(
    ("severity", "radius", "sigma"),
    [(1, 3, 3), (2, 5, 5), (3, 10, 5), (4, 10, 7), (5, 10, 9)],
)
def test_motion_is_half_a_gaussian_in_one_direction(severity: int, radius: int, sigma: int) -> None:
    """Of a single bright pixel: what it becomes lies on a line to its left, no steeper than 45°."""
    point = np.zeros((6, 224, 224, 3), np.uint8)
    point[:, 112, 150] = 255
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    for spot in corrupt(point, names(6), "medmnist_motion_blur", severity)[..., 0]:
        down, across = np.nonzero(spot)
        assert across.max() == 150
        assert (np.abs(down - 112) <= 150 - across + 1).all()
        far = np.hypot(down - 112, across - 150)
        shares = spot[spot > 0] / 255.0
        assert shares.sum() == pytest.approx(1, abs=0.06)  # each pixel is rounded
        steps = np.arange(2 * radius + 1)
        mean = (steps * weights).sum() / weights.sum()
        assert (shares * far).sum() / shares.sum() == pytest.approx(mean, abs=0.6)
        assert far.max() <= 2 * radius + 0.71


def test_motion_moves_an_image_by_the_mean_of_its_weights(cells: np.ndarray) -> None:
    steps = np.arange(21)
    weights = np.exp(-0.5 * (steps / 9) ** 2)
    mean = (weights * steps).sum() / weights.sum()
    ramp = np.broadcast_to(np.arange(224, dtype=np.uint8)[None, :, None], (6, 224, 224, 3))
    found = corrupt(ramp.copy(), names(6), "medmnist_motion_blur", 5).astype(float)
    moved = (found - ramp)[:, 100, 100, 0]
    assert (moved <= mean + 0.5).all()
    assert (moved >= mean / np.sqrt(2) - 1).all()


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("medmnist_brightness_up", (1.1, 1.2, 1.3, 1.35, 1.4)),
        ("medmnist_brightness_down", (0.9, 0.8, 0.7, 0.6, 0.5)),
        ("medmnist_contrast_up", (1.1, 1.15, 1.2, 1.25, 1.3)),
        ("medmnist_contrast_down", (0.9, 0.8, 0.7, 0.6, 0.5)),
    ],
)
def test_brightness_and_contrast_are_factors(
    name: str, factors: tuple[float, ...], cells: np.ndarray
) -> None:
    for severity, factor in enumerate(factors, start=1):
        for image, found in zip(cells, corrupt(cells, names(5), name, severity), strict=True):
            grey = (image @ np.array([0.299, 0.587, 0.114])).mean()
            about = 0 if "brightness" in name else grey
            expected = (about + factor * (image - about)).clip(0, 255)
            assert np.abs(found - expected).max() <= 1.5  # both cut to whole numbers


@pytest.mark.parametrize(
    ("severity", "more"), [(1, 0.05), (2, 0.10), (3, 0.15), (4, 0.17), (5, 0.20)]
)
def test_saturation_grows_in_hsv(severity: int, more: float) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    colours[0, 0], colours[0, 1], colours[0, 2] = 0, 120, 255
    found = corrupt(colours[None], names(1), "medmnist_saturate", severity)[0]
    for colour, own in zip(colours.reshape(-1, 3), found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(colour / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, min(saturation + more, 1), value))
        assert np.abs(own - expected).max() <= 1


@pytest.mark.parametrize(
    ("severity", "most", "side"), [(1, 1, 24), (2, 2, 24), (3, 3, 24), (5, 3, 32)]
)
def test_deposits_are_black_as_many_and_as_large_as_published(
    severity: int, most: int, side: int
) -> None:
    """The ten published silhouettes of 24 px cover 276 to 447 pixels, those of 32 px 478 to 626."""
    images = np.full((60, 224, 224, 3), 200, np.uint8)
    found = corrupt(images, names(60), "medmnist_stain_deposit", severity)
    assert set(np.unique(found)) == {0, 200}
    counts, areas = [], []
    for image in found[..., 0] == 0:
        assert not image[:10].any()
        assert not image[-10:].any()
        assert not image[:, :10].any()
        assert not image[:, -10:].any()
        number = ndimage.label(image, np.ones((3, 3)))[1]
        counts.append(number)
        if number == 1:
            rows, columns = np.nonzero(image)
            alone = max(np.ptp(rows), np.ptp(columns)) < side
            areas += [image.sum()] if alone else []
    assert min(counts) >= 1
    assert max(counts) == most
    assert np.mean(areas) == pytest.approx(360 if side == 24 else 554, rel=0.25)


@pytest.mark.parametrize(
    ("severity", "largest", "most"), [(1, 5, 10), (2, 7, 10), (3, 10, 10), (4, 12, 12), (5, 15, 12)]
)
def test_bubbles_are_white_by_the_shares_that_were_published(
    severity: int, largest: int, most: int
) -> None:
    images = np.full((40, 224, 224, 3), 100, np.uint8)
    found = corrupt(images, names(40), "medmnist_bubble", severity)
    # 100 and 130 of 255 parts of white upon a grey of 100.
    assert set(np.unique(found)) == {100, 161, 179}
    discs = found[..., 0] == 161
    assert discs.sum(axis=(1, 2)).max() <= most * np.pi * (largest + 1) ** 2
    assert discs.sum(axis=(1, 2)).min() > 7 * np.pi * 2**2 * 0.5
    counts = [ndimage.label(image > 100)[1] for image in found[..., 0]]
    assert max(counts) <= most
    assert max(counts) >= 7


@pytest.mark.parametrize("side", [48, 64, 112])
def test_an_image_of_another_side_is_corrupted_as_large_as_published(side: int) -> None:
    """A deposit covers as much of the image's area at every side."""
    images = np.full((20, side, side, 3), 200, np.uint8)
    large = np.full((20, 224, 224, 3), 200, np.uint8)
    for name in ("medmnist_stain_deposit", "medmnist_bubble"):
        own, published = (changed(i, name, 5, names(20)) for i in (images, large))
        assert own == pytest.approx(published, rel=0.12)  # in whole grey levels


def test_enlarging_and_reducing_alone_changes_little(cells: np.ndarray) -> None:
    from benchmark.data.medmnist_corruptions import resized

    small = np.stack([resized(cell, 64) for cell in cells])
    again = np.stack([resized(resized(cell, 224), 64) for cell in small])
    assert np.abs(again.astype(int) - small).mean() < 1


@pytest.mark.parametrize("name", NAMES)
def test_docs_say_of_each_whether_it_is_the_same(name: str) -> None:
    text = (Path(REPOSITORY) / "docs" / "corruptions.md").read_text()
    assert f"| `{name.removeprefix('medmnist_')}` |" in text
    assert name in CORRUPTIONS
