"""The crop in which a network sees a laboratory's cells: by the size of the nucleus, on a sheet.

The crop decides more than any method does (`judge`), and a laboratory cannot know how large cells
stand in another one's pictures. A network knows it of its source: `size of the nucleus` in its
ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from benchmark.audit.images import address, small_picture
from benchmark.data.cards import OPEN_SET
from benchmark.data.prepare import crop_box, scaled
from benchmark.domains.ranges import PARTS, appearance
from benchmark.files import write_text
from benchmark.laboratory.judge import MOST, alike, crop_wanted
from benchmark.laboratory.networks import Network
from benchmark.texts import templates_beside

CLEARLY = 1.4
"""Nuclei smaller or larger than the source's by this factor are cropped for without being asked:
no cell type's nuclei differ so much between laboratories that see them at one scale."""
TRIES = 4
"""Crops that are measured before one is proposed: nuclei are found more easily in the right one."""
NARROWER, GROWTH = 1.4, 1.15
"""In a square so many times narrower, nuclei that were found take so many times more of the side at
least: in pictures that show much around a cell, what is measured may be something else."""
SHOWN = 12
"""LabelledCells on the contact sheet."""
SHOWN_SIDE = 160


class LabelledCells(NamedTuple):
    """The labelled cells that are tested.

    Attributes:
        table: path, label, class_name, group, sha256; and the field and box of one that was cut.
        files: where each lies.
        bits: of the values of 16-bit files, 0 if there are none.
        name: of the folder, for the progress.
        crop: side of the centred square that shows one cell, if that is known.
        grouped: whether the laboratory tells of patients or slides, or the cells are of fields.
    """

    table: pd.DataFrame
    files: list[Path]
    bits: int
    name: str
    crop: float | None = None
    grouped: bool = False

    def seen_by(self, network: Network, crop: float, rows: Sequence[int]) -> np.ndarray:
        """Some of them as a network gets them: uint8 [N, S, S, 3]."""
        return network.view([self.files[row] for row in rows], crop, self.name, self.bits)


@dataclass(frozen=True)
class CropChoice:
    """The crop that was used, and why.

    Attributes:
        given: by the user; None if none was.
        start: what is used where nothing speaks against it: the whole image, or of cells that were
            cut around their boxes the part that shows one.
        used: side of the centred square, as a fraction of the shorter side.
        proposed: the one that would show nuclei as large as the source's; None if the used one does
            or none would.
        nucleus: diameter of the nucleus as a fraction of the network's view, mean over classes of
            their medians, in the crop that was given (or `start`), and in the one that was used.
        nucleus_of_source: the source's mean.
        growth: how many times more of the side nuclei take in a square that is `NARROWER`.
    """

    given: float | None
    start: float
    used: float
    proposed: float | None
    nucleus: tuple[float, float]
    nucleus_of_source: float
    growth: float

    @property
    def unsure(self) -> bool:
        """Whether nobody gave the crop, and the size of the nucleus does not tell it either."""
        return self.given is None and not self.growth >= GROWTH

    @property
    def automatic(self) -> bool:
        """Whether it was applied without being asked for."""
        return self.given is None and self.used != self.start

    def __str__(self) -> str:
        before, after = (f"{100 * share:.0f} %" for share in self.nucleus)
        theirs = f"{100 * self.nucleus_of_source:.0f} %"
        if self.automatic:
            return (
                f"{self.used:.2f}, chosen by the size of the nucleus: without it nuclei took "
                f"{before} of the side, with it {after}, the source's {theirs}"
            )
        whole = "the whole image" if self.start == 1 else "of cells as cut around their boxes"
        whose = "as asked for" if self.given is not None else whole
        text = f"{self.used:.2f}, {whose}: nuclei take {after} of the side, the source's"
        text = f"{text} {theirs}"
        if self.proposed is not None:
            text += f"; --crop {self.proposed:.2f} would show them alike"
        if self.unsure:
            text += (
                f"; but what is taken for nuclei grows {self.growth:.2f} times in a square "
                f"{NARROWER} times narrower, so that their size is not known: say --crop"
            )
        return text


def choose_crop(cells: LabelledCells, given: float | None, network: Network) -> CropChoice:
    """The crop to use: what is given, else the whole image or what the boxes say, unless nuclei are
    far from the source's size and another crop shows them alike."""
    column = PARTS["size of the nucleus"].start
    theirs = float(np.mean([own.mean[column] for own in network.ranges]))
    start = cells.crop or 1.0
    crop = wanted = given or start
    first = share = nucleus_share(cells, crop, network)
    for _ in range(TRIES):
        if not np.isfinite(share) or alike(share / theirs):
            break
        if (closer := crop_wanted(wanted, share / theirs)) is None:
            break
        wanted, share = closer, nucleus_share(cells, closer, network)
    found = np.isfinite(share) and alike(share / theirs) and abs(wanted - crop) >= 0.02
    proposed = round(wanted, 2) if found else None
    clearly = not 1 / CLEARLY <= first / theirs <= CLEARLY
    if given is None and proposed is not None and clearly:
        crop, proposed, used = proposed, None, share
    else:
        used = first
    growth = nucleus_share(cells, crop / NARROWER, network) / used
    return CropChoice(given, start, crop, proposed, (first, used), theirs, growth)


def nucleus_share(cells: LabelledCells, crop: float, network: Network) -> float:
    """Diameter of the nucleus as a fraction of the network's view, mean over classes of their
    medians; NaN where none is found."""
    medians = []
    for label, own in cells.table.groupby("class_name"):
        if label in OPEN_SET:
            continue
        rows = own.index[np.linspace(0, len(own) - 1, min(MOST, len(own))).astype(int)]
        facts = appearance(cells.seen_by(network, crop, rows))
        diameters = facts[:, PARTS["size of the nucleus"].start]
        if np.isfinite(diameters).any():
            medians.append(np.nanmedian(diameters))
    return float(np.mean(medians)) if medians else float("nan")


def write_crop_sheet(
    path: Path, name: str, cells: LabelledCells, chosen: CropChoice, network: Network
) -> None:
    """Write the contact sheet: some cells as given, and as the network sees them, beside what it
    would see in the proposed crop."""
    rows, classes = [], cells.table["class_name"]
    each = max(1, SHOWN // classes.nunique())
    for _, own in classes.groupby(classes):
        rows += list(own.index[np.linspace(0, len(own) - 1, min(each, len(own))).astype(int)])
    squares = {"used": chosen.used}
    if chosen.proposed is not None:
        squares["proposed"] = chosen.proposed
    seen = {title: cells.seen_by(network, crop, rows) for title, crop in squares.items()}
    shown = []
    for place, row in enumerate(rows):
        given = small_picture(cells.files[row], SHOWN_SIDE)
        draw = ImageDraw.Draw(given)
        for title, crop in squares.items():
            box = crop_box(given.size, scaled(crop, network.framing_crop))
            left, top, right, bottom = map(round, box)
            ink = "#0072B2" if title == "used" else "#D55E00"
            draw.rectangle((left, top, right - 1, bottom - 1), outline=ink, width=2)
        views = [
            address(Image.fromarray(pixels[place]).resize((SHOWN_SIDE, SHOWN_SIDE)))
            for pixels in seen.values()
        ]
        shown.append((classes[row], address(given), views))
    text = (
        templates_beside(__file__)
        .get_template("crop.html.jinja")
        .render(name=name, network=network.name, chosen=chosen, titles=list(squares), cells=shown)
    )
    write_text(path, text)
