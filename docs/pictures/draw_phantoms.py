"""The pictures of docs/phantom.md and the manifest of the phantoms.

`python docs/pictures/draw_phantoms.py`, in the project's root, rewrites both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from benchmark.files import atomic, read_yaml, write_text
from benchmark.phantom.acquisition import Acquisition, draw
from benchmark.phantom.specimen import MORPHOLOGIES, SIZE
from benchmark.progress import say
from benchmark.schema import parse

DOMAINS: dict[str, tuple[int, tuple[int, int, int, int, int]]] = {
    "phantom-a": (12, (180, 150, 80, 70, 40)),
    "phantom-b": (5, (30, 30, 30, 30, 30)),
    "phantom-c": (5, (30, 30, 30, 30, 30)),
    "phantom-d": (5, (30, 30, 30, 30, 30)),
}
"""Acquisition → slides, and images per class in the order of `MORPHOLOGIES`."""


def manifest(
    domains: Mapping[str, tuple[int, tuple[int, ...]]] = DOMAINS, size: int = SIZE
) -> pd.DataFrame:
    """The table of images to draw: path, label, group (slide), acquisition, width, height (px).

    Each class is dealt to the slides in turn, so that every slide holds every class.
    """
    rows = []
    for name, (slides, counts) in domains.items():
        for label, count in zip(MORPHOLOGIES, counts, strict=True):
            for i in range(count):
                slide = f"slide{i % slides + 1:02d}"
                path = f"{name}/{label}/{slide}_{i // slides + 1:03d}.png"
                rows.append((path, label, f"{name}-{slide}", name, size, size))
    return pd.DataFrame(rows, columns=["path", "label", "group", "acquisition", "width", "height"])


DOSE_SLIDES, DOSE_CELLS = 10, 30
"""Slides of each domain of one changed knob, and cells of each class."""


def dose_manifest(acquisitions: Iterable[str], size: int = SIZE) -> pd.DataFrame:
    """The same with `cell`: the same cells on the same slides under each acquisition."""
    counts = (DOSE_CELLS,) * len(MORPHOLOGIES)
    once = manifest({"dose": (DOSE_SLIDES, counts)}, size)
    tables = []
    for name in acquisitions:
        paths = once["path"].str.replace("dose/", f"{name}/")
        tables.append(once.assign(cell=once["path"], path=paths, acquisition=name))
    return pd.concat(tables)


STEPS: dict[str, tuple] = {
    "azure_strength": (0.25, 0.6, 1.0, 1.5, 2.2),
    "eosin_strength": (0.25, 0.6, 1.0, 1.5, 2.2),
    "ph_shift": (-0.8, -0.4, 0.0, 0.4, 0.8),
    "stain_rotation_deg": (-30.0, -15.0, 0.0, 15.0, 30.0),
    "white_balance": ((1.0, 0.9, 0.7), (1.0, 0.95, 0.85), (1.0, 1.0, 1.0), (0.9, 0.95, 1.05),
                      (0.75, 0.85, 1.05)),
    "gamma": (0.5, 0.75, 1.0, 1.5, 2.2),
    "contrast": (0.4, 0.7, 1.0, 1.3, 1.7),
    "saturation": (0.0, 0.5, 1.0, 1.4, 1.9),
    "pixel_size_um": (0.14, 0.19, 0.25, 0.33, 0.45),
    "blur_um": (0.0, 0.2, 0.5, 1.0, 2.0),
    "noise_sd": (0.0, 0.015, 0.05, 0.1, 0.2),
    "uneven": (0.0, 0.15, 0.3, 0.5, 0.8),
    "jpeg_quality": (100, 60, 30, 15, 5),
}  # fmt: skip
"""Values of each knob shown in docs/phantom_knobs.png."""


def picture_domains(acquisitions: Mapping[str, Acquisition], path: Path, cells: int = 3) -> None:
    """Montage classes × acquisitions: the same `cells` cells of each class under each one."""
    grid = [
        np.hstack(
            [draw(label, look, 40 + i) for look in acquisitions.values() for i in range(cells)]
        )
        for label in MORPHOLOGIES
    ]
    figure = Figure(figsize=(4.0 * len(acquisitions), 6.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.vstack(grid))
    axes.set_yticks((np.arange(len(grid)) + 0.5) * SIZE, MORPHOLOGIES)
    axes.set_xticks((np.arange(len(acquisitions)) + 0.5) * SIZE * cells, acquisitions)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    for column in range(1, len(acquisitions)):
        axes.axvline(column * SIZE * cells - 0.5, color="black", linewidth=2)
    axes.spines[:].set_visible(False)
    save_picture(figure, path)


def picture_knobs(path: Path, cell_type: str = "eosinophil", seed: int = 26) -> None:
    """One cell, a row per knob, the knob alone turned from left to right (`STEPS`)."""
    count = len(next(iter(STEPS.values())))
    figure = Figure(figsize=(1.35 * count + 1.3, 1.5 * len(STEPS)), layout="constrained")
    axes = figure.subplots(len(STEPS), count)
    for row, (knob, values) in zip(axes, STEPS.items(), strict=True):
        row[0].set_ylabel(knob, rotation=0, ha="right", va="center")
        for axis, value in zip(row, values, strict=True):
            axis.imshow(draw(cell_type, Acquisition(**{knob: value}), seed))
            axis.set_title(", ".join(map(str, np.atleast_1d(value).tolist())), size=8, pad=2)
            axis.set(xticks=[], yticks=[])
    save_picture(figure, path)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG of 256 colours (a third of the bytes), always the same bytes; or as
    JPEG, where so few colours would show steps that are not there."""
    figure.set_dpi(80)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    with atomic(path) as temporary:
        if path.suffix == ".jpg":
            picture.save(temporary, "JPEG", quality=88)
        else:
            picture.quantize(256).save(temporary, "PNG")


def read_acquisitions(card: Path) -> dict[str, Acquisition]:
    """Value of `select.acquisition` → knobs, for each domain of a drawn card."""
    looks = {}
    for name, domain in read_yaml(card)["domains"].items():
        where = f"{card}: domains.{name}.acquisition"
        looks[domain["select"]["acquisition"]] = parse(Acquisition, domain["acquisition"], where)
    return looks


def main(root: Path = Path(".")) -> None:
    """Rewrite the manifest and the pictures of docs/phantom.md; run in the project's root."""
    acquisitions = read_acquisitions(root / "datasets" / "phantom.yaml")
    table = manifest()
    target = root / "datasets" / "manifests" / "phantom.csv"
    write_text(target, table.to_csv(index=False, lineterminator="\n"))
    doses = dose_manifest(read_acquisitions(root / "datasets" / "phantom-dose.yaml"))
    of_doses = root / "datasets" / "manifests" / "phantom-dose.csv"
    write_text(of_doses, doses.to_csv(index=False, lineterminator="\n"))
    picture_domains(acquisitions, root / "docs" / "phantom.png")
    picture_knobs(root / "docs" / "phantom_knobs.png")
    say(f"{target}: {len(table)} images; docs/phantom.png and docs/phantom_knobs.png are drawn")


if __name__ == "__main__":
    main()
