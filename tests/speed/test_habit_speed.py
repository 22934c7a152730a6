"""A training epoch against its floor and against the habit, as ratios from one run.

`pytest --benchmark -s tests/speed/test_habit_speed.py` prints them; `-k resnet18` chooses. On
`WBC_MIRROR`'s Raabin images where there are any, else on phantoms. On a machine that does other
things at once, the ratio of processor times is the one to believe: it counts what an image costs.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from habit import Habit
from PIL import Image

from benchmark.data.arrays import Images
from benchmark.data.prepare import decode_all
from benchmark.models.build import build_model
from benchmark.phantom.acquisition import Acquisition, draw
from benchmark.settings import Augmentation, Training
from benchmark.speed.measure import TrainingSteps, in_turn

SIDE, CROP, ROUNDS, IMAGES = 575, 0.6, 3, 48
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
CASES = [
    ("resnet18", "bn", 112, 16, 3), ("resnet18", "bn", 224, 8, 2),
    ("resnet50", "bn", 224, 4, 2), ("vit_tiny_patch16_224", "ln", 224, 8, 2),
]  # fmt: skip
"""Network, normalisation, pixels, batch, steps an epoch."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight JPEGs of 575 px in folders by class."""
    root = tmp_path_factory.mktemp("habit")
    mirror = os.environ.get("WBC_MIRROR")
    real = sorted((Path(mirror) / "raabin").rglob("*.jpg")) if mirror else []
    if not real:
        cells = [draw(name, Acquisition(pixel_size_um=0.1), 1, SIDE) for name in CLASSES]
    for index in range(IMAGES):
        path = root / CLASSES[index % 5] / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        if real:
            shutil.copy(real[index * (len(real) // IMAGES)], path)
        else:
            view = np.ascontiguousarray(np.rot90(cells[index % 5], index // 5 % 4))
            Image.fromarray(view).save(path, quality=90)
    return root


@pytest.mark.parametrize(("backbone", "normalisation", "size", "batch", "steps"), CASES)
def test_training_against_the_floor_and_the_habit(
    benchmark, folder: Path, tmp_path: Path, backbone: str, normalisation: str, size: int,
    batch: int, steps: int,
) -> None:  # fmt: skip
    paths = sorted(folder.rglob("*.jpg"), key=lambda path: int(path.stem))[: steps * batch]
    for path in paths:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    augmentation = Augmentation(dihedral=True, brightness=0.1, contrast=0.1, saturation=0.1)
    settings = Training(
        epochs=1, batch_size=batch, learning_rate=1e-3, weight_decay=0.01, warmup_epochs=0,
        patience=1, precision=os.environ.get("WBC_PRECISION", "fp32"), augmentation=augmentation,
    )  # fmt: skip
    labels = np.array([CLASSES.index(path.parent.name) for path in paths])
    table = pd.DataFrame({"part": "train", "domain": "raabin"}, index=range(len(paths)))
    images = Images(decode_all(paths, CROP, size, "images"), labels, table)
    device = torch.device("cpu")
    ours = build_model(backbone, normalisation, {}, 5, size, seed=0)
    training = TrainingSteps(ours, images, settings, device)
    habit = Habit(build_model(backbone, normalisation, {}, 5, size, 0), tmp_path, size, batch)
    timed = {"habit": habit.epoch, "floor": training.floor, "ours": training.epoch}
    times = in_turn(timed, ROUNDS, device)
    ratios = {}
    for kind in ("wall_s", "processor_s"):
        seconds = {name: getattr(timing, kind) for name, timing in times.items()}
        ratios[kind] = seconds["floor"] / seconds["ours"], seconds["habit"] / seconds["ours"]
    speeds = {name: len(paths) / timing.wall_s for name, timing in times.items()}
    benchmark.extra_info |= {"ratios": ratios, "images_per_s": speeds}
    print(
        f"\nCPU, {torch.get_num_threads()} threads, {settings.precision}: {backbone} at {size} px, "
        f"batch {batch}: "
        + ", ".join(f"{name} {speed:.1f} images/s" for name, speed in speeds.items())
        + "; wall-clock {:.0%} of the floor, {:.2f} x the habit".format(*ratios["wall_s"])
        + "; processor time {:.0%} and {:.2f} x".format(*ratios["processor_s"])
    )
    benchmark.pedantic(training.epoch, rounds=1)
