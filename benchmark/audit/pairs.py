"""Pairs of images of one cell: a failure, a warning or harmless, by where the two lie.

And the precision of the search: what people who looked at its finds said of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from benchmark.audit.checks import Audit, Finding, Mend, Scenarios, exclude, join_groups
from benchmark.audit.images import Look
from benchmark.audit.near_duplicates import correlate, near_duplicates
from benchmark.data.cards import Card
from benchmark.data.manifests import DIFFERENT_CELLS, EXCLUSIONS, SAME_CELLS, read_known_cases

EQUAL = 0.97
"""The correlation from which on two labels of one pair contradict each other beyond doubt."""
ONE_CELL, TWO_CELLS, UNREVIEWED = "one cell", "two cells", "unreviewed"
"""What review says of a pair that the search flagged."""


def declared(audit: Audit, images: pd.DataFrame) -> np.ndarray:
    """Which images the search for pairs passes over, bool [images]: known cases, whose number is
    told.

    A manifest may declare that images show one cell (its column `cell`): one drawn under many
    settings, in domains that are tested on alone. By design every two of them are a pair; one of
    each cell stands for all. Images of a domain that is trained on are always searched.

    Args:
        images: columns dataset, domain, part ("" where a domain is only tested on) and cell.
    """
    named = images[(images["cell"] != "") & (images["part"] == "")]
    again = named[named.duplicated(["dataset", "cell"])]
    for dataset, own in again.groupby("dataset"):
        of = named[(named["dataset"] == dataset) & named["cell"].isin(own["cell"])]
        text = (
            f"{dataset}: {own['cell'].nunique()} cells are declared to be shown again in "
            f"{of['domain'].nunique()} domains, none of them trained on: {len(own)} images are "
            "passed over in the search for pairs"
        )
        audit.known.append(Finding("declared cells", text))
    return images.index.isin(again.index)


def of_one_family(
    audit: Audit, cards: dict[str, Card], images: pd.DataFrame, pairs: pd.DataFrame
) -> np.ndarray:
    """Which pairs are of two sets of one family, bool [pairs]: known cases, whose number is told.

    Such sets are made of the same cells. Where a scenario has them on its two sides, that is a
    failure of its own (`check_sides`), pair or no pair.

    Args:
        images: column dataset.
        pairs: of `find_pairs`.
    """
    names = images["dataset"].to_numpy()
    both = [
        tuple(sorted(two))
        for two in zip(names[pairs["first"]], names[pairs["second"]], strict=True)
    ]
    families = {name: cards[name].family or name for name in set(names)}
    within = np.array([a != b and families[a] == families[b] for a, b in both], bool)
    counts = Counter(two for two, related in zip(both, within, strict=True) if related)
    for (one, other), number in sorted(counts.items()):
        text = f"{one} and {other} are of one family: {number} pairs of one cell were found in them"
        audit.known.append(Finding("family", text))
    return within


def check_pairs(
    audit: Audit,
    scenarios: Scenarios,
    images: pd.DataFrame,
    looks: list[Look],
    pairs: pd.DataFrame,
) -> None:
    """Add what pairs of one cell mean where they lie; those reviewed as two cells are passed over.

    Args:
        images: dataset, domain, path, group, class_name and part ("" where nothing is split).
        looks: of the same rows, all without fault.
        pairs: of `find_pairs`, with the verdict of `review`.
    """
    for pair in pairs[pairs["verdict"] != TWO_CELLS].itertuples():
        first, second = images.iloc[pair.first], images.iloc[pair.second]
        exact = looks[pair.first].sha256 == looks[pair.second].sha256
        what = "the same file" if exact else "one cell"
        names = f"{first['path']} and {second['path']}"
        facts = {
            "images": tuple((row["dataset"], row["path"]) for row in (first, second)),
            "similarity": round(float(pair.similarity), 3),
            "view": int(pair.view),
        }
        joint = scenarios.joining(first["domain"], second["domain"])
        apart = first["domain"] != second["domain"]
        severe = bool(joint) if apart else first["part"] != second["part"]
        certain = exact or pair.similarity >= EQUAL
        if first["class_name"] != second["class_name"]:
            both = f"{first['class_name']} and {second['class_name']}"
            text = f"{first['domain']}: {what}, labelled {both}: {names}"
            lines = contradiction(first, second), contradiction(second, first)
            (audit.failures if certain else audit.warnings).append(
                Finding("conflicting labels", text, **facts, mend=lines)
            )
            # Cells of two laboratories that are labelled otherwise are two cells, unless copied.
            severe = severe and (certain or not apart)
        lines = (known_line(first, second, exact, apart, facts["similarity"]),)
        if severe and apart:
            where = f"{first['domain']} and {second['domain']} ({joint[0]})"
            text = f"{what} in {where}: {names}"
            audit.failures.append(Finding("across domains", text, **facts, mend=lines))
        elif severe:
            where = f"{first['part']} and {second['part']}"
            text = f"{first['domain']}: {what} in {where}: {names}"
            audit.failures.append(Finding("across parts", text, **facts, mend=lines))
        elif first["class_name"] == second["class_name"]:
            inside = not apart and first["group"] == second["group"]
            audit.kept_together += inside
            if not inside or pair.verdict == UNREVIEWED:
                text = f"{first['domain']}: {what}: {names}"
                finding = Finding("same cell", text, **facts, mend=lines)
                (audit.inside if inside else audit.warnings).append(finding)


def known_line(
    first: pd.Series, second: pd.Series, exact: bool, apart: bool, similarity: float
) -> Mend:
    """What makes a pair a known case: equal files and pairs of two domains lose their second."""
    image = (second["dataset"], second["path"])
    if exact:
        return exclude(image, f"the same file content as {first['path']}")
    if apart:
        return exclude(image, f"the same cell as {first['path']} of {first['domain']}")
    return join_groups(first["dataset"], first["path"], second["path"], similarity)


def contradiction(image: pd.Series, other: pd.Series) -> Mend:
    """The line that takes an image out whose cell has two labels."""
    reason = f"the same cell as {other['path']}, labelled {other['class_name']}"
    return exclude((image["dataset"], image["path"]), reason)


def find_pairs(looks: list[Look]) -> pd.DataFrame:
    """Pairs of rows that show one cell: first, second, similarity, view; most similar first.

    Equal files are found by their hash, whatever their number.
    """
    near = near_duplicates(np.stack([seen.miniature for seen in looks]))
    near = near[["first", "second", "similarity", "view"]]
    found = set(zip(near["first"], near["second"], strict=True))
    hashes = pd.Series([seen.sha256 for seen in looks])
    equal = [
        (*pair, 1.0, 0)
        for rows in hashes.groupby(hashes).groups.values()
        for pair in combinations(sorted(rows), 2)
        if pair not in found
    ]
    return pd.DataFrame([*equal, *near.itertuples(index=False)], columns=near.columns)


def review(
    datasets: Path, images: pd.DataFrame, looks: list[Look], pairs: pd.DataFrame
) -> list[str]:
    """What is known of each pair: one cell, two cells, or that nobody has looked at it.

    Equal files need no eye.

    Args:
        images: dataset and path.
        looks: of the same rows.
        pairs: of `find_pairs`.
    """
    reviewed = {}
    for name in images["dataset"].unique():
        for case in read_known_cases(datasets, SAME_CELLS, name).itertuples():
            reviewed[frozenset({(name, case.path), (name, case.other)})] = ONE_CELL
        for case in read_known_cases(datasets, DIFFERENT_CELLS, name).itertuples():
            reviewed[frozenset({(name, case.path), (case.other_dataset, case.other)})] = TWO_CELLS
    verdicts = []
    for pair in pairs.itertuples():
        first, second = images.iloc[pair.first], images.iloc[pair.second]
        both = frozenset((row["dataset"], row["path"]) for row in (first, second))
        same = looks[pair.first].sha256 == looks[pair.second].sha256
        verdicts.append(ONE_CELL if same else reviewed.get(both, UNREVIEWED))
    return verdicts


def precision(verdicts: Iterable[str]) -> dict[str, int | float | list[float] | None]:
    """How many flagged pairs are what, and the part of those reviewed that show one cell.

    With its 95 % interval (Wilson 1927); None where none is reviewed.
    """
    counts = pd.Series(list(verdicts), dtype=object).value_counts()
    one, two, unreviewed = (int(counts.get(v, 0)) for v in (ONE_CELL, TWO_CELLS, UNREVIEWED))
    found = {"flagged": one + two + unreviewed, "one_cell": one, "two_cells": two}
    found |= {"unreviewed": unreviewed, "precision": None, "precision_95": None}
    if one + two:
        interval = binomtest(one, one + two).proportion_ci(0.95, "wilson")
        found["precision"] = round(one / (one + two), 4)
        found["precision_95"] = [round(float(end), 4) for end in interval]
    return found


def known_cases(
    root: Path, cards: Iterable[Card], images: pd.DataFrame, looks: list[Look]
) -> list[Finding]:
    """The reviewed known cases of some sets; pairs at hand with the similarity measured now."""
    rows = {key: row for row, key in enumerate(zip(images["dataset"], images["path"], strict=True))}
    found = []
    for card in cards:
        for case in read_known_cases(root / "datasets", EXCLUSIONS, card.name).itertuples():
            text = f"{card.name}: {case.path} is not used: {case.reason} ({case.finder})"
            found.append(Finding("excluded", text, ((card.name, case.path),)))
        cases = read_known_cases(root / "datasets", SAME_CELLS, card.name)
        cases = [(case.path, case.other, case.finder) for case in cases.itertuples()]
        here = [c for c in cases if (card.name, c[0]) in rows and (card.name, c[1]) in rows]
        if not here:
            continue
        places = np.array([[rows[card.name, a], rows[card.name, b]] for a, b, _ in here])
        used, pairs = np.unique(places, return_inverse=True)
        miniatures = np.stack([looks[row].miniature for row in used])
        measured = correlate(miniatures, pairs.reshape(-1, 2))
        for (path, other, finder), pair in zip(here, measured.itertuples(), strict=True):
            text = f"{card.name}: one cell, in one group: {path} and {other} ({finder})"
            both = ((card.name, path), (card.name, other))
            similarity = round(float(pair.similarity), 3)
            found.append(Finding("same cell", text, both, similarity, int(pair.view)))
    return found
