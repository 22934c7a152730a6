"""How fast the search for copies is on this machine, and how it grows: `pytest --benchmark`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmark.audit.images import look_at
from benchmark.data.near_duplicates import SIDE, correlate, near_duplicates, nominate


def smears(number: int) -> np.ndarray:
    """Miniatures with detail of a red cell's size, no two alike: uint8 [N, 64, 64]."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 1, (number, SIDE, SIDE)).astype(np.float32)
    detail = gaussian_filter(noise, (0, 3, 3))
    return np.clip(128 + 40 * detail / detail.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("number", [2000, 4000])
def test_nominating_pairs_by_their_hashes(benchmark, number: int) -> None:
    images = smears(number)
    benchmark.extra_info["images"] = number
    benchmark.pedantic(nominate, (images,), rounds=2)


def test_correlating_pairs(benchmark) -> None:
    images = smears(500)
    pairs = nominate(images)
    benchmark.extra_info["pairs"] = len(pairs)
    benchmark.pedantic(correlate, (images, pairs), rounds=2)


def test_the_whole_search(benchmark) -> None:
    images = smears(2000)
    images[1000:1100] = images[:100, :, ::-1]
    found = benchmark.pedantic(near_duplicates, (images,), rounds=1)
    assert len(found) == 100


@pytest.mark.parametrize("seen_before", [False, True])
def test_looking_at_files(benchmark, tmp_path: Path, seen_before: bool) -> None:
    """575-pixel JPEGs, as Raabin's; decoded, or known by their hash."""
    files = []
    for row, small in enumerate(smears(100)):
        files.append(tmp_path / f"{row}.jpg")
        Image.fromarray(small).resize((575, 575)).convert("RGB").save(files[-1], quality=90)
    cache = tmp_path / "cache"
    if seen_before:
        look_at(files, cache)
        benchmark.pedantic(look_at, (files, cache), rounds=3)
    else:
        folders = iter(range(100))
        run = lambda: look_at(files, tmp_path / f"cache{next(folders)}")  # noqa: E731
        benchmark.pedantic(run, rounds=3)
