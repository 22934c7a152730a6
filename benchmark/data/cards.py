"""The cards of `datasets/` and the images that their manifests list."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark.data.card import OPEN_SET, Card, Labels, LabelSpaces
from benchmark.data.known_cases import without_known_cases
from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.schema import Subset, parse
from benchmark.tables import read_strings

LABEL_SPACES = "label_spaces.yaml"


def load_cards(datasets: Path) -> dict[str, Card]:
    """Read and check every card `datasets/*.yaml`, by name, with its labels in every label space.

    Raises:
        UserError: no card at all, an unknown key, a missing field, a name that is not the file's,
            a domain that two cards claim, a label mapped to a class its space does not have.
    """
    known = read_label_spaces(datasets)
    cards: dict[str, Card] = {}
    owners: dict[str, Path] = {}
    for path in sorted(datasets.glob("*.yaml")):
        if path.name == LABEL_SPACES:
            continue
        card = parse(Card, read_yaml(path), str(path))
        if card.name != path.stem:
            raise UserError(f"{path}: name is '{card.name}', the file '{path.stem}': make them one")
        for name, domain in card.domains.items():
            if name in owners:
                raise UserError(f"{path}: domain '{name}' is also in {owners[name]}: rename it")
            owners[name] = path
            for space in domain.crop_in:
                if space not in known.spaces:
                    near = suggest(space, known.spaces)
                    raise UserError(f"{path}: domains.{name}.crop_in: no space '{space}'{near}")
        cards[card.name] = card.model_copy(update={"labels": labels_of_card(card, known, path)})
    if not cards:
        raise UserError(f"{datasets} holds no dataset card: run in the project's root folder")
    return cards


def labels_of_card(card: Card, known: LabelSpaces, path: Path) -> dict[str, Labels]:
    """A card's labels in every label space: from `label_spaces.yaml`, or the card's own."""
    for space, labels in card.labels.items():
        if space not in known.spaces:
            raise UserError(f"{path}: unknown label space '{space}'{suggest(space, known.spaces)}")
        for label, target in labels.items():
            try:
                known.check(space, target, f"labels.{space}.{label}")
            except ValueError as fault:
                raise UserError(f"{path}: {fault}") from None
    cells = known.sets.get(card.name)
    if cells is None and not card.labels:
        raise UserError(f"{path}: no labels: list them in {LABEL_SPACES} under sets.{card.name}")
    if cells is not None and card.labels:
        raise UserError(
            f"{path}: its labels are in {LABEL_SPACES} under sets.{card.name} too: "
            "keep them in one place"
        )
    return card.labels or known.labels_of(cells or {})


def read_label_spaces(datasets: Path) -> LabelSpaces:
    """Read and check `datasets/label_spaces.yaml`."""
    path = datasets / LABEL_SPACES
    return parse(LabelSpaces, read_yaml(path), str(path))


def load_label_spaces(datasets: Path) -> dict[str, list[str]]:
    """Name of every label space → its classes, in the order of the logits."""
    return read_label_spaces(datasets).spaces


def card_of(cards: dict[str, Card], domain: str) -> Card:
    """The card that holds `domain`; an unknown name is a `UserError` with the nearest ones."""
    for card in cards.values():
        if domain in card.domains:
            return card
    known = [name for card in cards.values() for name in card.domains]
    raise UserError(f"unknown domain '{domain}'{suggest(domain, known)}")


def share_cells(cards: dict[str, Card], domain: str, other: str) -> bool:
    """Whether two domains may show the same cells: other sets of one family.

    Such domains never stand on two sides of a scenario. Domains of one set are disjoint parts of
    its manifest; whether images of them are copies all the same is the audit's question.
    """
    one, another = card_of(cards, domain), card_of(cards, other)
    same_family = (one.family or one.name) == (another.family or another.name)
    return one.name != another.name and same_family


def raw_folder(datasets: Path, card: Card) -> Path:
    """Where a card's images lie: prefix of the manifest's paths."""
    return datasets / "raw" / card.folder


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
        subset: `core` keeps the rows marked `core = 1` (all rows where there is no such column).
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
    if subset == "core" and "core" in table:
        table = table[table["core"] == "1"]
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
