"""The picture of docs/normalisation.md: where the three readings of IBN normalise per image.

`python docs/pictures/draw_normalisation.py` rewrites it from networks that are built and converted
as in a run.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.style
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import nn

import benchmark
from benchmark.files import atomic
from benchmark.models.build import build_model
from benchmark.models.normalisation import InstanceBatchNorm
from benchmark.progress import say

STYLE = Path(benchmark.__file__).with_name("journal.mplstyle")
BACKBONE, BLOCKS = "resnet34", (3, 4, 6, 3)
READINGS = {
    "ibn_a": "official IBN-a",
    "ibn_b": "official IBN-b",
    "ibn_literal": "the text of ma2020",
}
BATCH, INSTANCE = "#56B4E9", "#E69F00"  # Okabe-Ito; the letters say the same
INK = "#333333"
PLACES = ("bn1", "bn2", "act2")
"""Where a basic block may normalise: norm1, norm2, and after the addition."""


def placements(reading: str) -> dict[str, str]:
    """Kind of normalisation (`BN`, `IN`, `IBN`, or none: ``) at the stem and in every block.

    Returns:
        By name: `bn1`, `layer1.0.bn1`, `layer1.0.bn2`, `layer1.0.act2`, …
    """
    with torch.device("meta"):
        model = build_model(BACKBONE, reading, {}, 2, 224, seed=0)
    blocks = [f"layer{s}.{b}" for s, n in enumerate(BLOCKS, start=1) for b in range(n)]
    names = ["bn1"] + [f"{block}.{place}" for block in blocks for place in PLACES]
    return {name: kind(model.get_submodule(name)) for name in names}


def kind(module: nn.Module) -> str:
    """What a layer normalises by."""
    if isinstance(module, InstanceBatchNorm):
        return "IBN"
    if any(isinstance(part, nn.InstanceNorm2d) for part in module.modules()):
        return "IN"
    return "BN" if isinstance(module, nn.BatchNorm2d) else ""


def box(axes: Axes, x: float, y: float, width: float, height: float, what: str) -> None:
    """A normalisation as a box: its halves are the first and the second half of the channels."""
    halves = {"BN": (BATCH, BATCH), "IN": (INSTANCE, INSTANCE), "IBN": (INSTANCE, BATCH)}[what]
    for half, colour in enumerate(halves):
        left = x + half * width / 2
        axes.add_patch(Rectangle((left, y), width / 2, height, facecolor=colour, linewidth=0))
    axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=INK, linewidth=0.6))


def draw_block(axes: Axes, reading: str, kinds: dict[str, str]) -> None:
    """The last basic block of stage 1, top to bottom, with its shortcut on the right."""
    last = f"layer1.{BLOCKS[0] - 1}"
    norm1, norm2, end = (kinds[f"{last}.{place}"] for place in PLACES)
    layers = ["conv1", norm1, "ReLU", "conv2", norm2, "+", *([end] if end else []), "ReLU"]
    step, height, width = 1.0, 0.66, 3.0
    axes.plot([0, 0], [0.9, -len(layers) * step + 0.1], color=INK, linewidth=0.8, zorder=0)
    for row, layer in enumerate(layers):
        y = -row * step - height / 2
        if layer in ("BN", "IN", "IBN"):
            box(axes, -width / 2, y, width, height, layer)
            words = {"IBN": ("IN", "BN")}.get(layer, (layer,))
            for i, word in enumerate(words):
                x = (i - (len(words) - 1) / 2) * width / 2
                axes.text(x, y + height / 2, word, ha="center", va="center")
        else:
            round_box = FancyBboxPatch(
                (-width / 2 if layer != "+" else -0.33, y),
                width if layer != "+" else 0.66,
                height,
                boxstyle="round,pad=0,rounding_size=0.3",
                facecolor="white",
                edgecolor="#8A8A8A",
                linewidth=0.6,
            )
            axes.add_patch(round_box)
            axes.text(0, y + height / 2, layer, ha="center", va="center", color=INK)
    plus = -layers.index("+") * step
    axes.plot([0, 2.3, 2.3, 0.33], [0.65, 0.65, plus, plus], color=INK, linewidth=0.8, zorder=0)
    axes.text(2.5, plus / 2, "shortcut", rotation=90, va="center", color=INK)
    axes.set_title(f"{reading}: {READINGS[reading]}", loc="center")
    axes.set(xlim=(-3, 3.4), ylim=(-7.6, 1.1), aspect="equal")
    axes.axis("off")


def draw_strip(axes: Axes, row: float, reading: str, kinds: dict[str, str]) -> None:
    """A network from left to right: the stem, then the blocks of each stage."""
    box(axes, 0, row + 1, 1, 0.9, kinds["bn1"])
    x = 2.0
    for stage, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            for level, place in enumerate(reversed(PLACES)):
                if what := kinds[f"layer{stage}.{block}.{place}"]:
                    box(axes, x, row + level, 1, 0.9, what)
            x += 1.15
        x += 0.8
    axes.text(-0.4, row + 1.45, reading, ha="right", va="center", fontweight="bold")
    for level, word in enumerate(("end", "norm2", "norm1")):
        axes.text(x - 0.6, row + level + 0.45, word, va="center", color=INK)


def draw_picture() -> Figure:
    """Three blocks above, three networks below."""
    found = {reading: placements(reading) for reading in READINGS}
    figure = Figure(figsize=(7.1, 5.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 0.95))
    for axes, (reading, kinds) in zip(above.subplots(1, 3), found.items(), strict=True):
        draw_block(axes, reading, kinds)
    axes = below.subplots()
    for place, (reading, kinds) in enumerate(found.items()):
        draw_strip(axes, -4.0 * place, reading, kinds)
    x = 2.0
    axes.text(0.5, 3.3, "stem", ha="center")
    for stage, blocks in enumerate(BLOCKS, start=1):
        axes.text(x + blocks * 1.15 / 2, 3.3, f"stage {stage}", ha="center")
        x += blocks * 1.15 + 0.8
    for place, (what, words) in enumerate(
        {
            "BN": "BN: statistics of the batch",
            "IN": "IN: statistics of the image",
            "IBN": "half of the channels each",
        }.items()
    ):
        box(axes, -1 + 9.5 * place, -10.2, 1, 0.9, what)
        axes.text(0.4 + 9.5 * place, -9.75, words, va="center")
    axes.set(xlim=(-4.5, 26.5), ylim=(-10.4, 4), aspect="equal")
    axes.axis("off")
    axes.set_title("ResNet-34, block by block (shortcuts and all else keep BN)", loc="center")
    return figure


def save_picture(path: Path) -> None:
    """Draw and write the picture."""
    with matplotlib.style.context(STYLE):
        buffer = io.BytesIO()
        draw_picture().savefig(buffer, format="png", metadata={"Software": None})
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "normalisation.png"
    save_picture(target)
    say(f"{target} is drawn")
