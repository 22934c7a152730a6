"""Cards and what lies in the folders → for each set: what is here, what is missing, how to get it.

Nothing is read but names, sizes and the receipts of what was verified before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark.data.archives import archive_home
from benchmark.data.cards import Card
from benchmark.data.complete import is_built
from benchmark.data.downloads import DRIVE, length
from benchmark.data.fetch import expected_images, raw_folder
from benchmark.data.image_files import SUFFIXES
from benchmark.data.receipt import Receipt


@dataclass(frozen=True)
class Stock:
    """How much of one set is here. Numbers of images; bytes where the manifest states sizes."""

    total: int | None
    """Images that may be used; None where nobody has counted them."""
    here: int
    verified: int
    """Of those here, how many were hashed and found right, and are unchanged since."""
    core: int
    core_here: int
    in_mirror: int | None
    missing_bytes: int | None
    manifest: bool = True
    """Whether there is a manifest; one that is not shipped is made by the first fetch."""


def stock_of(datasets: Path, card: Card, mirror: Path | None) -> Stock:
    """Count what of a card's images is in `datasets/raw/`, and in the mirror if there is one.

    Raises:
        UserError: a shipped manifest is missing or broken.
    """
    folder = raw_folder(datasets, card)
    if is_built(card) and not (Path(datasets) / card.manifest).exists():
        counts = [card.counts, *(domain.counts for domain in card.domains.values())]
        total = card.images or sum(card.counts.values()) or sum(sum(c.values()) for c in counts)
        in_mirror = None if mirror is None else images_below(Path(mirror) / card.folder)
        here = images_below(folder)
        return Stock(total or None, here, 0, 0, 0, in_mirror, None, manifest=False)
    images = expected_images(datasets, card, "all")
    core = {image.path for image in expected_images(datasets, card, "core")}
    receipt = Receipt(datasets, card)
    lengths = {image.path: length(folder / image.path) for image in images}
    here = {i.path for i in images if lengths[i.path] and i.size in (None, lengths[i.path])}
    sizes = [image.size for image in images if image.path not in here]
    return Stock(
        total=len(images),
        here=len(here),
        verified=sum(receipt.holds(i, folder / i.path) for i in images if i.path in here),
        core=len(core),
        core_here=len(core & here),
        in_mirror=None
        if mirror is None
        else sum((Path(mirror) / card.folder / image.path).is_file() for image in images),
        missing_bytes=None if None in sizes else sum(sizes),
    )


def images_below(folder: Path) -> int:
    """Number of files below a folder that carry an image's suffix."""
    return sum(file.suffix.lower() in SUFFIXES for file in Path(folder).rglob("*"))


def lines(datasets: Path, card: Card, mirror: Path | None) -> list[str]:
    """What `wbc-shift fetch --list` prints about one set: a title, and indented facts."""
    stock = stock_of(datasets, card, mirror)
    of = f"{stock.total:,}" if stock.total is not None else "an unknown number of"
    here = f"{stock.here:,} of {of} images"
    if card.drawn_by is None:
        here += f", {stock.verified:,} verified"
    if stock.core != (stock.total or 0) and stock.manifest:
        here += f" (core: {stock.core_here:,} of {stock.core:,})"
    if not stock.manifest:
        here += "; not listed yet: fetch makes the manifest from the files"
    if stock.manifest and not card.complete:
        here += "; the manifest lists a part of the set"
    if stock.in_mirror is not None and card.drawn_by is None:
        here += f"; the mirror holds {stock.in_mirror:,}"
    kept = [archive_home(Path(datasets) / "raw", card) / archive.file for archive in card.archives]
    if any(map(length, kept)):
        here += f"; archives of {readable(sum(map(length, kept)))} kept"
    facts = {
        "here": here,
        "missing": missing(card, stock),
        "licence": f"{card.licence.name}; redistribution {card.licence.redistribution}",
        "get": how_to_get(datasets, card),
    }
    if card.drawn_by is None:
        facts["by hand"] = f"{card.by_hand}; the folder is {raw_folder(datasets, card)}"
    domains = ", ".join(card.domains)
    return [f"{card.name}: {card.title} (domains: {domains})"] + [
        f"  {name:<8} {fact}" for name, fact in facts.items()
    ]


def missing(card: Card, stock: Stock) -> str:
    """How many images are not here, and their size."""
    if stock.total is None:
        return "unknown"
    number = max(0, stock.total - stock.here)
    if number == 0:
        return "nothing"
    size = stock.missing_bytes
    if size is None and not stock.manifest:
        sizes = [archive.bytes for archive in card.archives]
        size = sum(sizes) if sizes and all(sizes) else None
    return f"{number:,} images, {'size not known' if size is None else readable(size)}"


def how_to_get(datasets: Path, card: Card) -> str:
    """The command, and where it asks."""
    if card.drawn_by is not None:
        return f"wbc-shift fetch {card.name}: drawn here, nothing to download"
    ways = []
    if card.addresses:
        number = len(card.addresses)
        ways.append(f"one by one from {number} address{'es' * (number > 1)}")
    online = [archive for archive in card.archives if archive.urls]
    if online:
        sizes = [archive.bytes for archive in online]
        known = f" of {readable(sum(sizes))}" if all(sizes) else ", size not published"
        ways.append(f"{len(online)} archive{'s' * (len(online) > 1)}{known}")
    if any(url.startswith(DRIVE) for archive in online for url in archive.urls):
        ways.append("Google Drive, which needs pip install 'wbc-shift[drive]'")
    by_hand = [archive.file for archive in card.archives if not archive.urls]
    if by_hand:
        home = archive_home(Path(datasets) / "raw", card)
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
