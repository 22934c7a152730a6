"""Image files → what the audit knows of each: hash, size, a grey miniature, or why it is unusable.

Files are hashed every time, so that damage is seen; decoded once: miniatures are kept by content
in `datasets/cache/audit/`, for every profile.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmark.audit.near_duplicates import SIDE
from benchmark.data.image_files import Unreadable, image_file, read_image
from benchmark.files import atomic
from benchmark.progress import track

VERSION = 2
"""Of the miniature: another one makes another cache."""
BLANK = 2.0
"""Standard deviation of a miniature, in grey levels, below which it shows nothing."""
BLACK = 8.0
"""Mean grey level below which a miniature shows nothing."""


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


def look_at(files: list[Path], cache: Path) -> list[Look]:
    """Hash every file, and decode those whose content was not seen before.

    Args:
        cache: folder of the miniatures.
    """
    store = cache / f"miniatures-{VERSION}.parquet"
    known = read_store(store)

    def one(file: Path) -> Look:
        try:
            with image_file(file) as opened:
                content = opened.read()
        except FileNotFoundError:
            return Look("", fault="is missing")
        except Unreadable as why:
            return Look("", fault=str(why))
        sha256 = hashlib.sha256(content).hexdigest()
        return known.get(sha256) or look(content, sha256)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looks = list(track(pool.map(one, files), "looking at images", len(files)))
    if any(seen.fault is None and seen.sha256 not in known for seen in looks):
        known |= {seen.sha256: seen for seen in looks if seen.fault is None}
        write_store(store, known)
    return looks


def look(content: bytes, sha256: str) -> Look:
    """Decode one file, a JPEG at the smallest scale that keeps twice the miniature's resolution.

    The whole image is squeezed into the square: what surrounds a cell tells it from its like.
    """
    try:
        picture = read_image(BytesIO(content), lambda _: 2 * SIDE)
    except Unreadable as why:
        return Look(sha256, fault=str(why))
    small = picture.image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
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
        columns = pq.read_table(store).to_pydict()
    except (OSError, pa.ArrowException):
        return {}
    return {
        sha256: Look(
            sha256,
            width,
            height,
            np.frombuffer(grey, np.uint8).reshape(SIDE, SIDE),
            bits=bits,
            note=note,
        )
        for sha256, width, height, grey, bits, note in zip(*columns.values(), strict=True)
    }


def write_store(store: Path, looks: dict[str, Look]) -> None:
    """Keep looks, without the faulty ones: these are looked at anew."""
    columns = {
        "sha256": list(looks),
        "width": [seen.width for seen in looks.values()],
        "height": [seen.height for seen in looks.values()],
        "grey": [seen.miniature.tobytes() for seen in looks.values()],
        "bits": [seen.bits for seen in looks.values()],
        "note": [seen.note for seen in looks.values()],
    }
    with atomic(store) as temporary:
        pq.write_table(pa.table(columns), temporary)
