"""Time the parts of a run on this machine: a network and a batch → seconds and memory.

What is compared is run in turn, round after round, so that a machine that slows down slows all of
it; medians are given, of wall-clock and of processor time. On a busy machine only ratios mean much.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.config import Training
from benchmark.data.arrays import Images
from benchmark.models.predict import autocast, predict, standardise, to_float
from benchmark.training.augmentation import Augmenter
from benchmark.training.fit import fit

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Timing:
    """Medians over rounds, and the most memory above what was in use before, None if unknown."""

    wall_s: float
    processor_s: float
    peak_memory_bytes: int | None


def in_turn(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    warmup: int = 1,
) -> dict[str, Timing]:
    """Time functions round after round, each after `warmup` calls that are not counted.

    A function that returns a float has timed the part of itself that is meant, in seconds.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    seen: dict[str, list[tuple[float, float, int | None]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            before = start_of_peak(device)
            synchronise(device)
            wall, processor = time.perf_counter(), processor_seconds()
            part = function()
            synchronise(device)
            seconds = time.perf_counter() - wall, processor_seconds() - processor
            if isinstance(part, float):
                seconds = part, seconds[1]
            above = None if before is None else torch.cuda.max_memory_allocated(device) - before
            seen[name].append((*seconds, above))
    return {
        name: Timing(
            float(np.median([r[0] for r in measured])),
            float(np.median([r[1] for r in measured])),
            None if measured[0][2] is None else max(r[2] for r in measured),
        )
        for name, measured in seen.items()
    }


def processor_seconds() -> float:
    """Processor time of this process and of the children that it has waited for."""
    return time.process_time() + sum(os.times()[2:4])


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_of_peak(device: torch.device) -> int | None:
    """Set a GPU's peak of memory back to what is in use now, and return that, in bytes.

    None on a processor, where what was freed stays with the process and no peak says who used it.
    """
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def noise_images(count: int, size: int, classes: int) -> Images:
    """Images of noise, uint8 [count, size, size, 3], and labels in turn: speed sees no content."""
    pixels = np.random.default_rng(0).integers(0, 255, (count, size, size, 3), np.uint8)
    table = pd.DataFrame({"part": ["train"] * count, "domain": ["noise"] * count})
    return Images(pixels, np.arange(count, dtype=np.int64) % classes, table)


class TrainingSteps:
    """An epoch as `fit` trains it, and its floor: the same steps on a batch that is in place.

    Args:
        images: an epoch of them, a multiple of the batch size.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        settings: Training,
        device: torch.device,
        layout: str = "channels_last",
    ) -> None:
        self.model, self.images, self.device = model, images, device
        self.settings = settings.model_copy(update={"epochs": 1, "warmup_epochs": 0})
        self.layout = LAYOUTS[layout]
        self.few = Images(images.pixels[:1], images.labels[:1], images.table[:1])
        self.model.to(device, memory_format=self.layout)
        self.optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, fused=True)
        self.batch = self.assembled().contiguous(memory_format=self.layout)
        self.labels = torch.from_numpy(images.labels[: len(self.batch)]).to(device)

    def floor(self) -> None:
        """The steps of an epoch on a batch in place: no gathering, no augmentation."""
        self.model.to(self.device, memory_format=self.layout).train()
        for _ in range(len(self.images) // len(self.batch)):
            with autocast(self.device, self.settings.precision):
                logits = self.model(self.batch)
            self.optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), self.labels).backward()
            self.optimiser.step()

    def epoch(self) -> float:
        """One epoch as a run trains it; its seconds without the validation that follows."""
        args = (self.model, F.cross_entropy, self.images, self.few, self.settings, 0, self.device)
        return len(self.images) / fit(*args).images_per_s

    def assembled(self) -> Tensor:
        """The first batch: gathered, augmented and standardised."""
        count = min(self.settings.batch_size, len(self.images))
        pixels = torch.from_numpy(self.images.pixels[:count]).permute(0, 3, 1, 2).to(self.device)
        augment = Augmenter(self.settings.augmentation, count, torch.Generator().manual_seed(0))
        return standardise(augment(to_float(pixels), 0))

    def assemble(self) -> None:
        """The work of `assembled` alone."""
        self.assembled()

    def answer(self) -> None:
        """Logits of every image."""
        predict(self.model, self.images.pixels, self.settings.precision, self.device)
