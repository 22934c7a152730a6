"""Golden runs: tiny computations whose outcome is pinned, so that no change moves bits unnoticed.

Every entry of every registry that a run's numbers go through has a pin, and so has every field of
the augmentation. When a test here fails, a change moved the numbers of a part. If that was meant,
raise the part's version in `benchmark/study/numerics.py`, so that exactly the runs that use it
become stale, then pin that part anew: `python tests/test_golden_runs.py loss.focal`. A part that
is new is pinned by `python tests/test_golden_runs.py --missing`. Neither touches another's pin.

A pin holds to the bit in the environments in which it was made, and to a tolerance elsewhere.
`python tests/test_golden_runs.py --here` adds the environment at hand to all pins that it keeps;
do so on code that is known to be good.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from torch import nn

from benchmark.data.arrays import Images
from benchmark.data.corruptions import corrupt
from benchmark.data.prepare import decode
from benchmark.data.stain import fit_stain
from benchmark.device import processor
from benchmark.models.build import build_model
from benchmark.models.normalisation import official_ibn_name
from benchmark.models.predict import Conditions, predict, standardise, to_float
from benchmark.models.weights import IMAGENET
from benchmark.parts import REGISTRIES, capability, registry
from benchmark.settings import Augmentation, Training, Weights
from benchmark.study.numerics import version
from benchmark.training.augmentation import LATER
from benchmark.training.batches import Batches
from benchmark.training.contracts import join
from benchmark.training.fit import fit
from benchmark.training.readouts import Source

FIXTURE = Path(__file__).parent / "fixtures" / "golden_runs.json"
CPU = torch.device("cpu")
PLAIN = {
    "loss": "ce", "recipe": "erm", "head": "linear", "freezing": "none", "optimiser": "adamw",
    "averaging": "none", "stain": "none", "readout": "head",
}  # fmt: skip
"""What `normalisation.bn` is trained with, and what leaves images and logits as they are."""
UNCHANGED = ("normalisation.ln", "normalisation.evonorm")
"""Networks of timm as they are, of which nothing is exchanged."""
DECOUPLED = [
    ("sampler", "instance"), ("loss", "ce"), ("hidden", 64), ("stage2_bn", "drift"),
]  # fmt: skip
"""A parameter of the readout `decoupled`, other than its default."""

# --------------------------------------------------------------------------- what is computed


def images(n: int, seed: int, size: int = 40, domains: int = 1) -> Images:
    """Noise, brighter from class to class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 5
    pixels = generator.integers(0, 100, (n, size, size, 3)) + 30 * labels[:, None, None, None]
    table = pd.DataFrame(index=range(n))
    of = None if domains == 1 else np.arange(n) * domains // n
    return Images(pixels.astype(np.uint8), labels.astype(np.int64), table, of)


def cells(n: int, size: int = 32) -> np.ndarray:
    """Stained discs on light ground, uint8 [n, size, size, 3]: two stains by Beer-Lambert's law."""
    generator = np.random.default_rng(4)
    y, x = np.mgrid[:size, :size] / size - 0.5
    radius = np.hypot(x, y) + 0.03 * generator.standard_normal((n, size, size))
    amounts = generator.uniform(0.6, 1.4, (n, 2, 1, 1))
    nucleus, plasma = amounts[:, 0] * (radius < 0.2), 0.6 * amounts[:, 1] * (radius < 0.4)
    density = nucleus[..., None] * [0.7, 1.2, 0.4] + plasma[..., None] * [0.2, 0.7, 0.3]
    light = 235 * np.exp(-density) + generator.normal(0, 3, density.shape)
    return light.clip(0, 255).astype(np.uint8)


def settings(**changes: Any) -> Training:
    values = {
        "epochs": 1, "batch_size": 10, "learning_rate": 1e-3, "weight_decay": 0.05,
        "warmup_epochs": 0, "patience": 10, "precision": "fp32",
    }  # fmt: skip
    return Training(**values | changes)


def trained(
    normalisation: str = "bn",
    loss: str = "ce",
    recipe: str | None = None,
    backbone: str = "resnet10t",
    parts: dict[str, Any] | None = None,
    **changes: Any,
) -> np.ndarray:
    """Logits [10, 5] after a few steps.

    Args:
        parts: what else the network is built of.
        changes: training settings.
    """
    model = build_model(backbone, normalisation, {}, 5, 40, seed=0, **parts or {})
    augmentation = Augmentation(
        dihedral=True, scale=0.1, shift=0.1, brightness=0.1, contrast=0.1, saturation=0.1
    )
    train = images(20, seed=0, domains=2 if recipe else 1)
    function = join(registry("loss")[loss](torch.tensor([8, 5, 4, 2, 1])), model, seed=0)
    chosen = settings(augmentation=augmentation, **changes)
    ways = {"recipe": registry("recipe")[recipe]()} if recipe else {}
    result = fit(model, function, train, images(10, seed=1), chosen, 0, CPU, **ways)
    model.load_state_dict(result.state)
    return predict(model, images(10, seed=2).pixels, "fp32", CPU)


def from_file(normalisation: str, names: str | None = None) -> np.ndarray:
    """Logits [10, 5] after a few steps from weights that lie in a file."""
    of = "bn" if normalisation == "bn_frozen" else normalisation
    state = build_model("resnet10t", of, {}, 5, 40, seed=1).state_dict()
    if names == "ibn_net":
        state = {official_ibn_name(name): value for name, value in state.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(state, path)
        return trained(normalisation, parts={"weights": Weights(file=str(path), names=names)})


def untrained(backbone: str, normalisation: str) -> np.ndarray:
    """Logits [4, 5] of a network as it is built."""
    model = build_model(backbone, normalisation, {}, 5, 32, seed=0)
    return predict(model, images(4, seed=2, size=32).pixels, "fp32", CPU)


def left_to_train(freezing: str, backbone: str = "resnet50") -> np.ndarray:
    """Which parameters of a network are trained, and which modules are not held in evaluation."""
    with torch.device("meta"):
        model = build_model(backbone, "bn", {}, 5, 32, seed=0, freezing=freezing).train()
    trained = [parameter.requires_grad for parameter in model.parameters()]
    return np.array(trained + [module.training for module in model.modules()])


def epoch(sampler: str = "instance", **augmentation: Any) -> np.ndarray:
    """The images [20, 3, 32, 32] of an epoch as the network gets them."""
    pixels = cells(20)
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2] * 2)
    train = Images(pixels, labels, pd.DataFrame(index=range(20)), np.arange(20) // 14)
    chosen = settings(batch_size=8, sampler=sampler, augmentation=Augmentation(**augmentation))
    batches = Batches(train, chosen, CPU, IMAGENET).epoch(torch.Generator().manual_seed(0))
    return torch.cat([images for images, *_ in batches]).numpy()


def factors(schedule: str) -> np.ndarray:
    """What the learning rate is multiplied by in each of 30 steps."""
    chosen = settings(epochs=10, warmup_epochs=2, schedule=schedule)
    return np.array([registry("schedule")[schedule](chosen, 3)(step) for step in range(30)])


def restained(stain: str) -> np.ndarray:
    """Images [4, 32, 32, 3] of another light and stain, as those of the source."""
    other = (255 * (cells(4) / 255) ** [1.3, 1.1, 0.9] * [0.9, 0.95, 1]).astype(np.uint8)
    changed = fit_stain(stain, cells(8))(other)[0]
    if not capability("stain", stain, "standardises_input"):
        return changed
    batch = torch.from_numpy(changed).permute(0, 3, 1, 2)
    return standardise(to_float(batch), replace(IMAGENET, each_image=True)).numpy()


def corrupted(name: str) -> np.ndarray:
    """Images [4, 3, 32, 32, 3] at the first four severities."""
    paths = [f"cell{number}.png" for number in range(3)]
    return np.stack([corrupt(cells(3), paths, name, severity) for severity in (1, 2, 3, 4)])


def network() -> nn.Module:
    """A small network with batch normalisation whose statistics are of the source."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 5, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))
    model(torch.randn(64, 3, 32, 32))
    return model


def read_out(readout: str, **parameters: Any) -> np.ndarray:
    """Logits [20, 5] from a network's frozen features [N, 12]."""
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(5), [20, 12, 8, 5, 3]), np.arange(20) % 5])
    features = generator.normal(0, 1, (68, 12)) + 1.5 * np.eye(12)[labels]
    inputs = torch.from_numpy(features.astype(np.float32))
    drifting = None
    if parameters.get("stage2_bn") == "drift":
        torch.manual_seed(0)
        drifting = nn.Sequential(nn.Linear(12, 6), nn.BatchNorm1d(6)).requires_grad_(False)
    source = Source(inputs[:48].numpy(), labels[:48], inputs[48:].numpy(), labels[48:], drifting)
    if readout == "decoupled":
        parameters |= {"epochs": 3, "batch_size": 16}
    fitted = registry("readout")[readout](**parameters)(source, 5, 0).eval()
    with torch.inference_mode():
        return fitted(inputs[48:]).numpy()


def answered(inference: str, **parameters: Any) -> np.ndarray:
    """Logits [520, 5] of images that differ in brightness: more than two batches of 256."""
    prior = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    pixels = images(520, seed=3, size=16).pixels
    where = Conditions("fp32", CPU, IMAGENET, prior, cells(8))
    return registry("inference")[inference](**parameters)(network().eval(), pixels, where)


def decoded() -> np.ndarray:
    """A drawn JPEG through the decoder: uint8 [32, 32, 3]."""
    y, x = np.mgrid[:200, :180]
    picture = np.stack([(x * 2) % 256, (y * 3) % 256, (x + y) % 256], 2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=90)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.jpg"
        path.write_bytes(buffer.getvalue())
        return decode(path, crop=0.8, size=32)[0]


# --------------------------------------------------------------------------- what is pinned

Golden = tuple[Callable[[], np.ndarray], tuple[str, ...]]
"""What computes it, and the parts and blocks of `numerics` that it is a matter of."""


def golden_runs() -> dict[str, Golden]:
    """Name of a pin → what it pins."""
    golden: dict[str, Golden] = {}
    parts = ("model", "augmentation", "training", "inference")

    def add(name: str, of: tuple[str, ...], compute: Callable, *values: Any, **named: Any) -> None:
        golden[name] = partial(compute, *values, **named), of

    def train(name: str, *blocks: str, **how: Any) -> None:
        of = {"normalisation": "bn", "loss": "ce"} | dict(block.split(".") for block in blocks)
        add(name, (*parts, *(f"{kind}.{block}" for kind, block in of.items())), trained, **how)

    for kind, name in entries("normalisation"):
        if name == "bn_frozen":
            of = (*parts, "normalisation.bn_frozen", "loss.ce")
            add("normalisation.bn_frozen", of, from_file, "bn_frozen")
        else:
            train(f"{kind}.{name}", f"{kind}.{name}", normalisation=name)
    for kind, name in entries("loss", "recipe", "optimiser"):
        longer = {"epochs": 2} if kind == "recipe" else {}
        train(f"{kind}.{name}", f"{kind}.{name}", **{kind: name}, **longer)
    for kind, name in entries("head"):
        train(f"{kind}.{name}", f"{kind}.{name}", parts={"head": name})
    for kind, name in entries("freezing"):
        add(f"{kind}.{name}", ("model", f"{kind}.{name}"), left_to_train, name)
    lite = "tf_efficientnet_lite0"
    add(f"freezing.last16 {lite}", ("model", "freezing.last16"), left_to_train, "last16", lite)
    for kind, name in entries("averaging"):
        decay = {"averaging_decay": 0.5, "learning_rate": 1e-2}
        train(f"{kind}.{name}", f"{kind}.{name}", averaging=name, epochs=4, **decay)
    for name in get_args(Training.model_fields["selection"].annotation):
        train(f"selection.{name}", selection=name, epochs=3, learning_rate=1e-2)
    add(
        "weights.ibn_net", (*parts, "normalisation.ibn_a", "loss.ce"), from_file, "ibn_a", "ibn_net"
    )
    for backbone, normalisation in (
        ("resnet10t+lstm", "bn"), ("crossformer_tiny", "ln"), ("squeezenet1_1", "none"),
        ("colour_histogram", "none"),
    ):  # fmt: skip
        of = ("model", "inference", f"normalisation.{normalisation}")
        add(f"backbone.{backbone}", of, untrained, backbone, normalisation)
    for kind, name in entries("schedule"):
        add(f"{kind}.{name}", (f"{kind}.{name}",), factors, name)
    for kind, name in entries("sampler"):
        add(f"{kind}.{name}", ("training", f"{kind}.{name}"), epoch, sampler=name)
    for field, strength in (every := strengths()).items():
        add(f"augmentation.{field}", ("augmentation",), epoch, **{field: strength})
    first = {field: strength for field, strength in every.items() if field not in LATER}
    add("augmentation.every", ("augmentation",), epoch, **first)
    for kind, name in entries("stain"):
        add(f"{kind}.{name}", (f"{kind}.{name}",), restained, name)
    for kind, name in entries("corruption"):
        add(f"{kind}.{name}", (f"{kind}.{name}",), corrupted, name)
    for kind, name in entries("readout"):
        add(f"{kind}.{name}", (f"{kind}.{name}",), read_out, name)
    for parameter, value in DECOUPLED:
        name = f"readout.decoupled {parameter}={value}"
        add(name, ("readout.decoupled",), read_out, "decoupled", **{parameter: value})
    for kind, name in entries("inference"):
        add(f"{kind}.{name}", ("inference", f"{kind}.{name}"), answered, name)
    zoomed = {"views": "two", "zooms": [0.75, 1.0, 1.25]}
    add("inference.tta zooms", ("inference", "inference.tta"), answered, "tta", **zoomed)
    add("pixels", ("data",), decoded)
    return golden


def entries(*kinds: str) -> list[tuple[str, str]]:
    """What is registered of these kinds and changes anything; one name of each."""
    found: dict[tuple[str, Any], str] = {}
    for kind in kinds:
        for name, block in registry(kind).items():
            if PLAIN.get(kind) != name and f"{kind}.{name}" not in UNCHANGED:
                found.setdefault((kind, block), name)
    return [(kind, name) for (kind, _), name in found.items()]


def strengths() -> dict[str, Any]:
    """Every field of the augmentation, at a strength that shows."""
    strong = {"rotation": 45, "blur": 0.05, "noise": 0.1, "randaugment": 9}
    return {
        name: True if field.annotation is bool else strong.get(name, 0.3)
        for name, field in Augmentation.model_fields.items()
    }


GOLDEN = golden_runs()
TOLERANCE = 0.05
"""Two steps from scratch on another processor agree to about this on logits of order one."""
TOLERANCES = {"inference": 1e-4, "stain": 2, "corruption": 2, "pixels": 1}
"""Of kinds that are not trained, or whose values are grey values."""
SHOWN = 60
"""Values of an array that are pinned beside its hash, to be compared where bits may differ."""


def environment() -> dict[str, str]:
    """What bits may depend on beside the code."""
    packages = ("torch", "timm", "numpy", "pillow", "scipy", "scikit-learn")
    facts = {package: installed(package) for package in packages}
    return facts | {"processor": processor(), "capability": torch.backends.cpu.get_cpu_capability()}


def is_here(bits: dict[str, str]) -> bool:
    """Whether bits were taken in an environment like this one, as far as they tell."""
    return bits.items() <= (environment() | {"sha256": bits["sha256"]}).items()


def computed(name: str) -> dict[str, Any]:
    """What is pinned of a golden run, as the code is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        with threadpool_limits(1):
            array = GOLDEN[name][0]()
    finally:
        torch.set_num_threads(threads)
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    shown = array.ravel()[:: -(-array.size // SHOWN)]
    return {
        "versions": {part: version(*part.split(".")) for part in GOLDEN[name][1]},
        "bits": [environment() | {"sha256": digest}],
        "values": np.round(shown.astype(float), 5).tolist(),
    }


def read_pins(path: Path = FIXTURE) -> dict[str, dict]:
    return json.loads(path.read_text()) if path.exists() else {}


def compare_with_pin(name: str, pins: dict[str, dict]) -> dict[str, Any]:
    """Assert that a golden run gives what is pinned, to the bit in the pin's own environments.

    Returns:
        What it gives.
    """
    again = f"python tests/test_golden_runs.py {name!r}"
    assert name in pins, f"{name} is not pinned: `python tests/test_golden_runs.py --missing`"
    pin, now = pins[name], computed(name)
    assert pin["versions"] == now["versions"], f"pin it anew: `{again}`"
    for bits in filter(is_here, pin["bits"]):
        assert bits["sha256"] == now["bits"][0]["sha256"], (
            "bits moved: if that was meant, raise the version of the part that changed in "
            f"benchmark/study/numerics.py, then `{again}`"
        )
    distance = np.abs(np.array(pin["values"]) - now["values"]).max()
    assert distance < TOLERANCES.get(name.partition(".")[0], TOLERANCE)
    return now


def write_pins(path: Path, pins: dict[str, dict]) -> None:
    """One line a pin, so that a change shows as the lines that it is."""
    lines = [f"{json.dumps(name)}: {json.dumps(pins[name])}" for name in GOLDEN if name in pins]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def pin(names: list[str], missing: bool = False, path: Path = FIXTURE) -> None:
    """Pin the named golden runs, or those without a pin, as the code is; leave the others."""
    pins = read_pins(path)
    names = [name for name in GOLDEN if name not in pins] if missing else names
    write_pins(path, pins | {name: computed(name) for name in names})


def pin_here(path: Path = FIXTURE) -> None:
    """Add the bits of this environment to every pin that holds here and has none of it."""
    pins = read_pins(path)
    for name, kept in pins.items():
        if not any(map(is_here, kept["bits"])):
            kept["bits"] += compare_with_pin(name, pins)["bits"]
    write_pins(path, pins)


# --------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_run_keeps_its_bits_until_its_version_is_raised(name: str) -> None:
    compare_with_pin(name, read_pins())


def test_every_kind_of_building_block_is_pinned() -> None:
    pinned = {name.partition(".")[0] for name in GOLDEN}
    assert REGISTRIES.keys() <= pinned


def test_a_pin_is_of_something_that_is_there() -> None:
    assert read_pins().keys() <= GOLDEN.keys()


def test_e4_a_new_part_is_pinned_alone(tmp_path: Path) -> None:
    """A loss of one's own costs one line of the fixture, and until then one clear line of text."""
    path = tmp_path / "pins.json"
    pins = read_pins()
    of_new = pins.pop("loss.focal")
    write_pins(path, pins)
    before = path.read_text().splitlines()
    with pytest.raises(AssertionError, match=r"loss.focal is not pinned: .*--missing"):
        compare_with_pin("loss.focal", read_pins(path))
    pin([], missing=True, path=path)
    after = path.read_text().splitlines()
    assert len(set(after) - set(before)) == 1
    assert set(before) <= set(after)
    assert read_pins(path)["loss.focal"]["versions"] == of_new["versions"]


def test_a_pin_takes_the_bits_of_another_environment_beside_its_own(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    pinned = read_pins()["schedule.cosine"]
    elsewhere = pinned["bits"][0] | {"processor": "another", "sha256": "0" * 64}
    write_pins(path, {"schedule.cosine": pinned | {"bits": [elsewhere]}})
    compare_with_pin("schedule.cosine", read_pins(path))
    pin_here(path)
    first, second = read_pins(path)["schedule.cosine"]["bits"]
    assert first == elsewhere
    assert is_here(second)
    pin_here(path)
    assert len(read_pins(path)["schedule.cosine"]["bits"]) == 2
    write_pins(path, {"schedule.cosine": pinned | {"bits": [second | {"sha256": "0" * 64}]}})
    with pytest.raises(AssertionError, match=r"bits moved: .*'schedule.cosine'"):
        compare_with_pin("schedule.cosine", read_pins(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="pin these anew")
    parser.add_argument("--missing", action="store_true", help="pin what has no pin")
    parser.add_argument("--here", action="store_true", help="add this environment to all pins")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - GOLDEN.keys()):
        parser.error(f"no golden run '{unknown[0]}': one of {', '.join(GOLDEN)}")
    pin(arguments.names, arguments.missing)
    if arguments.here:
        pin_here()
