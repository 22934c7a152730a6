"""A copy of a published set → its manifest: path, hash, size and label of every image.

For sets whose manifest does not come with this repository, and for a laboratory's own images.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from benchmark.data.cards import Card, count_faults
from benchmark.data.image_files import Unreadable, find_images, image_file, opened
from benchmark.data.layouts import Layout, Paths, read_layout
from benchmark.errors import UserError
from benchmark.files import sha256_file, write_text
from benchmark.progress import say, track

FIRST_COLUMNS = ["path", "sha256", "bytes", "width", "height", "label"]
THREADS = 4


def build_manifest(folder: Path, layout: Layout) -> pd.DataFrame:
    """Read a published folder by its layout, and measure and hash every image.

    Returns:
        Columns path, sha256, bytes, width, height, label, then those of the layout; by path.

    Raises:
        UserError: as `read_layout`; a file that is no image; images of another size than published.
    """
    table = read_layout(folder, layout)
    with ThreadPoolExecutor(THREADS) as pool:
        measured = pool.map(measure, [Path(folder) / path for path in table["path"]])
        facts = list(track(measured, f"indexing {Path(folder).name}", len(table)))
    table[["sha256", "bytes", "width", "height"]] = pd.DataFrame(facts, index=table.index)
    if layout.size is not None:
        found = Counter(zip(table["width"], table["height"], strict=True))
        for width, height in found:
            if (width, height) != layout.size:
                raise UserError(
                    f"{folder}: {found[width, height]} of {len(table)} images are {width} x "
                    f"{height} px, published as {layout.size[0]} x {layout.size[1]}: another set "
                    "goes by this name: see where the set's card says it is from"
                )
    others = [column for column in table if column not in FIRST_COLUMNS]
    return table[FIRST_COLUMNS + others]


def measure(path: Path) -> tuple[str, int, int, int]:
    """SHA-256, bytes, width and height of an image file; its pixels are not decoded."""
    try:
        with image_file(path) as file, opened(file) as image:
            width, height = image.size
    except Unreadable as why:
        raise UserError(f"{path} {why}: place it as published") from None
    except FileNotFoundError:
        raise UserError(f"{path} is missing: place it as published") from None
    return sha256_file(path), path.stat().st_size, width, height


def write_manifest(datasets: Path, card: Card) -> Path:
    """Make the manifest of a set from the user's own copy in `datasets/raw/<card.folder>`.

    Where the card's counts were counted by somebody, other numbers are an error; numbers of the
    literature may be wrong, and `count_faults` tells the difference.

    Raises:
        UserError: the card has no layout; what `build_manifest` refuses; a label that the card
            does not know; other numbers of images than counted.
    """
    path = Path(datasets) / card.manifest
    folder = Path(datasets) / "raw" / card.folder
    if card.layout is None:
        raise UserError(f"datasets/{card.name}.yaml has no layout: write {path} by hand")
    table = build_manifest(folder, card.layout)
    passed_over = find_images(folder).passed_over if isinstance(card.layout, Paths) else {}
    if passed_over:
        first, why = next(iter(passed_over.items()))
        say(f"note: {folder}: {len(passed_over)} files were passed over, the first {why}: {first}")
    known = {label for labels in card.labels.values() for label in labels}
    if unknown := sorted(set(table[card.label_column]) - known):
        raise UserError(
            f"{folder}: unknown label '{unknown[0]}': repair it in layout.labels of "
            f"datasets/{card.name}.yaml, or add it to label_spaces.yaml under sets.{card.name}"
        )
    faults = count_faults(card, table)
    if faults and card.counts_source == "counted":
        raise UserError(f"{folder}: not the published set: {'; '.join(faults)}")
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
    return path
