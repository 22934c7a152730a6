"""What an audit says: findings, and the exact lines that turn them into known cases."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO

from benchmark.data.known_cases import EXCLUSIONS, SAME_CELLS

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
        check: which check found it.
        text: what it is, in one line.
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
