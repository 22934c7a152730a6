"""Dataset cards: the facts of `datasets/<name>.yaml` and its manifest, as typed objects and tables.

A *card* describes one published image set; a *domain* is one acquisition condition in it; a
*label space* is the list of classes a scenario is scored on. The card maps its own labels to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from benchmark.data.known_cases import without_known_cases
from benchmark.data.phantom import Acquisition
from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.schema import Strict, parse

Subset = Literal["core", "all"]
LABEL_SPACES = "label_spaces.yaml"


class Licence(Strict):
    """What may be done with the images. `redistribution` has three values: unknown is one."""

    name: str
    url: str | None = None
    redistribution: Literal["allowed", "forbidden", "unknown"]
    note: str | None = None


class Citation(Strict):
    """How to cite the set: a BibTeX key and entry."""

    key: str
    bibtex: str


class Domain(Strict):
    """One acquisition condition: which rows of the manifest, and how to crop to one cell."""

    title: str
    select: dict[str, str] = Field(default_factory=dict)
    """Manifest column → the value a row must have to belong to this domain."""
    crop: float = Field(gt=0, le=1)
    """Side of the centred square crop, as a fraction of the image's shorter side."""
    micrometre_per_pixel: float | None = None
    stain: str = "unknown"
    scanner: str = "unknown"
    note: str | None = None
    acquisition: Acquisition | None = None
    """How a drawn (phantom) domain looks; published sets have none."""


class Card(Strict):
    """One published image set."""

    name: str
    title: str
    homepage: str
    citation: Citation
    licence: Licence
    addresses: list[str] = Field(default_factory=list)
    """URL prefixes, tried in order: prefix + path in the manifest = one image."""
    folder: str
    """Folder below a mirror's root, and below `datasets/raw/`, that holds the manifest's paths."""
    by_hand: str
    """What to download by hand where no address answers, and what of it goes into the folder."""
    manifest: str
    """Path of the manifest CSV below `datasets/`."""
    groups: str | None
    """What the manifest's `group` column means (patient, smear); null where none is published."""
    domains: dict[str, Domain]
    labels: dict[str, dict[str, str | None]]
    """Label space → the set's own label → a class of the space, or null: not in this space."""
    drawn_by: Literal["phantom"] | None = None
    note: str | None = None


def load_cards(datasets: Path) -> dict[str, Card]:
    """Read and check every card `datasets/*.yaml`, by name.

    Raises:
        UserError: no card at all, an unknown key, a missing field, a name that is not the file's,
            a domain that two cards claim, a label mapped to a class its space does not have.
    """
    spaces = load_label_spaces(datasets)
    cards: dict[str, Card] = {}
    owners: dict[str, Path] = {}
    for path in sorted(Path(datasets).glob("*.yaml")):
        if path.name == LABEL_SPACES:
            continue
        card = parse(Card, read_yaml(path), str(path))
        if card.name != path.stem:
            raise UserError(f"{path}: name is '{card.name}', the file '{path.stem}': make them one")
        for domain in card.domains:
            if domain in owners:
                raise UserError(f"{path}: domain '{domain}' is also in {owners[domain]}: rename it")
            owners[domain] = path
        for space, labels in card.labels.items():
            if space not in spaces:
                raise UserError(f"{path}: unknown label space '{space}'{suggest(space, spaces)}")
            for label, target in labels.items():
                if target is not None and target not in spaces[space]:
                    near = suggest(target, spaces[space])
                    raise UserError(f"{path}: labels.{space}.{label}: no class '{target}'{near}")
        cards[card.name] = card
    if not cards:
        raise UserError(f"{datasets} holds no dataset card: run in the project's root folder")
    return cards


def load_label_spaces(datasets: Path) -> dict[str, list[str]]:
    """Read `datasets/label_spaces.yaml`: name of a space → its classes, in the order of logits."""
    path = Path(datasets) / LABEL_SPACES
    spaces = read_yaml(path)
    for name, classes in spaces.items():
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise UserError(f"{path}: {name}: needs two or more different classes")
    return spaces


def card_of(cards: dict[str, Card], domain: str) -> Card:
    """The card that holds `domain`; an unknown name is a `UserError` with the nearest ones."""
    for card in cards.values():
        if domain in card.domains:
            return card
    known = [name for card in cards.values() for name in card.domains]
    raise UserError(f"unknown domain '{domain}'{suggest(domain, known)}")


def read_manifest(datasets: Path, card: Card, subset: Subset = "all") -> pd.DataFrame:
    """Read a card's manifest, one row per image that may be used (not excluded).

    Args:
        subset: `core` keeps the rows marked `core = 1` (all rows where there is no such column).

    Returns:
        Columns path, label, group (the path itself where no group is known; groups that share a
        cell are one, see `known_cases`), sha256 ("" where unknown), and the manifest's further
        columns as text.

    Raises:
        UserError: no file, a missing column, a path given twice or leading outside its folder.
    """
    path = Path(datasets) / card.manifest
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: it is the manifest of {card.name}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV table: {error}") from None
    for column in ("path", "label"):
        if column not in table:
            raise UserError(f"{path}: no column '{column}'{suggest(column, table.columns)}")
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
    # Groups are joined before a subset is taken: core and full must agree on what is one group.
    table = without_known_cases(datasets, card.name, table)
    if "excluded" in table:
        table = table[table["excluded"] == ""]
    if subset == "core" and "core" in table:
        table = table[table["core"] == "1"]
    return table.reset_index(drop=True)


def domain_images(
    datasets: Path, card: Card, domain: str, label_space: str, subset: Subset
) -> pd.DataFrame:
    """The images of one domain that belong to a label space.

    Returns:
        The manifest's columns plus `class_name`, in the manifest's order.

    Raises:
        UserError: the card has no map for the label space, a label it does not map, no image left.
    """
    where = f"datasets/{card.name}.yaml"
    if label_space not in card.labels:
        near = suggest(label_space, card.labels)
        raise UserError(f"{where}: no labels for label space '{label_space}'{near}")
    mapping = card.labels[label_space]
    table = read_manifest(datasets, card, subset)
    for column, value in card.domains[domain].select.items():
        if column not in table:
            raise UserError(f"{where}: domains.{domain}.select: manifest has no column '{column}'")
        table = table[table[column] == value]
    unknown = sorted(set(table["label"]) - set(mapping))
    if unknown:
        raise UserError(
            f"{where}: labels.{label_space}: '{unknown[0]}' is not mapped: "
            "give its class, or null to leave it out"
        )
    table = table.assign(class_name=table["label"].map(mapping))
    table = table[table["class_name"].notna()].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{where}: domain '{domain}' has no image in '{label_space}' ({subset})")
    return table
