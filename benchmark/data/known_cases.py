"""Known faults of the published sets: images left out, and cells that were photographed twice.

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

from benchmark.errors import UserError, suggest
from benchmark.tables import read_strings

EXCLUSIONS = "exclusions.csv"
SAME_CELLS = "same_cells.csv"
DIFFERENT_CELLS = "different_cells.csv"
COLUMNS = {
    EXCLUSIONS: ["dataset", "path", "reason", "finder"],
    SAME_CELLS: ["dataset", "path", "other", "similarity", "finder"],
    DIFFERENT_CELLS: ["dataset", "path", "other_dataset", "other", "finder"],
}


def read_known_cases(datasets: Path, file: str, dataset: str) -> pd.DataFrame:
    """The rows of one of the files that concern a dataset; none if there is no such file.

    Raises:
        UserError: the file is no CSV of the expected columns.
    """
    path = datasets / file
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS[file])
    table = read_strings(path, (), "")
    if list(table.columns) != COLUMNS[file]:
        raise UserError(f"{path}: columns must be {','.join(COLUMNS[file])}")
    return table[table["dataset"] == dataset]


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
