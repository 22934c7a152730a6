"""What an audit can find, and the checks that need only tables and single files."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.audit.equal_files import EqualFiles, equal_files, excluded_images
from benchmark.audit.images import Look
from benchmark.data.cards import Card, card_of, share_cells
from benchmark.data.manifests import (
    EXCLUSIONS,
    SAME_CELLS,
    count_faults,
    published_images,
    read_manifest,
)
from benchmark.data.split import split_path, split_rows
from benchmark.scenarios import corruption_of, expand_scenario, sources_of
from benchmark.settings import Profile

FINDER = "WBC-Shift audit"
Image = tuple[str, str]
"""Dataset and path."""


@dataclass(frozen=True)
class Mend:
    """A line to add to a file of known cases."""

    file: str
    line: str


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        images: those concerned; the two of a pair.
        similarity: correlation of a pair, at most 1.
        view: how the second image is turned to match the first.
        mend: lines that make it a known case; none where that mends nothing.
    """

    check: str
    text: str
    images: tuple[Image, ...] = ()
    similarity: float | None = None
    view: int = 0
    mend: tuple[Mend, ...] = ()


@dataclass
class Audit:
    """What an audit found, worst first.

    Attributes:
        inside: pairs of one cell within one group, which no split can part, that nobody has
            looked at.
        kept_together: how many pairs lie within one group.
        pairs: how many pairs the search flagged, and what review says of them.
    """

    failures: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    known: list[Finding] = field(default_factory=list)
    inside: list[Finding] = field(default_factory=list)
    kept_together: int = 0
    pairs: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`passed` or `failed`."""
        return "failed" if self.failures else "passed"


def exclude(image: Image, reason: str) -> Mend:
    """The line that takes an image out of every use."""
    return Mend(f"datasets/{EXCLUSIONS}", csv_line(*image, reason, FINDER))


def join_groups(dataset: str, path: str, other: str, similarity: float) -> Mend:
    """The line that makes the groups of two images one."""
    line = csv_line(dataset, path, other, f"{similarity:.3f}", FINDER)
    return Mend(f"datasets/{SAME_CELLS}", line)


def csv_line(*fields: str) -> str:
    """Fields as one line of CSV, quoted where they need it."""
    buffer = StringIO()
    csv.writer(buffer, lineterminator="").writerow(fields)
    return buffer.getvalue()


def more(number: int, what: str) -> str:
    """` (3 groups in all)`, or nothing for one."""
    return f" ({number} {what}s in all)" if number > 1 else ""


class Scenarios:
    """Which domains meet in a scenario: trained on and tested on, or tested on together."""

    def __init__(self, profile: Profile) -> None:
        names = dict.fromkeys(s for e in profile.experiments.values() for s in e.scenarios)
        self.sides: list[tuple[str, list[str], list[str]]] = []
        """Name, domains trained on, domains tested on."""
        for name in names:
            source, targets = expand_scenario(name, profile.domains)
            tested = [target for target in targets if corruption_of(target) is None]
            self.sides.append((name, sources_of(source), tested))

    def joining(self, domain: str, other: str) -> list[str]:
        """The scenarios in which both domains are trained or tested on."""
        return [
            name for name, sources, targets in self.sides if {domain, other} <= {*sources, *targets}
        ]


def check_sides(profile: Profile, cards: dict[str, Card], images: pd.DataFrame) -> list[Finding]:
    """Sets of one family, or images of one group, on the two sides of a scenario.

    Args:
        images: columns domain, path, group.
    """
    found = []
    groups = images[images["group"] != images["path"]].groupby("domain")["group"].agg(set)
    for name, sources, targets in Scenarios(profile).sides:
        for source, target in product(sources, targets):
            card, other = card_of(cards, source), card_of(cards, target)
            if share_cells(cards, source, target):
                text = f"{name}: {source} and {target} show the same cells: {card.name} and "
                found.append(Finding("family", f"{text}{other.name} are of one family"))
            both = groups.get(source, set()) & groups.get(target, set())
            if card is other and both:
                text = f"{name}: group '{min(both)}' is in {source} and in {target}"
                found.append(Finding("group", text + more(len(both), "group")))
    return found


def check_splits(root: Path, profile: Profile, cards: dict[str, Card]) -> list[Finding]:
    """Groups cut by a split, and images no split knows, over the whole of each published set.

    A group is what the manifest says today, with the groups of known same cells joined.
    """
    found = []
    for source in profile.sources():
        rows = read_manifest(root / "datasets", card_of(cards, source), domain=source)
        part = rows["path"].map(parts_of(root, source))
        file = split_path(Path("datasets"), source)
        sides = part.groupby(rows["group"]).nunique()
        cut = sides.index[sides > 1]
        if len(cut):
            text = f"{file}: group '{min(cut)}' is cut by the split"
            found.append(Finding("group", text + more(len(cut), "group")))
        if part.isna().any():
            text = f"{file}: {rows.loc[part.isna(), 'path'].iloc[0]} is in no part"
            found.append(Finding("split", text + more(int(part.isna().sum()), "image")))
    return found


def parts_of(root: Path, source: str) -> pd.Series:
    """Path → part of a source domain's split; empty where there is no split yet."""
    path = split_path(root / "datasets", source)
    if not path.exists():
        return pd.Series(dtype=object)
    return split_rows(root / "datasets", source).set_index("path")["part"]


def check_counts(root: Path, card: Card) -> list[Finding]:
    """Numbers of images in the manifest that differ from what the card states."""
    table = published_images(root / "datasets", card)
    return [Finding("count", text) for text in count_faults(card, table)]


def check_files(images: pd.DataFrame, looks: list[Look]) -> list[Finding]:
    """Images that cannot be decoded, show nothing, or are not what the manifest says.

    Args:
        images: columns dataset, domain, path, sha256, and width and height ("" where not stated).
        looks: of the same rows.
    """
    found = []
    for row, seen in zip(images.itertuples(), looks, strict=True):
        fault = seen.fault
        if fault is None and row.sha256 and row.sha256.lower() != seen.sha256:
            fault = "is not the published file: its SHA-256 differs"
        stated = (str(row.width), str(row.height))
        if fault is None and all(stated) and stated != (str(seen.width), str(seen.height)):
            fault = f"has {seen.width} x {seen.height} px where the manifest says "
            fault += " x ".join(stated)
        if fault is not None:
            image = (row.dataset, row.path)
            text = f"{row.domain}: {row.path} {fault}"
            found.append(Finding("file", text, (image,), mend=(exclude(image, fault),)))
    return found


def check_manifest(audit: Audit, root: Path, card: Card, used: set[Image]) -> None:
    """Add the equal files of a whole published set, by their hashes, to what was found.

    Args:
        used: images that the search for pairs sees, and judges by where they lie.
    """
    table = published_images(root / "datasets", card)
    for pair in equal_files(table, excluded_images(root / "datasets", card.name, table)):
        images = tuple((card.name, path) for path in pair.images)
        text = f"{card.name}: {pair}"
        if pair.resolved:
            audit.known.append(Finding("equal files", text, images, 1.0))
        elif not set(images) <= used:
            chosen = audit.failures if pair.conflicting else audit.warnings
            chosen.append(Finding("equal files", text, images, 1.0, mend=resolve(images, pair)))


def resolve(images: tuple[Image, Image], pair: EqualFiles) -> tuple[Mend, ...]:
    """The lines that resolve a pair of equal files: both go if the labels differ."""
    (first, second), (path, other) = images, pair.images
    if not pair.conflicting:
        return (exclude(second, f"the same file content as {path}"),)
    return (
        exclude(first, f"the same file content as {other}, labelled {pair.labels[1]}"),
        exclude(second, f"the same file content as {path}, labelled {pair.labels[0]}"),
    )
