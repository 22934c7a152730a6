"""Time a profile's networks and `prepare` on this machine, for `results/speed/`.

What is compared is run in turn, round after round, so that a machine that slows down slows all of
it; medians are given, of wall-clock and of processor time. On a busy machine only ratios mean much.
What fails is a row with its reason; what does not fit into memory is tried again at half the batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.arrays import Images
from benchmark.data.cards import Card, card_of, raw_folder
from benchmark.data.manifests import domain_images
from benchmark.data.prepare import decode_all, placed
from benchmark.device import environment, instructions
from benchmark.errors import UserError
from benchmark.models.build import build_model, skip_reason
from benchmark.models.predict import autocast, predict, standardise, to_float
from benchmark.models.summary import summarise
from benchmark.progress import say
from benchmark.settings import Params, Precision, Training
from benchmark.speed.records import Row, write_rows
from benchmark.training.augmentation import Augmenter
from benchmark.training.fit import fit

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PRECISIONS = get_args(Precision)
STAGES = ("batch", "train_floor", "train", "inference")
"""batch: gather, augment, standardise. train_floor: steps on a batch in place. train: steps as a
run trains them. inference: logits, at the fixed batch of `predict`. Beside them `prepare`: decode
and resize."""
DECODED = 64
"""Images that the speed of `prepare` is measured on."""


@dataclass(frozen=True)
class Timing:
    """Medians over rounds, and the most memory above what was in use before, None if unknown."""

    wall_s: float
    processor_s: float
    peak_memory_bytes: int | None


def in_turn(
    functions: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Timing]:
    """Time functions round after round, after one call of each that is not counted.

    A function that returns a float has timed the part of itself that is meant, in seconds.
    """
    for function in functions.values():
        function()
    measured: dict[str, list[tuple[float, float, int | None]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            before = start_of_peak(device)
            synchronise(device)
            wall, processor = time.perf_counter(), processor_seconds()
            part = function()
            synchronise(device)
            wall, processor = time.perf_counter() - wall, processor_seconds() - processor
            above = None if before is None else torch.cuda.max_memory_allocated(device) - before
            measured[name].append((part if isinstance(part, float) else wall, processor, above))
    timings = {}
    for name, rows in measured.items():
        walls, processors, peaks = zip(*rows, strict=True)
        peak = None if peaks[0] is None else max(peaks)
        timings[name] = Timing(float(np.median(walls)), float(np.median(processors)), peak)
    return timings


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

    def answer(self) -> None:
        """Logits of every image."""
        predict(self.model, self.images.pixels, self.settings.precision, self.device)


def networks(params: Params, profile_name: str, models: list[str]) -> list[tuple[str, str, int]]:
    """Backbone, normalisation and image size of what is measured: the profile's, or timm models.

    A named model has the profile's normalisations, or where it is not the profile's, its own.
    """
    profile = params.profile(profile_name)
    found: dict[tuple[str, str, int], None] = {}
    for experiment in profile.experiments.values():
        for method in params.methods_of(experiment).values():
            if method.backbone:
                size = profile.size_of(method.framing)
                found[method.backbone, method.normalisation, size] = None
    if not models:
        return list(found)
    chosen = [network for network in found if network[0] in models]
    for name in models:
        if name not in {backbone for backbone, *_ in chosen}:
            # Layer normalisation is never put in: where it is allowed, the network has it.
            reasons = {n: skip_reason(name, n, {}, profile.image_size) for n in ("ln", "bn")}
            own = [n for n, reason in reasons.items() if reason is None]
            if not own:
                raise UserError(f"--models {name}: {reasons['bn']}")
            chosen.append((name, own[0], profile.image_size))
    return chosen


def measure_network(
    backbone: str,
    normalisation: str,
    parameters: dict[str, Any],
    settings: Training,
    size: int,
    layout: str,
    device: torch.device,
    steps: int,
    rounds: int,
) -> Iterator[Row]:
    """Rows of one network: batch, floor, training and inference, measured in turn."""
    row: Row = {"backbone": backbone, "normalisation": normalisation, "image_size": size}
    row |= {"rounds": rounds, "reason": None}
    build = partial(build_model, backbone, normalisation, parameters, 5, size, seed=0)
    batch = settings.batch_size
    while True:
        try:
            with torch.device("meta"):
                multiply_adds = summarise(build(), size).multiply_adds
            images = noise_images(steps * batch, size, 5)
            chosen = settings.model_copy(update={"batch_size": batch})
            timed = TrainingSteps(build(), images, chosen, device, layout)
            functions: dict[str, Callable[[], object]] = {
                "batch": timed.assembled,
                "train_floor": timed.floor,
                "train": timed.epoch,
                "inference": timed.answer,
            }
            if layout != "channels_last":
                del functions["train"]  # a run trains in channels last alone
            timings = in_turn(functions, rounds, device)
            break
        except Exception as error:  # noqa: BLE001  one broken network must not end the others
            if out_of_memory(error) and batch >= 4:
                row["reason"] = f"out of memory at a batch of {batch}"
                batch //= 2
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            row |= {"batch_size": batch, "outcome": "oom" if out_of_memory(error) else "error"}
            row["reason"] = str(error).splitlines()[0]
            yield from (row | {"stage": stage} for stage in STAGES)
            return
    row |= {"batch_size": batch, "multiply_adds_g": round(multiply_adds / 1e9, 4)}
    for stage, timing in timings.items():
        images_and_steps = (batch, 1) if stage == "batch" else (len(images), steps)
        yield row | {"stage": stage} | rates(timing, *images_and_steps)


def out_of_memory(error: Exception) -> bool:
    """Whether an error is a lack of memory; torch has no class of its own for the processor's."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "can't allocate memory" in str(error)


def rates(timing: Timing, images: int, steps: int) -> Row:
    """What a timing says per image and per step."""
    peak = timing.peak_memory_bytes
    return {
        "outcome": "done",
        "images_per_s": round(images / timing.wall_s, 2),
        "ms_per_step": round(1e3 * timing.wall_s / steps, 3),
        "processor_ms_per_image": round(1e3 * timing.processor_s / images, 3),
        "peak_memory_mib": None if peak is None else round(peak / 2**20, 1),
    }


def measure_prepare(
    root: Path, params: Params, cards: dict[str, Card], profile_name: str, rounds: int
) -> Row:
    """How fast images of the profile's first domain are decoded and resized, by all processors."""
    profile = params.profile(profile_name)
    domain = profile.domains[0]
    card = card_of(cards, domain)
    row: Row = {"stage": "prepare", "image_size": profile.image_size, "rounds": rounds}
    row |= {"threads": os.cpu_count()}
    table = domain_images(root / "datasets", card, domain, profile.label_space, profile.subset)
    table = table[:DECODED]
    paths = [raw_folder(root / "datasets", card) / path for path in table["path"]]
    crop = placed(card.domains[domain].crop_for(profile.label_space), table, card.manifest)
    decode = {"prepare": lambda: decode_all(paths, crop, profile.image_size, domain)}
    try:
        timing = in_turn(decode, rounds, torch.device("cpu"))["prepare"]
    except UserError as error:
        return row | {"outcome": "error", "reason": str(error)}
    return row | {"batch_size": len(paths)} | rates(timing, len(paths), 1)


def here_and_now(device: torch.device) -> Row:
    """What is recorded beside every speed: the machine, and what it runs."""
    facts = environment(device)
    here = {key: facts[key] for key in ("device", "device_type", "threads", "torch", "timm")}
    return here | ({"instructions": instructions()} if device.type == "cpu" else {})


def told(row: Row) -> str:
    """A row as a line for the log."""
    what = f"{row['backbone']} {row['normalisation']} {row['stage']}, batch {row['batch_size']}"
    if row["outcome"] != "done":
        return f"{what}: {row['outcome']}: {row['reason']}"
    return f"{what}: {row['images_per_s']} images/s, {row['ms_per_step']} ms a step"


def measure_speed(
    root: Path,
    params: Params,
    cards: dict[str, Card],
    profile_name: str,
    models: list[str],
    precisions: list[str],
    layouts: list[str],
    device: torch.device,
    steps: int = 4,
    rounds: int = 3,
) -> list[Path]:
    """Measure a profile's networks and `prepare`; write a file per precision and layout."""
    profile = params.profile(profile_name)
    chosen = networks(params, profile_name, models)
    here = here_and_now(device)
    prepared = here | measure_prepare(root, params, cards, profile_name, rounds)
    paths = []
    for precision in precisions or [profile.training.precision]:
        settings = profile.training.model_copy(update={"precision": precision})
        for layout in layouts or ["channels_last"]:
            rows = [prepared]
            for backbone, normalisation, size in chosen:
                parameters = params.normalisations[normalisation]
                what = (backbone, normalisation, parameters, settings, size, layout, device)
                for row in measure_network(*what, steps, rounds):
                    rows.append(row | here)
                    say(told(rows[-1]))
            paths.append(write_rows(root, rows, precision, layout))
    return paths
