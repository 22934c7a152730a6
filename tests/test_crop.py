"""Crops: which square of an image is kept."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from benchmark.data.cards import AroundCell, CentredPixels, load_cards
from benchmark.data.cell_finder import FINDER
from benchmark.data.prepare import crop_box, crop_facts, crop_fraction, decode

# ------------------------------------------------------------------ which square


@pytest.mark.parametrize(
    ("crop", "size", "expected"),
    [
        (0.6, (575, 575), 0.6),
        (CentredPixels(pixels=345), (400, 400), 345 / 400),
        (CentredPixels(pixels=250), (360, 363), 250 / 360),
        (CentredPixels(pixels=345), (300, 400), 1.0),
        (AroundCell(around_cell=144, cell_diameter=75), (720, 576), 0.25),
    ],
)
def test_the_side_of_the_square_as_a_share_of_the_shorter_side(crop, size, expected):
    assert crop_fraction(crop, size) == pytest.approx(expected)


def test_pixels_are_those_of_the_published_image_also_where_it_is_decoded_smaller(tmp_path):
    """libjpeg decodes a quarter of this image; 400 of its 1600 px are a quarter of that, too."""
    picture = np.zeros((1600, 1600, 3), np.uint8)
    picture[600:1000, 600:1000] = (200, 100, 50)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    square = decode(tmp_path / "a.jpg", CentredPixels(pixels=400), 32)[0].astype(int)
    assert np.abs(square[4:-4, 4:-4] - (200, 100, 50)).max() < 6
    wider = decode(tmp_path / "a.jpg", CentredPixels(pixels=800), 32)[0].astype(int)
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
        boxes[name] = crop_box(size, crop_fraction(crop, size))
    assert boxes["mll23"] == (0, 0, 288, 288)
    assert boxes["matek19"] == pytest.approx((27.5, 27.5, 372.5, 372.5))
    assert boxes["pbc"] == pytest.approx((55, 56.5, 305, 306.5))


def test_a_fraction_stands_for_itself_in_digests_and_the_finder_is_named():
    assert crop_facts(0.6) == 0.6
    assert crop_facts(CentredPixels(pixels=250)) == {"pixels": 250}
    around = {"around_cell": 120, "cell_diameter": 75}
    assert crop_facts(AroundCell(**around)) == around | {"finder": FINDER}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, (100, 60, 220, 180)),
        ((160, 120), (100, 60, 220, 180)),
        ((10, 20), (0, 0, 120, 120)),
        ((310, 230), (200, 120, 320, 240)),
    ],
)
def test_the_square_follows_the_cell_and_stays_within_the_image(cell, expected):
    assert crop_box((320, 240), 120 / 240, cell) == pytest.approx(expected)
