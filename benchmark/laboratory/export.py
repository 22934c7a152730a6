"""A network as an ONNX file, for programs without Python or PyTorch.

What happens to an image between the decoded square and the probabilities is in the graph as far as
ONNX can say it; all else (how to crop, what the outputs mean, temperature, threshold) stands in a
JSON file beside it.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.data.prepare import scaled
from benchmark.data.stain import LEAST_GREY_SPREAD, LUMA, fitted_numbers
from benchmark.errors import UserError
from benchmark.files import atomic, sha256_file, write_json
from benchmark.laboratory.networks import ACCURACY, Gauge, Network
from benchmark.models.predict import VIEWS, Averaged, standardise, to_float
from benchmark.parts import PLAIN
from benchmark.study.records import network_sha256

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
INPUT, OUTPUTS = "pixels", ("logits", "probabilities")
IN_GRAPH = ("none", "standardised", "image_moments", "grey")
"""Stain normalisations that the graph holds."""
TRIED = 5
"""Images that the exported file is tried with."""
TOLERANCE = 5e-3
"""Logits of the exported file that differ by more are refused; rounding differs by 1e-4."""


class Exported(nn.Module):
    """uint8 images [N, S, S, 3], RGB → logits [N, C] and probabilities [N, C] at the temperature.

    Args:
        network: moved to the processor, in single precision.
        temperature: that divides the logits of the probabilities.
    """

    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        model = copy.deepcopy(network.model).cpu().float().eval()
        self.model = Averaged(model, VIEWS["dihedral"]) if network.averages else model
        self.preprocessing, self.temperature = network.preprocessing, temperature
        name = network.record.method.stain
        self.stain = name if name in IN_GRAPH else PLAIN["stain"]
        fitted = fitted_numbers(network.stain) if name == "image_moments" else {}
        self.mean, self.spread = fitted.get("mean", ()), fitted.get("spread", ())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        batch = to_float(self.stained(pixels.permute(0, 3, 1, 2)))
        logits = self.model(standardise(batch, self.preprocessing))
        return logits, (logits / self.temperature).softmax(1)

    def stained(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in grey values, in the network's stain; see `benchmark/data/stain.py`."""
        if self.stain == "grey":
            luma = torch.tensor(LUMA, dtype=torch.float64)[:, None, None]
            grey = (images.double() * luma).sum(1, keepdim=True).round()
            return grey.expand(-1, 3, -1, -1).float()
        if self.stain == "image_moments":
            values = images.double()
            mean = values.mean((2, 3), keepdim=True)
            spread = (values - mean).square().mean((2, 3), keepdim=True).sqrt()
            wanted = [
                torch.tensor(v, dtype=torch.float64)[:, None, None]
                for v in (self.mean, self.spread)
            ]
            gain = wanted[1] / spread.clamp(min=LEAST_GREY_SPREAD)
            changed = ((values - mean) * gain + wanted[0]).clamp(0, 255).round()
            failed = (spread < LEAST_GREY_SPREAD).any(1, keepdim=True)
            return torch.where(failed, values, changed).float()
        return images.float()


def export(network: Network, path: Path, accuracy: float = ACCURACY) -> list[str]:
    """Write a network as ONNX, try it, and write the JSON beside it.

    Args:
        path: of the ONNX file; the JSON has its name and the ending `.json`.
        accuracy: that accepted predictions shall have, on the source: gives the threshold.

    Returns:
        Lines about what was written.

    Raises:
        UserError: a package is missing; the file answers otherwise than the network.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"--onnx {path}: name a .onnx file")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export: {', '.join(missing)} not installed: pip install -e '.[export]'")
    gauge = network.gauge(accuracy)
    model, side = Exported(network, gauge.temperature), network.image_size
    tried = images_to_try(side)
    with atomic(path) as temporary:
        write_graph(model, torch.from_numpy(tried), temporary)
        apart = difference(model, tried, temporary)
        if not apart <= TOLERANCE:
            raise UserError(
                f"{path}: onnxruntime {version('onnxruntime')} answers otherwise than the network "
                f"(logits differ by {apart:.3g}): not written; install the versions of "
                "requirements.lock"
            )
    about = path.with_suffix(".json")
    write_json(about, facts(network, gauge, path))
    return [
        f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) and {about}",
        f"tried with onnxruntime {version('onnxruntime')} on {len(tried)} images: logits differ by "
        f"{apart:.1g} at most",
    ]


def images_to_try(side: int) -> np.ndarray:
    """uint8 [TRIED, side, side, 3]: blots of several sizes and colours, with the noise of a camera.

    None is flat: where each image is standardised, that would be a trial of rounding alone.
    """
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side - 0.5
    images = []
    for radius in np.linspace(0.15, 0.4, TRIED):
        inside = (x**2 + y**2 < radius**2)[..., None]
        colours = np.where(inside, generator.integers(40, 120, 3), generator.integers(140, 220, 3))
        images.append(colours + generator.normal(0, 8, (side, side, 3)))
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def write_graph(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the graph of a model; the number of images is left open."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        torch.onnx.export(
            model.eval(),
            (example,),
            path,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("images")},),
            verbose=False,
        )


def difference(model: nn.Module, pixels: np.ndarray, path: Path) -> float:
    """How far the logits of a file and of the model it was made of are apart, at most."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        logits = model.eval()(torch.from_numpy(pixels))[0].numpy()
    # One image alone too: a number of images that was frozen into the graph shows there.
    return max(
        float(np.abs(session.run([OUTPUTS[0]], {INPUT: some})[0] - logits[: len(some)]).max())
        for some in (pixels, pixels[:1])
    )


def facts(network: Network, gauge: Gauge, path: Path) -> dict[str, Any]:
    """What a program has to know beside the graph."""
    record, side = network.record, network.image_size
    name = record.method.stain
    outside = name not in IN_GRAPH
    return {
        "schema_version": 1,
        "network": network.name,
        "trained_on": network.source,
        "not": "a medical device",
        "sha256": sha256_file(path),
        "network_sha256": network_sha256(network.model.state_dict()),
        "classes": list(network.classes),
        "before_the_graph": {
            "crop": {
                domain: scaled(crop, network.framing_crop) if isinstance(crop, float) else crop
                for domain, crop in network.crops.items()
            },
            "crop_means": "the centred square that shows one cell, as a fraction of the shorter "
            "side of that set's pictures: cut yours so that the cell fills as much of the square",
            "resize": f"to {side} x {side} pixels, Lanczos, antialiased",
            "stain": {"name": name, "fitted": fitted_numbers(network.stain)} if outside else None,
        },
        "input": {
            "name": INPUT,
            "type": "uint8",
            "shape": ["images", side, side, 3],
            "channels": "R, G, B, 0 to 255",
        },
        "in_the_graph": [
            *([] if outside or name == PLAIN["stain"] else [f"stain normalisation {name}"]),
            "division by 255; mean and deviation "
            + (
                "of each image's channels to 0 and 1"
                if network.preprocessing.each_image
                else f"{list(network.preprocessing.mean)}, {list(network.preprocessing.std)}"
            ),
            *(["mean of the probabilities of 8 flips and turns"] if network.averages else []),
        ],
        "outputs": {
            OUTPUTS[0]: "float32 [images, classes]",
            OUTPUTS[1]: "softmax of the logits divided by the temperature",
        },
        "temperature": gauge.temperature,
        "threshold": gauge.threshold if math.isfinite(gauge.threshold) else None,
        "threshold_means": f"the largest softmax of the logits (not divided) from which on "
        f"{gauge.accuracy:.1%} are right with 95 % confidence, on images like those of "
        f"{gauge.source} only; null: none is accepted",
        "ranges": [vars(own) for own in network.ranges],
        "ranges_mean": "beyond `limit` (Mahalanobis distance of benchmark.domains.ranges."
        "appearance) an image is unlike the source's: accept none",
    }
