"""The one reader of image files: gives upright 8-bit RGB, or one clear reason why it cannot.

What a file is, its content says, not its name. Only the formats that cells come in are tried: some
of Pillow's others start a program (EPS runs Ghostscript). Only regular files are opened, and sizes
are judged before anything is expanded.
"""

from __future__ import annotations

import codecs
import os
import stat
import struct
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from benchmark.parallel import in_threads
from benchmark.texts import SURROGATES, visible

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM", "JPEG2000")
"""What is tried, by Pillow's names. JPEG takes the MPO of telephones with it."""
SUFFIXES = (".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png")
SUFFIXES += (".ppm", ".tif", ".tiff", ".webp")
"""Of files that are looked upon as images, broken ones too, in any case of letters."""
NO_IMAGES = (".7z", ".csv", ".db", ".doc", ".docx", ".gz", ".h5", ".html", ".ini", ".json", ".lnk")
NO_IMAGES += (".mat", ".md", ".npy", ".npz", ".ods", ".parquet", ".pdf", ".pkl", ".py", ".rar")
NO_IMAGES += (".rtf", ".tar", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip")
"""Of files that are plainly none: passed over without a word. So is all text."""
MOST_BYTES = 2**29
"""Of an image file: a slide is not a cell."""
MOST_PIXELS = 64_000_000
"""A hostile header can claim any size; this is far above every published crop."""
MOST_DEPTH = 64
"""Folders in one another that are looked into."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras give, and that 16-bit files hold."""
MODES = {"1": "black and white", "L": "grey", "LA": "grey", "P": "palette", "PA": "palette"}
"""What Pillow's modes are called, where they do not speak for themselves (RGBA, CMYK)."""
MODES |= {mode: "grey" for mode in ("I", "I;16", "I;16B", "I;16L", "I;16N")}
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES = 258, 262, 284
"""Tags of TIFF."""
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error)
"""What Pillow raises of broken files, by format and place."""

Image.MAX_IMAGE_PIXELS = MOST_PIXELS
# Pillow warns of broken files without naming them, and of large ones that are refused here.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(Exception):
    """Why a file cannot be taken, as the end of a sentence about it: "is not an image"."""


class Picture(NamedTuple):
    """One image as it is used."""

    image: Image.Image
    """Upright, 8-bit RGB."""
    size: tuple[int, int]
    """Width and height in pixels as published, before anything was reduced or turned."""
    bits: int
    """Of `DEPTHS`, how many the highest value of a 16-bit file needs; 0 for other files."""
    conversion: str
    """What it was, in words, where it was no upright 8-bit RGB."""
    note: str
    """What its owner has to know of what was taken, but for `bits`; "" for nothing."""


@contextmanager
def image_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file of credible size; a FIFO would wait for ever, a device may do anything.

    Raises:
        Unreadable: it is something else, too large, or cannot be read.
        FileNotFoundError: there is none.
    """

    def refuse_kind(facts: os.stat_result) -> None:
        if not stat.S_ISREG(facts.st_mode):
            raise Unreadable("is no regular file")
        if facts.st_size > MOST_BYTES:
            raise Unreadable(f"has {facts.st_size:,} bytes, more than an image of a cell")

    def without_waiting(path: str, flags: int) -> int:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    try:
        refuse_kind(os.stat(path))
        # Should a FIFO have taken its place meanwhile, opening it must not wait for a writer.
        with open(path, "rb", opener=without_waiting) as file:
            refuse_kind(os.fstat(file.fileno()))
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror or error})") from None


@contextmanager
def opened(file: BinaryIO) -> Iterator[Image.Image]:
    """An image of known format and credible size, not yet decoded; errors inside are told alike.

    Raises:
        Unreadable: not an image; a format or kind that is not read; too many pixels; broken.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Unreadable(f"has {image.width} x {image.height} px, more than a cell needs")
            yield image
    except UnidentifiedImageError:
        file.seek(0)
        kind = format_of(file.read(16))
        broken = f"is a {kind} file that is broken, or of a kind that is not read"
        raise Unreadable(broken if kind else "is not an image") from None
    except Image.DecompressionBombError:
        raise Unreadable("has more pixels than a cell needs") from None
    except BROKEN as error:
        text = " ".join(str(error).split()) or type(error).__name__
        reason = "".join(c for c in text if c.isprintable())[:200]
        raise Unreadable(f"cannot be decoded ({reason})") from None


def format_of(head: bytes) -> str | None:
    """The format that the first 16 bytes of a file announce, of those that are read."""
    Image.init()
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(head) is True:
            return name
    return None


def read_image(
    file: BinaryIO, least: Callable[[tuple[int, int]], int] | None = None, bits: int = 0
) -> Picture:
    """Decode an image, of several pages the first.

    Of `bits` bits the upper 8 are kept. What is transparent shows white, the empty slide; an alpha
    that is 0 everywhere is none (32-bit bitmaps leave it so).

    Args:
        file: in binary mode, at its start.
        least: from (width, height) to the side in pixels that is needed: a JPEG is decoded at the
            smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that keeps it.
        bits: that the values of a 16-bit file have, as the whole set tells; else its own highest
            value does.

    Raises:
        Unreadable: as `opened`; values of which no one can tell what is white.
    """
    with opened(file) as image:
        size = image.size
        notes = []
        if (pages := getattr(image, "n_frames", 1)) > 1:
            notes.append(f"first of {pages} pages")
        if least is not None:
            side = least(size)
            image.draft("RGB", (side, side))
        mode, was = image.mode, []
        # TIFF turns itself as it is loaded; a PNG is loaded when it is asked.
        turned = image.format == "TIFF" and orientation(image) != 1
        own, levels = deep_levels(image, file)
        if own:
            bits = max(bits, own)
            was.append("16-bit" if bits == 16 else f"{bits}-bit in 16-bit files")
            image = from_levels(levels, bits, image)
        elif mode == "F":
            raise ValueError("floating-point values: which of them is white is not said")
        was += [MODES.get(mode, mode)] if mode != "RGB" else []
        image.load()
        if orientation(image) != 1:
            image, turned = ImageOps.exif_transpose(image), True
        was += ["turned as its EXIF says"] if turned else []
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getextrema()[3][1] == 0:
                notes.append("transparent throughout, so taken as opaque")
                was.append("its empty alpha left out")
            else:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                was.append("laid on white")
        was += notes[:1] if pages > 1 else []
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return Picture(rgb, size, own, ", ".join(was), ", ".join(notes))


def orientation(image: Image.Image) -> int:
    """How the image is to be turned, as EXIF counts it; 1 where it is upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def bits_of_set(paths: Sequence[Path]) -> int:
    """How many bits the values of a set's 16-bit files have: those of the highest; 0 for none.

    One dark image says little of its camera; all of them together do. Files that cannot be read
    say nothing here: they are reported where they are decoded.
    """

    def one(path: Path) -> int:
        try:
            with image_file(path) as file, opened(file) as image:
                return deep_levels(image, file)[0]
        except (Unreadable, FileNotFoundError):
            return 0

    return max(in_threads(one, paths), default=0)


def deep_levels(image: Image.Image, file: BinaryIO) -> tuple[int, np.ndarray | None]:
    """The bits and values of an image with more than 8 bits a value; 0 and None for any other.

    Returns:
        Values [H, W] or [H, W, channels of the image's mode], uint16 or int32.
    """
    # Pillow reads 16-bit colour as 8-bit RGB: only the file's raw mode tells, or its tags.
    stated = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (0,)))
    deep = image.mode.startswith("I") or ";16" in str(image.tile[:1]) or stated > 8
    if image.mode == "F" or not deep:
        return 0, None
    if image.mode.startswith("I"):
        image.load()
        levels = np.asarray(image)
        if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == 0:
            levels = np.iinfo(np.uint16).max - levels  # 0 is white
    else:
        levels = both_bytes(image, file)
    highest = int(levels.max())
    if levels.min() < 0 or highest > 65535:
        raise ValueError("more than 16 bits a value")
    needed = max(highest.bit_length(), stated if stated < 16 else 0)
    return next(depth for depth in DEPTHS if depth >= needed), levels


def both_bytes(image: Image.Image, file: BinaryIO) -> np.ndarray:
    """16-bit values of a colour image: uint16 [H, W, C].

    Pillow's colour has 8 bits, the upper ones. Read as if the file had the other order of bytes,
    it gives the lower ones.
    """
    args = image.tile[0].args if image.tile else ""
    raw = args if isinstance(args, str) else str(args[0])  # how the values lie in the file
    if getattr(image, "tag_v2", {}).get(PLANES) == 2:
        raise ValueError("16-bit colour in separate planes: save it interleaved, or with 8 bits")
    if raw == "LA;16B":  # grey and alpha: the four bytes as they come
        image.tile = [tile._replace(args="RGBA") for tile in image.tile]
        image.load()
        grey, alpha = np.split(np.asarray(image).astype(np.uint16), 2, axis=2)
        both = [256 * part[..., :1] + part[..., 1:] for part in (grey, alpha)]
        return np.concatenate([both[0]] * 3 + [both[1]], axis=2)
    name, _, order = raw.rpartition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    other = {"L": "B", "B": "L", "N": "B" if native == "L" else "L"}.get(order)
    if name not in ("RGB", "RGBA", "RGBX", "CMYK") or other is None:
        raise ValueError(f"16-bit values of a kind that is not read ({raw or image.mode})")
    image.load()
    upper = np.asarray(image).astype(np.uint16)
    file.seek(0)
    with Image.open(file, formats=FORMATS) as again:
        swapped = f"{name};16{other}"
        again.tile = [
            tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *tile.args[1:]))
            for tile in again.tile
        ]
        again.load()
        return 256 * upper + np.asarray(again)


def from_levels(levels: np.ndarray, bits: int, image: Image.Image) -> Image.Image:
    """The upper 8 of `bits` bits as an image, grey for mode I, with what `image` says of itself."""
    mode = "L" if levels.ndim == 2 else image.mode
    upper = (levels >> (bits - 8)).astype(np.uint8)
    if mode == "RGBA" and bits < 16 and levels[..., 3].max() >= 1 << bits:
        upper[..., 3] = levels[..., 3] >> 8  # colours of the camera, alpha of the program
    shallow = Image.frombytes(mode, (levels.shape[1], levels.shape[0]), upper.tobytes())
    shallow.info = {key: said for key, said in image.info.items() if key != "transparency"}
    return shallow


class Contents(NamedTuple):
    """What lies below a folder: paths relative to it, with `/`, sorted."""

    images: list[str]
    """Files that are images, or whose name says so."""
    passed_over: dict[str, str]
    """Other files → why, but for hidden ones and those that are plainly no image."""


def find_images(folder: Path) -> Contents:
    """Look for the images below a folder; hidden files and folders are passed over."""
    images: list[str] = []
    passed_over: dict[str, str] = {}

    def closed(error: OSError) -> None:
        below = Path(error.filename).relative_to(folder).as_posix()
        passed_over[visible(below)] = f"cannot be looked into ({error.strerror})"

    for place, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        below = Path(place).relative_to(folder)
        for name in folders:
            if os.path.islink(Path(place, name)):
                path = visible((below / name).as_posix())
                passed_over[path] = "is a link to a folder, which is not followed"
        if len(below.parts) == MOST_DEPTH and folders:
            passed_over[visible(below.as_posix())] = "has folders too deep to look into"
            folders.clear()
        for name in files:
            if name.startswith("."):
                continue
            path = (below / name).as_posix()
            why = why_no_image(Path(place, name))
            # A name in another encoding cannot stand in a table.
            if why is None and SURROGATES.search(path):
                why = "has a name that is not UTF-8: rename it"
            if why is None:
                images.append(path)
            elif why:
                passed_over[visible(path)] = why
    return Contents(sorted(images), dict(sorted(passed_over.items())))


def why_no_image(path: Path) -> str | None:
    """Why a file is passed over; "" where that needs no word; None for an image, broken or not."""
    suffix = path.suffix.lower()
    if suffix in NO_IMAGES or path.name.lower() == "thumbs.db":
        return ""
    if not os.path.exists(path):
        return "leads nowhere"
    if suffix in SUFFIXES:
        return None
    try:
        with image_file(path) as file:
            head = file.read(4096)
            if format_of(head[:16]) is not None:
                file.seek(0)
                with opened(file):
                    return None
    except Unreadable as why:
        return str(why)
    except FileNotFoundError:
        return "is gone"
    unread = f"is in no format that is read ({', '.join(FORMATS)})"
    if b"\0" in head or head.lstrip().startswith((b"%!", b"<svg")):
        return unread  # binary, or a program that draws
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # whose last character may be cut
    except UnicodeDecodeError:
        return unread
    return ""
