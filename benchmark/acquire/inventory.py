"""For each set: what of it is here, what is missing, and how to get it.

Nothing is read but names, sizes and the receipts of what was verified before.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.acquire.archives import DRIVE, archive_home, length
from benchmark.acquire.fetch import Receipt, expected_images
from benchmark.data.cards import Card, raw_folder
from benchmark.data.image_files import SUFFIXES


def lines(datasets: Path, card: Card, mirror: Path | None) -> list[str]:
    """What `wbc-shift fetch --list` prints about one set: a title, and indented facts.

    Raises:
        UserError: a shipped manifest is missing or broken.
    """
    listed = card.ships_manifest or (datasets / card.manifest).exists()
    stock = listed_images if listed else unlisted_images
    here, missing, in_mirror = stock(datasets, card, mirror)
    if mirror is not None and card.drawn_by is None:
        here += f"; the mirror holds {in_mirror:,}"
    kept = [archive_home(datasets / "raw", card) / archive.file for archive in card.archives]
    if size := sum(map(length, kept)):
        here += f"; archives of {readable(size)} kept"
    facts = {
        "here": here,
        "missing": missing,
        "licence": f"{card.licence.name}; redistribution {card.licence.redistribution}",
        "get": how_to_get(datasets, card),
    }
    if card.drawn_by is None:
        facts["by hand"] = f"{card.by_hand}; the folder is {raw_folder(datasets, card)}"
    domains = ", ".join(card.domains)
    return [f"{card.name}: {card.title} (domains: {domains})"] + [
        f"  {name:<8} {fact}" for name, fact in facts.items()
    ]


def listed_images(datasets: Path, card: Card, mirror: Path | None) -> tuple[str, str, int]:
    """What is here of the images of a manifest, what is missing, and the number in the mirror."""
    folder, receipt = raw_folder(datasets, card), Receipt(datasets, card)
    images = expected_images(datasets, card, "all")
    core = {image.path for image in expected_images(datasets, card, "core")}
    lengths = {image.path: length(folder / image.path) for image in images}
    whole = [i for i in images if lengths[i.path] and i.size in (None, lengths[i.path])]
    paths = {image.path for image in whole}
    here = f"{len(whole):,} of {len(images):,} images"
    if card.drawn_by is None:
        here += f", {sum(receipt.holds(i, folder / i.path) for i in whole):,} verified"
    if len(core) != len(images):
        here += f" (core: {len(core & paths):,} of {len(core):,})"
    if not card.complete:
        here += "; the manifest lists a part of the set"
    sizes = [image.size for image in images if image.path not in paths]
    size = None if None in sizes else sum(sizes)
    in_mirror = mirror and sum((mirror / card.folder / i.path).is_file() for i in images)
    return here, missing_images(len(images) - len(whole), size), in_mirror


def unlisted_images(datasets: Path, card: Card, mirror: Path | None) -> tuple[str, str, int]:
    """The same of a set whose manifest the first fetch makes, by what its card states."""
    number = images_below(raw_folder(datasets, card))
    counts = [card.counts, *(domain.counts for domain in card.domains.values())]
    total = card.images or sum(card.counts.values()) or sum(sum(c.values()) for c in counts)
    of = f"{total:,}" if total else "an unknown number of"
    verified = ", 0 verified" if card.drawn_by is None else ""
    here = f"{number:,} of {of} images{verified}"
    here += "; not listed yet: fetch makes the manifest from the files"
    sizes = [archive.bytes for archive in card.archives]
    size = sum(sizes) if sizes and all(sizes) else None
    missing = missing_images(max(0, total - number), size) if total else "unknown"
    return here, missing, mirror and images_below(mirror / card.folder)


def images_below(folder: Path) -> int:
    """Number of files below a folder that carry an image's suffix."""
    return sum(file.suffix.lower() in SUFFIXES for file in folder.rglob("*"))


def missing_images(number: int, size: int | None) -> str:
    """How many images are not here, and their bytes, if known."""
    if number == 0:
        return "nothing"
    return f"{number:,} images, {'size not known' if size is None else readable(size)}"


def how_to_get(datasets: Path, card: Card) -> str:
    """The command, and where it asks."""
    if card.drawn_by is not None:
        return f"wbc-shift fetch {card.name}: drawn here, nothing to download"
    ways = []
    if number := len(card.addresses):
        ways.append(f"one by one from {number} address{'es' * (number > 1)}")
    if online := [archive for archive in card.archives if archive.urls]:
        sizes = [archive.bytes for archive in online]
        known = f" of {readable(sum(sizes))}" if all(sizes) else ", size not published"
        ways.append(f"{len(online)} archive{'s' * (len(online) > 1)}{known}")
    if any(url.startswith(DRIVE) for archive in online for url in archive.urls):
        ways.append("Google Drive, which needs pip install 'wbc-shift[drive]'")
    if by_hand := [archive.file for archive in card.archives if not archive.urls]:
        home = archive_home(datasets / "raw", card)
        ways.append(f"{', '.join(by_hand)} placed by hand in {home}")
    return f"wbc-shift fetch {card.name}: {'; '.join(ways)}" if ways else "by hand only"


def readable(size: int) -> str:
    """Bytes in decimal units.

    >>> readable(214_000_000)
    '214 MB'
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            number = size / factor
            return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
    return f"{size} bytes"
