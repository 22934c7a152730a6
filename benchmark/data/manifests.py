"""The images of a published set: what its manifest lists, without the known faults.

`datasets/exclusions.csv` names images that are not used at all. `datasets/same_cells.csv` names
pairs of images that show one cell: both stay, but their groups are one group, so that no split
and no resampling of groups can part them. `datasets/different_cells.csv`, where there is one, names
pairs that the audit took for one cell and that are not: it says no more of them, and counts them.
All are reviewed in git; the audit finds candidates.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmark.data.cards import OPEN_SET, Card
from benchmark.errors import UserError, suggest
from benchmark.schema import Subset
from benchmark.tables import read_strings

EXCLUSIONS = "exclusions.csv"
SAME_CELLS = "same_cells.csv"
DIFFERENT_CELLS = "different_cells.csv"
COLUMNS = {
    EXCLUSIONS: ["dataset", "path", "reason", "finder"],
    SAME_CELLS: ["dataset", "path", "other", "similarity", "finder"],
    DIFFERENT_CELLS: ["dataset", "path", "other_dataset", "other", "finder"],
}


def published_images(datasets: Path, card: Card) -> pd.DataFrame:
    """Read a card's manifest: every published image, those never used included.

    Returns:
        Columns path, label, group (the path itself where no group is known), sha256 ("" where
        unknown), and the manifest's further columns as text.

    Raises:
        UserError: no file, a missing column, a path given twice or leading outside its folder.
    """
    path = datasets / card.manifest
    made = (
        "" if card.ships_manifest else f", made from its images: run `wbc-shift fetch {card.name}`"
    )
    table = read_strings(path, ("path", "label"), f"it is the manifest of {card.name}{made}")
    if table["path"].duplicated().any():
        twice = table.loc[table["path"].duplicated(), "path"].iloc[0]
        raise UserError(f"{path}: {twice} is listed twice: remove one row")
    outside = table["path"].str.startswith(("/", "\\")) | table["path"].str.contains(
        r"(?:^|/)\.\.(?:/|$)"
    )
    if outside.any():
        raise UserError(f"{path}: {table.loc[outside, 'path'].iloc[0]}: leads out of its folder")
    if "group" not in table:
        table = table.assign(group=table["path"])
    elif (table["group"] == "").any():
        empty = table.loc[table["group"] == "", "path"].iloc[0]
        raise UserError(
            f"{path}: {empty} has an empty group: name its {card.groups or 'group'}, "
            "or drop the column if no image has one"
        )
    if "sha256" not in table:
        table = table.assign(sha256="")
    return table


def read_manifest(
    datasets: Path, card: Card, subset: Subset = "all", domain: str | None = None
) -> pd.DataFrame:
    """The published images that may be used: not excluded, groups that share a cell made one.

    Args:
        subset: `sample` or `core` keeps the rows marked 1 in the column of its name, all where
            there is none.
        domain: keeps its rows, whatever their label; may be none.

    Returns:
        The columns of `published_images`.

    Raises:
        UserError: as `published_images`; a known case that names no image of the manifest; the
            domain selects by a column that the manifest does not have.
    """
    table = published_images(datasets, card)
    # Groups are joined before a subset is taken: core and full must agree on what is one group.
    table = without_known_cases(datasets, card.name, table)
    if "excluded" in table:
        table = table[table["excluded"] == ""]
    if subset != "all" and subset in table:
        table = table[table[subset] == "1"]
    table = table.reset_index(drop=True)
    return table if domain is None else select_domain(card, domain, table)


def select_domain(card: Card, domain: str, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a card's table that belong to a domain."""
    for column, value in card.domains[domain].select.items():
        if column not in table:
            raise UserError(
                f"datasets/{card.name}.yaml: domains.{domain}.select: "
                f"manifest has no column '{column}'"
            )
        table = table[table[column] == value]
    return table


def domain_images(
    datasets: Path, card: Card, domain: str, label_space: str, subset: Subset
) -> pd.DataFrame:
    """The images of one domain that belong to a label space.

    Returns:
        The manifest's columns plus `class_name`, in the manifest's order.

    Raises:
        UserError: the card has no map for the label space, a label it does not map, no image left.
    """
    table = with_targets(datasets, card, domain, label_space, subset)
    table = table[table["class_name"].notna() & ~table["class_name"].isin(OPEN_SET)]
    if table.empty:
        raise UserError(
            f"datasets/{card.name}.yaml: domain '{domain}' has no image in '{label_space}' "
            f"({subset})"
        )
    return table.reset_index(drop=True)


def open_set_images(
    datasets: Path, card: Card, domain: str, label_space: str, subset: Subset
) -> pd.DataFrame:
    """The images of one domain that are outside a label space, for scoring rejection.

    Returns:
        As `domain_images`, with near or far as `class_name`; may be empty.

    Raises:
        UserError: the card has no map for the label space, a label it does not map.
    """
    table = with_targets(datasets, card, domain, label_space, subset)
    return table[table["class_name"].isin(OPEN_SET)].reset_index(drop=True)


def with_targets(
    datasets: Path, card: Card, domain: str, label_space: str, subset: Subset
) -> pd.DataFrame:
    """The rows of a domain plus `class_name`: a class of the space, near, far, or None."""
    where = f"datasets/{card.name}.yaml"
    if label_space not in card.labels:
        near = suggest(label_space, card.labels)
        raise UserError(f"{where}: no labels for label space '{label_space}'{near}")
    mapping = card.labels[label_space]
    table = read_manifest(datasets, card, subset, domain)
    unknown = sorted(set(table[card.label_column]) - set(mapping))
    if unknown:
        raise UserError(
            f"{where}: labels.{label_space}: '{unknown[0]}' is not mapped: "
            "give its class, or null to leave it out"
        )
    return table.assign(class_name=table[card.label_column].map(mapping))


def count_faults(card: Card, table: pd.DataFrame) -> list[str]:
    """Where a set's images differ in number from what its card states, one line part each.

    Args:
        table: every published image (`published_images`), columns label and those of the domains.
    """
    stated = [(card.name, card.counts, table)] if card.counts else []
    stated += [
        (name, domain.counts, select_domain(card, name, table))
        for name, domain in card.domains.items()
        if domain.counts
    ]
    faults = []
    for name, counts, rows in stated:
        found = rows["label"].value_counts()
        for label in sorted(set(counts) | set(found.index)):
            number, expected = int(found.get(label, 0)), counts.get(label, 0)
            # A part of a set may be all that is at hand; more than was published cannot be.
            if number > expected or (number < expected and card.complete):
                faults.append(f"{name} {label}: {number} images, {expected} published")
    if card.images is not None and (
        len(table) > card.images or (len(table) < card.images and card.complete)
    ):
        faults.append(f"{card.name}: {len(table)} images, {card.images} published")
    return faults


# --------------------------------------------------------------------------- known faults


def read_same_cells(datasets: Path) -> pd.DataFrame:
    """Pairs of images that show one cell, of all datasets; none if there is no such file.

    Raises:
        UserError: the file is no CSV of the expected columns.
    """
    return read_cases(datasets, SAME_CELLS)


def read_known_cases(datasets: Path, file: str, dataset: str) -> pd.DataFrame:
    """The rows of one of the files that concern a dataset; none if there is no such file.

    Raises:
        UserError: the file is no CSV of the expected columns.
    """
    table = read_cases(datasets, file)
    return table[table["dataset"] == dataset]


def read_cases(datasets: Path, file: str) -> pd.DataFrame:
    """All rows of one of the files."""
    path = datasets / file
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS[file])
    table = read_strings(path, (), "")
    if list(table.columns) != COLUMNS[file]:
        raise UserError(f"{path}: columns must be {','.join(COLUMNS[file])}")
    return table


def without_known_cases(datasets: Path, dataset: str, table: pd.DataFrame) -> pd.DataFrame:
    """A manifest's rows without the excluded images, and with the groups of same cells joined.

    Args:
        table: columns path and group of every image of the manifest.

    Raises:
        UserError: a file names an image that the manifest does not have.
    """
    exclusions = read_known_cases(datasets, EXCLUSIONS, dataset)
    pairs = read_known_cases(datasets, SAME_CELLS, dataset)
    known = set(table["path"])
    for file, paths in (
        (EXCLUSIONS, exclusions["path"]),
        (SAME_CELLS, pd.concat([pairs["path"], pairs["other"]])),
    ):
        for path in paths:
            if path not in known:
                near = suggest(path, known) if len(known) < 1000 else ": correct or remove the row"
                raise UserError(f"{datasets / file}: {dataset} has no image {path}{near}")
    groups = dict(zip(table["path"], table["group"], strict=True))
    joined = join_groups(groups, zip(pairs["path"], pairs["other"], strict=True))
    table = table.assign(group=table["path"].map(joined))
    return table[~table["path"].isin(exclusions["path"])]


def join_groups(groups: dict[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Path → group, where the groups of the two images of each pair have become one.

    The joined group bears the first of the names, in their alphabetical order.
    """
    joined: dict[str, str] = {}

    def representative(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    for path, other in pairs:
        first, second = sorted((representative(groups[path]), representative(groups[other])))
        if first != second:
            joined[second] = first
    return {path: representative(group) for path, group in groups.items()}
