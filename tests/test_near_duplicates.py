"""The search for one cell in two images: what it must find, and what it must not."""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter

from benchmark.audit.images import look_at
from benchmark.audit.near_duplicates import (
    SIDE,
    VIEWS,
    correlate,
    cosine_hash,
    near_duplicates,
    nominate,
    turned,
    turned_hash,
)

REPOSITORY = Path(__file__).parents[1]
REVIEWED = {
    ("jtsc", "Dataset 1/021.bmp", "Dataset 1/082.bmp"),
    ("jtsc", "Dataset 1/026.bmp", "Dataset 1/089.bmp"),
    ("jtsc", "Dataset 1/030.bmp", "Dataset 1/086.bmp"),
    ("jtsc", "Dataset 1/060.bmp", "Dataset 1/090.bmp"),
    ("jtsc", "Dataset 1/071.bmp", "Dataset 1/084.bmp"),
    ("jtsc", "Dataset 1/112.bmp", "Dataset 1/139.bmp"),
    *(
        ("bccd", f"BCCD_cropped/{name}_1.jpg", f"BCCD_cropped/{other}_1.jpg")
        for name, other in (
            ("Eosinophil/BloodImage_00204", "Eosinophil/BloodImage_00277"),
            ("Lymphocyte/BloodImage_00224", "Lymphocyte/BloodImage_00264"),
            ("Neutrophil/BloodImage_00223", "Neutrophil/BloodImage_00263"),
        )
    ),
}
"""Finds that were looked at and show one cell, beside those of the known cases."""


def smear(seed: int, side: int = 192) -> Image.Image:
    """A lobed cell among red cells with pale centres."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    picture = np.full((side, side, 3), 235.0)
    for _ in range(9):
        centre, radius = generator.uniform(0, 1, 2), generator.uniform(0.07, 0.1)
        distance = np.hypot(y - centre[0], x - centre[1]) / radius
        depth = np.clip((1 - distance) * 8, 0, 1) * (0.35 + 0.65 * np.clip(distance, 0, 1))
        picture -= depth[..., None] * [20, 75, 70]
    inside = np.hypot(y - 0.5, x - 0.5) < 0.2
    picture[inside] = [200, 180, 215]
    for _ in range(generator.integers(2, 5)):
        centre = 0.5 + generator.uniform(-0.11, 0.11, 2)
        picture[np.hypot(y - centre[0], x - centre[1]) < generator.uniform(0.05, 0.09)] = [
            90,
            50,
            140,
        ]
    picture += generator.normal(0, 4, picture.shape)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def round_cell(seed: int) -> Image.Image:
    """A round nucleus on an empty field, faintly mottled: it looks much alike from every side."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:192, :192]
    distance = np.hypot(y - 96, x - 96) - generator.uniform(36, 44)
    mottle = gaussian_filter(generator.normal(0, 1, y.shape), 7)
    grey = 90 + 130 / (1 + np.exp(-distance / 2)) + 8 * mottle / mottle.std()
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def miniature(image: Image.Image) -> np.ndarray:
    """As the audit makes it: the whole image, grey, 64 pixels."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """An image after a round trip through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def recaptured(image: Image.Image) -> Image.Image:
    """The same field under another camera: colour, contrast, focus, place, scale."""
    moved = image.transform(image.size, Image.Transform.AFFINE, (0.97, 0, 8, 0, 0.97, -5))
    levels = np.asarray(moved, float) @ [[0.7, 0.1, 0], [0.2, 0.8, 0.1], [0.2, 0, 0.9]]
    levels = 255 * (levels.clip(0, 255) / 255) ** 1.4
    blurred = Image.fromarray(levels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
    return jpeg(blurred, 80)


PLANTED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "flipped": ImageOps.mirror,
    "rotated by 90 degrees": lambda i: i.transpose(Image.Transpose.ROTATE_90),
    "JPEG of quality 30": lambda i: jpeg(i, 30),
    "resized": lambda i: i.resize((90, 90), Image.Resampling.BILINEAR),
    "brighter": lambda i: ImageEnhance.Brightness(i).enhance(1.2),
    "darker": lambda i: ImageEnhance.Brightness(i).enhance(0.7),
    "recaptured": recaptured,
    "all at once": lambda i: jpeg(
        ImageEnhance.Brightness(ImageOps.flip(i).transpose(Image.Transpose.ROTATE_90))
        .enhance(0.85)
        .resize((100, 100)),
        60,
    ),
}


@functools.cache
def fields() -> list[Image.Image]:
    """Sixty of them."""
    return [smear(seed) for seed in range(60)]


@pytest.mark.parametrize("how", PLANTED)
def test_a_planted_copy_is_found_and_nothing_else(how: str) -> None:
    copies = [PLANTED[how](field) for field in fields()[:10]]
    found = near_duplicates(np.stack([miniature(image) for image in fields() + copies]))
    pairs = set(zip(found["first"], found["second"], strict=True))
    assert pairs == {(row, len(fields()) + row) for row in range(10)}


def test_a_cell_on_an_empty_field_is_not_its_neighbour_of_the_same_size() -> None:
    alike = np.stack([miniature(round_cell(seed)) for seed in range(12)])
    pairs = correlate(alike, nominate(alike))
    assert pairs["similarity"].max() > 0.7, "they do look alike"
    assert len(near_duplicates(alike)) == 0


def test_a_copy_of_a_cell_that_looks_alike_from_every_side_is_found() -> None:
    images = [round_cell(seed) for seed in range(6)]
    found = near_duplicates(np.stack([miniature(i) for i in [*images, jpeg(images[2], 90)]]))
    assert set(zip(found["first"], found["second"], strict=True)) == {(2, 6)}


def test_many_copies_of_one_image_are_all_paired_with_it() -> None:
    copies = [jpeg(fields()[0], quality) for quality in range(40, 80, 5)]
    found = near_duplicates(np.stack([miniature(image) for image in [*fields(), *copies]]))
    assert {second for first, second in found[["first", "second"]].to_numpy() if first == 0} == set(
        range(60, 68)
    )


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_images_hold_no_pair(number: int) -> None:
    assert len(near_duplicates(np.zeros((number, SIDE, SIDE), np.uint8))) == 0


@pytest.mark.parametrize("view", VIEWS)
def test_the_hash_of_a_turned_image_is_the_turned_hash(view: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE), np.uint8)
    middle = (5, 5)
    np.testing.assert_allclose(
        cosine_hash(turned(image, view), *middle),
        turned_hash(cosine_hash(image, *middle), view),
        atol=1e-5,
    )


def test_the_eight_views_are_the_eight_flips_and_quarter_turns() -> None:
    image = np.arange(16).reshape(4, 4)
    wanted = {
        np.ascontiguousarray(v).tobytes() for k in range(4) for q in [np.rot90(image, k)]
        for v in (q, q[:, ::-1])
    }  # fmt: skip
    assert {np.ascontiguousarray(turned(image, view)).tobytes() for view in VIEWS} == wanted


def test_the_view_says_how_the_second_image_was_turned() -> None:
    image = miniature(fields()[0])
    for view in VIEWS:
        # Turned once more in the found view, the turned image is the first again.
        found = correlate(np.stack([image, turned(image, view)]), np.array([[0, 1]]))
        again = turned(turned(image, view), found["view"][0])
        np.testing.assert_array_equal(again, image)
        assert found["similarity"][0] == pytest.approx(1, abs=1e-4)


def test_a_shift_within_reach_costs_little_and_one_beyond_it_much() -> None:
    wide = np.asarray(smear(1, 256).convert("L").resize((128, 128)))
    crops = [wide[32:96, 32 + dx : 96 + dx] for dx in (0, 5, 25)]
    pairs = correlate(np.stack(crops), np.array([[0, 1], [0, 2]]))
    assert pairs["similarity"][0] > 0.9
    assert pairs["similarity"][1] < 0.6


# On real images, where a mirror is at hand.
needs_mirror = pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="WBC_MIRROR is not set")


def real_miniatures(files: list[Path], tmp_path: Path) -> np.ndarray:
    """Miniatures of files, as the audit sees them."""
    return np.stack([seen.miniature for seen in look_at(files, tmp_path)])


@needs_mirror
def test_every_find_on_the_clean_mirror_shows_one_cell_and_known_cases_are_found(
    tmp_path: Path,
) -> None:
    mirror = Path(os.environ["WBC_MIRROR"])
    folders = {"bccd": "bccd", "jtsc": "segmentation_wbc", "cellavision": "segmentation_wbc"}
    images = [
        (name, path)
        for name in folders
        for path in pd.read_csv(REPOSITORY / "datasets" / "manifests" / f"{name}.csv")["path"]
    ]
    files = [mirror / folders[name] / path for name, path in images]
    pairs = near_duplicates(real_miniatures(files, tmp_path))
    found = {(*images[a], images[b][1]) for a, b in pairs[["first", "second"]].to_numpy()}
    table = pd.read_csv(REPOSITORY / "datasets" / "same_cells.csv")
    known = {
        (row.dataset, row.path, row.other) for row in table.itertuples() if row.dataset in folders
    }
    assert found <= known | REVIEWED
    assert known | REVIEWED <= found


@needs_mirror
def test_a_random_resplit_of_the_augmented_kaggle_training_set_leaks(tmp_path: Path) -> None:
    folder = Path(os.environ["WBC_MIRROR"]) / "bccd_kaggle" / "TRAIN" / "MONOCYTE"
    files = sorted(folder.glob("*.jpeg"))
    pairs = near_duplicates(real_miniatures(files, tmp_path))
    held_out = np.random.default_rng(0).random(len(files)) < 0.2
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    across = held_out[first] != held_out[second]
    leaked = np.unique(np.where(held_out[first], first, second)[across])
    assert len(leaked) > held_out.sum() / 4


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc")
def test_no_thread_of_a_library_stays_that_a_fork_would_wait_for() -> None:
    """SciPy's pool of threads stays, and a process that forks twice in a row hung on it."""
    script = (
        "import os; import numpy as np; from benchmark.audit import near_duplicates as near; "
        "images = np.random.default_rng(0).random((64, near.SIDE, near.SIDE), np.float32); "
        "threads = len(os.listdir('/proc/self/task')); spectra = near.spectrum(images); "
        "near.peak(spectra, spectra[::-1]); print(len(os.listdir('/proc/self/task')) - threads)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"
