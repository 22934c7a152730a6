"""Make the manifest of a set from a copy of it: path, hash, size and label of every image.

For sets whose manifest is not shipped, and for a laboratory's own images. Such a manifest
(`raw/.manifests/<card>.csv`) knows what lies here, not what was published: only the number of
images per label, which the card states, can be compared.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd

from benchmark.acquire.archives import archive_fault, unpacked
from benchmark.data.cards import Card, raw_folder
from benchmark.data.image_files import Unreadable, find_images, image_file, opened
from benchmark.data.layouts import Layout, Npz, Paths, read_layout
from benchmark.data.manifests import count_faults, published_images
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, sha256_file, write_text
from benchmark.parallel import in_threads
from benchmark.progress import say, track

FIRST_COLUMNS = ["path", "sha256", "bytes", "width", "height", "label"]
NAMED = 4
"""Labels named in a line about counts; the rest is counted."""


def build_manifest(folder: Path, layout: Layout) -> pd.DataFrame:
    """Read a published folder by its layout, and measure and hash every image.

    Returns:
        Columns path, sha256, bytes, width, height, label, then those of the layout; by path.

    Raises:
        UserError: as `read_layout`; a file that is no image; images of another size than published.
    """
    table = read_layout(folder, layout)
    files = [folder / path for path in table["path"]]
    facts = in_threads(measure, files, f"indexing {folder.name}")
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
    path, folder = datasets / card.manifest, raw_folder(datasets, card)
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


def complete(datasets: Path, card: Card, mirror: Path | None, offline: bool) -> list[str]:
    """Fill the folder of a card without shipped manifest, until its manifest can be made.

    What lies there is taken first, then a mirror's folder, then the archives.

    Returns:
        What was tried in vain, in words; the manifest may be missing then.

    Raises:
        UserError: the disk is full; a folder cannot be written.
    """
    folder = raw_folder(datasets, card)
    tried: list[str] = []
    if (datasets / card.manifest).exists() or make(datasets, card, tried):
        return []
    if mirror is not None and folder.resolve().is_relative_to(mirror.resolve()):
        tried.append(f"{folder} leads into the mirror, which is only read")
        return tried
    if mirror is not None and (mirror / card.folder).is_dir():
        pour(mirror / card.folder, folder, move=False)
        if make(datasets, card, tried):
            return []
    if card.archives:
        with unpacked(datasets, card, mirror, offline, tried) as folders:
            for source in folders:
                pour(source, folder, move=True)
        if folders and make(datasets, card, tried):
            return []
    return tried


def make(datasets: Path, card: Card, tried: list[str]) -> bool:
    """Write the manifest of what lies in the folder; whether it is there and as the card says."""
    folder = raw_folder(datasets, card)
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    for archive in card.archives:
        # One that is read as it lies there may have been placed by hand.
        file = folder / archive.file
        read_here = isinstance(card.layout, Npz) and archive.file == card.layout.file
        if read_here and file.is_file() and (why := archive_fault(archive, file)):
            tried.append(
                f"{file} ({why}: not the published archive: replace it, or delete it to "
                f"download it; if it is a later edition, correct datasets/{card.name}.yaml)"
            )
            return False
    try:
        (datasets / card.manifest).unlink(missing_ok=True)
        write_manifest(datasets, card)
    except UserError as error:
        tried.append(f"{folder} ({error})")
        return False
    return not count_faults(card, published_images(datasets, card))


def say_differences(datasets: Path, card: Card, tried: list[str]) -> None:
    """Say in one line how the files differ from counts that nobody has checked, if they do."""
    faults = count_faults(card, published_images(datasets, card))
    if faults:
        more = f"; {len(faults) - NAMED} more labels" if len(faults) > NAMED else ""
        also = f"; tried {', '.join(tried)}" if tried else ""
        say(
            f"note: {card.name} is not as its card says: {'; '.join(faults[:NAMED])}{more}{also}; "
            f"if it is not whole, place the rest and delete {datasets / card.manifest}"
        )


def pour(source: Path, target: Path, move: bool) -> None:
    """Bring every file of a folder into another, whole; what is there already is left alone.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    files = [file for file in sorted(source.rglob("*")) if file.is_file()]
    for file in track(files, f"placing files in {target.name}"):
        place = target / file.relative_to(source)
        if place.exists():
            continue
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if move:
                file.replace(place)
                continue
        except OSError as error:
            # The folder may be a link to another disk, where nothing can be moved to in one step.
            if error.errno != errno.EXDEV:
                raise cannot_write(place, error) from error
        with atomic(place) as temporary:
            shutil.copyfile(file, temporary)
