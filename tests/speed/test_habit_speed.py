"""A training epoch against its floor and against the habit, as ratios from one run.

`pytest --benchmark tests/speed/test_habit_speed.py -k resnet18-bn-224` measures one row. On
`WBC_MIRROR`'s Raabin images where there are any, else on phantoms. On a machine that does other
things at once, the ratio of processor times is the one to believe: it counts what an image costs.
Each is trained in the fastest precision of the processor, or in `WBC_PRECISION`; the habit, in
float32. Two ratios have no goal, but say what a goal could be: what training would reach if it did
nothing but its convolutions and products of matrices, and if these ran at the rate of the
processor's fastest product.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from goals import FLOOR, HABIT, row
from habit import Habit
from PIL import Image

from benchmark.data.arrays import Images
from benchmark.data.prepare import decode_all
from benchmark.device import instructions
from benchmark.models.build import build_model
from benchmark.models.summary import summarise
from benchmark.phantom.acquisition import Acquisition, draw
from benchmark.settings import Augmentation, Training
from benchmark.speed.measure import TrainingSteps, in_turn

SIDE, CROP, ROUNDS, IMAGES = 575, 0.6, 3, 128
CLASSES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
CASES = [
    ("resnet18", "bn", 64, 64, 2, 4.5), ("resnet18", "bn", 112, 64, 2, 4.5),
    ("resnet18", "bn", 224, 32, 2, 5), ("resnet50", "bn", 224, 16, 2, 5),
    ("vit_tiny_patch16_224", "ln", 224, 32, 2, 4), ("efficientnet_lite0", "bn", 112, 64, 2, 4),
]  # fmt: skip
"""Network, normalisation, pixels, batch, steps an epoch; how many times the habit it is to be where
the processor multiplies bfloat16: elsewhere 2. Up to 112 px the batch is the one that `core` and
`core2` train with: in small ones the optimiser and the rounding of weights weigh more."""
PRODUCT, PRODUCTS = 1024, 20
"""Rows and columns of the matrices whose product shows the peak, and how often it is taken."""
FAST_BF16 = instructions() in ("amx", "avx512-bf16")
FASTEST = "bf16_cpu" if FAST_BF16 else "fp32"
ALONE = "products alone"
KERNELS = (
    "aten::mkldnn_convolution", "aten::convolution_backward", "aten::mm", "aten::addmm",
    "aten::bmm",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs of 575 px in folders by class."""
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


@pytest.mark.parametrize(("backbone", "normalisation", "size", "batch", "steps", "goal"), CASES)
def test_training_against_the_floor_and_the_habit(
    record_property: Callable, folder: Path, tmp_path: Path, backbone: str, normalisation: str,
    size: int, batch: int, steps: int, goal: float,
) -> None:  # fmt: skip
    paths = sorted(folder.rglob("*.jpg"), key=lambda path: int(path.stem))[: steps * batch]
    for path in paths:
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    augmentation = Augmentation(dihedral=True, brightness=0.1, contrast=0.1, saturation=0.1)
    settings = Training(
        epochs=1, batch_size=batch, learning_rate=1e-3, weight_decay=0.01, warmup_epochs=0,
        patience=1, precision=os.environ.get("WBC_PRECISION") or FASTEST,
        augmentation=augmentation,
    )  # fmt: skip
    labels = np.array([CLASSES.index(path.parent.name) for path in paths])
    table = pd.DataFrame({"part": "train", "domain": "raabin"}, index=range(len(paths)))
    images = Images(decode_all(paths, CROP, size, "images"), labels, table)
    device = torch.device("cpu")
    ours = build_model(backbone, normalisation, {}, 5, size, seed=0)
    training = TrainingSteps(ours, images, settings, device)
    habit = Habit(build_model(backbone, normalisation, {}, 5, size, 0), tmp_path, size, batch)
    timed = {"habit": habit.epoch, "floor": training.floor, "ours": training.epoch}
    timed["peak"] = products(torch.float32 if settings.precision == "fp32" else torch.bfloat16)
    times = in_turn(timed, ROUNDS, device)
    names = ("habit", "ours", "floor", "peak")
    theirs, own, floor, product = (
        np.array([times[name].processor_s, times[name].wall_s]) for name in names
    )
    # The backward pass multiplies twice as often: for the inputs and for the weights.
    with torch.device("meta"):
        forward = summarise(build_model(backbone, normalisation, {}, 5, size, 0), size)
    often = 3 * forward.multiply_adds * len(images) / (PRODUCTS * PRODUCT**3)
    goal = goal if FAST_BF16 else 2
    for measure, wanted, reached in (
        (HABIT, f"≥ {goal}", theirs / own),
        (FLOOR, "≥ 0.95", floor / own),
        (f"{HABIT}, {ALONE}", "–", theirs / own / share_of_products(training.floor)),
        (f"{HABIT}, at the peak", "–", theirs / (often * product)),
    ):
        name = f"{backbone} {size} px {settings.precision}"
        record_property("reached", row(name, measure, wanted, *reached))


def products(kind: torch.dtype) -> Callable[[], None]:
    """A function that multiplies two square matrices of a type, again and again."""
    first, second = torch.randn(2, PRODUCT, PRODUCT).to(kind)

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(first, second)

    return multiply


def share_of_products(steps: Callable[[], object]) -> float:
    """The share of their time that steps spend in convolutions and products of matrices."""
    with torch.profiler.profile() as profiled:
        steps()
    spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(own for name, own in spent.items() if name in KERNELS) / sum(spent.values())
