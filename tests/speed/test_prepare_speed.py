"""How much faster `prepare` decodes 575-px JPEGs than a plain loop: `pytest --benchmark`.

The ratio is measured within one run, since the machine is the same for both. Goal: at least 3 on
two cores, of which threads give at most 2; the rest is processor time an image, the only part that
means anything on a busy machine. It can be reached where libjpeg may decode at half scale, at
64 px; at 112 and 224 px only threads help.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from goals import row
from PIL import Image

from benchmark.data.prepare import decode_all
from benchmark.phantom.acquisition import Acquisition, draw

SIDE, CROP, COUNT = 575, 0.6, 96


def plain_loop(paths: list[Path], size: int) -> np.ndarray:
    """What a newcomer would write: open, crop the centre, resize, one image after the other."""
    images = []
    for path in paths:
        image = Image.open(path).convert("RGB")
        side = CROP * min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        image = image.crop((round(left), round(top), round(left + side), round(top + side)))
        images.append(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)))
    return np.stack(images)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Phantoms of 575 px as JPEG; a few drawings in their eight views, since drawing is slow."""
    folder = tmp_path_factory.mktemp("phantoms")
    look = Acquisition(pixel_size_um=0.1)
    cells = [draw(c, look, 1, SIDE) for c in ("neutrophil", "monocyte", "eosinophil")]
    paths = []
    for index in range(COUNT):
        view = np.rot90(cells[index % 3], index // 3 % 4)
        paths.append(folder / f"{index}.jpg")
        Image.fromarray(np.ascontiguousarray(view)).save(paths[-1], quality=90)
    return paths


@pytest.fixture(scope="module")
def raabin() -> list[Path]:
    """Real crops of 575 px."""
    mirror = os.environ.get("WBC_MIRROR")
    if not mirror:
        pytest.skip("WBC_MIRROR names no folder of real images")
    paths = sorted((Path(mirror) / "raabin").rglob("*.jpg"))
    return paths[:: len(paths) // COUNT][:COUNT]


@pytest.mark.parametrize("size", [64, 112, 224])
@pytest.mark.parametrize("images", ["drawn", "raabin"])
def test_prepare_against_a_plain_loop(
    record_property: Callable, request: pytest.FixtureRequest, images: str, size: int
) -> None:
    paths = request.getfixturevalue(images)
    decode_all(paths, CROP, size, images)
    now = lambda: np.array([time.perf_counter(), time.process_time()])  # noqa: E731
    loop, ours = [], []
    for _ in range(3):
        start = now()
        plain_loop(paths, size)
        middle = now()
        decode_all(paths, CROP, size, images)
        loop.append(middle - start)
        ours.append(now() - middle)
    wall, processor = np.median(loop, 0) / np.median(ours, 0)
    what = f"prepare, {images} 575 → {size} px"
    record_property("reached", row(what, "× a plain loop", "≥ 3", processor, wall))
