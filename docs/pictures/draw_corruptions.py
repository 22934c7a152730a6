"""The pictures of corruptions: docs/corruptions.png, a drawn cell under this benchmark's own, and
docs/corruptions_medmnist.jpg, a cell of PBC under those of BloodMNIST-C.

`python docs/pictures/draw_corruptions.py`, in the project's root, rewrites them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from draw_phantoms import save_picture
from matplotlib.figure import Figure
from PIL import Image

from benchmark.data.corruptions import CORRUPTIONS, corrupt
from benchmark.phantom.acquisition import Acquisition, draw
from benchmark.scenarios import MEDMNIST, OURS

CELL = Path("datasets/images/pbc/PBC_dataset_normal_DIB/eosinophil/EO_10781.jpg")
"""Of PBC (Acevedo et al. 2020, CC BY 4.0)."""
CUT = 80
"""Pixels left out on each side of it: BloodMNIST keeps the middle 200 of 360."""


def picture_corruptions(path: Path, cell: np.ndarray, family: str) -> None:
    """One cell, a row per corruption, untouched on the left, then every severity."""
    chosen = {name: one for name, one in CORRUPTIONS.items() if one.family == family}
    columns = 1 + max(len(one.strengths) for one in chosen.values())
    figure = Figure(figsize=(1.35 * columns + 1.3, 1.5 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), columns)
    for row, (name, corruption) in zip(axes, chosen.items(), strict=True):
        told = name.removeprefix("medmnist_").replace("_", " ")
        row[0].set_ylabel(told, rotation=0, ha="right", va="center")
        row[0].imshow(cell)
        for axis, severity in zip(row[1:], corruption.severities, strict=True):
            axis.imshow(corrupt(cell[None], ["phantom"], name, severity)[0])
            strength = corruption.strengths[severity - 1]
            parts = strength if isinstance(strength, tuple) else (strength,)
            shown = ", ".join(f"{part:g}" for part in parts)
            axis.set_title(f"{severity}: {shown}", size=8, pad=2)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    save_picture(figure, path)


if __name__ == "__main__":
    drawn = draw("eosinophil", Acquisition(), 26)
    picture_corruptions(Path("docs") / "corruptions.png", drawn, OURS)
    published = Image.open(CELL).convert("RGB")
    middle = published.crop((CUT, CUT, published.width - CUT, published.height - CUT))
    pixels = np.asarray(middle.resize((224, 224), Image.Resampling.LANCZOS))
    picture_corruptions(Path("docs") / "corruptions_medmnist.jpg", pixels, MEDMNIST)
