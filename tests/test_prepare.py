"""Prepare: decoded once, the right pixels, the same digest from the same images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.data.arrays import PreparedImages
from benchmark.data.prepare import decode
from benchmark.errors import UserError
from benchmark.files import read_json

CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_the_crop_is_the_centred_square_of_the_shorter_side(tmp_path: Path) -> None:
    picture = np.zeros((100, 140, 3), np.uint8)
    picture[20:80, 40:100] = (200, 100, 50)  # centred 60 px square: 60 % of the shorter side
    whole = decode(save(tmp_path / "a.png", picture), crop=0.6, size=32)
    assert whole.shape == (32, 32, 3)
    assert whole.dtype == np.uint8
    assert (whole[3:-3, 3:-3] == (200, 100, 50)).all()  # the filter reaches 3 px past the edge
    assert decode(tmp_path / "a.png", crop=1.0, size=32)[0, 0].tolist() == [0, 0, 0]


def test_a_jpeg_decoded_at_reduced_scale_is_close_to_the_full_decode(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), np.uint8)).resize((512, 512))
    )
    path = save(tmp_path / "a.jpg", smooth, quality=95)
    reduced = decode(path, crop=1.0, size=48).astype(int)
    full = np.asarray(Image.open(path).resize((48, 48), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(reduced - full).mean() < 1.0


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode).save(path)
    assert (decode(path, 1.0, 32) >= 250).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180°
    save(tmp_path / "a.png", picture, exif=exif)
    assert decode(tmp_path / "a.png", 1.0, 32)[-1].min() > 250


def test_a_truncated_jpeg_and_a_page_saved_as_image_are_one_line(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-800])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"cut\.jpg cannot be decoded .*truncated.*wbc-shift fetch"):
        decode(tmp_path / "cut.jpg", 1.0, 32)
    with pytest.raises(UserError, match=r"page\.jpg cannot be decoded \(not an image\)"):
        decode(tmp_path / "page.jpg", 1.0, 32)


def test_prepare_is_reproducible_and_an_unchanged_domain_is_kept(prepared: Path, wbc_shift) -> None:
    before = Path("results/tiny/data.json").read_bytes()
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.status == 0
    assert outcome.out.count("unchanged") == 2
    assert Path("results/tiny/data.json").read_bytes() == before
    for path in Path("datasets/cache/tiny").glob("*"):
        path.unlink()
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    assert Path("results/tiny/data.json").read_bytes() == before


def test_a_damaged_array_is_made_again(prepared: Path, wbc_shift) -> None:
    path = Path("datasets/cache/tiny/toy-a.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert wbc_shift("prepare", "-p", "tiny").status == 0
    assert path.read_bytes() == whole


def test_a_changed_pixel_changes_the_digest(prepared: Path, wbc_shift) -> None:
    before = read_json(Path("results/tiny/data.json"))["domains"]
    image = Path("datasets/raw/toy/a/basophil/slide0_0.jpg")
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    Path("datasets/cache/tiny/toy-a.npy").unlink()
    wbc_shift("prepare", "-p", "tiny")
    after = read_json(Path("results/tiny/data.json"))["domains"]
    assert after["toy-a"]["digest"] != before["toy-a"]["digest"]
    assert after["toy-b"]["digest"] == before["toy-b"]["digest"]


def test_missing_images_are_counted_and_nothing_prepared_is_lost(prepared: Path, wbc_shift) -> None:
    kept = Path("datasets/cache/tiny/toy-b.npy").read_bytes()
    Path("datasets/cache/tiny/toy-a.npy").unlink()
    for name in ("slide0_0", "slide1_0"):
        Path(f"datasets/raw/toy/a/basophil/{name}.jpg").unlink()
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "slide0_0.jpg is missing: run `wbc-shift fetch`" in outcome.err
    assert "(2 such images in toy-a)" in outcome.err
    assert Path("datasets/cache/tiny/toy-b.npy").read_bytes() == kept


def test_parts_hold_the_rows_of_the_split(prepared: Path) -> None:
    images = PreparedImages(prepared, "tiny", CLASSES)
    parts = {p: images.part("toy-a", p) for p in ("train", "id_val", "calibration", "id_test")}
    assert sum(map(len, parts.values())) == len(images.domain("toy-a"))
    groups = [set(p.table["group"]) for p in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    train = parts["train"]
    names = train.table["image"].str.split("/").str[1]
    assert [CLASSES[label] for label in train.labels] == names.tolist()
