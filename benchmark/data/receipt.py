"""Files that were hashed and found right → a receipt, so that they need not be read again."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.data.cards import Card
from benchmark.data.sources import Expected
from benchmark.errors import UserError
from benchmark.files import read_json, write_text


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
