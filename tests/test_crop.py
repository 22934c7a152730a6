"""Crops: the right square, and the cell found where its mask says it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from benchmark.data.cards import load_cards
from benchmark.data.crop import (
    FINDER,
    AroundCell,
    CentredPixels,
    crop_box,
    crop_facts,
    crop_fraction,
    find_cell,
    otsu,
)
from benchmark.data.layouts import read_layout
from benchmark.data.prepare import decode

BACKGROUND, ERYTHROCYTE, NUCLEUS = (235, 225, 225), (215, 140, 140), (95, 60, 150)


def field(
    cell: tuple[float, float], width: int = 320, height: int = 240, radius: float = 22
) -> np.ndarray:
    """A field of pink erythrocytes, larger than the one nucleus, which is blue."""
    y, x = np.mgrid[:height, :width]
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = BACKGROUND
    for column in range(30, width, 75):
        for row in range(35, height, 75):
            picture[np.hypot(x - column, y - row) < 30] = ERYTHROCYTE
    picture[np.hypot(x - cell[0], y - cell[1]) < radius] = NUCLEUS
    return picture


# ------------------------------------------------------------------ which square


@pytest.mark.parametrize(
    ("crop", "size", "expected"),
    [
        (0.6, (575, 575), 0.6),
        (CentredPixels(pixels=345), (400, 400), 345 / 400),
        (CentredPixels(pixels=250), (360, 363), 250 / 360),
        (CentredPixels(pixels=345), (300, 400), 1.0),
        (AroundCell(around_cell=144), (720, 576), 0.25),
    ],
)
def test_the_side_of_the_square_as_a_share_of_the_shorter_side(crop, size, expected):
    assert crop_fraction(crop, size) == pytest.approx(expected)


def test_pixels_are_those_of_the_published_image_also_where_it_is_decoded_smaller(tmp_path):
    """libjpeg decodes a quarter of this image; 400 of its 1600 px are a quarter of that, too."""
    picture = np.zeros((1600, 1600, 3), np.uint8)
    picture[600:1000, 600:1000] = (200, 100, 50)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    square = decode(tmp_path / "a.jpg", CentredPixels(pixels=400), 32).astype(int)
    assert np.abs(square[4:-4, 4:-4] - (200, 100, 50)).max() < 6
    wider = decode(tmp_path / "a.jpg", CentredPixels(pixels=800), 32).astype(int)
    assert wider[3, 3].max() < 6


def test_the_crops_of_cyto11_show_25_micrometres_of_each_set():
    """Umer et al. 2023: MLL23 288 px whole, Matek centre 345 of 400, Acevedo centre 250 of 360."""
    cards = load_cards(REPOSITORY / "datasets")
    boxes = {}
    for name, domain, size in (
        ("mll23", "mll23", (288, 288)),
        ("matek19", "matek19", (400, 400)),
        ("pbc", "pbc-main", (360, 363)),
    ):
        crop = cards[name].domains[domain].crop_for("cyto11")
        image = Image.new("RGB", size)
        boxes[name] = crop_box(image, crop, crop_fraction(crop, size))
    assert boxes["mll23"] == (0, 0, 288, 288)
    assert boxes["matek19"] == pytest.approx((27.5, 27.5, 372.5, 372.5))
    assert boxes["pbc"] == pytest.approx((55, 56.5, 305, 306.5))


def test_a_fraction_stands_for_itself_in_digests_and_the_finder_is_named():
    assert crop_facts(0.6) == 0.6
    assert crop_facts(CentredPixels(pixels=250)) == {"pixels": 250}
    assert crop_facts(AroundCell(around_cell=220)) == {"around_cell": 220, "finder": FINDER}


# ------------------------------------------------------------------ finding the cell


def test_otsu_separates_two_groups_of_values():
    values = np.concatenate([np.full(900, 0.1), np.full(50, 0.9), np.full(50, 1.0)])
    assert 0.1 < otsu(values) < 0.9


@pytest.mark.parametrize("cell", [(60, 50), (160, 120), (250, 200), (290, 40)])
def test_the_blue_nucleus_is_found_among_larger_pink_cells(cell):
    assert np.hypot(*np.subtract(find_cell(Image.fromarray(field(cell))), cell)) < 4


def test_the_black_that_fills_a_rotated_image_is_no_nucleus():
    picture = field((160, 120))
    y, x = np.mgrid[:240, :320]
    picture[x + y < 90] = 0
    picture[x + y > 470] = (4, 2, 9)
    assert np.hypot(*np.subtract(find_cell(Image.fromarray(picture)), (160, 120))) < 4


def test_lobes_that_nearly_touch_are_found_together():
    picture = field((100, 120), radius=14)
    y, x = np.mgrid[:240, :320]
    picture[np.hypot(x - 129, y - 120) < 14] = NUCLEUS  # nearly touching
    assert np.hypot(*np.subtract(find_cell(Image.fromarray(picture)), (114.5, 120))) < 4


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (190, 120, 120)])
def test_an_image_of_one_colour_has_its_cell_in_the_middle(colour):
    assert find_cell(Image.new("RGB", (64, 48), colour)) == (32, 24)


def test_the_square_follows_the_cell_and_stays_within_the_image():
    crop = AroundCell(around_cell=120)
    for cell, expected in (
        ((160, 120), (100, 60, 220, 180)),
        ((10, 20), (0, 0, 120, 120)),
        ((310, 230), (200, 120, 320, 240)),
    ):
        image = Image.fromarray(field(cell))
        assert crop_box(image, crop, 120 / 240) == pytest.approx(expected, abs=4)


# ------------------------------------------------------------------ on real cells

SEED = 0


def composed_field(
    image: np.ndarray, mask: np.ndarray, patches: list[np.ndarray], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A field 2.4 times as wide, in which the image stands anywhere among patches without cell."""
    patch = patches[0].shape[0]
    height, width = (round(2.4 * side / patch) * patch for side in image.shape[:2])
    picture = np.zeros((height, width, 3), np.uint8)
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            chosen = patches[generator.integers(len(patches))]
            picture[top : top + patch, left : left + patch] = chosen
    top, left = (
        generator.integers(b - a + 1) for a, b in zip(mask.shape, (height, width), strict=True)
    )
    picture[top : top + image.shape[0], left : left + image.shape[1]] = image
    inside = np.zeros((height, width), bool)
    inside[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return picture, inside


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="needs images: set WBC_MIRROR")
@pytest.mark.parametrize("name", ["jtsc", "cellavision"])
def test_the_found_centre_lies_in_the_publishers_mask(name):
    """In the images as published, whose cells stand in the middle, and in fields composed of them,
    in whose middle a cell stands by chance."""
    card = load_cards(REPOSITORY / "datasets")[name]
    folder = Path(os.environ["WBC_MIRROR"]) / card.folder
    cells = [
        (
            np.asarray(Image.open(folder / row.path).convert("RGB")),
            np.asarray(Image.open(folder / row.mask)) > 0,
        )
        for row in read_layout(folder, card.layout).itertuples()
    ]
    corner = cells[0][1].shape[0] // 4
    patches = [
        image[where]
        for image, mask in cells
        for where in (np.s_[:corner, :corner], np.s_[-corner:, :corner])
        if not mask[where].any() and image[where].shape[:2] == (corner, corner)
    ]
    generator = np.random.default_rng(SEED)
    published, found, middle = [], [], []
    for image, mask in cells:
        x, y = find_cell(Image.fromarray(image))
        published.append(mask[int(y), int(x)])
        picture, inside = composed_field(image, mask, patches, generator)
        x, y = find_cell(Image.fromarray(picture))
        found.append(inside[int(y), int(x)])
        middle.append(inside[inside.shape[0] // 2, inside.shape[1] // 2])
    assert np.mean(published) >= 0.95
    assert np.mean(found) >= 0.95
    assert np.mean(middle) < 0.5, "the fields are no test: the middle would do"
