"""Beyond the range of the source's own images nothing is accepted, and it is said why."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image
from support.fields import draw_field

from benchmark.data.cards import load_cards
from benchmark.data.prepare import decode_all
from benchmark.domains.ranges import (
    LEAST_IMAGES,
    SourceRange,
    appearance,
    beyond,
    fit_range,
)
from benchmark.errors import UserError
from benchmark.phantom.acquisition import draw, slide_acquisition
from benchmark.phantom.specimen import MORPHOLOGIES

FLAT = SourceRange("a", 100, 20, [0.0] * 8, np.diag([4.0] * 8).tolist(), 3.0)
"""Mean 0 and standard deviation 2 of everything; distances up to 3 are its own."""


def phantoms(domain: str, number: int, first: int = 0) -> np.ndarray:
    """Cells of the phantom profile, cropped and resized as it does: uint8 [N, 48, 48, 3]."""
    acquisition = load_cards(REPOSITORY / "datasets")["phantom"].domains[domain].acquisition
    kinds, pixels = list(MORPHOLOGIES), []
    for seed in range(first, first + number):
        slide = slide_acquisition(acquisition, f"{domain}-slide{seed % 6}")
        image = Image.fromarray(draw(kinds[seed % len(kinds)], slide, seed))
        box = (9.6, 9.6, 86.4, 86.4)
        pixels.append(np.asarray(image.resize((48, 48), Image.Resampling.LANCZOS, box=box)))
    return np.stack(pixels)


@pytest.fixture(scope="module")
def phantom_a() -> SourceRange:
    """The range of the phantom profile's source."""
    return fit_range(
        "phantom-a",
        appearance(phantoms("phantom-a", 120)),
        appearance(phantoms("phantom-a", 60, 1000)),
    )


def test_c5_the_distance_is_mahalanobis_and_names_what_is_unlike() -> None:
    facts = np.zeros((3, 8))
    facts[1, 6] = 8.0
    facts[2, :3] = 4.0
    assert FLAT.distances(facts) == pytest.approx([0, 4, np.sqrt(12)])
    nothing = np.full((1, 8), np.nan)
    reasons = beyond([FLAT], np.concatenate([facts, nothing, np.zeros((96, 8))]))
    assert reasons[0] == ""
    assert reasons[1] == "size of the nucleus unlike a's (distance 4.0, its own images up to 3.0)"
    assert reasons[2].startswith("colour of the nucleus unlike a's (distance 3.5,")
    assert reasons[3] == "unlike a's images: no nucleus is found in the middle"
    assert set(reasons[4:]) == {""}


def test_c5_an_image_like_one_of_two_sources_is_like_the_source() -> None:
    other = SourceRange("b", 100, 20, [10.0] * 8, np.diag([4.0] * 8).tolist(), 3.0)
    facts = np.stack([np.zeros(8), np.full(8, 10.0), np.full(8, 5.0), *np.zeros((30, 8))])
    assert [bool(why) for why in beyond([FLAT, other], facts)][:3] == [False, False, True]


@pytest.mark.parametrize(("foreign", "rejected"), [(0, 0), (1, 1), (15, 15), (16, 100)])
def test_c5_a_folder_of_another_laboratory_is_rejected_whole(foreign: int, rejected: int) -> None:
    """From more than 15 in 100 unlike images on, the others are like the source's by chance."""
    facts = np.zeros((100, 8))
    facts[:foreign] = 20
    reasons = beyond([FLAT], facts)
    assert sum(map(bool, reasons)) == rejected
    assert (reasons[-1] == f"{foreign} of the folder's 100 images are unlike a's") == (foreign > 15)


def test_c5_one_odd_image_does_not_condemn_a_small_folder() -> None:
    facts = np.zeros((5, 8))
    facts[0] = 20
    assert [bool(why) for why in beyond([FLAT], facts)] == [True, False, False, False, False]
    assert beyond([FLAT], facts[:0]) == []


def test_c5_too_few_images_give_no_range() -> None:
    facts = np.random.default_rng(0).normal(size=(LEAST_IMAGES - 1, 8))
    with pytest.raises(UserError, match="39 training and 5 held-out images"):
        fit_range("a", facts, facts[:5])


def test_c5_features_that_do_not_vary_give_a_range_nevertheless() -> None:
    facts = np.random.default_rng(0).normal(size=(60, 8))
    facts[:, 3:5] = 7.0
    fitted = fit_range("a", facts[:50], facts[50:])
    assert np.isfinite(fitted.limit)
    moved = facts[:1] + np.eye(8)[3]
    assert fitted.distances(moved)[0] > fitted.limit


def test_c5_phantoms_of_the_source_stay_and_those_of_other_stains_go(phantom_a) -> None:
    own = beyond([phantom_a], appearance(phantoms("phantom-a", 60, 2000)))
    assert np.mean([why == "" for why in own]) >= 0.95
    for domain in ("phantom-b", "phantom-c", "phantom-d"):
        assert all(beyond([phantom_a], appearance(phantoms(domain, 40, 3000)))), domain


def test_c5_whole_fields_are_never_accepted(phantom_a) -> None:
    """Uncropped fields of 720 x 576 px, of which prediction keeps the centred square."""
    for seed in range(10):
        image = Image.fromarray(draw_field(seed).pixels)
        square = image.resize((48, 48), Image.Resampling.LANCZOS, box=(72, 0, 648, 576))
        assert beyond([phantom_a], appearance(np.asarray(square)[None]))[0]


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="needs images: set WBC_MIRROR")
def test_c5_raabin_keeps_its_own_smears_and_accepts_no_other_laboratory() -> None:
    mirror, cards = Path(os.environ["WBC_MIRROR"]), load_cards(REPOSITORY / "datasets")

    def looks(dataset: str, domain: str, chosen: pd.DataFrame) -> np.ndarray:
        card = cards[dataset]
        files = [mirror / card.folder / path for path in chosen["path"]]
        return appearance(decode_all(files, card.domains[domain].crop, 64, domain))

    def manifest(name: str) -> pd.DataFrame:
        table = pd.read_csv(REPOSITORY / f"datasets/manifests/{name}.csv", dtype=str)
        return table[table["core"] == "1"] if "core" in table else table

    split = pd.read_csv(REPOSITORY / "datasets/splits/raabin.csv")
    split = split[split["path"].isin(manifest("raabin")["path"])]
    part = {name: rows[::2] for name, rows in split.groupby("part")}
    held_out = pd.concat([part["id_val"], part["calibration"]])
    own = fit_range(
        "raabin", looks("raabin", "raabin", part["train"]), looks("raabin", "raabin", held_out)
    )
    kept = [why == "" for why in beyond([own], looks("raabin", "raabin", part["id_test"]))]
    assert np.mean(kept) >= 0.95
    for dataset, domain, table in (
        ("bccd", "bccd", manifest("bccd")),
        ("jtsc", "jtsc", manifest("jtsc")),
        ("cellavision", "cellavision", manifest("cellavision")),
        ("pbc", "pbc-main", manifest("pbc")),
    ):
        step = max(1, len(table) // 60)
        assert all(beyond([own], looks(dataset, domain, table[::step]))), domain
    fields = mirror / "bccd_fields" / "BCCD" / "JPEGImages"
    if fields.is_dir():
        for file in sorted(fields.iterdir())[:10]:
            whole = decode_all([file], 1.0, 64, "fields")
            assert beyond([own], appearance(whole))[0], file
