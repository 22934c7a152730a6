"""Domain cards: formulas against values known otherwise, and the files of a profile."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES
from PIL import Image
from support.fields import NUCLEUS, fields_of_toy

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import AroundCell
from benchmark.domains.cards import cut_squares
from benchmark.domains.facts import (
    colour_vectors,
    distances,
    frechet,
    nucleus_diameters,
    principal_components,
)
from benchmark.domains.frozen_features import features_of_weights


def test_the_distance_of_two_normal_samples_is_that_of_their_means_and_spreads() -> None:
    # One dimension: d² = (μ₁ - μ₂)² + (σ₁ - σ₂)², with sample standard deviations.
    first, second = np.array([[0.0], [2.0], [4.0]]), np.array([[10.0], [11.0], [12.0]])
    assert frechet(first, second) == pytest.approx(np.hypot(9, 1))


def test_the_distance_knows_directions_of_spread() -> None:
    # Covariances diag(4, 1) and diag(1, 4): tr(5) + tr(5) - 2 (2 + 2) = 2.
    corners = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]) * np.sqrt(3 / 4)
    wide, tall = corners * [2, 1], corners * [1, 2]
    assert np.cov(wide.T) == pytest.approx(np.diag([4, 1]))
    assert frechet(wide, tall) == pytest.approx(np.sqrt(2))
    assert frechet(wide, wide) == pytest.approx(0, abs=1e-6)


def test_distances_are_symmetric_and_stand_out_from_what_chance_gives() -> None:
    generator = np.random.default_rng(0)
    vectors = {
        "a": generator.normal(0, 1, (400, 3)),
        "b": generator.normal(0, 1, (60, 3)),
        "c": generator.normal(3, 1, (80, 3)),
    }
    table = distances(vectors)
    np.testing.assert_array_equal(table, table.T)
    chance = np.diag(table)
    assert (chance > 0).all()
    assert table.loc["a", "b"] < 2 * chance.max()
    assert table.loc["a", "c"] == pytest.approx(3 * np.sqrt(3), rel=0.1)


def test_components_keep_the_distances_of_low_dimensional_features() -> None:
    generator = np.random.default_rng(0)
    plane = np.linalg.qr(generator.normal(0, 1, (512, 2)))[0].T
    flat = {name: generator.normal(mean, 1, (50, 2)) for name, mean in (("a", 0), ("b", 5))}
    reduced = principal_components({name: points @ plane for name, points in flat.items()})
    ratios = [
        np.linalg.norm(reduced["a"][i] - reduced["b"][i])
        / np.linalg.norm(flat["a"][i] - flat["b"][i])
        for i in range(50)
    ]
    assert ratios == pytest.approx([ratios[0]] * 50)


def test_colour_is_told_in_cielab() -> None:
    # CIE 15: sRGB red is L* 53.24, a* 80.09, b* 67.20; half of the image is white, L* 100.
    image = np.full((1, 8, 8, 3), 255, np.uint8)
    image[:, :4] = (255, 0, 0)
    vector = colour_vectors(image)[0]
    assert vector[:3] == pytest.approx([(53.24 + 100) / 2, 80.09 / 2, 67.20 / 2], abs=0.02)
    assert vector[3:] == pytest.approx([(100 - 53.24) / 2, 80.09 / 2, 67.20 / 2], abs=0.02)


def test_the_nucleus_is_measured_without_its_neighbours() -> None:
    y, x = np.mgrid[:64, :64] + 0.5
    image = np.full((64, 64, 3), 230, np.uint8)
    image[np.hypot(y - 32, x - 32) < 20] = (190, 170, 220)  # cytoplasm
    image[np.hypot(y - 28, x - 28) < 8] = (80, 40, 140)  # two lobes
    image[np.hypot(y - 40, x - 40) < 6] = (80, 40, 140)
    image[np.hypot(y - 2, x - 32) < 10] = (80, 40, 140)  # a neighbour at the rim
    expected = 2 * np.sqrt(8**2 + 6**2) / 64
    assert nucleus_diameters(image[None])[0] == pytest.approx(expected, rel=0.05)


def test_an_image_without_a_nucleus_has_no_diameter() -> None:
    assert np.isnan(nucleus_diameters(np.full((1, 32, 32, 3), 200, np.uint8))[0])


def test_a_profile_gets_a_card_per_domain_and_its_numbers_without_pictures(
    prepared, wbc_shift
) -> None:
    outcome = wbc_shift("domain", "cards", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    folder = Path("results/tiny/domains")
    for domain in ("toy-a", "toy-b"):
        assert Image.open(folder / "cards" / f"{domain}.png").width > 1000
    assert (folder / "cards" / ".gitignore").read_text() == "*\n"
    facts = json.loads((folder / "domains.json").read_text())["domains"]
    assert facts["toy-a"]["classes"] == dict.fromkeys(facts["toy-a"]["classes"], 20)
    # toy-b is drawn 30 % darker.
    lightness = [facts[domain]["colour"]["L* mean"]["mean"] for domain in ("toy-a", "toy-b")]
    assert lightness[0] - lightness[1] > 10
    with (folder / "distances_colour.csv").open() as file:
        rows = {row["domain"]: row for row in csv.DictReader(file)}
    assert float(rows["toy-a"]["toy-b"]) > 3 * float(rows["toy-a"]["toy-a"])
    assert not (folder / "distances_features.csv").exists()
    assert sorted(f.name for f in folder.glob("*.*")) == [
        "distances_colour.csv",
        "distances_colour.pdf",
        "distances_colour.png",
        "domains.json",
        "domains.pdf",
        "domains.png",
    ]


def test_c2_a_card_shows_the_fields_whose_cells_were_found_least_surely(
    prepared, wbc_shift
) -> None:
    fields_of_toy(empty=1)
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    images = PreparedImages(Path(), "tiny", CLASSES)
    crop = AroundCell(around_cell=60, cell_diameter=40)
    asked = Path("datasets/raw/toy"), crop, "toy-a", images.domain("toy-a")
    cuts = cut_squares(images, *asked)
    fields = pd.read_parquet("datasets/cache/tiny/fields.parquet").query("found")
    least = fields.sort_values("contrast").iloc[0]
    caption, picture = cuts[0]
    assert caption == f"{Path(least['image']).name}, contrast {least['contrast']:.1f}"
    # The field, 200 x 160 px, with a square around the cell; beside it the cell in the middle.
    scale = picture.height / 160
    column, row = (round(side * scale) for side in (least["x"], least["y"]))
    assert np.abs(np.subtract(picture.getpixel((column, row)), NUCLEUS)).max() < 30
    corner = np.round((np.array([least["x"], least["y"]]) - 30) * scale).astype(int)
    frame = np.asarray(picture)[corner[1] - 3 : corner[1] + 4, corner[0] + 20].astype(int)
    assert (np.abs(frame - (0, 208, 255)).max(axis=1) < 20).any()
    middle = picture.getpixel((picture.width - picture.height // 2, picture.height // 2))
    assert np.abs(np.subtract(middle, NUCLEUS)).max() < 30
    assert wbc_shift("domain", "cards", "-p", "tiny").status == 0
    # Without the published images the card shows the rest.
    shutil.rmtree("datasets/raw/toy")
    assert cut_squares(images, *asked) == []
    assert wbc_shift("domain", "cards", "-p", "tiny").status == 0


def test_a_second_call_writes_the_same_bytes(prepared, wbc_shift) -> None:
    folder = Path("results/tiny/domains")
    wbc_shift("domain", "cards", "-p", "tiny")
    first = {path: path.read_bytes() for path in folder.rglob("*.*")}
    wbc_shift("domain", "cards", "-p", "tiny")
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == first


def test_domains_are_compared_in_the_features_of_a_finished_run(prepared, wbc_shift) -> None:
    run = "resnet10t-bn-ce/toy-a_to_others/seed0"
    outcome = wbc_shift("domain", "cards", "-p", "tiny", "--run", run)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert wbc_shift("train", "-p", "tiny").status == 0
    outcome = wbc_shift("domain", "cards", "-p", "tiny", "--run", run)
    assert outcome.status == 0, outcome.err
    assert Path("results/tiny/domains/distances_features.png").exists()


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="WBC_MIRROR is not set")
def test_weights_from_a_file_give_features() -> None:
    weights = Path(os.environ["WBC_MIRROR"]).parent / "weights"
    weights = weights / "squeezenet1_1_imagenet.safetensors"
    if not weights.exists():
        pytest.skip(f"no {weights.name} beside the mirror")
    features = features_of_weights("squeezenet1_1", weights, 64)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    assert features(pixels).shape == (3, 512)
    np.testing.assert_allclose(features(pixels[:1]), features(pixels)[:1], atol=1e-4)


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="WBC_MIRROR is not set")
def test_the_nucleus_agrees_with_the_published_masks() -> None:
    folder = Path(os.environ["WBC_MIRROR"]) / "segmentation_wbc" / "Dataset 2"
    images, truth = [], []
    for file in sorted(folder.glob("*.bmp")):
        box = (37, 37, 263, 263)
        images.append(np.asarray(Image.open(file).convert("RGB").crop(box).resize((64, 64))))
        mask = np.asarray(Image.open(file.with_suffix(".png")).convert("L").crop(box))
        truth.append(2 * np.sqrt((mask == 255).sum() / np.pi) / 226)
    ratio = nucleus_diameters(np.stack(images)) / truth
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.05)
    assert np.quantile(np.abs(ratio - 1), 0.5) < 0.05
