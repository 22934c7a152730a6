"""The reader of image files: the right pixels with a word on what they were, or one clear reason.

Files are drawn and damaged here; the pixels to be found are computed without the reader.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from support.laboratory import deep_png

from benchmark.acquire.manifest import measure
from benchmark.audit.images import look_at, small_picture
from benchmark.data import image_files
from benchmark.data.image_files import (
    Picture,
    Unreadable,
    bits_of_set,
    find_images,
    image_file,
    read_image,
)
from benchmark.data.prepare import decode, decode_all
from benchmark.errors import UserError
from benchmark.laboratory.judge import look_at_own

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
1 0 0 setrgbcolor 0 0 64 64 rectfill
showpage
"""


def read_or_why(content: bytes) -> tuple[Picture | None, str]:
    """A file of this content, read; or why it is not."""
    try:
        return read(content), ""
    except Unreadable as why:
        return None, str(why)


def read(content: bytes, bits: int = 0) -> Picture:
    """A file of this content, read."""
    return read_image(io.BytesIO(content), bits=bits)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A bright picture without sharp edges: uint8 [H, W, 3], its brightest value 250."""
    coarse = generator.integers(60, 240, (4, 4, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    picture = picture.copy()
    picture[:2, :2] = 250
    return picture


def deep_tiff(levels: np.ndarray, order: str = "<", **tags: int) -> bytes:
    """A TIFF of 16 bits a value, uint16 [H, W, C]; C is 1, 3 or 4.

    Args:
        tags: photometric, orientation; planes=2 for a strip per channel; compression=8 for deflate.
    """
    height, width, channels = levels.shape
    planes = tags.get("planes", 1)
    strips = 1 if planes == 1 else channels
    pixels = levels if planes == 1 else np.moveaxis(levels, 2, 0)
    data = pixels.astype(f"{order}u2").tobytes()
    if tags.get("compression") == 8:
        data = zlib.compress(data)
    share = len(data) // strips
    entries = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [16] * channels),
        259: (3, [tags.get("compression", 1)]),
        262: (3, [tags.get("photometric", 2 if channels > 1 else 1)]),
        273: (4, [8 + share * k for k in range(strips)]),
        274: (3, [tags.get("orientation", 1)]),
        277: (3, [channels]),
        278: (3, [height]),
        279: (4, [share] * strips),
        284: (3, [planes]),
    }
    if channels == 4:
        entries[338] = (3, [2])
    where = 8 + len(data)
    beyond = where + 2 + 12 * len(entries) + 4
    table, more = b"", b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, more = struct.pack(f"{order}I", beyond + len(more)), more + packed
        table += struct.pack(f"{order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, where)
    return head + data + struct.pack(f"{order}H", len(entries)) + table + bytes(4) + more


def bitmap_with_empty_alpha(picture: np.ndarray) -> bytes:
    """A 32-bit BMP with a V4 header that states an alpha mask, and zeros there."""
    height, width, _ = picture.shape
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[..., :3] = picture[::-1, :, ::-1]
    data = pixels.tobytes()
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(data), 2835, 2835, 0, 0)
    header += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    begin = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", begin + len(data), 0, 0, begin) + header + data


# ------------------------------------------------------------------ what an image may not do


def test_d1_no_image_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript named `cell.png` is no image: Pillow would have Ghostscript run it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    ran = tmp_path / "ran"
    for name in ("gs", "gswin64c"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    file = tmp_path / "lab" / "cell.png"
    file.parent.mkdir()
    file.write_bytes(POSTSCRIPT)
    for use in (lambda: decode(file, 1.0, 32), lambda: measure(file)):
        with pytest.raises(UserError, match=r"cell\.png is not an image"):
            use()
    assert look_at([file], tmp_path / "cache")[0].fault == "is not an image"
    assert small_picture(file, 32) is None
    assert not ran.exists()
    # Under a name that tells nothing it is passed over, and said to be.
    file.rename(file.with_name("cell"))
    assert find_images(file.parent).passed_over.keys() == {"cell"}
    assert not ran.exists()


def test_d1_no_module_opens_an_image_without_saying_in_which_formats() -> None:
    sources = sorted((REPOSITORY / "benchmark").rglob("*.py"))
    opening = [
        (source.name, line.strip())
        for source in sources
        for line in source.read_text(encoding="utf-8").splitlines()
        if "Image.open(" in line
    ]
    assert "image_files.py" in {name for name, _ in opening}
    assert [line for line in opening if "formats=" not in line[1]] == []


def test_d12_a_fifo_a_device_and_a_socket_are_refused_before_they_are_opened(
    tmp_path: Path,
) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    os.mkfifo(lab / "fifo.png")
    os.mkfifo(lab / "fifo")
    (lab / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(lab / "s.png"))
        names = ["fifo.png", "device.png", "s.png"]
        looks = look_at([lab / name for name in names], tmp_path / "cache")
    assert {seen.fault for seen in looks} == {"is no regular file"}
    for name in names:
        with pytest.raises(UserError, match="is no regular file"):
            decode(lab / name, 1.0, 32)
        with pytest.raises(UserError, match="is no regular file"):
            measure(lab / name)
    found = find_images(lab)
    assert found.images == sorted(names)
    assert found.passed_over == {"fifo": "is no regular file"}


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no file that opens and fails")
def test_a_disk_that_fails_while_a_file_is_read_is_a_reason(tmp_path: Path) -> None:
    failing = Path("/proc/self/mem")
    assert look_at([failing], tmp_path)[0].fault == "cannot be read (Input/output error)"
    with pytest.raises(UserError, match="Input/output error"):
        decode(failing, 1.0, 32)


def test_sizes_are_judged_before_anything_is_expanded(tmp_path: Path, monkeypatch) -> None:
    for side in (9000, 12_000, 200_000):
        # The header alone: expanding what it claims would take gigabytes.
        claim = struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)
        content = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in ((b"IHDR", claim), (b"IDAT", zlib.compress(bytes(100))))
        )
        with pytest.raises(Unreadable, match=r"more .*than a cell needs"):
            read(content)
    monkeypatch.setattr(image_files, "MOST_BYTES", 1000)
    file = tmp_path / "a.png"
    file.write_bytes(bytes(1001))
    with pytest.raises(Unreadable, match="has 1,001 bytes"), image_file(file):
        pass


# ------------------------------------------------------------------ depth


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_b02_values_of_few_bits_in_16_bit_files_are_scaled(
    tmp_path: Path, capsys, bits: int
) -> None:
    """A camera of 12 bits whose values lie in 16-bit files: not nearly black."""
    expected = smooth(np.random.default_rng(bits), 40, 40)
    grey = expected[..., :1].astype(np.uint16) << (bits - 8)
    levels = expected.astype(np.uint16) << (bits - 8)
    files = {
        "colour.png": deep_png(levels),
        "grey.png": deep_png(grey),
        "little.tif": deep_tiff(levels),
        "big.tif": deep_tiff(levels, ">"),
        "grey.tif": deep_tiff(grey),
        "deflated.tif": deep_tiff(levels, compression=8),
        "deflated big.tif": deep_tiff(levels, ">", compression=8),
        "deflated grey.tif": deep_tiff(grey, compression=8),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = decode_all([tmp_path / name for name in files], 1.0, 40, "lab")
    for name, square in zip(files, found, strict=True):
        wanted = np.repeat(expected[..., :1], 3, 2) if "grey" in name else expected
        assert np.abs(square.astype(int) - wanted).max() <= 1, name
    assert f"{bits}-bit in 16-bit files" in capsys.readouterr().out


def test_b02_the_depth_is_that_of_the_set_and_not_of_each_image(tmp_path: Path) -> None:
    expected = smooth(np.random.default_rng(0), 40, 40)
    dark = expected // 8
    for name, picture in (("bright.png", expected), ("dark.png", dark)):
        (tmp_path / name).write_bytes(deep_png(picture.astype(np.uint16) << 4))
    paths = [tmp_path / "bright.png", tmp_path / "dark.png"]
    assert bits_of_set(paths) == 12
    found = decode_all(paths, 1.0, 40, "lab")
    assert np.abs(found[1].astype(int) - dark).max() <= 1
    # One that would be black beside the others is named, not used.
    (tmp_path / "full.png").write_bytes(deep_png(expected.astype(np.uint16) * 257))
    looks, _ = look_at_own([*paths, tmp_path / "full.png"], tmp_path / "cache")
    assert [seen.fault is None for seen in looks] == [True, False, True] or looks[0].fault is None
    assert "black beside the others" in looks[1].fault


def test_grey_tiff_of_16_bits_whose_0_is_white_is_turned_about() -> None:
    expected = smooth(np.random.default_rng(1), 40, 40)[..., :1]
    content = deep_tiff(65535 - expected.astype(np.uint16) * 257, photometric=0)
    found = np.asarray(read(content).image)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_16_bit_colour_in_separate_planes_is_refused_not_misread() -> None:
    levels = smooth(np.random.default_rng(2), 40, 40).astype(np.uint16) * 257
    with pytest.raises(Unreadable, match="separate planes"):
        read(deep_tiff(levels, planes=2))


# ------------------------------------------------------------------ alpha, pages, turning


def test_b12_an_alpha_that_is_0_everywhere_is_no_transparency(tmp_path: Path, capsys) -> None:
    expected = smooth(np.random.default_rng(3), 40, 40)
    empty = Image.fromarray(np.dstack([expected, np.zeros((40, 40), np.uint8)]))
    deep = np.dstack([expected.astype(np.uint16) * 257, np.zeros((40, 40), np.uint16)])
    for content in (bitmap_with_empty_alpha(expected), saved(empty, "PNG"), deep_png(deep)):
        picture = read(content)
        assert (np.asarray(picture.image) == expected).all()
        assert picture.note == "transparent throughout, so taken as opaque"
    (tmp_path / "0.bmp").write_bytes(bitmap_with_empty_alpha(expected))
    assert look_at([tmp_path / "0.bmp"], tmp_path / "cache")[0].fault is None
    decode_all([tmp_path / "0.bmp"], 1.0, 32, "lab")
    assert "RGBA, its empty alpha left out" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_b18_of_several_pages_the_first_is_taken_and_said_so(kind: str) -> None:
    pages = [
        Image.fromarray(smooth(np.random.default_rng(k), 40, 40)).convert("P").convert("RGB")
        for k in range(5)
    ]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    picture = read(content)
    assert picture.note == "first of 5 pages"
    assert "first of 5 pages" in picture.conversion
    assert np.abs(np.asarray(picture.image).astype(int) - np.asarray(pages[0])).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "deep TIFF"])
def test_an_image_is_turned_once_as_its_exif_says(kind: str, orientation: int) -> None:
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[:20, :30] = (250, 10, 10)
    stored[:20, 30:] = (10, 250, 10)
    stored[20:, :30] = (10, 10, 250)
    flipped = stored[:, ::-1]
    expected = {
        1: stored,
        2: flipped,
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).swapaxes(0, 1),
        8: np.rot90(stored),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    if kind == "deep TIFF":
        content = deep_tiff(stored.astype(np.uint16) * 257, orientation=orientation)
    else:
        content = saved(
            Image.fromarray(stored), kind, exif=exif, **{"quality": 95} if kind == "JPEG" else {}
        )
    picture = read(content)
    found = np.asarray(picture.image).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected)[5:15, 5:15].max() < 20
    assert np.abs(found - expected)[-15:-5, -15:-5].max() < 20
    assert ("turned as its EXIF says" in picture.conversion) == (orientation != 1)


# ------------------------------------------------------------------ what is an image


def test_b11_content_decides_what_is_an_image_and_the_rest_is_named(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(np.random.default_rng(4), 40, 40))
    taken = {
        "a.jpe": "JPEG",
        "b.jfif": "JPEG",
        "c.JPG": "JPEG",
        "d.JPG.jpg": "JPEG",
        "e.jp2": "JPEG2000",
        "f.ppm": "PPM",
        "deep/er/without suffix": "PNG",
        "g.dat": "TIFF",
        "h.png": "JPEG",
    }
    for name, kind in taken.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(saved(image, kind))
    passed = {
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(50),
        "slide.czi": b"ZISRAWFILE" + bytes(50),
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "figure.eps": POSTSCRIPT,
        "cut": saved(image, "PNG")[:30],
    }
    silent = {
        "labels.csv": b"path,label\n",
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "notes": "Größe 細胞\n".encode() * 900,
        "read me.pdf": b"%PDF-1.4",
        ".hidden.png": b"x",
        "__MACOSX/._a.png": b"x",
        "data.npz": b"PK\3\4",
    }
    for name, content in (passed | silent).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nothing")
    (tmp_path / "link").symlink_to(tmp_path / "deep", target_is_directory=True)
    found = find_images(tmp_path)
    assert found.images == sorted(taken)
    assert found.passed_over.keys() == {*passed, "gone.tif", "link"}
    assert "in no format that is read (PNG, JPEG" in found.passed_over["photo.heic"]
    assert all(why and len(why.splitlines()) == 1 for why in found.passed_over.values())


def test_d13_a_name_that_is_no_utf8_is_told_and_not_lost(tmp_path: Path) -> None:
    image = Image.fromarray(smooth(np.random.default_rng(5), 40, 40))
    content = saved(image, "PNG")
    (tmp_path / "a\nb é 細胞.png").write_bytes(content)
    try:
        with open(os.fsencode(tmp_path) + b"/c\xe9lula.png", "wb") as file:
            file.write(content)
    except OSError:
        pytest.skip("this file system takes no such name")
    found = find_images(tmp_path)
    assert found.images == ["a\nb é 細胞.png"]
    assert found.passed_over == {"c\\xe9lula.png": "has a name that is not UTF-8: rename it"}


# ------------------------------------------------------------------ many of them


def drawn(generator: np.random.Generator) -> tuple[bytes, np.ndarray | None, int]:
    """A file of a random kind, the pixels that are right (None: a reason), and their tolerance."""
    height, width = generator.integers(17, 70, 2)
    picture = smooth(generator, height, width)
    image = Image.fromarray(picture)
    grey = np.asarray(image.convert("L"))
    as_grey = np.repeat(grey[..., None], 3, 2)

    def choose(options: list) -> object:
        return options[generator.integers(len(options))]

    def lossless() -> tuple[bytes, np.ndarray, int]:
        return saved(image, choose(["PNG", "BMP", "TIFF", "PPM"])), picture, 0

    def packed_tiff() -> tuple[bytes, np.ndarray, int]:
        how = choose(["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
        return saved(image, "TIFF", compression=how), picture, 0

    def webp() -> tuple[bytes, np.ndarray, int]:
        return saved(image, "WEBP", lossless=True), picture, 0

    def jpeg() -> tuple[bytes, np.ndarray, int]:
        return saved(image, "JPEG", quality=98, subsampling=0), picture, 12

    def jpeg2000() -> tuple[bytes, np.ndarray, int]:
        return saved(image, "JPEG2000", irreversible=False), picture, 2

    def one_channel() -> tuple[bytes, np.ndarray, int]:
        return saved(image.convert("L"), choose(["PNG", "BMP", "TIFF", "GIF", "PPM"])), as_grey, 1

    def one_bit() -> tuple[bytes, np.ndarray, int]:
        two = image.convert("1")
        expected = np.repeat(np.asarray(two)[..., None], 3, 2) * np.uint8(255)
        return saved(two, choose(["PNG", "BMP", "TIFF"])), expected, 0

    def palette() -> tuple[bytes, np.ndarray, int]:
        few = image.quantize(64)
        return saved(few, choose(["PNG", "GIF", "BMP", "TIFF"])), np.asarray(few.convert("RGB")), 0

    def cmyk() -> tuple[bytes, np.ndarray, int]:
        kind = choose(["TIFF", "JPEG"])
        options = {"quality": 98} if kind == "JPEG" else {}
        return saved(image.convert("CMYK"), kind, **options), picture, 14

    def with_alpha() -> tuple[bytes, np.ndarray, int]:
        alpha = generator.integers(0, 256, (height, width, 1)).astype(np.uint8)
        alpha[0, 0] = 255
        if generator.random() < 0.3:
            alpha[:] = choose([0, 255])
        share = np.where(alpha.max() == 0, 1, alpha / 255)
        if generator.random() < 0.5:
            whole = Image.fromarray(np.dstack([picture, alpha]))
            expected = picture * share + 255 * (1 - share)
            return saved(whole, choose(["PNG", "TIFF"])), expected, 2
        whole = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha[..., 0])])
        return saved(whole, "PNG"), as_grey * share + 255 * (1 - share), 2

    def empty_alpha() -> tuple[bytes, np.ndarray, int]:
        return bitmap_with_empty_alpha(picture), picture, 0

    def deep() -> tuple[bytes, np.ndarray, int]:
        bits = choose([8, 10, 12, 14, 16])
        low = generator.integers(0, 1 << (bits - 8), picture.shape).astype(np.uint16)
        levels = (picture.astype(np.uint16) << (bits - 8)) + low
        opaque = np.full((height, width, 1), 65535, np.uint16)
        one = levels[..., :1]
        made: dict[str, Callable[[], bytes]] = {
            "png": lambda: deep_png(levels),
            "tiff <": lambda: deep_tiff(levels),
            "tiff >": lambda: deep_tiff(levels, ">"),
            "deflated": lambda: deep_tiff(levels, choose(["<", ">"]), compression=8),
            "grey png": lambda: deep_png(one),
            "grey tiff": lambda: deep_tiff(one, choose(["<", ">"])),
            "alpha": lambda: deep_tiff(np.dstack([levels, opaque])),
            "grey alpha": lambda: deep_png(np.dstack([one, opaque])),
        }
        what = choose([*made])
        if "alpha" in what:  # whose opaque alpha states the depth of all
            levels = picture.astype(np.uint16) * 257
            one = levels[..., :1]
        expected = np.repeat(picture[..., :1], 3, 2) if "grey" in what else picture
        return made[what](), expected, 1

    def pages() -> tuple[bytes, np.ndarray, int]:
        return saved(image, "TIFF", save_all=True, append_images=[image.rotate(180)]), picture, 0

    def turned() -> tuple[bytes, np.ndarray, int]:
        exif = Image.Exif()
        exif[274] = 6
        return saved(image, choose(["PNG", "TIFF"]), exif=exif), np.rot90(picture, -1), 0

    def floating() -> tuple[bytes, None, int]:
        return saved(Image.fromarray(grey.astype(np.float32)), "TIFF"), None, 0

    def long_integers() -> tuple[bytes, None, int]:
        return saved(Image.fromarray(grey.astype(np.int32) * 1000), "TIFF"), None, 0

    def other_format() -> tuple[bytes, None, int]:
        return saved(image, choose(["TGA", "PCX", "SGI", "ICO", "EPS", "PDF"])), None, 0

    def no_image() -> tuple[bytes, None, int]:
        return choose([b"", b"\0" * 100, b"<html>", POSTSCRIPT, generator.bytes(500)]), None, 0

    makers = [v for v in locals().values() if callable(v) and v is not choose]
    return choose(makers)()


def test_b_many_drawn_images_give_the_right_pixels_or_one_reason(tmp_path: Path) -> None:
    """Modes, depths, formats, alpha, pages, turning, wrong suffixes: 600 files of one seed."""
    generator = np.random.default_rng(17)
    wanted: dict[str, tuple[np.ndarray | None, int]] = {}
    for number in range(600):
        content, *right = drawn(generator)
        suffix = ("png", "jpg", "tif", "bmp", "JPE", "gif")[generator.integers(6)]
        name = f"{number:03d}.{suffix}"
        (tmp_path / name).write_bytes(content)
        wanted[name] = right
        picture, why = read_or_why(content)
        assert (picture is None) == (right[0] is None), (name, why)
        if picture is None:
            assert why
            assert len(why.splitlines()) == 1
            continue
        found = np.asarray(picture.image).astype(float)
        assert found.shape == right[0].shape, (name, picture.conversion)
        assert np.abs(found - right[0]).max() <= right[1], (name, picture.conversion)
    files = [tmp_path / name for name in wanted]
    faults = [seen.fault for seen in look_at(files, tmp_path / "cache")]
    assert sum(fault is None for fault in faults) == sum(p is not None for p, _ in wanted.values())
    assert find_images(tmp_path).images == sorted([*wanted])
    assert sum(p is None for p, _ in wanted.values()) > 60


@pytest.mark.filterwarnings("ignore")
def test_b_damaged_images_give_pixels_or_one_reason_never_a_traceback(tmp_path: Path) -> None:
    """1,500 files cut off, or with bytes of header and data exchanged."""
    generator = np.random.default_rng(18)
    read_well = 0
    for _ in range(1500):
        content = bytearray(drawn(generator)[0])
        if not content:
            continue
        if generator.random() < 0.3:
            del content[generator.integers(len(content)) :]
        else:
            reach = min(len(content), int(generator.choice([64, 300, 10**9])))
            for _ in range(generator.integers(1, 8)):
                content[generator.integers(reach)] = generator.integers(256)
        picture, why = read_or_why(bytes(content))
        if picture is None:
            assert why
            assert why.isprintable()
            continue
        read_well += 1
        assert picture.image.mode == "RGB"
        assert np.asarray(picture.image).shape[2] == 3
    assert 100 < read_well < 1400
