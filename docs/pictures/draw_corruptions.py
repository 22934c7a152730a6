"""The picture docs/corruptions.png: a drawn cell under every corruption and severity.

`python docs/pictures/draw_corruptions.py`, in the project's root, rewrites it.
"""

from __future__ import annotations

from pathlib import Path

from draw_phantoms import save_picture
from matplotlib.figure import Figure

from benchmark.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from benchmark.phantom.acquisition import Acquisition, draw


def picture_corruptions(path: Path, cell_type: str = "eosinophil", seed: int = 26) -> None:
    """One cell, a row per corruption, untouched on the left, then severities 1 to 4."""
    cell = draw(cell_type, Acquisition(), seed)
    columns = 1 + len(SEVERITIES)
    figure = Figure(figsize=(1.35 * columns + 1.3, 1.5 * len(CORRUPTIONS)), layout="constrained")
    axes = figure.subplots(len(CORRUPTIONS), columns)
    for row, (name, corruption) in zip(axes, CORRUPTIONS.items(), strict=True):
        row[0].set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")
        row[0].imshow(cell)
        for axis, severity in zip(row[1:], SEVERITIES, strict=True):
            axis.imshow(corrupt(cell[None], ["phantom"], name, severity)[0])
            strength = corruption.strengths[severity - 1]
            axis.set_title(f"{severity}: {strength:g}", size=8, pad=2)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    save_picture(figure, path)


if __name__ == "__main__":
    picture_corruptions(Path("docs") / "corruptions.png")
