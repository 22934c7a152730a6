"""The equal files of a manifest, by their hashes: no image is needed.

The pairs whose labels conflict come first. What an exclusion already resolves is said with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from benchmark.data.cards import Card
from benchmark.data.manifests import EXCLUSIONS, read_known_cases
from benchmark.tables import read_strings


@dataclass(frozen=True)
class EqualFiles:
    """Two images of a set with the same content."""

    images: tuple[str, str]
    labels: tuple[str, str]
    excluded: tuple[str, str]
    """Why each of the two is left out; "" if it is not."""

    @property
    def conflicting(self) -> bool:
        return self.labels[0] != self.labels[1]

    @property
    def resolved(self) -> bool:
        """Whether enough is excluded: one of the two, or both where nobody knows the label."""
        return all(self.excluded) if self.conflicting else any(self.excluded)

    def __str__(self) -> str:
        if self.conflicting:
            kind, images = "conflicting labels", zip(self.images, self.labels, strict=True)
            pair = " = ".join(f"{path} ({label})" for path, label in images)
        else:
            kind, pair = "equal", " = ".join(self.images)
        out = [path for path, why in zip(self.images, self.excluded, strict=True) if why]
        return f"{kind}: {pair}; excluded: {', '.join(out) or 'none'}"


def equal_files(table: pd.DataFrame, excluded: dict[str, str]) -> list[EqualFiles]:
    """Every pair of equal files of a manifest, those with conflicting labels first.

    Args:
        table: columns path, label, sha256 ("" where unknown).
        excluded: path → why the image is not used.
    """
    table = table[table["sha256"] != ""]
    table = table[table["sha256"].duplicated(keep=False)].sort_values("path")
    pairs = []
    for _, rows in table.groupby("sha256", sort=False):
        for one, other in combinations(rows.itertuples(), 2):
            images = (one.path, other.path)
            why = tuple(excluded.get(path, "") for path in images)
            pairs.append(EqualFiles(images, (one.label, other.label), why))
    return sorted(pairs, key=lambda pair: (not pair.conflicting, pair.images))


def audit_manifest(
    datasets: Path, cards: dict[str, Card], path: Path
) -> tuple[list[str], list[EqualFiles]]:
    """What a manifest alone tells: a line per pair of equal files, and the conflicts left open.

    Args:
        path: a CSV of columns path, label and sha256; known exclusions apply if it is a card's.

    Raises:
        UserError: not such a table.
    """
    meaning = "name a manifest of datasets/manifests/"
    table = read_strings(path, ("path", "label", "sha256"), meaning)
    owners = [c for c in cards.values() if (datasets / c.manifest).resolve() == path.resolve()]
    pairs = equal_files(table, excluded_images(datasets, owners[0].name if owners else "", table))
    lines = [f"{path}: {len(table)} images, {len(pairs)} pairs of equal files"]
    lines += [f"  {pair}" for pair in pairs]
    conflicts = [pair for pair in pairs if pair.conflicting and not pair.resolved]
    return lines, conflicts


def excluded_images(datasets: Path, dataset: str, table: pd.DataFrame) -> dict[str, str]:
    """Path → why an image of a published set is not used, by its manifest and by review."""
    reasons = {}
    if "excluded" in table:
        reasons = table.set_index("path")["excluded"].loc[lambda why: why != ""].to_dict()
    reviewed = read_known_cases(datasets, EXCLUSIONS, dataset)
    return reasons | dict(zip(reviewed["path"], reviewed["reason"], strict=True))
