"""The cell of a field is found where it was drawn, and where its publisher's mask says it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image
from scipy import ndimage
from support.fields import BACKGROUND, DIAMETER, NUCLEUS, draw_field, fields_of_toy

from benchmark.data.cards import AroundCell, load_cards
from benchmark.data.cell_finder import LEAST_CONTRAST, find_cell, otsu
from benchmark.data.layouts import read_layout
from benchmark.data.prepare import crop_box, crop_fraction, decode, scaled

ERYTHROCYTE = (215, 140, 140)


def pink_and_blue(cell: tuple[float, float], radius: float = 22) -> np.ndarray:
    """A field of pink erythrocytes, larger than the one nucleus, which is blue."""
    y, x = np.mgrid[:240, :320]
    picture = np.empty((240, 320, 3), np.uint8)
    picture[:] = BACKGROUND
    for column in range(30, 320, 75):
        for row in range(35, 240, 75):
            picture[np.hypot(x - column, y - row) < 30] = ERYTHROCYTE
    picture[np.hypot(x - cell[0], y - cell[1]) < radius] = NUCLEUS
    return picture


def distance(picture: np.ndarray, diameter: float, truth: tuple[float, float]) -> float:
    """Pixels between the found centre and the true one."""
    return float(np.hypot(*np.subtract(find_cell(Image.fromarray(picture), diameter)[:2], truth)))


def test_otsu_separates_two_groups_of_values() -> None:
    values = np.concatenate([np.full(900, 0.1), np.full(50, 0.9), np.full(50, 1.0)])
    assert 0.1 < otsu(values) < 0.9
    assert otsu(np.full(9, 0.3)) == 0.3


# ------------------------------------------------------------------ in drawn fields


def test_c2_the_cell_is_found_among_dense_red_cells_above_a_dark_edge() -> None:
    """Within 20 px in 95 of 100 fields of 720 x 576 px; density in red light finds 1 in 20."""
    found = []
    for seed in range(40):
        field = draw_field(seed)
        found.append(distance(field.pixels, DIAMETER, field.nucleus))
    assert np.mean(np.array(found) < 20) >= 0.95
    assert np.median(found) < 2


def test_c2_the_card_of_lisc_shows_the_whole_cell_and_little_else() -> None:
    """A cell is 0.6 of the side of Raabin's and PBC's crops; of 220 px it was a third."""
    crop = load_cards(REPOSITORY / "datasets")["lisc"].domains["lisc"].crop_for("wbc5")
    for seed in range(5):
        field = draw_field(seed)
        image = Image.fromarray(field.pixels)
        centre = find_cell(image, crop.cell_diameter).centre
        box = crop_box(image.size, crop_fraction(crop, image.size), centre)
        left, top, right, bottom = (round(side) for side in box)
        shown = field.outline[top:bottom, left:right]
        assert shown.sum() > 0.95 * field.outline.sum()
        assert 0.4 < 2 * np.sqrt(shown.mean() / np.pi) < 0.8


def test_c2_every_framing_finds_the_same_cell(tmp_path) -> None:
    crop = AroundCell(around_cell=120, cell_diameter=75)
    Image.fromarray(draw_field(0).pixels).save(tmp_path / "field.png")
    whole = decode(tmp_path / "field.png", crop, 120)[0].astype(float)
    tight = decode(tmp_path / "field.png", scaled(crop, 0.8), 96)[0].astype(float)
    assert np.abs(whole[12:-12, 12:-12] - tight).mean() < 3


@pytest.mark.parametrize("lines", [0, 4])
def test_c2_a_dark_line_at_the_edge_is_no_cell(lines: int) -> None:
    picture = pink_and_blue((160, 100))
    if lines:
        picture[-lines:] = (25, 12, 20)
    assert distance(picture, 60, (160, 100)) < 4


@pytest.mark.parametrize("cell", [(60, 50), (160, 120), (250, 200), (290, 40)])
def test_the_blue_nucleus_is_found_among_larger_pink_cells(cell) -> None:
    assert distance(pink_and_blue(cell), 60, cell) < 4


def test_the_black_that_fills_a_rotated_image_is_no_nucleus() -> None:
    picture = pink_and_blue((160, 120))
    y, x = np.mgrid[:240, :320]
    picture[x + y < 90] = 0
    picture[x + y > 470] = (4, 2, 9)
    assert distance(picture, 60, (160, 120)) < 4


def test_lobes_that_nearly_touch_are_found_together() -> None:
    picture = pink_and_blue((100, 120), radius=14)
    y, x = np.mgrid[:240, :320]
    picture[np.hypot(x - 129, y - 120) < 14] = NUCLEUS  # nearly touching
    assert distance(picture, 80, (114.5, 120)) < 4


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (190, 120, 120)])
def test_an_image_of_one_colour_has_no_cell(colour) -> None:
    found = find_cell(Image.new("RGB", (64, 48), colour), 30)
    assert found == (32, 24, 0)
    assert not found.is_cell


@pytest.mark.parametrize("size", [(16, 16), (17, 400), (400, 17)])
def test_an_image_smaller_than_a_cell_is_searched_too(size) -> None:
    image = Image.effect_noise(size, 60).convert("RGB")
    found = find_cell(image, 75)
    assert 0 <= found.x <= size[0]
    assert 0 <= found.y <= size[1]


def test_red_cells_alone_stand_out_less_than_a_white_cell_does() -> None:
    picture = pink_and_blue((160, 100))
    empty = pink_and_blue((-90, -90))
    noise = np.random.default_rng(0).normal(0, 4, picture.shape)
    with_cell, without = (
        find_cell(Image.fromarray((p + noise).clip(0, 255).astype(np.uint8)), 60)
        for p in (picture, empty)
    )
    assert with_cell.contrast > 2 * LEAST_CONTRAST
    assert not without.is_cell


# ------------------------------------------------------------------ in a project


def test_c2_a_field_without_a_cell_is_left_out_counted_and_named(prepared, wbc_shift) -> None:
    before = json.loads(Path("results/tiny/data.json").read_text())["domains"]
    fields_of_toy(empty=2)
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    rows = pd.read_parquet("datasets/cache/tiny/manifest.parquet").query("domain == 'toy-a'")
    fields = pd.read_parquet("datasets/cache/tiny/fields.parquet")
    missed = fields.loc[~fields["found"], "image"].tolist()
    assert len(missed) == 2
    assert set(fields["image"]) - set(missed) == set(rows["image"])
    assert len(np.load("datasets/cache/tiny/toy-a.npy")) == len(rows) == len(fields) - 2
    assert f"no cell stands out in 2 of {len(fields)} fields" in " ".join(outcome.out.split())
    assert all(path in outcome.out for path in missed)
    assert "cells found least surely: " in " ".join(outcome.out.split())
    after = json.loads(Path("results/tiny/data.json").read_text())["domains"]
    assert set(after["toy-a"]["fields"]["left_out"]) == set(missed)
    assert after["toy-a"]["images"] == len(rows)
    assert after["toy-b"] == before["toy-b"], "a centred set has the digest that it had"


def test_c2_fields_without_any_cell_are_refused(prepared, wbc_shift) -> None:
    fields_of_toy(empty=1000)
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "check crop.cell_diameter (40 px) in datasets/toy.yaml" in outcome.err


# ------------------------------------------------------------------ in real images

mirror = pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="needs images: set WBC_MIRROR")


@mirror
@pytest.mark.parametrize(("name", "diameter"), [("jtsc", 75), ("cellavision", 156)])
def test_c2_the_found_centre_is_that_of_the_publishers_mask(name: str, diameter: float) -> None:
    """The masks are 255 in the nucleus and 128 in the cytoplasm: 20 px from the nucleus's centre at
    most, and where the cell is as large as LISC's, from the cell's centre too."""
    card = load_cards(REPOSITORY / "datasets")[name]
    folder = Path(os.environ["WBC_MIRROR"]) / card.folder
    nuclei, cells = [], []
    for row in read_layout(folder, card.layout).itertuples():
        image = np.asarray(Image.open(folder / row.path).convert("RGB"))
        mask = np.asarray(Image.open(folder / row.mask).convert("L"))
        parts, number = ndimage.label(mask > 0)
        cell = parts == 1 + np.argmax(ndimage.sum(mask > 0, parts, range(1, number + 1)))
        for part, found in ((cell & (mask == 255), nuclei), (cell, cells)):
            y, x = ndimage.center_of_mass(part)
            found.append(distance(image, diameter, (x + 0.5, y + 0.5)))
    assert np.mean(np.array(nuclei) < 20) >= 0.95
    assert np.mean(np.array(cells) < 20 * diameter / 75) >= 0.95


@mirror
def test_c2_the_found_centre_lies_in_the_box_of_a_white_cell() -> None:
    """In the fields of BCCD, 640 x 480 px, with their boxes, which lie beside some mirrors."""
    folder = Path(os.environ["WBC_MIRROR"]) / "bccd_fields" / "BCCD"
    table = folder.parents[2] / "manifests" / "bccd_fields.csv"
    if not table.exists():
        pytest.skip(f"no {table}")
    inside = []
    for field, boxes in pd.read_csv(table).dropna(subset=["xmin"]).groupby("field"):
        x, y, _ = find_cell(Image.open(folder / "JPEGImages" / field).convert("RGB"), 200)
        inside.append(any(b.xmin < x < b.xmax and b.ymin < y < b.ymax for b in boxes.itertuples()))
    assert len(inside) > 300
    assert np.mean(inside) >= 0.95
