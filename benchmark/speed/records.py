"""A profile's networks on this machine → `results/speed/<device>-<torch>-<precision>-<layout>.csv`.

A row per stage, network and batch. What fails is a row with its reason; what does not fit into
memory is tried again at half the batch.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmark.config import Params, Training
from benchmark.data.cards import Card, card_of, domain_images
from benchmark.data.fetch import raw_folder
from benchmark.data.prepare import decode_all
from benchmark.errors import UserError
from benchmark.files import write_text
from benchmark.models.build import build_model, skip_reason
from benchmark.models.summary import summarise
from benchmark.progress import say
from benchmark.speed.measure import Timing, TrainingSteps, in_turn, noise_images
from benchmark.training.device import environment

STAGES = ("prepare", "batch", "train_floor", "train", "inference")
"""prepare: decode and resize. batch: gather, augment, standardise. train_floor: steps on a batch
in place. train: steps as a run trains them. inference: logits, at the fixed batch of `predict`."""
COLUMNS = (
    "stage", "backbone", "normalisation", "image_size", "batch_size", "outcome", "reason",
    "images_per_s", "ms_per_step", "processor_ms_per_image", "peak_memory_mib",
    "multiply_adds_g", "rounds", "device", "device_type", "threads", "torch", "timm",
)  # fmt: skip
DECODED = 64
"""Images that the speed of `prepare` is measured on."""
Row = dict[str, Any]


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
    row |= {"rounds": rounds}
    stages = [stage for stage in STAGES if stage != "prepare"]
    batch, reason = settings.batch_size, None
    while True:
        try:
            with torch.device("meta"):
                network = build_model(backbone, normalisation, parameters, 5, size, seed=0)
            multiply_adds = summarise(network, size).multiply_adds
            model = build_model(backbone, normalisation, parameters, 5, size, seed=0)
            images = noise_images(steps * batch, size, 5)
            chosen = settings.model_copy(update={"batch_size": batch})
            timed = TrainingSteps(model, images, chosen, device, layout)
            functions: dict[str, Callable[[], object]] = {
                "batch": timed.assemble,
                "train_floor": timed.floor,
                "train": timed.epoch,
                "inference": timed.answer,
            }
            if layout != "channels_last":
                del functions["train"]  # a run trains in channels last alone
            timings = in_turn(functions, rounds, device)
        except Exception as error:  # noqa: BLE001  one broken network must not end the others
            if out_of_memory(error) and batch >= 4:
                reason = f"out of memory at a batch of {batch}"
                batch //= 2
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            kind = "oom" if out_of_memory(error) else "error"
            failed = {"batch_size": batch, "outcome": kind, "reason": str(error).splitlines()[0]}
            yield from (row | {"stage": stage} | failed for stage in stages)
            return
        break
    for stage, timing in timings.items():
        count = batch if stage == "batch" else len(images)
        facts = {"stage": stage, "batch_size": batch, "reason": reason}
        facts |= {"multiply_adds_g": round(multiply_adds / 1e9, 4)}
        yield row | facts | rates(timing, count, 1 if stage == "batch" else steps)


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
    paths = [raw_folder(root / "datasets", card) / path for path in table["path"][:DECODED]]
    crop = card.domains[domain].crop_for(profile.label_space)
    decode = {"prepare": lambda: decode_all(paths, crop, profile.image_size, domain)}
    try:
        timing = in_turn(decode, rounds, torch.device("cpu"))["prepare"]
    except UserError as error:
        return row | {"outcome": "error", "reason": str(error)}
    return row | {"batch_size": len(paths)} | rates(timing, len(paths), 1)


def speed_path(root: Path, facts: dict[str, Any], precision: str, layout: str) -> Path:
    """Where a machine's speed is recorded: the setting is the file's name."""
    device = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
    kind = "cpu" if facts["device_type"] == "cpu" else "gpu"
    name = f"{kind}-{device}-torch{facts['torch']}-{precision}-{layout}.csv"
    return Path(root) / "results" / "speed" / name


def write_rows(root: Path, rows: list[Row], precision: str, layout: str) -> Path:
    """Write rows of one machine and setting; rows of other networks or sizes stay as they are."""
    path = speed_path(root, rows[-1], precision, layout)
    key = ["stage", "backbone", "normalisation", "image_size", "batch_size", "threads"]
    # Compared and kept as text: a number that is read and written again may change its digits.
    tables = [pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False)]
    if path.exists():
        tables.insert(0, path.read_text(encoding="utf-8"))
    read = [pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False) for text in tables]
    table = pd.concat(read, ignore_index=True)
    write_text(path, table[~table[key].duplicated(keep="last")].to_csv(index=False))
    return path


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
    facts = environment(device)
    here = {key: facts[key] for key in ("device", "device_type", "threads", "torch", "timm")}
    prepared = measure_prepare(root, params, cards, profile_name, rounds)
    paths = []
    for precision in precisions or [profile.training.precision]:
        settings = profile.training.model_copy(update={"precision": precision})
        for layout in layouts or ["channels_last"]:
            rows = [here | prepared]
            for backbone, normalisation, size in chosen:
                parameters = params.normalisations[normalisation]
                what = (backbone, normalisation, parameters, settings, size)
                for row in measure_network(*what, layout, device, steps, rounds):
                    rows.append(row | here)
                    say(told(rows[-1]))
            paths.append(write_rows(root, rows, precision, layout))
    return paths
