"""Images of a card, whole and verified, below `datasets/raw/`: `manifest → files`.

An image is kept if it lies there with the manifest's SHA-256; else it is copied from the mirror;
else it is downloaded from the card's addresses, in order. A drawn card is drawn. Whatever stops
a fetch leaves whole files only, and the next one gets only what is missing.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from benchmark.data.cards import Card, Subset, read_manifest
from benchmark.data.sources import Address, Expected, Mirror, fault
from benchmark.errors import UserError
from benchmark.files import read_json, write_text
from benchmark.progress import track

THREADS = 8


@dataclass(frozen=True)
class FetchReport:
    """Where the images of one card came from; the five counts below `images` add up to it."""

    dataset: str
    images: int
    kept: int
    copied: int
    downloaded: int
    drawn: int

    def __str__(self) -> str:
        parts = ("kept", "copied", "downloaded", "drawn")
        counts = [f"{getattr(self, part)} {part}" for part in parts if getattr(self, part)]
        return f"{self.dataset}: {self.images} images ({', '.join(counts) or 'none'})"


def fetch(
    datasets: Path,
    card: Card,
    subset: Subset,
    mirror: Path | None,
    offline: bool = False,
) -> FetchReport:
    """Make every image of a card's subset present and verified in `datasets/raw/<card.folder>`.

    Args:
        datasets: the folder of the cards.
        subset: `core` or `all` rows of the manifest.
        mirror: root of a local copy, holding `<card.folder>/<path>`; only read, never changed.
        offline: try no address.

    Raises:
        UserError: the mirror does not exist; images are still missing after every source, with
            what was tried and what to place where; a folder cannot be written. What was fetched
            before stays.
    """
    if card.drawn_by == "phantom":
        return draw(datasets, card, subset)
    if mirror is not None and not Path(mirror).is_dir():
        raise UserError(f"mirror {mirror} is no folder: correct or unset WBC_MIRROR")
    expected = expected_images(datasets, card, subset)
    folder = raw_folder(datasets, card)
    receipt = Receipt(datasets, card)
    wanted = [image for image in expected if not receipt.holds(image, folder / image.path)]
    stop = threading.Event()
    sources: list[Mirror | Address] = []
    if mirror is not None:
        refuse_link_into_mirror(folder, Path(mirror), wanted)
        sources.append(Mirror(Path(mirror) / card.folder))
    if not offline:
        sources += [Address(prefix, stop) for prefix in card.addresses]

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
    futures = {pool.submit(get, image): image for image in wanted}
    try:
        done = as_completed(futures)
        for future in track(done, f"fetching {card.name}", total=len(futures)):
            image = futures[future]
            outcomes[image.path] = future.result()
            if outcomes[image.path] != "missing":
                receipt.record(image, folder / image.path)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        receipt.write()
    missing = [image.path for image in expected if outcomes.get(image.path) == "missing"]
    if missing:
        raise UserError(still_missing(datasets, card, missing, len(expected), sources, offline))
    count = Counter(outcomes.values())
    kept = len(expected) - len(wanted) + count["kept"]
    return FetchReport(card.name, len(expected), kept, count["copied"], count["downloaded"], 0)


def refuse_link_into_mirror(folder: Path, mirror: Path, wanted: list[Expected]) -> None:
    """Refuse to place an image where that would change the mirror, through a linked folder."""
    if not folder.resolve().is_relative_to(mirror.resolve()):
        return
    for image in wanted:
        why = fault(image, folder / image.path)
        if why is not None:
            raise UserError(
                f"{folder} leads into the mirror, which is only read, and {image.path} in it is "
                f"not whole ({why}): remove that link, or mend the mirror by hand"
            )


def verify(datasets: Path, card: Card, subset: Subset) -> list[str]:
    """Paths of a subset's images that are missing or not as published, in the manifest's order.

    Files verified before and unchanged since are not read again. Drawn images count as whole when
    they exist: `fetch` redraws those whose recipe changed.
    """
    folder, receipt = raw_folder(datasets, card), Receipt(datasets, card)
    bad = []
    for image in expected_images(datasets, card, subset):
        if receipt.holds(image, folder / image.path):
            continue
        if fault(image, folder / image.path) is None:
            receipt.record(image, folder / image.path)
        else:
            bad.append(image.path)
    receipt.write()
    return bad


def raw_folder(datasets: Path, card: Card) -> Path:
    """Where a card's images lie: prefix of the manifest's paths."""
    return Path(datasets) / "raw" / card.folder


def expected_images(datasets: Path, card: Card, subset: Subset) -> list[Expected]:
    """The manifest's paths, hashes and, where stated and the images are not drawn, sizes."""
    table = read_manifest(datasets, card, subset)
    sizes = table["bytes"] if "bytes" in table and card.drawn_by is None else [""] * len(table)
    return [
        Expected(path, sha256.lower(), int(size) if size else None)
        for path, sha256, size in zip(table["path"], table["sha256"], sizes, strict=True)
    ]


def draw(datasets: Path, card: Card, subset: Subset) -> FetchReport:
    """Draw what a phantom card lacks; each domain's `select.acquisition` names its knobs."""
    # Lazy: drawing needs the image libraries, fetching does not.
    from benchmark.data.phantom import draw_images

    rows = read_manifest(datasets, card, subset)
    looks = {
        domain.select["acquisition"]: domain.acquisition
        for domain in card.domains.values()
        if domain.acquisition is not None and "acquisition" in domain.select
    }
    drawn = draw_images(rows, looks, raw_folder(datasets, card))
    return FetchReport(card.name, len(rows), len(rows) - drawn, 0, 0, drawn)


class Receipt:
    """Which files of a card were hashed and found right, so that they are not read again.

    `datasets/raw/.verified/<card>.json`: path → "size mtime_ns sha256". A file touched since then
    is hashed again; a receipt that is lost or broken only costs that time.
    """

    def __init__(self, datasets: Path, card: Card) -> None:
        self.file = Path(datasets) / "raw" / ".verified" / f"{card.name}.json"
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
        stamp = self.stamp(image, file)
        if stamp is not None:
            self.stamps[image.path] = stamp
            self.changed = True

    def write(self) -> None:
        """Store the receipt, if anything new was verified."""
        if self.changed:
            stamps = dict(sorted(self.stamps.items()))
            write_text(self.file, json.dumps(stamps, indent=0, ensure_ascii=False) + "\n")


def still_missing(
    datasets: Path,
    card: Card,
    missing: list[str],
    total: int,
    sources: list[Mirror | Address],
    offline: bool,
) -> str:
    """The line that says what is missing, what was tried, and what to place where."""
    tried = [source.outcome() for source in sources] + ["no address: offline"] * offline
    return (
        f"{card.name}: {len(missing)} of {total} images are missing or damaged, "
        f"first {missing[0]}; tried {', '.join(tried) or 'nothing: the card has no address'}; "
        f"to place them by hand: {card.by_hand}; the folder is {raw_folder(datasets, card)}, "
        f"or DIR/{card.folder} of a mirror given as WBC_MIRROR=DIR; then run again, "
        "what is whole is kept"
    )
