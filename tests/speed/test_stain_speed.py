"""Stain normalisation against one image at a time, corruptions, and what augmentation costs.

`pytest --benchmark -s` prints the ratios, each measured within one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmark.data.corruptions import CORRUPTIONS, corrupt
from benchmark.data.stain import fit_stain
from benchmark.phantom.acquisition import Acquisition, draw
from benchmark.settings import Augmentation
from benchmark.training.augmentation import Augmenter

PLAIN = {"dihedral": True, "scale": 0.1, "brightness": 0.1, "contrast": 0.1, "saturation": 0.1}
STRONG = PLAIN | {
    "rotation": 45, "stain_mixing": 0.1, "hed_jitter": 0.05, "stain_gain": 0.3, "background": 0.1,
    "blur": 0.02, "resolution_loss": 0.5, "noise": 0.03, "jpeg": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    kinds = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
    few = [draw(kind, Acquisition(), i, size=112) for i, kind in enumerate(kinds)]
    return np.stack(few * 20)


def median_s(function: Callable[[], object], rounds: int = 7) -> float:
    """Median processor time of a call, s."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return float(np.median(times))


@pytest.mark.parametrize("name", ["macenko", "reinhard"])
def test_stain_in_batches_against_one_image_at_a_time(benchmark, cells, name: str) -> None:
    stain = fit_stain(name, cells[:5])
    one_by_one = median_s(lambda: [stain(image[None]) for image in cells], 3)
    ratio = one_by_one / median_s(lambda: stain(cells), 3)
    print(f"\n{name}, 112 px: {ratio:.1f} × one image at a time, in processor time")
    benchmark.pedantic(stain, (cells,), rounds=3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_of_a_hundred_images(benchmark, cells, name: str) -> None:
    images = [str(i) for i in range(len(cells))]
    benchmark.pedantic(corrupt, (cells, images, name, 3), rounds=3)


@pytest.mark.parametrize("size", [64, 112])
def test_strong_augmentation_against_plain(benchmark, size: int) -> None:
    batch = torch.rand(64, 3, size, size).contiguous(memory_format=torch.channels_last)

    def augment(settings: dict) -> Callable[[], torch.Tensor]:
        augmenter = Augmenter(Augmentation(**settings), 64, torch.Generator().manual_seed(0))
        augmenter(batch, 0)
        return lambda: augmenter(batch, 0)

    plain = median_s(augment(PLAIN))
    print(f"\naugmentation of 64 images of {size} px, plain: {1e3 * plain:.1f} ms processor time")
    choices = {k: PLAIN | {k: STRONG[k]} for k in STRONG if k not in PLAIN} | {"all": STRONG}
    for option, settings in choices.items():
        print(f"  with {option}: {median_s(augment(settings)) / plain:.2f} × plain")
    benchmark(augment(STRONG))
