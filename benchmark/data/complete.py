"""A set whose manifest is not shipped → its folder filled, and its manifest made from the files.

Such a manifest (`raw/.manifests/<card>.csv`) knows what lies here, not what was published: only
the number of images per label, which the card states, can be compared.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from benchmark.data.archives import unpacked
from benchmark.data.cards import Card, count_faults, published_images
from benchmark.data.downloads import archive_fault
from benchmark.data.layouts import Npz
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write
from benchmark.progress import say, track

NAMED = 4
"""Labels named in a line about counts; the rest is counted."""


def is_built(card: Card) -> bool:
    """Whether the card's manifest is made here from the files, not shipped."""
    return card.manifest.startswith("raw/")


def complete(datasets: Path, card: Card, mirror: Path | None, offline: bool) -> list[str]:
    """Fill the folder of a card without shipped manifest, until its manifest can be made.

    What lies there is taken first, then a mirror's folder, then the archives.

    Returns:
        What was tried in vain, in words; the manifest may be missing then.

    Raises:
        UserError: the disk is full; a folder cannot be written.
    """
    folder = Path(datasets) / "raw" / card.folder
    tried: list[str] = []
    if (Path(datasets) / card.manifest).exists() or make(datasets, card, tried):
        return []
    if mirror is not None and folder.resolve().is_relative_to(Path(mirror).resolve()):
        tried.append(f"{folder} leads into the mirror, which is only read")
        return tried
    if mirror is not None and (Path(mirror) / card.folder).is_dir():
        pour(Path(mirror) / card.folder, folder, move=False)
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
    # Lazy: measuring images needs the image library, fetching does not.
    from benchmark.data.manifest import write_manifest

    folder = Path(datasets) / "raw" / card.folder
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    for archive in card.archives:
        # One that is read as it lies there may have been placed by hand.
        file = folder / archive.file
        if isinstance(card.layout, Npz) and archive.file == card.layout.file and file.is_file():
            why = archive_fault(archive, file)
            if why is not None:
                tried.append(
                    f"{file} ({why}: not the published archive: replace it, or delete it to "
                    f"download it; if it is a later edition, correct datasets/{card.name}.yaml)"
                )
                return False
    try:
        (Path(datasets) / card.manifest).unlink(missing_ok=True)
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
            f"if it is not whole, place the rest and delete {Path(datasets) / card.manifest}"
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
