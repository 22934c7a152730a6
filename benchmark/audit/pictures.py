"""Image files → small JPEGs for a page: single images, and contact sheets of a domain."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.audit.near_duplicates import turned
from benchmark.data.image_files import Unreadable, image_file, read_image

SHEET_COLUMNS = 16
SHEET_SIDE = 72
"""Side of an image on a contact sheet, in pixels."""


def small_picture(file: Path, side: int, view: int = 0) -> Image.Image | None:
    """An image in one of the 8 views, its longer side reduced to `side` pixels; None if broken."""
    try:
        with image_file(file) as opened:
            small = read_image(opened, lambda _: side).image
    except (Unreadable, FileNotFoundError):
        return None
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(small).transpose(2, 0, 1)
    return Image.fromarray(np.ascontiguousarray(turned(pixels, view).transpose(1, 2, 0)))


def contact_sheet(files: pd.Series, classes: pd.Series) -> Image.Image:
    """One row of images per class, evenly spaced over the manifest: the same on every machine."""
    names = sorted(classes.unique())
    size = (SHEET_COLUMNS * SHEET_SIDE, len(names) * SHEET_SIDE)
    sheet = Image.new("RGB", size, "white")
    for row, name in enumerate(names):
        chosen = files[classes == name].to_list()
        spaced = np.linspace(0, len(chosen) - 1, min(len(chosen), SHEET_COLUMNS)).round()
        for column, place in enumerate(spaced.astype(int)):
            picture = small_picture(chosen[place], SHEET_SIDE)
            if picture is not None:
                sheet.paste(picture, (column * SHEET_SIDE, row * SHEET_SIDE))
    return sheet


def address(picture: Image.Image | None) -> str:
    """A picture as the address of an `img`, so that a page is one file; "" for none."""
    if picture is None:
        return ""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
