"""Declared versions of everything that moves a prediction's bits.

A run's fingerprint holds these integers, not the source code: a renamed variable or a comment
retrains nothing. `tests/test_golden_runs.py` pins tiny runs; when a change moves their bits, the
test fails until the version of the changed part is raised here, and exactly the runs that use the
part become stale. A part not listed is at version 1.
"""

from __future__ import annotations

PROTOCOL = 1
"""What is trained and tested on what: splits, selection, the parts that are predicted."""

VERSIONS: dict[str, int] = {
    "data": 1,
    "model": 1,
    "augmentation": 1,
    "training": 1,
    "inference": 1,
    "inference.tent": 2,
}


def version(kind: str, name: str | None = None) -> int:
    """Version of a part (`model`) or of a building block (`loss`, `focal`)."""
    return VERSIONS.get(kind if name is None else f"{kind}.{name}", 1)
