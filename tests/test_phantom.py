"""Phantoms: one seed is one cell, light follows Beer and Lambert, each knob does its own."""

import re
from pathlib import Path

import draw_phantoms
import numpy as np
import pandas as pd
import pytest
from draw_phantoms import STEPS, manifest
from PIL import Image
from scipy.ndimage import label as label_regions

from benchmark import parallel
from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.phantom import acquisition as phantom
from benchmark.phantom.acquisition import (
    EXPOSURE,
    OD_AZURE,
    OD_EOSIN,
    Acquisition,
    draw,
    draw_images,
    limits,
    optical_densities,
    slide_acquisition,
)
from benchmark.phantom.specimen import MORPHOLOGIES, specimen
from benchmark.schema import parse

REPOSITORY = Path(__file__).parents[1]
CELL_TYPES = list(MORPHOLOGIES)
CLEAN = {"blur_um": 0.0, "noise_sd": 0.0}


def picture(cell_type: str = "neutrophil", seed: int = 3, **knobs: object) -> np.ndarray:
    """A noiseless image as float, unless the knobs say otherwise."""
    return draw(cell_type, Acquisition(**{**CLEAN, **knobs}), seed).astype(float)


def optical_density(image: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(image, 1) / (255 * EXPOSURE))


def on_pixels(field: np.ndarray) -> np.ndarray:
    """Mean of a specimen's map over each image pixel."""
    return (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2]) / 4


def fine_detail(image: np.ndarray) -> float:
    """Mean square of the difference between neighbours."""
    return float((np.diff(image, axis=0) ** 2).mean() + (np.diff(image, axis=1) ** 2).mean())


# ------------------------------------------------------------------------------- the cell


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_the_same_seed_gives_the_same_pixels_and_another_seed_another_cell(cell_type: str) -> None:
    first = draw(cell_type, Acquisition(), 7)
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw(cell_type, Acquisition(), 7))
    assert np.abs(first.astype(int) - draw(cell_type, Acquisition(), 8)).mean() > 3


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_two_stains_show_the_same_nucleus(cell_type: str) -> None:
    """The red channel sees azure almost alone: its density is the same map, scaled."""
    a, b = (picture(cell_type, azure_strength=s, eosin_strength=e) for s, e in ((1, 1), (0.6, 1.5)))
    assert np.abs(a - b).mean() > 3
    densities = [optical_density(image)[..., 0].ravel() for image in (a, b)]
    assert np.corrcoef(*densities)[0, 1] > 0.98
    other = optical_density(picture(cell_type, seed=4))[..., 0].ravel()
    assert np.corrcoef(densities[0], other)[0, 1] < 0.93


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_magnification_does_not_change_the_cell(cell_type: str) -> None:
    """Areas in µm² are the same whatever the pixel's side."""
    fine, coarse = (specimen(cell_type, 5, size, px) for size, px in ((128, 0.2), (64, 0.4)))
    for part in ("nucleus", "cell"):
        area = [getattr(fine, part).sum() * 0.1**2, getattr(coarse, part).sum() * 0.2**2]
        assert area[0] == pytest.approx(area[1], rel=0.02)


def test_classes_have_their_morphology() -> None:
    seeds = range(40)
    slides = {kind: [specimen(kind, seed) for seed in seeds] for kind in CELL_TYPES}
    share = {
        kind: np.median([s.nucleus.sum() / s.cell.sum() for s in slides[kind]]) for kind in slides
    }
    area = {kind: np.median([s.cell.sum() for s in slides[kind]]) for kind in slides}
    assert max(area, key=area.get) == "monocyte"
    assert min(area, key=area.get) == "lymphocyte"
    assert max(share, key=share.get) == "lymphocyte"
    assert share["neutrophil"] < 0.4 < share["lymphocyte"]

    def around(kind: str, stain: str) -> float:
        """Median stain of the cytoplasm and what lies in it."""
        means = []
        for slide in slides[kind]:
            plasm = (slide.cell == 1) & (slide.nucleus == 0)
            means.append(getattr(slide, stain)[plasm].mean())
        return float(np.median(means))

    eosin = {kind: around(kind, "eosin") for kind in ("neutrophil", "lymphocyte", "eosinophil")}
    azure = {kind: around(kind, "azure") for kind in ("neutrophil", "lymphocyte", "eosinophil")}
    assert max(eosin, key=eosin.get) == "eosinophil"
    assert max(azure, key=azure.get) == "lymphocyte"


def test_most_neutrophils_have_more_lobes_than_any_lymphocyte() -> None:
    """Bridges are thinner than lobes: what is left of a nucleus 0.9 µm from its edge is lobes."""
    from scipy.ndimage import distance_transform_edt

    def lobes(kind: str, seed: int) -> int:
        core = distance_transform_edt(specimen(kind, seed).nucleus > 0.5) * 0.125 > 0.9
        return label_regions(core)[1]

    assert {lobes("lymphocyte", seed) for seed in range(20)} == {1}
    assert np.mean([lobes("neutrophil", seed) >= 2 for seed in range(40)]) > 0.7


PINNED = {
    "neutrophil": [
        [227.1, 225.5, 200.2, 214.1],
        [217.4, 194.3, 144.4, 222.4],
        [232.4, 151.2, 171.3, 232.1],
        [233.3, 231.6, 228.2, 196.3],
    ],
    "lymphocyte": [
        [227.1, 225.5, 200.4, 214.1],
        [217.7, 170.0, 147.3, 222.9],
        [233.3, 137.9, 143.8, 232.8],
        [233.3, 233.1, 228.8, 196.3],
    ],
    "monocyte": [
        [227.1, 225.3, 204.3, 216.1],
        [215.7, 197.6, 126.6, 215.8],
        [223.4, 117.7, 124.5, 226.9],
        [233.3, 226.6, 223.8, 196.3],
    ],
    "eosinophil": [
        [227.1, 225.5, 200.0, 214.1],
        [217.2, 169.0, 144.8, 221.5],
        [231.5, 184.3, 185.0, 231.4],
        [233.3, 231.2, 227.0, 196.3],
    ],
    "basophil": [
        [227.1, 225.5, 200.3, 214.1],
        [217.6, 155.3, 156.3, 222.6],
        [232.3, 150.3, 137.9, 232.6],
        [233.3, 231.7, 226.7, 196.3],
    ],
}
"""Seed 0 in the reference: mean grey level of 4 × 4 tiles."""


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_pixels_are_those_of_this_version(cell_type: str) -> None:
    """Where this fails on purpose, raise `phantom.VERSION` and pin the new values."""
    assert phantom.VERSION == 1
    tiles = draw(cell_type, Acquisition(), 0).reshape(4, 24, 4, 24, 3).mean((1, 3, 4))
    np.testing.assert_allclose(tiles, PINNED[cell_type], atol=0.1)


def test_an_unknown_cell_type_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'monocyte'"):
        draw("monocyt", Acquisition(), 0)


# ------------------------------------------------------------------------- Beer and Lambert


def test_an_image_is_the_light_that_two_stains_let_through() -> None:
    """Against the equation, at a place where stain does not vary within the pixel."""
    slide = specimen("lymphocyte", 3)
    image = picture("lymphocyte", 3)
    y, x = 4, 4
    block = np.s_[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
    azure, eosin = slide.azure[block].mean(), slide.eosin[block].mean()
    expected = 255 * EXPOSURE * np.exp(-(azure * OD_AZURE + eosin * OD_EOSIN))
    np.testing.assert_allclose(image[y, x], expected, atol=1.0)


def test_twice_the_stain_is_twice_the_optical_density() -> None:
    half = {"azure_strength": 0.5, "eosin_strength": 0.5}
    single, double = (optical_density(picture("monocyte", **s)) for s in (half, {}))
    inner = on_pixels(specimen("monocyte", 3).nucleus) == 1
    ratio = double[inner] / single[inner]
    # Within a pixel stain varies, and eight bits round: the exact factor is 2 for even stain.
    assert np.median(ratio) == pytest.approx(2, rel=0.02)
    assert np.percentile(np.abs(ratio - 2), 90) < 0.12


def test_no_stain_leaves_the_empty_slide() -> None:
    empty = picture(azure_strength=0, eosin_strength=0)
    assert set(np.unique(empty)) == {float(np.rint(255 * EXPOSURE))}


def test_one_ph_unit_doubles_azure_and_halves_eosin() -> None:
    azure, eosin = optical_densities(Acquisition(ph_shift=1))
    np.testing.assert_allclose(azure, 2 * OD_AZURE)
    np.testing.assert_allclose(eosin, OD_EOSIN / 2)


def test_stain_rotation_keeps_the_total_density_and_the_angle() -> None:
    """A turn about the grey axis keeps the sum over RGB and the angle between the two stains."""
    for degrees in (-5, 4):
        turned = optical_densities(Acquisition(stain_rotation_deg=degrees))
        for before, after in zip((OD_AZURE, OD_EOSIN), turned, strict=True):
            assert after.sum() == pytest.approx(before.sum())
            assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before))
            flat_before, flat_after = before - before.mean(), after - after.mean()
            cosine = flat_before @ flat_after / (flat_before @ flat_before)
            assert cosine == pytest.approx(np.cos(np.deg2rad(degrees)))


# ------------------------------------------------------------------------------- the knobs


@pytest.mark.parametrize("knob", sorted(STEPS))
def test_every_knob_alone_changes_the_image(knob: str) -> None:
    reference = draw("eosinophil", Acquisition(), 3).astype(float)
    for value in (STEPS[knob][0], STEPS[knob][-1]):
        if value != Acquisition.model_fields[knob].default:
            changed = draw("eosinophil", Acquisition(**{knob: value}), 3)
            assert np.abs(changed - reference).mean() > 0.4


def test_each_stain_darkens_what_it_stains() -> None:
    plain = picture("eosinophil")
    nucleus = on_pixels(specimen("eosinophil", 3).nucleus) > 0.9
    red_cells = on_pixels(specimen("eosinophil", 3).eosin) > 0.4
    red_cells &= on_pixels(specimen("eosinophil", 3).cell) == 0
    assert red_cells.sum() > 50
    blue = picture("eosinophil", azure_strength=1.5)
    pink = picture("eosinophil", eosin_strength=1.5)
    assert blue[nucleus][:, 0].mean() < 0.8 * plain[nucleus][:, 0].mean()
    assert blue[red_cells].mean() > 0.98 * plain[red_cells].mean()
    assert pink[red_cells][:, 1].mean() < 0.9 * plain[red_cells][:, 1].mean()


def test_blur_takes_fine_detail_away_and_keeps_the_mean() -> None:
    sharp, soft, softer = (picture(blur_um=b) for b in (0.0, 0.4, 1.2))
    assert fine_detail(sharp) > 1.5 * fine_detail(soft) > 3 * fine_detail(softer)
    assert softer[20:-20, 20:-20].mean() == pytest.approx(sharp[20:-20, 20:-20].mean(), rel=0.02)


@pytest.mark.parametrize("sd", [0.01, 0.03])
def test_noise_has_the_stated_standard_deviation(sd: float) -> None:
    quiet, noisy = (
        picture(azure_strength=0, eosin_strength=0),
        picture(azure_strength=0, eosin_strength=0, noise_sd=sd, contrast=0.5),
    )
    # Half the contrast keeps the bright slide from clipping, and halves the noise.
    assert noisy.std() == pytest.approx(255 * sd / 2, rel=0.05)
    assert quiet.std() == 0


def test_white_balance_scales_each_channel() -> None:
    plain, warm = picture(), picture(white_balance=(1.0, 0.9, 0.7))
    np.testing.assert_allclose(warm, plain * [1.0, 0.9, 0.7], atol=1.0)


def test_gamma_and_contrast_follow_their_formulae() -> None:
    plain = picture() / 255
    np.testing.assert_allclose(picture(gamma=1.5) / 255, plain**1.5, atol=1.5 / 255)
    np.testing.assert_allclose(picture(contrast=0.6) / 255, 0.5 + 0.6 * (plain - 0.5), atol=1 / 255)


def test_saturation_zero_is_grey_and_keeps_the_mean() -> None:
    plain, grey = picture(), picture(saturation=0)
    assert np.ptp(grey, axis=2).max() == 0
    np.testing.assert_allclose(grey[..., 0], plain.mean(2), atol=1.0)


def test_larger_pixels_make_smaller_cells() -> None:
    near, far = (specimen("monocyte", 3, pixel_size_um=px).cell.sum() for px in (0.2, 0.4))
    assert near / far == pytest.approx(4, rel=0.03)


def test_uneven_light_falls_from_edge_to_edge_by_the_stated_fraction() -> None:
    """Along the direction of the fall, the light changes by `uneven` over one field."""
    lit = picture(azure_strength=0, eosin_strength=0, uneven=0.1, contrast=0.5)
    light = (lit[..., 0] / 255 - 0.5) / 0.5 + 0.5
    across = light[:, -1].mean() - light[:, 0].mean()
    down = light[-1].mean() - light[0].mean()
    assert np.hypot(across, down) == pytest.approx(0.1 * EXPOSURE, rel=0.05)
    assert light.mean() == pytest.approx(EXPOSURE, rel=0.01)


def test_lower_jpeg_quality_departs_further() -> None:
    plain = picture()
    error = [np.abs(picture(jpeg_quality=q) - plain).mean() for q in (100, 60, 20, 5)]
    assert error == sorted(error)
    assert error[0] < 1.5 < error[-1]


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ({"blur_um": -1}, "card: blur_um: .*greater than or equal to 0, found -1"),
        ({"gamma": 9}, "card: gamma: .*less than or equal to 2.5, found 9"),
        ({"jpeg_quality": 0}, "card: jpeg_quality: .*greater than or equal to 5, found 0"),
        ({"white_balance": [1, 1, 7]}, "card: white_balance.2: .*less than or equal to 1.6"),
        ({"white_balance": [1, 1]}, "card: white_balance"),
        ({"noise_sd": float("nan")}, "card: noise_sd"),
        ({"azure_strenght": 1}, "unknown key 'azure_strenght'; did you mean 'azure_strength'"),
    ],
)
def test_nonsense_is_refused_in_one_line(knobs: dict, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        parse(Acquisition, knobs, "card")
    assert "\n" not in str(caught.value)


def test_the_page_states_every_knob_with_its_range() -> None:
    page = (REPOSITORY / "docs" / "phantom.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+ \| [^|]+) \|", page, re.MULTILINE))
    assert set(rows) == set(Acquisition.model_fields) == set(STEPS)
    for knob in set(rows) - {"white_balance", "jpeg_quality"}:
        assert tuple(float(edge) for edge in rows[knob].split("|")) == limits(knob)


# ------------------------------------------------------------------------------- the files


def test_the_committed_manifest_is_what_the_function_makes() -> None:
    stored = pd.read_csv(REPOSITORY / "datasets" / "manifests" / "phantom.csv")
    pd.testing.assert_frame_equal(stored, manifest(), check_dtype=False)


def test_the_manifest_has_the_planned_images_and_every_class_on_every_slide() -> None:
    table = manifest()
    assert table["path"].is_unique
    assert len(table) == 970
    source = table[table["acquisition"] == "phantom-a"]
    counts = source["label"].value_counts().to_dict()
    assert counts == {
        "neutrophil": 180, "lymphocyte": 150, "monocyte": 80, "eosinophil": 70, "basophil": 40,
    }  # fmt: skip
    assert source["group"].nunique() == 12
    assert (table.groupby("group")["label"].nunique() == 5).all()
    assert (table.groupby("group")["acquisition"].nunique() == 1).all()


def test_the_card_has_knobs_for_every_acquisition_of_the_manifest() -> None:
    card = load_cards(REPOSITORY / "datasets")["phantom"]
    looks = {d.select["acquisition"]: d.acquisition for d in card.domains.values()}
    assert set(looks) == set(manifest()["acquisition"])
    assert looks["phantom-a"] == Acquisition()
    assert draw_phantoms.read_acquisitions(REPOSITORY / "datasets" / "phantom.yaml") == looks
    for domain in card.domains.values():
        assert domain.micrometre_per_pixel == domain.acquisition.pixel_size_um


def test_a_slide_departs_a_little_and_stays_within_the_limits() -> None:
    one, two = (slide_acquisition(Acquisition(), f"slide{i}") for i in (1, 2))
    assert one != two
    assert one == slide_acquisition(Acquisition(), "slide1")
    strengths = [slide_acquisition(Acquisition(), str(i)).azure_strength for i in range(300)]
    assert np.std(np.log(strengths)) == pytest.approx(0.1, rel=0.15)
    extreme = Acquisition(azure_strength=3, ph_shift=-1, white_balance=(1.6, 1.6, 0.4))
    for i in range(30):
        knobs = slide_acquisition(extreme, str(i)).model_dump()
        assert parse(Acquisition, knobs, "slide")


@pytest.fixture
def few() -> pd.DataFrame:
    return manifest({"x": (2, (2, 2, 1, 1, 1))}, size=32)


def test_drawing_resumes_and_redraws_only_what_changed(few: pd.DataFrame, tmp_path: Path) -> None:
    looks = {"x": Acquisition()}
    assert draw_images(few, looks, tmp_path) == 7
    assert sorted(few["path"]) == sorted(
        str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()
    )
    before = {path: (tmp_path / path).stat().st_mtime_ns for path in few["path"]}
    lost, broken = few["path"].iloc[0], few["path"].iloc[1]
    kept = np.asarray(Image.open(tmp_path / lost))
    (tmp_path / lost).unlink()
    (tmp_path / broken).write_bytes(b"not a picture")
    assert draw_images(few, looks, tmp_path) == 2
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / lost)), kept)
    for path in few["path"].iloc[2:]:
        assert (tmp_path / path).stat().st_mtime_ns == before[path]
    assert draw_images(few, {"x": Acquisition(gamma=1.5)}, tmp_path) == 7


def test_an_interrupted_drawing_leaves_whole_files_only(
    few: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save
    saved = []

    def fail_on_the_third(self, target, *args, **kwargs):
        saved.append(target)
        if len(saved) == 3:
            Path(target).write_bytes(b"half")
            raise KeyboardInterrupt
        return save(self, target, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", fail_on_the_third)
    monkeypatch.setattr(parallel, "processors", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        draw_images(few, {"x": Acquisition()}, tmp_path)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 2
    for file in files:
        Image.open(file).load()
    monkeypatch.undo()
    assert draw_images(few, {"x": Acquisition()}, tmp_path) == 5


def test_two_processes_draw_what_one_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = manifest({"x": (2, (20, 20, 10, 10, 10))}, size=16)
    looks = {"x": Acquisition(jpeg_quality=50)}
    for processes, folder in ((1, "one"), (2, "two")):
        monkeypatch.setattr(parallel, "processors", lambda n=processes: n)
        assert draw_images(rows, looks, tmp_path / folder) == 70
    for path in rows["path"]:
        one, two = (np.asarray(Image.open(tmp_path / folder / path)) for folder in ("one", "two"))
        np.testing.assert_array_equal(one, two)


def test_a_manifest_without_a_column_is_named(few: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="manifest has no column 'width'"):
        draw_images(few.drop(columns="width"), {"x": Acquisition()}, tmp_path)


def test_an_acquisition_without_knobs_is_named(few: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no knobs for the manifest's acquisition 'x'; known: y"):
        draw_images(few, {"y": Acquisition()}, tmp_path)


# ------------------------------------------------------------------- one setting at a time


def test_the_manifest_of_doses_is_what_the_script_writes() -> None:
    looks = draw_phantoms.read_acquisitions(REPOSITORY / "datasets" / "phantom-dose.yaml")
    written = pd.read_csv(REPOSITORY / "datasets" / "manifests" / "phantom-dose.csv")
    made = draw_phantoms.dose_manifest(looks).reset_index(drop=True)
    pd.testing.assert_frame_equal(written, made)
    assert (made.groupby("cell").size() == len(looks)).all()
    assert made["path"].is_unique


def test_images_of_one_cell_differ_in_the_acquisition_alone(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "path": ["a/1.png", "b/1.png", "c/1.png", "c/2.png"],
            "label": "monocyte",
            "group": "slide",
            "acquisition": ["plain", "plain", "far", "far"],
            "width": 48,
            "cell": ["one", "one", "one", "two"],
        }
    )
    looks = {"plain": Acquisition(noise_sd=0), "far": Acquisition(noise_sd=0, azure_strength=0.5)}
    assert draw_images(rows, looks, tmp_path) == 4
    plain, again, far, other = (
        np.asarray(Image.open(tmp_path / path)).astype(float) for path in rows["path"]
    )
    assert np.array_equal(plain, again)
    lighter = far.mean() - plain.mean()
    assert lighter > 0
    # The same cell lies in the same place: what is dark stays dark.
    assert np.corrcoef(plain[..., 0].ravel(), far[..., 0].ravel())[0, 1] > 0.95
    assert np.corrcoef(other[..., 0].ravel(), far[..., 0].ravel())[0, 1] < 0.9
    assert draw_images(rows, looks, tmp_path) == 0
