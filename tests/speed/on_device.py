"""Five minutes on a device: train, predict and measure there, and keep the speeds.

    python tests/speed/on_device.py            # the GPU if there is one, else the processor
    WBC_DEVICE=cuda python tests/speed/on_device.py

Three parts, each of which tells what it found:

1. *Right*: the same network, weights and images give the logits of the processor, forward and in
   the loss's gradient, within the rounding of the precision.
2. *Whole*: every way to average, to sample and to schedule, in every precision, is trained for an
   epoch and answers, without a value that is not finite.
3. *Fast*: `results/speed/` gets a row for each stage of `NETWORKS`.

`tests/test_on_device.py` calls the same functions on the processor with small networks, so that
they work on the day a GPU is at hand. All entries of params.yaml meet the device with
`pytest tests/test_every_entry.py`, which takes it where there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmark.device import choose_device, configure
from benchmark.models.build import build_model
from benchmark.models.predict import autocast, predict, standardise, to_float
from benchmark.parts import SETTINGS, registry
from benchmark.settings import Augmentation, Training
from benchmark.speed.measure import PRECISIONS, here_and_now, measure_network, noise_images, told
from benchmark.speed.records import write_rows, write_throughput
from benchmark.training.fit import fit

ROOT = Path(__file__).parents[2]
NETWORKS = (
    ("resnet18", "bn", 112), ("resnet18", "bn", 224), ("resnet50", "bn", 224),
    ("vit_tiny_patch16_224", "ln", 224), ("efficientnet_lite0", "bn", 112),
)  # fmt: skip
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "bf16_cpu": 5e-2}
"""Of the largest logit or gradient: TF32 and the order of sums, and eight bits of a number."""
AUGMENTATION = Augmentation(dihedral=True, brightness=0.1, contrast=0.1, saturation=0.1)


def training(batch: int, **changed: object) -> Training:
    """The settings of an epoch."""
    plain = {"epochs": 1, "batch_size": batch, "learning_rate": 1e-3, "weight_decay": 0.01}
    plain |= {"warmup_epochs": 0, "patience": 1, "precision": "fp32"}
    return Training(**plain | {"augmentation": AUGMENTATION} | changed)


def compare(backbone: str, normalisation: str, size: int, device: torch.device) -> dict[str, float]:
    """Largest difference from the processor, as a share of the largest value: by precision."""
    images = noise_images(8, size, 5)
    labels = torch.from_numpy(images.labels)

    def logits_and_gradient(where: torch.device, precision: str) -> list[np.ndarray]:
        model = build_model(backbone, normalisation, {}, 5, size, seed=0).eval().to(where)
        pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).to(where)
        with autocast(where, precision):
            logits = model(standardise(to_float(pixels))).float()
        F.cross_entropy(logits, labels.to(where)).backward()
        last = [p.grad for p in model.parameters() if p.grad is not None][-2]
        return [part.detach().float().cpu().numpy() for part in (logits, last)]

    expected = logits_and_gradient(torch.device("cpu"), "fp32")
    found = {}
    for precision in PRECISIONS:
        both = zip(expected, logits_and_gradient(device, precision), strict=True)
        found[precision] = max(float(np.abs(b - a).max() / np.abs(a).max()) for a, b in both)
    return found


def train_and_answer(
    backbone: str, normalisation: str, size: int, device: torch.device, batch: int = 16
) -> int:
    """Train with each named setting in each precision, answer in one view; the trainings made.

    Raises:
        AssertionError: a logit is not finite.
    """
    images = noise_images(2 * batch, size, 5)
    choices = [
        {kind: name}
        for kind in SETTINGS
        for name in registry(kind)
        if name not in ("domain_balanced",)  # noise is of one domain
    ]
    for precision, choice in product(PRECISIONS, choices):
        settings = training(batch, precision=precision, **choice)
        model = build_model(backbone, normalisation, {}, 5, size, seed=0)
        result = fit(model, F.cross_entropy, images, images, settings, 0, device)
        model.load_state_dict(result.state)
        logits = predict(model.to(device), images.pixels, precision, device)
        assert np.isfinite(logits).all(), f"{choice} in {precision}: a logit is not finite"
    return len(PRECISIONS) * len(choices)


def measure(
    root: Path,
    networks: Sequence[tuple[str, str, int]],
    device: torch.device,
    batch: int,
    steps: int,
    rounds: int,
) -> list[Path]:
    """Write the speeds of networks below `root` in every precision."""
    here, written = here_and_now(device), []
    for precision in PRECISIONS:
        rows = []
        for backbone, normalisation, size in networks:
            settings = training(batch, precision=precision)
            what = (backbone, normalisation, {}, settings, size, "channels_last", device)
            for row in measure_network(*what, steps, rounds):
                rows.append(row | here)
                print(precision, told(rows[-1]), flush=True)
        written.append(write_rows(root, rows, precision, "channels_last"))
    return [*written, write_throughput(root)]


def main() -> int:
    """All three on this machine's device; 1 if it computes something else than the processor."""
    device = choose_device()
    configure(device)
    print(f"device: {here_and_now(device)['device']}")
    wrong = 0
    for network in NETWORKS:
        for precision, apart in compare(*network, device).items():
            wrong += (far := apart > TOLERANCE[precision])
            print(f"{network[0]} {network[2]} px {precision}: {apart:.1e} from the processor's"
                  + (", too far" if far else ""), flush=True)  # fmt: skip
    print(f"{train_and_answer('resnet18', 'bn', 64, device)} trainings, all finite", flush=True)
    gpu = device.type == "cuda"
    for path in measure(ROOT, NETWORKS, device, 64 if gpu else 8, 20 if gpu else 2, 3):
        print(f"wrote {path}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
