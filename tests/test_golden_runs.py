"""Golden runs: tiny runs whose predictions are pinned, so that no change moves bits unnoticed.

When a test here fails, a change moved the numbers of a part. If that was meant, raise the part's
version in `benchmark/numerics.py`, so that exactly the runs that use it become stale, then pin
anew: `python tests/test_golden_runs.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
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


@pytest.fixture(scope="module")
def pinned() -> dict:
    return json.loads(FIXTURE.read_text())


@pytest.mark.parametrize(("normalisation", "loss"), RUNS)
def test_a_run_keeps_its_bits_until_its_version_is_raised(
    pinned: dict, normalisation: str, loss: str
) -> None:
    golden = pinned["runs"][f"{normalisation}-{loss}"]
    assert golden["versions"] == versions(normalisation, loss), (
        "pin anew: see this file's docstring"
    )
    logits = run(normalisation, loss)
    if pinned["environment"] == environment():
        assert sha256(logits) == golden["sha256"], "bits moved: see this file's docstring"
    assert np.abs(logits - np.array(golden["logits"])).max() < TOLERANCE


def test_decoded_pixels_keep_their_bits(pinned: dict, tmp_path: Path) -> None:
    golden = pinned["pixels"]
    assert golden["version"] == version("data")
    array = pixels(tmp_path)
    if pinned["environment"] == environment():
        assert sha256(array) == golden["sha256"], "bits moved: see this file's docstring"
    assert array.mean(axis=(0, 1)) == pytest.approx(golden["mean"], abs=1.0)


def test_every_loss_and_normalisation_is_pinned(pinned: dict) -> None:
    assert pinned["runs"].keys() == {f"{n}-{loss}" for n, loss in RUNS}


def pin() -> None:
    """Write the fixture from the code as it is."""
    import tempfile

    runs = {}
    for normalisation, loss in RUNS:
        logits = run(normalisation, loss)
        runs[f"{normalisation}-{loss}"] = {
            "versions": versions(normalisation, loss),
            "sha256": sha256(logits),
            "logits": np.round(logits.astype(float), 4).tolist(),
        }
    with tempfile.TemporaryDirectory() as folder:
        array = pixels(Path(folder))
    decoded = {
        "version": version("data"),
        "sha256": sha256(array),
        "mean": np.round(array.mean(axis=(0, 1)), 3).tolist(),
    }
    value = {"environment": environment(), "runs": runs, "pixels": decoded}
    FIXTURE.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    pin()
