"""What the audit knows of an image file (hash, size, a grey miniature, or why it is unusable), and
small JPEGs for a page.

Files are hashed every time, so that damage is seen; decoded once: miniatures are kept by content
in `datasets/cache/audit/`, for every profile.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark.audit.near_duplicates import SIDE, turned
from benchmark.data.fields import Square, cut
from benchmark.data.image_files import Unreadable, image_file, read_image
from benchmark.files import atomic
from benchmark.parallel import in_threads

VERSION = 2
"""Of the miniature: another one makes another cache."""
BLANK = 2.0
"""Standard deviation of a miniature, in grey levels, below which it shows nothing."""
BLACK = 8.0
"""Mean grey level below which a miniature shows nothing."""
SHEET_COLUMNS = 16
SHEET_SIDE = 72
"""Side of an image on a contact sheet, in pixels."""


@dataclass(frozen=True)
class Look:
    """One file: its hash, its size in pixels, and the miniature uint8 [64, 64] or a fault.

    Attributes:
        bits: what the highest value of a 16-bit file needs; 0 for other files. The miniature is as
            bright as that makes it.
        note: what its owner has to know of what was taken, but for `bits`; "" for nothing.
    """

    sha256: str
    width: int = 0
    height: int = 0
    miniature: np.ndarray | None = None
    fault: str | None = None
    bits: int = 0
    note: str = ""


def look_at(
    files: list[Path], cache: Path, squares: Sequence[Square | None] | None = None
) -> list[Look]:
    """Hash every file, and decode those whose content was not seen before.

    Args:
        cache: folder of the miniatures.
        squares: what of each image is looked at, decoded every time; None is the whole.
    """
    store = cache / f"miniatures-{VERSION}.parquet"
    known = read_store(store)

    def one(row: int) -> Look:
        square = None if squares is None else squares[row]
        try:
            with image_file(files[row]) as opened:
                content = opened.read()
        except FileNotFoundError:
            return Look("", fault="is missing")
        except Unreadable as why:
            return Look("", fault=str(why))
        sha256 = hashlib.sha256(content).hexdigest()
        if square is not None:
            return look(content, sha256, square)
        return known.get(sha256) or look(content, sha256)

    looks = in_threads(one, range(len(files)), "looking at images")
    whole = {
        seen.sha256: seen
        for row, seen in enumerate(looks)
        if seen.fault is None and (squares is None or squares[row] is None)
    }
    if not whole.keys() <= known.keys():
        known |= whole
        write_store(store, known)
    return looks


def look(content: bytes, sha256: str, square: Square | None = None) -> Look:
    """Decode one file, a JPEG at the smallest scale that keeps twice the miniature's resolution.

    The whole image is squeezed into the miniature: what surrounds a cell tells it from its like.
    Of a field it is the square around the cell.
    """
    try:
        picture = read_image(BytesIO(content), (lambda _: 2 * SIDE) if square is None else max)
    except Unreadable as why:
        return Look(sha256, fault=str(why))
    if square is None:
        small = picture.image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    else:
        small = cut(picture.image, square, SIDE).convert("L")
    miniature = np.asarray(small)
    fault = None
    if miniature.mean() < BLACK:
        fault = "is black"
    elif miniature.std() < BLANK:
        fault = "is blank"
    return Look(sha256, *picture.size, miniature, fault, picture.bits, picture.note)


def read_store(store: Path) -> dict[str, Look]:
    """Looks by hash; none where there is no store, or a broken one."""
    try:
        rows = pq.read_table(store).to_pylist()
    except (OSError, pa.ArrowException):
        return {}
    for row in rows:
        row["miniature"] = np.frombuffer(row.pop("grey"), np.uint8).reshape(SIDE, SIDE)
    return {row["sha256"]: Look(**row) for row in rows}


def write_store(store: Path, looks: dict[str, Look]) -> None:
    """Keep looks, without the faulty ones: these are looked at anew."""
    rows = [
        {
            **{name: getattr(seen, name) for name in ("sha256", "width", "height", "bits", "note")},
            "grey": seen.miniature.tobytes(),
        }
        for seen in looks.values()
    ]
    with atomic(store) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def small_picture(
    file: Path, side: int, view: int = 0, square: Square | None = None
) -> Image.Image | None:
    """An image in one of the 8 views, its longer side reduced to `side` pixels; None if broken.

    Args:
        square: what of the image is shown; None is the whole.
    """
    try:
        with image_file(file) as opened:
            small = read_image(opened, (lambda _: side) if square is None else max).image
    except (Unreadable, FileNotFoundError):
        return None
    if square is not None:
        small = cut(small, square, side)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(small).transpose(2, 0, 1)
    return Image.fromarray(np.ascontiguousarray(turned(pixels, view).transpose(1, 2, 0)))


def contact_sheet(
    files: pd.Series, classes: pd.Series, squares: pd.Series | None = None
) -> Image.Image:
    """One row of images per class, evenly spaced over the manifest: the same on every machine.

    Args:
        squares: what of each image is shown, None the whole; by default the whole of all.
    """
    names = sorted(classes.unique())
    size = (SHEET_COLUMNS * SHEET_SIDE, len(names) * SHEET_SIDE)
    sheet = Image.new("RGB", size, "white")
    for row, name in enumerate(names):
        chosen = files[classes == name].to_list()
        shown = [None] * len(chosen) if squares is None else squares[classes == name].to_list()
        spaced = np.linspace(0, len(chosen) - 1, min(len(chosen), SHEET_COLUMNS)).round()
        for column, place in enumerate(spaced.astype(int)):
            picture = small_picture(chosen[place], SHEET_SIDE, square=shown[place])
            if picture is not None:
                sheet.paste(picture, (column * SHEET_SIDE, row * SHEET_SIDE))
    return sheet


def address(picture: Image.Image | None) -> str:
    """A picture as the address of an `img`, so that a page is one file; "" for none."""
    if picture is None:
        return ""
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
