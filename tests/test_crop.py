"""Crops: which square of an image is kept."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image, ImageOps

from benchmark.audit.checks import Audit
from benchmark.audit.images import look_at, small_picture
from benchmark.audit.pairs import of_one_family
from benchmark.data.cards import AroundBox, AroundCell, CentredPixels, load_cards
from benchmark.data.cell_finder import FINDER
from benchmark.data.fields import Square
from benchmark.data.manifests import read_manifest
from benchmark.data.prepare import crop_box, crop_facts, crop_fraction, decode, placed
from benchmark.errors import UserError
from benchmark.files import read_json

# ------------------------------------------------------------------ which square


@pytest.mark.parametrize(
    ("crop", "size", "expected"),
    [
        (0.6, (575, 575), 0.6),
        (CentredPixels(pixels=345), (400, 400), 345 / 400),
        (CentredPixels(pixels=250), (360, 363), 250 / 360),
        (CentredPixels(pixels=345), (300, 400), 1.0),
        (AroundCell(around_cell=144, cell_diameter=75), (720, 576), 0.25),
        (AroundBox(around_box=720), (640, 480), 1.5),
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


# ------------------------------------------------------------------ around a box


def reflected(pixels: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """A square of whole pixels, mirrored beyond the edge: -1 shows 1, n shows n - 2."""

    def places(start: int, whole: int) -> np.ndarray:
        there = np.abs(np.arange(start, start + side))
        return np.where(there >= whole, 2 * (whole - 1) - there, there)

    height, width = pixels.shape[:2]
    return pixels[places(top, height)][:, places(left, width)]


@pytest.mark.parametrize("centre", [(100, 80), (3, 80), (157, 5), (0, 119), (159, 119)])
def test_a_square_around_a_box_keeps_its_side_and_is_mirrored_beyond_the_edge(tmp_path, centre):
    noise = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "field.png")
    found = decode(tmp_path / "field.png", Square(*centre, 64), 64)[0]
    np.testing.assert_array_equal(found, reflected(noise, centre[0] - 32, centre[1] - 32, 64))


def test_a_square_larger_than_its_field_is_mirrored_all_round(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (50, 60, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "field.png")
    found = decode(tmp_path / "field.png", Square(30, 25, 90), 90)[0]
    np.testing.assert_array_equal(found, reflected(noise, -15, -20, 90))


BOXED = {"box_x": "10", "box_y": "20", "box_w": "30", "box_h": "40"}


def test_the_square_of_a_row_is_around_the_centre_of_its_box():
    rows = pd.DataFrame([{"path": "a.png"} | BOXED])
    assert placed(AroundBox(around_box=50), rows, "m.csv") == [Square(25, 40, 50)]
    assert placed(0.6, rows, "m.csv") == 0.6


@pytest.mark.parametrize("wrong", [{"box_w": "0"}, {"box_x": ""}, {"box_y": "nan"}])
def test_a_row_without_a_box_is_refused_by_name(wrong):
    rows = pd.DataFrame([{"path": "a.png"} | BOXED | wrong])
    with pytest.raises(UserError, match=r"m\.csv: a\.png has no box"):
        placed(AroundBox(around_box=50), rows, "m.csv")
    with pytest.raises(UserError, match=r"m\.csv has no column box_h"):
        placed(AroundBox(around_box=50), rows.drop(columns="box_h"), "m.csv")


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="WBC_MIRROR is not set")
def test_cells_of_bccd_wide_are_what_pillow_cuts_around_their_boxes():
    """Cropped whole, mirrored with ImageOps and pasted: another way to the same square."""
    card = load_cards(REPOSITORY / "datasets")["bccd-wide"]
    table = read_manifest(REPOSITORY / "datasets", card)
    folder = Path(os.environ["WBC_MIRROR"]) / card.folder
    if not (folder / table["path"].iloc[0]).exists():
        pytest.skip("the mirror has no fields of BCCD")
    crop = card.domains["bccd-wide"].crop
    for row, square in list(zip(table.itertuples(), placed(crop, table, "m"), strict=True))[::25]:
        field = Image.open(folder / row.path)
        width, height = field.size
        sheet = Image.new("RGB", (3 * width - 2, 3 * height - 2))
        for down in (0, 2, 1):
            for right in (0, 2, 1):
                tile = ImageOps.mirror(field) if right != 1 else field
                tile = ImageOps.flip(tile) if down != 1 else tile
                sheet.paste(tile, (right * (width - 1), down * (height - 1)))
        half = crop.around_box / 2
        x = int(row.box_x) + int(row.box_w) / 2 + width - 1
        y = int(row.box_y) + int(row.box_h) / 2 + height - 1
        box = (x - half, y - half, x + half, y + half)
        expected = np.asarray(sheet.resize((112, 112), Image.Resampling.LANCZOS, box=box))
        np.testing.assert_array_equal(decode(folder / row.path, square, 112)[0], expected)


def boxed_toy() -> pd.DataFrame:
    """Make the cells of the toy project's domains ones of fields, their boxes drawn by chance."""
    path = Path("datasets/manifests/toy.csv")
    table = pd.read_csv(path)
    places = np.random.default_rng(3).integers(2, 30, (len(table), 2))
    table[["box_x", "box_y"]], table["box_w"], table["box_h"] = places, 20, 16
    table.to_csv(path, index=False)
    text = Path("datasets/toy.yaml").read_text()
    Path("datasets/toy.yaml").write_text(text.replace("crop: 0.9", "crop: {around_box: 40}"))
    return table.set_index("path")


def test_prepare_audit_and_cards_show_what_is_around_the_box(prepared, wbc_shift):
    text = Path("params.yaml").read_text()
    assert text.count("    domains: [toy-a, toy-b]\n") == 1
    framings = "    framings: {tight: {crop: 0.5}}\n"
    Path("params.yaml").write_text(
        text.replace("    domains: [toy-a, toy-b]\n", "    domains: [toy-a, toy-b]\n" + framings)
    )
    table = boxed_toy()
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    rows = pd.read_parquet("datasets/cache/tiny/manifest.parquet").query("domain == 'toy-b'")
    image = rows["image"].iloc[4]
    box = table.loc[image]
    centre = (box["box_x"] + 10, box["box_y"] + 8)
    for name, side in (("toy-b", 40), ("toy-b@tight", 20)):
        square = decode(Path("datasets/raw/toy") / image, Square(*centre, side), 48)[0]
        np.testing.assert_array_equal(np.load(f"datasets/cache/tiny/{name}.npy")[4], square)
    facts = read_json(Path("results/tiny/data.json"))
    assert facts["domains"]["toy-b"]["crop"] == {"around_box": 40}
    assert facts["framings"]["tight"]["domains"]["toy-b"]["crop"] == {"around_box": 20}
    assert "unchanged" in wbc_shift("prepare", "-p", "tiny").out
    # Another box is another cell: the array is made again, and its digest is another.
    edited = pd.read_csv("datasets/manifests/toy.csv")
    edited.loc[edited["path"] == image, "box_x"] += 5
    edited.to_csv("datasets/manifests/toy.csv", index=False)
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    again = read_json(Path("results/tiny/data.json"))["domains"]
    assert again["toy-a"]["digest"] == facts["domains"]["toy-a"]["digest"]
    assert again["toy-b"]["digest"] != facts["domains"]["toy-b"]["digest"]
    assert wbc_shift("domain", "cards", "-p", "tiny").status == 0
    outcome = wbc_shift("audit", "-p", "tiny")
    assert Path("results/tiny/audit.html").exists(), outcome.err


def test_the_audit_looks_at_the_square_of_a_field_and_not_at_all_of_it(tmp_path):
    """Two cells of one field are two looks; the store of whole images is not mixed with them."""
    noise = np.random.default_rng(1).integers(0, 256, (128, 256, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "field.png")
    file, squares = tmp_path / "field.png", [Square(64, 64, 128), Square(192, 64, 128), None]
    first, second, whole = look_at([file] * 3, tmp_path, squares)
    assert first.sha256 == second.sha256 == whole.sha256
    grey = np.asarray(
        Image.fromarray(noise).resize((128, 64), Image.Resampling.LANCZOS).convert("L")
    )
    for look, part in ((first, grey[:, :64]), (second, grey[:, 64:])):
        assert np.abs(look.miniature[4:-4, 4:-4].astype(int) - part[4:-4, 4:-4]).max() <= 2
    np.testing.assert_array_equal(look_at([file], tmp_path)[0].miniature, whole.miniature)
    picture = np.asarray(small_picture(file, 128, square=Square(64, 64, 128)))
    np.testing.assert_array_equal(picture, noise[:, :128])


def test_pairs_of_two_sets_of_one_family_are_counted_and_no_find():
    cards = load_cards(REPOSITORY / "datasets")
    images = pd.DataFrame({"dataset": ["bccd", "bccd-wide", "bccd-wide", "chula"]})
    pairs = pd.DataFrame({"first": [0, 1, 0, 0], "second": [1, 2, 2, 3]})
    audit = Audit()
    assert of_one_family(audit, cards, images, pairs).tolist() == [True, False, True, False]
    (known,) = audit.known
    assert known.text == (
        "bccd and bccd-wide are of one family: 2 pairs of one cell were found in them"
    )
