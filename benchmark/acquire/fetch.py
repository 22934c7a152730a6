"""Images of a card, whole and verified, below `datasets/raw/`.

An image is kept if it lies there with the manifest's SHA-256; else it is copied from the images
that this repository holds (`datasets/images/`), else from the mirror; else it is downloaded from
the card's addresses, in order; else it is taken from the card's archives. A drawn card is drawn. A
manifest that is not shipped is made from the files first. Whatever stops a fetch leaves whole files
only, and the next one gets only what is missing.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmark.acquire.archives import archive_home, unpacked
from benchmark.acquire.sources import Address, Expected, Mirror, Source, fault
from benchmark.data.cards import Card, raw_folder
from benchmark.data.image_files import find_images
from benchmark.data.manifests import read_manifest
from benchmark.errors import UserError, suggest
from benchmark.files import read_json, write_text
from benchmark.progress import track
from benchmark.schema import Subset

THREADS = 8
SHIPPED = "images"
"""Folder below `datasets/` of the images that this repository holds, as a mirror would."""


@dataclass(frozen=True)
class FetchReport:
    """Where the images of one card came from; the counts below `images` add up to it."""

    dataset: str
    images: int
    kept: int = 0
    copied: int = 0
    downloaded: int = 0
    unpacked: int = 0
    drawn: int = 0

    def __str__(self) -> str:
        parts = ("kept", "copied", "downloaded", "unpacked", "drawn")
        counts = [f"{getattr(self, part)} {part}" for part in parts if getattr(self, part)]
        return f"{self.dataset}: {self.images} images ({', '.join(counts) or 'none'})"


class Receipt:
    """Which files of a card were hashed and found right, so that they are not read again.

    `datasets/raw/.verified/<card>.json`: path → "size mtime_ns sha256". A file touched since then
    is hashed again; a receipt that is lost or broken only costs that time.
    """

    def __init__(self, datasets: Path, card: Card) -> None:
        self.file = datasets / "raw" / ".verified" / f"{card.name}.json"
        try:
            stored = read_json(self.file)
        except (UserError, OSError):
            stored = None
        self.stamps: dict[str, str] = stored if isinstance(stored, dict) else {}
        self.changed = False

    @staticmethod
    def stamp(image: Expected, file: Path) -> str | None:
        """Size, time of change and hash as one line; None if there is no such file."""
        try:
            facts = file.stat()
        except OSError:
            return None
        return f"{facts.st_size} {facts.st_mtime_ns} {image.sha256}"

    def holds(self, image: Expected, file: Path) -> bool:
        """Whether the file was verified against this hash and is unchanged since."""
        known = self.stamps.get(image.path)
        return known is not None and known == self.stamp(image, file)

    def record(self, image: Expected, file: Path) -> None:
        """Remember that the file is right as it lies there now."""
        if stamp := self.stamp(image, file):
            self.stamps[image.path] = stamp
            self.changed = True

    def write(self) -> None:
        """Store the receipt, if anything new was verified."""
        if self.changed:
            stamps = dict(sorted(self.stamps.items()))
            write_text(self.file, json.dumps(stamps, indent=0, ensure_ascii=False) + "\n")


def fetch(
    datasets: Path,
    card: Card,
    subset: Subset,
    mirror: Path | None,
    offline: bool = False,
    domain: str | None = None,
) -> FetchReport:
    """Make every image of a card's subset present and verified in `datasets/raw/<card.folder>`.

    Args:
        mirror: root of a local copy, holding `<card.folder>/<path>` or
            `archives/<folder>/<archive>`; only read, never changed.
        offline: try no address.
        domain: only the images of this domain of the card.

    Raises:
        UserError: the mirror does not exist; images are still missing after every source, with
            what was tried and what to place where; a folder cannot be written. What was fetched
            before stays.
    """
    if card.drawn_by == "phantom":
        return draw(datasets, card, subset, domain)
    if mirror is not None and not mirror.is_dir():
        raise UserError(f"mirror {mirror} is no folder: correct or unset WBC_MIRROR")
    if not card.ships_manifest:
        # Lazy: measuring images needs the image library, fetching others does not.
        from benchmark.acquire import manifest

        tried = manifest.complete(datasets, card, mirror, offline)
        if not (datasets / card.manifest).exists():
            number = len(find_images(raw_folder(datasets, card)).images)
            here = f"{number:,} images are here, which are not the set"
            raise unobtainable(datasets, card, here if number else "no image is here", tried)
        manifest.say_differences(datasets, card, tried)
    expected = expected_images(datasets, card, subset, domain)
    folder = raw_folder(datasets, card)
    receipt = Receipt(datasets, card)
    wanted = [image for image in expected if not receipt.holds(image, folder / image.path)]
    stop = threading.Event()
    sources: list[Source] = []
    if (shipped := datasets / SHIPPED / card.folder).is_dir():
        sources.append(Mirror(shipped, name="repository's folder"))
    if mirror is not None:
        refuse_link_into_mirror(folder, mirror, wanted)
        sources.append(Mirror(mirror / card.folder))
    if not offline:
        sources += [Address(prefix, stop) for prefix in card.addresses]
    try:
        doing = f"fetching {card.name}"
        outcomes = place_images(wanted, folder, sources, stop, receipt, doing)
        tried = [source.outcome() for source in sources] + ["no address: offline"] * offline
        missing = [image for image in wanted if outcomes[image.path] == "missing"]
        if missing and card.archives:
            doing = f"unpacking {card.name}"
            with unpacked(datasets, card, mirror, offline, tried) as folders:
                places = [Mirror(f, "unpacked", f"archive of {card.name},") for f in folders]
                outcomes |= place_images(missing, folder, places, stop, receipt, doing)
    finally:
        receipt.write()
    absent = [image.path for image in wanted if outcomes[image.path] == "missing"]
    if absent:
        of = f"{len(absent)} of {len(expected)} images are missing or damaged, first {absent[0]}"
        raise unobtainable(datasets, card, of, tried)
    count = Counter(outcomes.values())
    count["kept"] += len(expected) - len(wanted)
    return FetchReport(card.name, len(expected), **count)


def named(cards: dict[str, Card], names: Iterable[str]) -> list[tuple[Card, str | None]]:
    """The cards, or domains of cards, that are called so.

    Raises:
        UserError: neither a card nor a domain has such a name.
    """
    domains = {domain: card for card in cards.values() for domain in card.domains}
    found: list[tuple[Card, str | None]] = []
    for name in dict.fromkeys(names):
        # A set of one domain bears its name: the card is meant, which is the same.
        if name in cards:
            found.append((cards[name], None))
        elif name in domains:
            found.append((domains[name], name))
        else:
            raise UserError(f"no card or domain '{name}'{suggest(name, {*cards, *domains})}")
    return found


def place_images(
    images: list[Expected],
    folder: Path,
    sources: list[Source],
    stop: threading.Event,
    receipt: Receipt,
    doing: str,
) -> dict[str, str]:
    """Path → where the image came from (`kept`, a source's verb), or `missing`; in parallel."""

    def get(image: Expected) -> str:
        target = folder / image.path
        if fault(image, target) is None:
            return "kept"
        for source in sources:
            if not stop.is_set() and source.get(image, target):
                return source.verb
        return "missing"

    outcomes: dict[str, str] = {}
    pool = ThreadPoolExecutor(THREADS)
    futures = {pool.submit(get, image): image for image in images}
    try:
        for future in track(as_completed(futures), doing, total=len(futures)):
            image = futures[future]
            outcomes[image.path] = future.result()
            if outcomes[image.path] != "missing":
                receipt.record(image, folder / image.path)
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def refuse_link_into_mirror(folder: Path, mirror: Path, wanted: list[Expected]) -> None:
    """Refuse to place an image where that would change the mirror, through a linked folder."""
    if not folder.resolve().is_relative_to(mirror.resolve()):
        return
    for image in wanted:
        if why := fault(image, folder / image.path):
            raise UserError(
                f"{folder} leads into the mirror, which is only read, and {image.path} in it is "
                f"not whole ({why}): remove that link, or mend the mirror by hand"
            )


def verify(datasets: Path, card: Card, subset: Subset, domain: str | None = None) -> list[str]:
    """Paths of a subset's images that are missing or not as published, in the manifest's order.

    Files verified before and unchanged since are not read again. Drawn images count as whole when
    they exist: `fetch` redraws those whose recipe changed.
    """
    folder, receipt = raw_folder(datasets, card), Receipt(datasets, card)
    bad = []
    for image in expected_images(datasets, card, subset, domain):
        file = folder / image.path
        if receipt.holds(image, file):
            continue
        if fault(image, file) is None:
            receipt.record(image, file)
        else:
            bad.append(image.path)
    receipt.write()
    return bad


def expected_images(
    datasets: Path, card: Card, subset: Subset, domain: str | None = None
) -> list[Expected]:
    """The manifest's paths, hashes and, where stated and the images are not drawn, sizes."""
    table = read_manifest(datasets, card, subset, domain)
    sizes = table["bytes"] if "bytes" in table and card.drawn_by is None else [""] * len(table)
    return [
        Expected(path, sha256.lower(), int(size) if size else None)
        for path, sha256, size in zip(table["path"], table["sha256"], sizes, strict=True)
    ]


def draw(datasets: Path, card: Card, subset: Subset, domain: str | None) -> FetchReport:
    """Draw what a phantom card lacks; each domain's `select.acquisition` names its knobs."""
    # Lazy: drawing needs the image libraries, fetching does not.
    from benchmark.phantom.acquisition import draw_images

    wanted = read_manifest(datasets, card, subset, domain)
    looks = {
        domain.select["acquisition"]: domain.acquisition
        for domain in card.domains.values()
        if domain.acquisition is not None and "acquisition" in domain.select
    }
    drawn = draw_images(wanted, looks, raw_folder(datasets, card))
    return FetchReport(card.name, len(wanted), kept=len(wanted) - drawn, drawn=drawn)


def unobtainable(datasets: Path, card: Card, what: str, tried: list[str]) -> UserError:
    """The line that says what is missing, what was tried, and what to place where by hand."""
    archives = ""
    if card.archives:
        names = ", ".join(archive.file for archive in card.archives)
        home, lent = archive_home(datasets / "raw", card), archive_home(Path("DIR"), card)
        archives = f" (archives unopened: {names} in {home} or {lent})"
    manifest = datasets / card.manifest
    made_here = not card.ships_manifest and manifest.exists()
    again = f"; if these files are right, delete {manifest}" if made_here else ""
    return UserError(
        f"{card.name}: {what}; tried {', '.join(tried) or 'nothing: the card has no address'}"
        f"{again}; to place them by hand: {card.by_hand}; the folder is "
        f"{raw_folder(datasets, card)}, or DIR/{card.folder} of a mirror given as "
        f"WBC_MIRROR=DIR{archives}; then run again, what is whole is kept"
    )
