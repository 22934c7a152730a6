"""Cut a source domain into train, id_val, calibration and id_test: reviewed CSVs, groups never cut.

The split is made on the whole published set, by its manifest alone, so that the `core` subset and
the full set agree: no image trained on in one is tested on in the other. Once made it is kept,
since finished runs rest on it: another rule for new splits moves none of theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.config import SPLIT_PARTS, Split
from benchmark.data.cards import Card, read_manifest
from benchmark.errors import UserError
from benchmark.files import digest, write_text
from benchmark.tables import read_table
from benchmark.texts import shortened

COLUMNS = ["path", "group", "label", "part"]
RESTARTS = 400
COST_OF_MISSING = {"train": 1000.0, "id_val": 20.0, "calibration": 10.0, "id_test": 40.0}
"""What a class without any image in a part costs: a class too few groups hold is missed first
where rejection falls back to a marginal threshold, last where nothing can be learnt without it."""


def split_path(datasets: Path, domain: str) -> Path:
    """Where the split of a source domain lies."""
    return Path(datasets) / "splits" / f"{domain}.csv"


def split_domain(datasets: Path, card: Card, domain: str, settings: Split) -> list[str]:
    """Write `datasets/splits/<domain>.csv` (path, group, label, part).

    Returns:
        Lines that say which class is missing from which part because its groups do not suffice.
    """
    table = read_manifest(datasets, card, domain=domain)
    if table.empty:
        raise UserError(f"datasets/{card.name}.yaml: domain '{domain}' has no image: check select")
    core = table["core"] if "core" in table else pd.Series("1", index=table.index)
    generator = np.random.default_rng(settings.seed)
    if table["group"].is_unique:
        # Stratified by subset too, so that each part of the core is as balanced as the whole.
        part = stratified(table["label"] + "/" + core, settings.fractions, generator)
    else:
        part = stratified_groups(
            table["group"],
            [table["label"], table["label"].where(core == "1")],
            settings.fractions,
            generator,
        )
    table = table.assign(part=part)[COLUMNS].sort_values("path")
    write_text(split_path(datasets, domain), table.to_csv(index=False, lineterminator="\n"))
    counts = pd.crosstab(table["label"], table["part"])
    return [
        f"{domain}: no {label} in {part}: its {table.loc[table.label == label, 'group'].nunique()} "
        "groups do not suffice"
        for label in counts.index
        for part in SPLIT_PARTS
        if part not in counts or counts.loc[label, part] == 0
    ]


def stratified(
    strata: pd.Series, fractions: dict[str, float], generator: np.random.Generator
) -> pd.Series:
    """A part for every row, each stratum cut in the given fractions (largest remainders first)."""
    part = pd.Series("", index=strata.index)
    for _, rows in sorted(strata.groupby(strata).groups.items()):
        shuffled = generator.permutation(np.asarray(rows))
        edges = np.rint(np.cumsum([fractions[p] for p in SPLIT_PARTS]) * len(shuffled)).astype(int)
        for name, chunk in zip(SPLIT_PARTS, np.split(shuffled, edges[:-1]), strict=True):
            part.loc[chunk] = name
    return part


def stratified_groups(
    groups: pd.Series,
    labels: list[pd.Series],
    fractions: dict[str, float],
    generator: np.random.Generator,
) -> pd.Series:
    """A part for every row, whole groups together, class shares near the given fractions.

    Greedy from the rarest-class groups on, each to the part where it lowers the squared deviation
    of class shares most, in several random orders; the assignment with the smallest deviation wins,
    an empty (class, part) costing more than any.

    Args:
        groups: the group of each row.
        labels: label columns to balance at once (NaN: row does not count), e.g. all rows and core.
    """
    names = np.sort(groups.unique())
    tables = [pd.crosstab(groups, label).reindex(names, fill_value=0) for label in labels]
    # counts[group, class] as a share of the class's total, all label columns side by side
    shares = np.concatenate([(t / t.sum()).to_numpy() for t in tables], axis=1)
    wanted = np.array([fractions[p] for p in SPLIT_PARTS])[:, None]
    missing = np.array([COST_OF_MISSING[p] for p in SPLIT_PARTS])[:, None]
    best, best_cost = None, np.inf
    for spread in (0.0, 1.0):
        for _ in range(RESTARTS):
            # Groups that hold most of some class are hardest to place: they go first, jittered.
            order = np.argsort(-shares.max(axis=1) * generator.uniform(0.5, 1.5, len(names)))
            held = np.zeros((len(SPLIT_PARTS), shares.shape[1]))
            chosen = np.empty(len(names), dtype=int)
            for group in order:
                moved = held + shares[group]
                change = ((moved - wanted) ** 2 - (held - wanted) ** 2) / wanted
                filled = (held == 0) & (moved > 0)
                # Rounded, so that parts where a group does equally well are equal to the last bit.
                change = (change - spread * filled).sum(axis=1).round(9)
                chosen[group] = np.argmin(change)
                held[chosen[group]] += shares[group]
            cost = ((held - wanted) ** 2 / wanted).sum() + (missing * (held == 0)).sum()
            if cost < best_cost:
                best, best_cost, complete = chosen, cost, bool((held > 0).all())
        # Only where a class still misses a part is it worth the balance to pull classes apart.
        if complete:
            break
    part = dict(zip(names, np.array(SPLIT_PARTS)[best], strict=True))
    return groups.map(part)


def split_rows(datasets: Path, domain: str) -> pd.DataFrame:
    """The rows of a domain's split as they are written: each image once, in a known part.

    Raises:
        UserError: missing or damaged file, other columns, an unknown part, an image in two rows.
    """
    path = split_path(datasets, domain)
    if not path.exists():
        raise UserError(f"{path} is missing: run `wbc-shift split`")
    try:
        table = read_table(path, COLUMNS).rows[COLUMNS].reset_index(drop=True)
    except UserError as error:
        raise UserError(f"{error}; get it from git again, or {anew(domain)}") from None
    if table.empty:
        raise UserError(f"{path}: no rows: mend it, or {anew(domain)}")
    wrong = set(table["part"]) - set(SPLIT_PARTS)
    if wrong:
        raise UserError(f"{path}: unknown part '{sorted(wrong)[0]}': use {', '.join(SPLIT_PARTS)}")
    doubled = table.loc[table["path"].duplicated(), "path"]
    if len(doubled):
        raise UserError(f"{path}: {shortened(doubled.iloc[0])} is listed twice: leave one row")
    return table


def anew(domain: str) -> str:
    """How a message says that a split is to be made again."""
    return f"run `wbc-shift split --anew {domain}`, which makes runs trained on it stale"


def read_split(datasets: Path, domain: str) -> pd.DataFrame:
    """Read a domain's split, checking that no group is cut.

    Raises:
        UserError: as `split_rows`; a group on two sides.
    """
    table = split_rows(datasets, domain)
    sides = table.groupby("group")["part"].nunique()
    if (sides > 1).any():
        raise UserError(
            f"{split_path(datasets, domain)}: group '{sides.idxmax()}' is cut by the split: keep it"
            " in one part"
        )
    return table


def check_split(datasets: Path, card: Card, domain: str) -> None:
    """Refuse a split that does not hold exactly the images of its domain, by whole groups of today.

    Raises:
        UserError: names the first image that is missing, too many, or in another group.
    """
    path, table = split_path(datasets, domain), read_split(datasets, domain)
    rows = read_manifest(datasets, card, domain=domain)
    for absent, kept, fault in (
        (rows, table, "is in no part"),
        (table, rows, f"is no image of {domain}"),
    ):
        other = absent.loc[~absent["path"].isin(kept["path"]), "path"]
        if len(other):
            more = f" ({len(other)} in all)" if len(other) > 1 else ""
            raise UserError(f"{path}: {other.iloc[0]} {fault}{more}: {anew(domain)}")
    sides = rows["path"].map(table.set_index("path")["part"]).groupby(rows["group"]).nunique()
    if (sides > 1).any():
        raise UserError(
            f"{path}: group '{sides.idxmax()}' of the manifest is cut by the split: {anew(domain)}"
        )


def split_digest(datasets: Path, domain: str) -> str:
    """Digest of a split's assignment of images to parts (part of every run's fingerprint)."""
    table = read_split(datasets, domain)
    return digest(sorted(zip(table["path"], table["part"], strict=True)))
