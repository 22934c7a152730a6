"""How fast the parts of training are on this machine: `pytest --benchmark`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.models.build import build_model
from benchmark.models.normalisation import NORMALISATIONS
from benchmark.models.predict import predict, standardise, to_float
from benchmark.settings import Augmentation
from benchmark.training.augmentation import Augmenter

KEPT = ("bn_frozen", "ln", "evonorm")
"""Kept where a network has them; from scratch skipped on a ResNet."""
BATCH, SIZE = 64, 64
PIXELS = np.random.default_rng(0).integers(0, 255, (BATCH, SIZE, SIZE, 3), np.uint8)


def batch() -> torch.Tensor:
    """One batch of uint8 images in channels-last memory."""
    return torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


def test_augmentation_of_a_batch(benchmark) -> None:
    settings = Augmentation(dihedral=True, scale=0.1, brightness=0.1, contrast=0.1, saturation=0.1)
    augment = Augmenter(settings, BATCH, torch.Generator().manual_seed(0))
    benchmark(lambda: augment(to_float(batch()), 0))


@pytest.mark.parametrize("name", [n for n in NORMALISATIONS if n not in KEPT])
def test_training_step(benchmark, name: str) -> None:
    model = build_model("resnet18", name, {}, 5, SIZE, seed=0).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    images, labels = standardise(to_float(batch())), torch.arange(BATCH) % 5

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()

    benchmark.pedantic(step, rounds=5, warmup_rounds=2)


def test_prediction(benchmark) -> None:
    model = build_model("resnet18", "bn", {}, 5, SIZE, 0).to(memory_format=torch.channels_last)
    run = lambda: predict(model, PIXELS, "fp32", torch.device("cpu"))  # noqa: E731
    benchmark.pedantic(run, rounds=5, warmup_rounds=2)
