"""Cut a source domain into train, id_val, calibration and id_test: reviewed CSVs, groups never cut.

The split is made on the whole published set, by its manifest alone, so that the `core` subset and
the full set agree: no image trained on in one is tested on in the other. Once made it is kept,
since finished runs rest on it: another rule for new splits moves none of theirs.

A profile with `folds` cross-fits instead: each fold is id_test once, so that every group is tested
at home. `datasets/splits/<n>_folds/<domain>.csv` says the part of every group in each of the folds.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.data.cards import Card
from benchmark.data.manifests import read_manifest
from benchmark.errors import UserError
from benchmark.files import digest, sha256_file, write_text
from benchmark.settings import SPLIT_PARTS, Split
from benchmark.tables import read_table
from benchmark.texts import shortened

COLUMNS = ["path", "group", "label", "part"]
RESTARTS = 400
COST_OF_MISSING = {"train": 1000.0, "id_val": 20.0, "calibration": 10.0, "id_test": 40.0}
"""What a class without any image in a part costs: a class too few groups hold is missed first
where rejection falls back to a marginal threshold, last where nothing can be learnt without it."""


class Fold(NamedTuple):
    """Which of how many folds of a source is its id_test."""

    number: int
    of: int


def fold_of(seed: int, folds: int | None) -> Fold | None:
    """The fold that a seed holds out: seed k fold k, and again from the first after the last."""
    return Fold(seed % folds, folds) if folds else None


def split_path(datasets: Path, domain: str, folds: int | None = None) -> Path:
    """Where the split of a source domain lies, or its cut into folds."""
    folder = Path(datasets) / "splits"
    return (folder / f"{folds}_folds" if folds else folder) / f"{domain}.csv"


def split_domain(datasets: Path, card: Card, domain: str, settings: Split) -> list[str]:
    """Write `datasets/splits/<domain>.csv` (path, group, label, part).

    Returns:
        Lines that say which class is missing from which part because its groups do not suffice.
    """
    table = read_manifest(datasets, card, domain=domain)
    if table.empty:
        raise UserError(f"datasets/{card.name}.yaml: domain '{domain}' has no image: check select")
    fractions = {part: settings.fractions[part] for part in SPLIT_PARTS}
    part = cut(table, fractions, np.random.default_rng(settings.seed))
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


def split_into_folds(datasets: Path, card: Card, domain: str, settings: Split, folds: int) -> None:
    """Write `datasets/splits/<folds>_folds/<domain>.csv` (group, fold0 …): by fold, every part.

    The folds are cut like a split is; what a fold leaves is cut anew into the other parts, in the
    proportions of the settings.
    """
    table = read_manifest(datasets, card, domain=domain)
    names = [f"fold{number}" for number in range(folds)]
    generator = np.random.default_rng([settings.seed, folds])
    held_out = cut(table, dict.fromkeys(names, 1 / folds), generator)
    left = sum(share for part, share in settings.fractions.items() if part != "id_test")
    others = {p: settings.fractions[p] / left for p in SPLIT_PARTS if p != "id_test"}
    for number, name in enumerate(names):
        rest = table[held_out != name]
        generator = np.random.default_rng([settings.seed, folds, number])
        table[name] = cut(rest, others, generator).reindex(table.index, fill_value="id_test")
    groups = table[["group", *names]].drop_duplicates().sort_values("group")
    path = split_path(datasets, domain, folds)
    write_text(path, groups.to_csv(index=False, lineterminator="\n"))


def cut(
    table: pd.DataFrame, fractions: dict[str, float], generator: np.random.Generator
) -> pd.Series:
    """A part for every row of a domain, groups never cut, classes and the core balanced."""
    core = table["core"] if "core" in table else pd.Series("1", index=table.index)
    if table["group"].is_unique:
        # Stratified by subset too, so that each part of the core is as balanced as the whole.
        return stratified(table["label"] + "/" + core, fractions, generator)
    labels = [table["label"], table["label"].where(core == "1")]
    return stratified_groups(table["group"], labels, fractions, generator)


def stratified(
    strata: pd.Series, fractions: dict[str, float], generator: np.random.Generator
) -> pd.Series:
    """A part for every row, each stratum cut in the given fractions (largest remainders first)."""
    part = pd.Series("", index=strata.index)
    for _, rows in sorted(strata.groupby(strata).groups.items()):
        shuffled = generator.permutation(np.asarray(rows))
        edges = np.rint(np.cumsum(list(fractions.values())) * len(shuffled)).astype(int)
        for name, chunk in zip(fractions, np.split(shuffled, edges[:-1]), strict=True):
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
    wanted = np.array(list(fractions.values()))[:, None]
    # A fold is an id_test.
    costs = [COST_OF_MISSING.get(part, COST_OF_MISSING["id_test"]) for part in fractions]
    missing = np.array(costs)[:, None]
    best, best_cost = None, np.inf
    for spread in (0.0, 1.0):
        for _ in range(RESTARTS):
            # Groups that hold most of some class are hardest to place: they go first, jittered.
            order = np.argsort(-shares.max(axis=1) * generator.uniform(0.5, 1.5, len(names)))
            held = np.zeros((len(fractions), shares.shape[1]))
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
    part = dict(zip(names, np.array(list(fractions))[best], strict=True))
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


def read_split(datasets: Path, domain: str, fold: Fold | None = None) -> pd.DataFrame:
    """Read a domain's split, or what it is with a fold held out, checking that no group is cut.

    Raises:
        UserError: as `split_rows`; a group on two sides; folds that lack a group or a part.
    """
    table = split_rows(datasets, domain)
    if fold:
        return table.assign(part=table["group"].map(parts_of_groups(datasets, domain, fold)))
    sides = table.groupby("group")["part"].nunique()
    if (sides > 1).any():
        raise UserError(
            f"{split_path(datasets, domain)}: group '{sides.idxmax()}' is cut by the split: keep it"
            " in one part"
        )
    return table


def parts_of_groups(datasets: Path, domain: str, fold: Fold) -> pd.Series:
    """Group → part with a fold held out, of exactly the groups of the domain's split."""
    path, column = split_path(datasets, domain, fold.of), f"fold{fold.number}"
    if not path.exists():
        raise UserError(f"{path} is missing: run `wbc-shift split`")
    parts = read_table(path, ["group", column]).rows.set_index("group")[column]
    groups = split_rows(datasets, domain)["group"]
    if wrong := set(parts) - set(SPLIT_PARTS):
        raise UserError(f"{path}: unknown part '{sorted(wrong)[0]}': use {', '.join(SPLIT_PARTS)}")
    if parts.index.has_duplicates or set(parts.index) != set(groups):
        other = [*parts.index[parts.index.duplicated()], *(set(parts.index) ^ set(groups))][0]
        raise UserError(
            f"{path}: group '{shortened(other)}' has to be in one row here, and in "
            f"{split_path(datasets, domain)}: {anew(domain)}"
        )
    return parts


def check_split(datasets: Path, card: Card, domain: str, folds: int | None = None) -> None:
    """Refuse a split that does not hold exactly the images of its domain, by whole groups of today.

    Args:
        folds: into which the domain is cut as well; each of them is held to the same.

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
    for fold in (None, *(Fold(number, folds) for number in range(folds or 0))):
        part = read_split(datasets, domain, fold).set_index("path")["part"]
        sides = rows["path"].map(part).groupby(rows["group"]).nunique()
        if (sides > 1).any():
            raise UserError(
                f"{split_path(datasets, domain, fold and folds)}: group '{sides.idxmax()}' of the "
                f"manifest is cut by the split: {anew(domain)}"
            )


def split_digest(datasets: Path, domain: str, fold: Fold | None = None) -> str:
    """Digest of a split's assignment of images to parts (part of every run's fingerprint)."""
    paths = [split_path(datasets, domain), split_path(datasets, domain, fold and fold.of)]
    contents = tuple(sha256_file(path) for path in paths if path.exists())
    return digest_of_contents(datasets, domain, fold, contents)


@functools.cache  # a plan asks for it once an experiment
def digest_of_contents(
    datasets: Path, domain: str, fold: Fold | None, contents: tuple[str, ...]
) -> str:
    """`split_digest`, as long as the files hold the same."""
    table = read_split(datasets, domain, fold)
    return digest(sorted(zip(table["path"], table["part"], strict=True)))
