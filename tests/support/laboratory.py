"""A laboratory's own images, and a picture that is larger than its file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from conftest import CLASSES
from PIL import Image

from benchmark.phantom.acquisition import Acquisition, draw


def deep_png(levels: np.ndarray) -> bytes:
    """A PNG of 16 bits a value, uint16 [H, W, 1 to 4], which Pillow cannot write."""
    height, width, channels = levels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    chunks = [
        (b"IHDR", struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


RAW = Path("datasets/raw/our-lab")


ADD = ("domain", "add", "lab", "--name", "our-lab", "--profile", "tiny")


def cell(name: str, number: int) -> Image.Image:
    """A drawn cell, the same for the same number."""
    return Image.fromarray(draw(name, Acquisition(), 1000 + number, 64))


def put(path: str, image: Image.Image, **options: object) -> None:
    """Save an image in the laboratory's folder."""
    file = Path("lab") / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)


def lab(per_class: int = 2) -> None:
    """A folder of drawn cells, a folder per class, named in plural."""
    for place, name in enumerate(CLASSES):
        for number in range(per_class):
            put(f"{name.capitalize()}s/{number}.png", cell(name, 10 * place + number))


def everything() -> dict[str, bytes]:
    """Every file of the project but the cache of the audit, and locks."""
    files = [f for f in Path().rglob("*") if f.is_file() and "cache" not in f.parts]
    files = [f for f in files if f.suffix != ".lock"]
    return {str(f): f.read_bytes() for f in files}
