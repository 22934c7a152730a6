"""Framings: the same cells in another size or crop, prepared, trained on and answered alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, edit, working_copy
from support.trained import assert_answers_as_stored

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import AroundBox, AroundCell, CentredPixels
from benchmark.data.prepare import decode, scaled
from benchmark.data.stain import fit_stain
from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.settings import load_params

FRAMINGS = "    framings: {large: {image_size: 64}, tight: {crop: 0.5}}\n"
CACHE = Path("datasets/cache/tiny")


def plan() -> dict[str, dict]:
    """The planned runs of the toy profile, by run id."""
    return {run["run_id"]: run for run in read_json(Path("results/tiny/plans/first.json"))["runs"]}


@pytest.fixture(scope="module")
def framed_template(prepared_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project in three framings, its runs done."""
    from benchmark import cli

    folder = tmp_path_factory.mktemp("framed") / "project"
    shutil.copytree(prepared_template, folder)
    params = folder / "params.yaml"
    edit(params, "    image_size: 48\n", "    image_size: 48\n" + FRAMINGS)
    edit(params, "losses: [ce, focal]\n", "framings: [null, large, tight]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.prepare("tiny")
        cli.plan("tiny")
        cli.train("tiny", None)
    return folder


@pytest.fixture
def framed(framed_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder."""
    return working_copy(framed_template, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("crop", "factor", "expected"),
    [
        (0.6, 1.0, 0.6),
        (0.6, 0.5, 0.3),
        (0.75, 1.5, 1.0),
        (CentredPixels(pixels=200), 0.8, CentredPixels(pixels=160)),
        (
            AroundCell(around_cell=128, cell_diameter=100),
            1.25,
            AroundCell(around_cell=160, cell_diameter=100),
        ),
        (AroundBox(around_box=290), 0.8, AroundBox(around_box=232)),
    ],
)
def test_a_crop_is_scaled_in_its_own_unit(crop, factor, expected) -> None:
    assert scaled(crop, factor) == expected


def test_every_framing_holds_the_same_cells_cut_from_the_published_image(framed: Path) -> None:
    table = pd.read_parquet(CACHE / "manifest.parquet")
    for domain, rows in table.groupby("domain"):
        arrays = [np.load(CACHE / f"{domain}{name}.npy") for name in ("", "@large", "@tight")]
        assert [len(array) for array in arrays] == [len(rows)] * 3
        file = Path("datasets/raw/toy") / rows["image"].iloc[3]
        for array, crop, size in zip(arrays, (0.9, 0.9, 0.45), (48, 64, 48), strict=True):
            np.testing.assert_array_equal(array[3], decode(file, crop, size)[0])
    facts = read_json(Path("results/tiny/data.json"))
    assert facts["framings"]["tight"]["domains"]["toy-a"]["crop"] == 0.45
    assert facts["framings"]["large"]["image_size"] == 64


def test_a_framing_changes_no_run_without_one(framed: Path, prepared_template: Path) -> None:
    before = read_json(prepared_template / "results/tiny/plans/first.json")["runs"]
    before = {run["run_id"]: run for run in before}
    now = plan()
    name = "resnet10t-bn-ce/toy-a_to_others/seed0"
    assert now[name] == before[name]
    large = now["resnet10t-bn-ce-large/toy-a_to_others/seed0"]
    tight = now["resnet10t-bn-ce-tight/toy-a_to_others/seed0"]
    assert (large["settings"]["image_size"], tight["settings"]["crop"]) == (64, 0.5)
    assert len({run["training_fingerprint"] for run in (now[name], large, tight)}) == 3
    assert large["tested"] != tight["tested"] != now[name]["tested"]


@pytest.mark.parametrize("framing", ["large", "tight"])
def test_new_images_are_labelled_in_the_framing_of_the_run(framed: Path, framing: str) -> None:
    assert_answers_as_stored(f"resnet10t-bn-ce-{framing}/toy-a_to_others/seed0")


def test_a_framing_of_another_profile_is_refused(framed: Path, wbc_shift) -> None:
    text = Path("params.yaml").read_text()
    tiny = text[text.index("  tiny:") :]
    other = tiny.replace("  tiny:", "  other:").replace(FRAMINGS, "")
    other = other.replace("        framings: [null, large, tight]\n", "")
    Path("params.yaml").write_text(text + other)
    assert wbc_shift("prepare", "-p", "other").status == 0
    named = ("--method", "resnet10t-bn-ce-large", "--scenario", "toy-a->*")
    outcome = wbc_shift("train", "-p", "other", *named)
    assert outcome.status == 1
    assert "no 'large' under the profile's framings" in outcome.err


def test_a_stain_is_fitted_on_the_framed_images(framed: Path) -> None:
    seen = PreparedImages(framed, "tiny", CLASSES).seen_by("toy-a", "jpeg95", "large")
    raw = np.load(CACHE / "toy-b@large.npy")
    expected, _ = fit_stain("jpeg95", raw)(raw)
    np.testing.assert_array_equal(seen.domain("toy-b").pixels, expected)
    assert seen.corrupted("toy-a", "defocus_blur", 1).pixels.shape[1] == 64


def test_the_report_compares_framings_and_says_what_they_are(framed: Path, wbc_shift) -> None:
    assert wbc_shift("evaluate", "-p", "tiny").status == 0
    effects = pd.read_parquet("results/tiny/effects.parquet").query("part == 'framing'")
    assert set(effects["choice"]) == {"large", "tight"}
    assert set(effects["plain"]) == {""}
    assert wbc_shift("report", "-p", "tiny").status == 0
    page = Path("results/tiny/pages/data.html").read_text()
    assert "Framing large: 64 × 64 px." in page
    assert "Framing tight: 48 × 48 px, the square 0.5 times the side." in page


def test_a_framing_taken_away_takes_its_arrays_along(framed: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), ", tight: {crop: 0.5}", "")
    edit(Path("params.yaml"), "[null, large, tight]", "[null, large]")
    outcome = wbc_shift("plan", "-p", "tiny")
    assert outcome.status == 1
    assert "made with other settings" in outcome.err
    outcome = wbc_shift("validate", "-p", "tiny")
    assert outcome.status == 1
    assert "made with other settings" in outcome.out
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    assert {path.stem for path in CACHE.glob("*.npy")} == {
        "toy-a", "toy-b", "toy-a@large", "toy-b@large",
    }  # fmt: skip
    assert wbc_shift("plan", "-p", "tiny").status == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "[null, large, tight]",
            "[null, larger]",
            "bn-ce-larger: no 'larger' under the profile's framings; did you mean",
        ),
        ("tight: {crop: 0.5}", "tight: {}", "changes nothing: give an image_size or a crop"),
        ("crop: 0.5", "crops: 0.5", "framings.tight.crops'; did you mean 'crop'?"),
        ("image_size: 64", "image_size: 16", "greater than or equal to 32"),
        ("tight: {", "a/b: {", "cannot be a name"),
    ],
)
def test_a_wrong_framing_is_one_line(framed: Path, old: str, new: str, message: str) -> None:
    edit(Path("params.yaml"), old, new)
    with pytest.raises(UserError) as error:
        load_params()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
