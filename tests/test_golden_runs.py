"""Golden runs: tiny runs whose predictions are pinned, so that no change moves bits unnoticed.

When a test here fails, a change moved the numbers of a part. If that was meant, raise the part's
version in `benchmark/numerics.py`, so that exactly the runs that use it become stale, then pin
that part anew: `python tests/test_golden_runs.py bn-focal`. A part that is new is pinned by
`python tests/test_golden_runs.py --missing`. Neither touches another's pin: each keeps the
environment that it was made in, and holds to the bit in that one alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmark.config import Augmentation, Training
from benchmark.data.arrays import Images
from benchmark.data.prepare import decode
from benchmark.inference.predict import predict
from benchmark.models.build import build_model
from benchmark.models.normalisation import NORMALISATIONS
from benchmark.numerics import version
from benchmark.training.device import processor
from benchmark.training.fit import fit
from benchmark.training.loss import join
from benchmark.training.losses import LOSSES

FIXTURE = Path(__file__).parent / "fixtures" / "golden_runs.json"
# These three are kept where a network has them, and from scratch are skipped on a ResNet.
KEPT = ("bn_frozen", "ln", "evonorm")
RUNS = [(name, "ce") for name in NORMALISATIONS if name not in KEPT]
RUNS += [("bn", name) for name in LOSSES if name != "ce"]
# Two steps from scratch on another processor agree to about this on logits of order one.
TOLERANCE = 0.05


def environment() -> dict[str, str]:
    """What bits may depend on beside the code."""
    facts = {package: installed(package) for package in ("torch", "timm", "numpy", "pillow")}
    return facts | {"processor": processor(), "capability": torch.backends.cpu.get_cpu_capability()}


def images(n: int, seed: int) -> Images:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 5
    pixels = generator.integers(0, 100, (n, 40, 40, 3)) + 30 * labels[:, None, None, None]
    return Images(pixels.astype(np.uint8), labels.astype(np.int64), pd.DataFrame(index=range(n)))


def run(normalisation: str, loss: str) -> np.ndarray:
    """Logits [10, 5] after one epoch of two steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build_model("resnet10t", normalisation, {}, 5, 40, seed=0)
        augmentation = Augmentation(
            dihedral=True, scale=0.1, shift=0.1, brightness=0.1, contrast=0.1, saturation=0.1
        )
        settings = Training(
            epochs=1, batch_size=10, learning_rate=1e-3, weight_decay=0.05, warmup_epochs=0,
            patience=1, precision="fp32", augmentation=augmentation,
        )  # fmt: skip
        train = images(20, seed=0)
        function = join(LOSSES[loss](torch.tensor([8, 5, 4, 2, 1])), model, seed=0)
        fit(model, function, train, images(10, seed=1), settings, 0, torch.device("cpu"))
        return predict(model, images(10, seed=2).pixels, "fp32", torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


def pixels(folder: Path) -> np.ndarray:
    """A drawn JPEG through the decoder: uint8 [32, 32, 3]."""
    y, x = np.mgrid[:200, :180]
    picture = np.stack([(x * 2) % 256, (y * 3) % 256, (x + y) % 256], 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=90)
    path = folder / "golden.jpg"
    path.write_bytes(buffer.getvalue())
    return decode(path, crop=0.8, size=32)


def versions(normalisation: str, loss: str) -> dict[str, int]:
    parts = {p: version(p) for p in ("model", "augmentation", "training", "inference")}
    parts[f"normalisation.{normalisation}"] = version("normalisation", normalisation)
    parts[f"loss.{loss}"] = version("loss", loss)
    return parts


def sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def golden_run(normalisation: str, loss: str) -> dict:
    """What is pinned of a run, as the code is."""
    logits = run(normalisation, loss)
    return {
        "environment": environment(),
        "versions": versions(normalisation, loss),
        "sha256": sha256(logits),
        "values": np.round(logits.astype(float), 4).tolist(),
    }


def golden_pixels() -> dict:
    """What is pinned of the decoder."""
    with tempfile.TemporaryDirectory() as folder:
        array = pixels(Path(folder))
    return {
        "environment": environment(),
        "versions": {"data": version("data")},
        "sha256": sha256(array),
        "values": np.round(array.mean(axis=(0, 1)), 3).tolist(),
    }


GOLDEN: dict[str, Callable[[], dict]] = {
    f"{normalisation}-{loss}": partial(golden_run, normalisation, loss)
    for normalisation, loss in RUNS
} | {"pixels": golden_pixels}
"""Name of a pin → what it pins, computed anew."""
TOLERANCES = {"pixels": 1.0}


def read_pins(path: Path = FIXTURE) -> dict[str, dict]:
    return json.loads(path.read_text()) if path.exists() else {}


def compare_with_pin(name: str, pins: dict[str, dict]) -> None:
    """Assert that a golden run gives what is pinned: to the bit in the pin's own environment."""
    again = f"python tests/test_golden_runs.py {name}"
    assert name in pins, f"{name} is not pinned: `python tests/test_golden_runs.py --missing`"
    pin, now = pins[name], GOLDEN[name]()
    assert pin["versions"] == now["versions"], f"pin it anew: `{again}`"
    if pin["environment"] == now["environment"]:
        assert pin["sha256"] == now["sha256"], (
            "bits moved: if that was meant, raise the version of the part that changed in "
            f"benchmark/numerics.py, then `{again}`"
        )
    distance = np.abs(np.array(pin["values"]) - now["values"]).max()
    assert distance < TOLERANCES.get(name, TOLERANCE)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_run_keeps_its_bits_until_its_version_is_raised(name: str) -> None:
    compare_with_pin(name, read_pins())


def test_a_pin_is_of_something_that_is_there() -> None:
    assert read_pins().keys() <= GOLDEN.keys()


def test_e4_a_new_part_is_pinned_alone(tmp_path: Path) -> None:
    """A loss of one's own costs one line of the fixture, and until then one clear line of text."""
    path = tmp_path / "pins.json"
    pins = read_pins()
    of_new = pins.pop("bn-focal")
    write_pins(path, pins)
    before = path.read_text().splitlines()
    with pytest.raises(AssertionError, match=r"bn-focal is not pinned: .*--missing"):
        compare_with_pin("bn-focal", read_pins(path))
    pin([], missing=True, path=path)
    after = path.read_text().splitlines()
    assert len(set(after) - set(before)) == 1
    assert set(before) <= set(after)
    assert read_pins(path)["bn-focal"]["versions"] == of_new["versions"]


def write_pins(path: Path, pins: dict[str, dict]) -> None:
    """One line a pin, so that a change shows as the lines that it is."""
    lines = [f"{json.dumps(name)}: {json.dumps(pins[name])}" for name in GOLDEN if name in pins]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def pin(names: list[str], missing: bool = False, path: Path = FIXTURE) -> None:
    """Pin the named golden runs, or those without a pin, as the code is; leave the others."""
    pins = read_pins(path)
    names = [name for name in GOLDEN if name not in pins] if missing else names
    write_pins(path, pins | {name: GOLDEN[name]() for name in names})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"pin anew: {', '.join(GOLDEN)}")
    parser.add_argument("--missing", action="store_true", help="pin what has no pin")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - GOLDEN.keys()):
        parser.error(f"no golden run '{unknown[0]}'")
    pin(arguments.names, arguments.missing)
