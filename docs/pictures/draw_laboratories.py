"""The picture docs/laboratories.png: cells of the laboratories in this repository, and what one of
its networks makes of each laboratory.

`python docs/pictures/draw_laboratories.py`, in the project's root, rewrites it. Which cells are
shown is no choice: of each class those whose files have the smallest SHA-256.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmark.data.cards import card_of, load_cards, load_label_spaces
from benchmark.data.manifests import domain_images
from benchmark.data.prepare import decode_all, placed
from benchmark.files import atomic
from benchmark.laboratory.model_card import Score, percent, scores_of
from benchmark.laboratory.shipped import read_shipped

ROOT = Path()
NETWORK, SPACE = "robust3-long-pbc-main", "wbc5"
DOMAINS = ("pbc-main", "pbc-366", "bccd-wide", "chula")
EACH, SIDE, DOTS = 2, 112, 150
"""Cells of a class, their side in pixels, and the dots per inch of the picture."""


def cells(domain: str, classes: list[str]) -> np.ndarray:
    """uint8 [classes × EACH, SIDE, SIDE, 3], in the crop that the networks see, class by class."""
    datasets = ROOT / "datasets"
    card = card_of(load_cards(datasets), domain)
    images = domain_images(datasets, card, domain, SPACE, "sample").sort_values("sha256")
    by_class = [images[images["class_name"] == name].head(EACH) for name in classes]
    rows = pd.concat(by_class)
    files = [datasets / "images" / card.folder / path for path in rows["path"]]
    crop = placed(card.domains[domain].crop, rows, card.manifest)
    return decode_all(files, crop, SIDE, domain)


def told(score: Score, home: bool) -> str:
    """What a network reaches in a laboratory, in three lines."""
    where = "at home" if home else "elsewhere"
    return (
        f"macro-F1 {where}:\n{percent(score.macro_f1)}\n"
        f"one constant answer: {100 * score.majority:.1f}; n = {score.images}"
    )


def picture_laboratories(path: Path) -> None:
    """A row for each laboratory: its cells, and on the right the score."""
    classes = load_label_spaces(ROOT / "datasets")[SPACE]
    cards = load_cards(ROOT / "datasets")
    scores = scores_of(read_shipped(ROOT, NETWORK))
    by_domain = {score.domain: score for score in (scores.home, *scores.targets)}
    columns = len(classes) * EACH
    figure = Figure(figsize=(11.5, 3.6), layout="constrained")
    axes = figure.subplots(len(DOMAINS), columns + 1, width_ratios=[1] * columns + [3.4])
    for row, domain in zip(axes, DOMAINS, strict=True):
        title = card_of(cards, domain).domains[domain].title
        row[0].set_ylabel(title.replace(", ", ",\n"), rotation=0, ha="right", va="center")
        for axis, cell in zip(row, cells(domain, classes), strict=False):
            axis.imshow(cell)
        for axis in row:
            axis.set(xticks=[], yticks=[])
        row[-1].axis("off")
        text = told(by_domain[domain], domain == DOMAINS[0])
        row[-1].text(0.02, 0.5, text, va="center", size=10, transform=row[-1].transAxes)
    for place, name in enumerate(classes):
        axes[0, place * EACH].set_title(name, loc="left", size=10)
    with atomic(path) as temporary:  # in all colours, since colour is what it shows
        figure.savefig(temporary, format="png", dpi=DOTS)


if __name__ == "__main__":
    picture_laboratories(Path("docs") / "laboratories.png")
