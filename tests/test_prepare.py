"""Prepare: decoded once, the right pixels, the same digest from the same images."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import card_of, load_cards
from benchmark.data.prepare import Preparation, decode, decode_all
from benchmark.errors import UserError
from benchmark.files import digest, read_json
from benchmark.settings import load_params

CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_the_crop_is_the_centred_square_of_the_shorter_side(tmp_path: Path) -> None:
    picture = np.zeros((100, 140, 3), np.uint8)
    picture[20:80, 40:100] = (200, 100, 50)  # centred 60 px square: 60 % of the shorter side
    whole = decode(save(tmp_path / "a.png", picture), crop=0.6, size=32)[0]
    assert whole.shape == (32, 32, 3)
    assert whole.dtype == np.uint8
    assert (whole[3:-3, 3:-3] == (200, 100, 50)).all()  # the filter reaches 3 px past the edge
    assert decode(tmp_path / "a.png", crop=1.0, size=32)[0][0, 0].tolist() == [0, 0, 0]


def test_a_jpeg_decoded_at_reduced_scale_is_close_to_the_full_decode(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    smooth = np.asarray(
        Image.fromarray(generator.integers(0, 255, (12, 12, 3), np.uint8)).resize((512, 512))
    )
    path = save(tmp_path / "a.jpg", smooth, quality=95)
    reduced = decode(path, crop=1.0, size=48)[0].astype(int)
    full = np.asarray(Image.open(path).resize((48, 48), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(reduced - full).mean() < 1.0


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode).save(path)
    assert (decode(path, 1.0, 32)[0] >= 250).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_the_white_of_an_empty_slide(tmp_path: Path, mode: str) -> None:
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[:20] = (120, 120, 120, 255)  # below it black, and fully transparent
    image = Image.fromarray(picture)
    options = {}
    if mode == "P":
        image = Image.fromarray((np.arange(40) < 20)[:, None].repeat(40, 1).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 120, 120, 120])
        options = {"transparency": 0}
    else:
        image = image.convert(mode)
    image.save(tmp_path / "a.png", **options)
    square = decode(tmp_path / "a.png", 1.0, 40)[0]
    assert np.abs(square[:16].astype(int) - 120).max() <= 1
    assert square[24:].min() >= 254


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((40, 40, 4), (100, 0, 200, 128), np.uint8))
    expected = 255 - (255 - np.array([100, 0, 200])) * 128 / 255
    assert np.abs(decode(tmp_path / "a.png", 1.0, 32)[0] - expected).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_of_16_bits_the_upper_8_are_kept(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, 0)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(ramp).save(path)
    square = decode(path, 1.0, 64)[0]
    assert (square == (ramp // 256).astype(np.uint8)[..., None]).all()


def test_16_bits_a_colour_are_read_and_said(tmp_path: Path, capsys) -> None:
    """Pillow cannot write such a PNG: this one is put together by hand."""
    rows = b"".join(b"\x00" + struct.pack(">3H", 65535, 32768, 256) * 40 for _ in range(40))
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 40, 40, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    square = decode_all([tmp_path / "a.png"], 1.0, 32, "toy")[0]
    assert (square == (255, 128, 1)).all()
    assert "prepare toy: converted to 8-bit RGB: 1 16-bit" in capsys.readouterr().out


def test_values_without_a_known_white_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", np.linspace(0, 1, 1600, dtype=np.float32).reshape(40, 40))
    save(tmp_path / "b.tif", np.full((40, 40), 70_000, np.int32))
    with pytest.raises(UserError, match=r"a\.tif cannot be decoded \(floating-point values"):
        decode(tmp_path / "a.tif", 1.0, 32)
    with pytest.raises(UserError, match=r"b\.tif cannot be decoded \(more than 16 bits"):
        decode(tmp_path / "b.tif", 1.0, 32)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 15)])
def test_an_image_too_small_to_show_a_cell_is_refused(tmp_path: Path, size: tuple) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is \d+ x \d+ px, too small"):
        decode(tmp_path / "a.png", 1.0, 32)


def test_conversions_are_said_once_with_their_numbers(tmp_path: Path, capsys) -> None:
    paths = []
    for number, mode in enumerate(["RGB", "L", "L", "P", "CMYK", "RGBA", "1"]):
        paths.append(tmp_path / f"ä {number}.tif")
        Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode).save(paths[-1])
    exif = Image.Exif()
    exif[0x0112] = 6
    paths.append(save(tmp_path / "turned.jpg", np.zeros((40, 60, 3), np.uint8), exif=exif))
    decode_all(paths, 1.0, 32, "toy")
    lines = [line for line in capsys.readouterr().out.splitlines() if "converted" in line]
    assert lines == [
        "prepare toy: converted to 8-bit RGB: 1 CMYK; 1 RGBA, laid on white; 1 black and white; "
        "2 grey; 1 palette; 1 turned as its EXIF says"
    ]


def test_plain_images_are_prepared_without_a_word(tmp_path: Path, capsys) -> None:
    decode_all([save(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))], 1.0, 32, "toy")
    assert "converted" not in capsys.readouterr().out


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180°
    save(tmp_path / "a.png", picture, exif=exif)
    assert decode(tmp_path / "a.png", 1.0, 32)[0][-1].min() > 250


def test_a_truncated_jpeg_and_a_page_saved_as_image_are_one_line(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:-800])
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"cut\.jpg cannot be decoded .*truncated"):
        decode(tmp_path / "cut.jpg", 1.0, 32)
    with pytest.raises(UserError, match=r"page\.jpg is not an image"):
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


def test_another_crop_is_another_array_and_the_other_domain_is_kept(
    prepared: Path, wbc_shift
) -> None:
    before = read_json(Path("results/tiny/data.json"))["domains"]
    card = Path("datasets/toy.yaml")
    text = card.read_text().replace("Toy A, crop: 0.9", "Toy A, crop: {pixels: 40}")
    card.write_text(text.replace("Toy B, crop: 0.9", "Toy B, crop: 0.9, crop_in: {wbc4: 0.5}"))
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.out.count("unchanged") == 1
    after = read_json(Path("results/tiny/data.json"))["domains"]
    assert after["toy-a"]["crop"] == {"pixels": 40}
    assert after["toy-a"]["digest"] != before["toy-a"]["digest"]
    assert after["toy-b"] == before["toy-b"], "a crop in another label space changes nothing"


def test_the_published_digest_of_a_domain_is_its_images_and_settings_alone(prepared: Path) -> None:
    """Runs that are done are found by this digest: its composition must not change."""
    images = pd.read_csv("datasets/manifests/toy.csv", dtype=str)
    images = images[images["acquisition"] == "a"]
    rows = images[["path", "sha256", "label"]].to_numpy().tolist()
    decoder = "Pillow, draft scale ≥ 2 × target, centre crop, Lanczos; version 1"
    key = digest([decoder, 48, 0.9, rows, None])
    assert read_json(Path("datasets/cache/tiny/toy-a.json"))["key"] == key


@pytest.mark.parametrize("domain", ["cellavision", "bccd"])
def test_the_pixels_of_the_published_sets_have_not_moved(domain: str, tmp_path: Path) -> None:
    """Of JPEG and BMP; runs that are done rest on these digests."""
    mirror = os.environ.get("WBC_MIRROR")
    if not mirror:
        pytest.skip("WBC_MIRROR names no copy of the published images")
    profile = load_params(REPOSITORY / "params.yaml").profile("core")
    cards = load_cards(REPOSITORY / "datasets")
    work = Preparation(REPOSITORY / "datasets", tmp_path, card_of(cards, domain), domain, profile)
    work.raw = Path(mirror) / work.card.folder
    found = work.make_arrays(None)
    published = read_json(REPOSITORY / "results" / "core" / "data.json")["domains"][domain]
    assert found == published


def test_an_array_made_by_an_earlier_reader_is_made_again(prepared: Path, wbc_shift) -> None:
    """Else a set that was nearly black when it was prepared would stay so."""
    receipt = Path("datasets/cache/tiny/toy-a.json")
    before = Path("results/tiny/data.json").read_bytes()
    stored = read_json(receipt)
    receipt.write_text(json.dumps({key: stored[key] for key in ("key", "sha256")}))
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.out.count("unchanged") == 1
    assert read_json(receipt) == stored
    assert Path("results/tiny/data.json").read_bytes() == before


def test_missing_images_are_counted_and_nothing_prepared_is_lost(prepared: Path, wbc_shift) -> None:
    kept = Path("datasets/cache/tiny/toy-b.npy").read_bytes()
    Path("datasets/cache/tiny/toy-a.npy").unlink()
    for name in ("slide0_0", "slide1_0"):
        Path(f"datasets/raw/toy/a/basophil/{name}.jpg").unlink()
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    found = "slide0_0.jpg is missing (2 such images in toy-a): run `wbc-shift fetch -p tiny`"
    assert found in outcome.err
    assert Path("datasets/cache/tiny/toy-b.npy").read_bytes() == kept


def test_a_broken_image_is_fetched_again(prepared: Path, wbc_shift) -> None:
    Path("datasets/cache/tiny/toy-a.npy").unlink()
    broken = Path("datasets/raw/toy/a/basophil/slide0_0.jpg")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-200])
    outcome = wbc_shift("prepare", "-p", "tiny")
    assert "slide0_0.jpg cannot be decoded" in outcome.err
    assert "run `wbc-shift fetch -p tiny`" in outcome.err
    assert wbc_shift("fetch", "-p", "tiny").status == 0
    assert broken.read_bytes() == whole
    assert wbc_shift("prepare", "-p", "tiny").status == 0


def test_parts_hold_the_rows_of_the_split(prepared: Path) -> None:
    images = PreparedImages(prepared, "tiny", CLASSES)
    parts = {p: images.part("toy-a", p) for p in ("train", "id_val", "calibration", "id_test")}
    assert sum(map(len, parts.values())) == len(images.domain("toy-a"))
    groups = [set(p.table["group"]) for p in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    train = parts["train"]
    names = train.table["image"].str.split("/").str[1]
    assert [CLASSES[label] for label in train.labels] == names.tolist()
