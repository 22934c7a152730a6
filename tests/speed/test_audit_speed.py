"""How fast the search for copies is on this machine, and how it grows: `pytest --benchmark`.

Goal: 20,000 images in minutes on two cores. To look at files grows with their number, and so does
the correlation of nominees; to nominate them compares all hashes with all. With `-s` the whole
search prints the processor time of each step, all that means anything on a busy machine.
`WBC_IMAGES` sets another largest number.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmark.audit import near_duplicates as search
from benchmark.audit.images import look_at
from benchmark.audit.near_duplicates import SIDE, correlate, near_duplicates, nominate

MOST = int(os.environ.get("WBC_IMAGES", "20000"))


def smears(number: int) -> np.ndarray:
    """A round nucleus amid detail of a red cell's size, no two alike: uint8 [N, 64, 64]."""
    generator = np.random.default_rng(0)
    place = np.arange(SIDE) - (SIDE - 1) / 2
    away = np.hypot(place, place[:, None])
    images = np.empty((number, SIDE, SIDE), np.uint8)
    for image in images:
        detail = gaussian_filter(generator.normal(0, 1, (SIDE, SIDE)).astype(np.float32), 3)
        nucleus = 60 / (1 + np.exp(away - generator.uniform(10, 16)))
        image[:] = np.clip(160 + 25 * detail / detail.std() - nucleus, 0, 255)
    return images


def test_correlating_pairs(benchmark) -> None:
    images = smears(500)
    pairs = nominate(images)
    benchmark.extra_info["pairs"] = len(pairs)
    benchmark.pedantic(correlate, (images, pairs), rounds=2)


@pytest.mark.parametrize("number", [MOST // 4, MOST // 2, MOST])
def test_the_whole_search(benchmark, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    images = smears(number)
    images[number // 2 : number // 2 + 100] = images[:100, :, ::-1]
    steps = {}

    def timed(name: str) -> None:
        step = getattr(search, name)

        def run(*arguments: np.ndarray) -> object:
            start = time.process_time()
            result = step(*arguments)
            steps[name] = round(time.process_time() - start, 1)
            return result

        monkeypatch.setattr(search, name, run)

    for name in ("nominate", "promising", "correlate"):
        timed(name)
    found = benchmark.pedantic(near_duplicates, (images,), rounds=1)
    planted = (found["second"] - found["first"] == number // 2) & (found["first"] < 100)
    by_chance = int((~planted).sum())
    assert planted.sum() == 100
    assert by_chance <= number // 20_000  # drawings have less to tell them apart than cells have
    benchmark.extra_info |= {"images": number, "by chance": by_chance, "processor seconds": steps}
    print(f"\n{number} images, {by_chance} pairs by chance, processor seconds: {steps}")


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
