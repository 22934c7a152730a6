"""What `datasets/` may say, as typed settings: dataset cards, label spaces and crops.

A *card* (`<name>.yaml`) states the facts of one published image set; a *domain* is one acquisition
condition in it; a *label space* is the list of classes a scenario is scored on.
`label_spaces.yaml` maps each set's own labels to every space, for review in one place.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from benchmark.data.layouts import Layout
from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.phantom.acquisition import Acquisition
from benchmark.schema import DomainName, Line, Name, Strict, parse
from benchmark.texts import shortened

LABEL_SPACES = "label_spaces.yaml"
OPEN_SET = ("near", "far")
"""What a label may be that is no class of a space: a leucocyte outside it, or no leucocyte. Both
are scored as unknown (open set); null is neither, and left out."""
Labels = dict[str, str | None]
"""A set's own label → a class of the space, `near`, `far`, or None."""


class LabelSpaces(Strict):
    """The content of `datasets/label_spaces.yaml`."""

    spaces: dict[Name, list[Line]]
    """Label space → its classes, in the order of the logits."""
    cell_types: dict[str, Labels]
    """Cell type → label space → class, `near`, `far` or null: every space is named."""
    sets: dict[str, dict[str, str]]
    """Card → the set's own label → cell type."""

    @model_validator(mode="after")
    def _names_are_known(self) -> LabelSpaces:
        for space, classes in self.spaces.items():
            if len(set(classes)) < max(2, len(classes)) or set(classes) & set(OPEN_SET):
                raise ValueError(
                    f"spaces.{space}: needs two or more different classes, none of them "
                    f"{' or '.join(OPEN_SET)}"
                )
        for cell_type, row in self.cell_types.items():
            where = f"cell_types.{cell_type}"
            for space, target in row.items():
                if space not in self.spaces:
                    raise ValueError(f"{where}: no space '{space}'{suggest(space, self.spaces)}")
                self.check(space, target, f"{where}.{space}")
            if missing := [space for space in self.spaces if space not in row]:
                raise ValueError(
                    f"{where}: '{missing[0]}' is not given: "
                    f"name its class, {', '.join(OPEN_SET)} or null"
                )
        for card, labels in self.sets.items():
            for label, cell_type in labels.items():
                if cell_type not in self.cell_types:
                    near = suggest(cell_type, self.cell_types)
                    raise ValueError(f"sets.{card}.{label}: no cell type '{cell_type}'{near}")
        return self

    def check(self, space: str, target: str | None, where: str) -> None:
        """Raise a `ValueError` if a label's target is neither a class nor near, far or None."""
        allowed = [*self.spaces[space], *OPEN_SET]
        if target is not None and target not in allowed:
            raise ValueError(f"{where}: no class '{target}'{suggest(target, allowed)}")

    def labels_of(self, cells: dict[str, str]) -> dict[str, Labels]:
        """Label space → a set's own label → class, `near`, `far` or None.

        Args:
            cells: the set's own label → cell type.
        """
        return {
            space: {label: self.cell_types[cell_type][space] for label, cell_type in cells.items()}
            for space in self.spaces
        }


class CentredPixels(Strict):
    """The centred square of so many pixels of the published image; all of a smaller image."""

    pixels: int = Field(ge=16)


class AroundCell(Strict):
    """The square around the white cell of a field, which must be found first."""

    around_cell: int = Field(ge=16)
    """The square's side in pixels of the published image."""
    cell_diameter: int = Field(ge=8)
    """Of a typical white cell, in the same pixels: the size that is looked for in every framing."""


class AroundBox(Strict):
    """The square around the centre of the cell's box, which the manifest states for every image.

    It is mirrored where it leaves the field, so that every cell is shown in its size.
    """

    around_box: int = Field(ge=16)
    """The square's side in pixels of the published image."""


Crop = Annotated[float, Field(gt=0, le=1)] | CentredPixels | AroundCell | AroundBox
"""The square that shows one cell: a number is the side of the centred square as a fraction of the
image's shorter side. It is part of the protocol: nothing in it is fitted to labels or a model."""


def below(path: str) -> str:
    """The path itself, if it stays in the folder it is joined to."""
    if "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"'{path}' leads out of its folder")
    return path


def web(address: str) -> str:
    """The address itself, if a page may make a link of it: `javascript:` would run in a browser."""
    scheme, colon, _ = address.partition(":")
    if colon and scheme.lower() not in ("http", "https"):
        raise ValueError(f"'{shortened(address)}' is no address of the web: begin with https://")
    return address


Web = Annotated[str, AfterValidator(web)]
"""What a page links to, if it begins with http:// or https://."""
Below = Annotated[str, AfterValidator(below)]

IN_BIBTEX = {*"aAbcdHiIjklLoOrtuv", "aa", "AA", "ae", "AE", "oe", "OE", "ss", "url", "emph"}
IN_BIBTEX |= {"textit", "textbf", "textsuperscript", "textsubscript", "href", "doi"}
"""Commands of LaTeX in a BibTeX entry: accents, letters and emphasis; nothing that reads a file."""


class Licence(Strict):
    """What may be done with the images. `redistribution` has three values: unknown is one."""

    name: str
    url: Web | None = None
    redistribution: Literal["allowed", "forbidden", "unknown"]
    note: str | None = None


class Citation(Strict):
    """How to cite the set: a BibTeX key and entry."""

    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_:./+-]*$", max_length=200)]
    bibtex: str

    @model_validator(mode="after")
    def _an_entry_of_this_key(self) -> Citation:
        if not re.match(rf"@\w+\{{\s*{re.escape(self.key)}\s*,", self.bibtex.strip()):
            raise ValueError(f"bibtex: an entry that begins with @type{{{self.key}, is needed")
        commands = set(re.findall(r"\\([A-Za-z@]+)", self.bibtex)) - IN_BIBTEX
        if commands:
            raise ValueError(f"bibtex: \\{min(commands)} is no letter or emphasis: leave it out")
        return self


class Archive(Strict):
    """A published archive (or plain file) that holds images of the set."""

    file: Below
    """Its name, as a user would save it."""
    urls: list[str] = Field(default_factory=list)
    """Addresses, tried in order; `drive:ID` is a file on Google Drive. None: by hand only."""
    sha256: str | None = None
    md5: str | None = None
    bytes: int | None = None
    take: Below = ""
    """Folder inside the archive whose content is wanted; empty: all of it."""
    folder: Below = ""
    """Where below the card's folder that content belongs."""


class Domain(Strict):
    """One acquisition condition: which rows of the manifest, and how to crop to one cell."""

    title: Line
    select: dict[str, str] = Field(default_factory=dict)
    """Manifest column → the value a row must have to belong to this domain."""
    crop: Crop
    crop_in: dict[str, Crop] = Field(default_factory=dict)
    """Label space → the crop that its protocol prescribes instead."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Images per label, where the set is published in parts."""
    micrometre_per_pixel: float | None = None
    stain: str = "unknown"
    scanner: str = "unknown"
    note: str | None = None
    acquisition: Acquisition | None = None
    """How a drawn (phantom) domain looks; published sets have none."""

    def crop_for(self, label_space: str) -> Crop:
        return self.crop_in.get(label_space, self.crop)


class Card(Strict):
    """One published image set."""

    name: Name
    title: Line
    homepage: Web
    citation: Citation
    licence: Licence
    addresses: list[str] = Field(default_factory=list)
    """URL prefixes, tried in order: prefix + path in the manifest = one image."""
    archives: list[Archive] = Field(default_factory=list)
    """Archives to take images from where no address gives them one by one."""
    folder: Below
    """Folder below a mirror's root, and below `datasets/raw/`, that holds the manifest's paths."""
    by_hand: str
    """What to download by hand where no address answers, and what of it goes into the folder."""
    manifest: Below
    """Path of the manifest CSV below `datasets/`."""
    layout: Layout | None = None
    """How labels and groups are read from the published folder; null: only from the manifest."""
    family: str | None = None
    """Name shared by sets made of the same cells; without one, a family of its own."""
    counts: dict[str, int] = Field(default_factory=dict)
    """Images per label as published, duplicates and all."""
    images: int | None = None
    """Images as published, where no count per label is known."""
    counts_source: Literal["counted", "literature"] | None = None
    """Whether somebody counted the published files, or the numbers are as its papers state them."""
    own: bool = False
    """Whether these are a laboratory's own images (`domain add`) and no published set: a target of
    its own, which enters no mean over targets."""
    complete: bool = True
    """Whether the manifest of this repository lists every published image."""
    groups: str | None
    """What the manifest's `group` column means (patient, smear); null where none is published."""
    domains: dict[DomainName, Domain]
    label_column: str = "label"
    """The manifest's column that the labels below are of: `fine_label` where that says more."""
    labels: dict[str, Labels] = Field(default_factory=dict)
    """Label space → the set's own label → a class of the space, `near`, `far`, or null. Published
    sets have theirs in `label_spaces.yaml`; a card of one's own may bring them along."""
    drawn_by: Literal["phantom"] | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _counts_have_a_source(self) -> Card:
        stated = bool(self.counts or self.images or any(d.counts for d in self.domains.values()))
        if stated != (self.counts_source is not None):
            raise ValueError("counts_source: say who counted (counted, literature), if counts are")
        return self

    @property
    def ships_manifest(self) -> bool:
        """Whether the manifest comes with the repository; else `fetch` makes it from the files."""
        return not self.manifest.startswith("raw/")


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
    """The classes of every label space, in the order of the logits."""
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


def names_of_images(cards: dict[str, Card]) -> dict[str, set[str]]:
    """Domain → every name under which its images circulate: its set's, and others of its family."""
    families: dict[str, set[str]] = {}
    for card in cards.values():
        family = card.family or card.name
        families.setdefault(family, {family}).add(card.name)
    return {d: families[card.family or card.name] for card in cards.values() for d in card.domains}


def raw_folder(datasets: Path, card: Card) -> Path:
    """Where a card's images lie: prefix of the manifest's paths."""
    return datasets / "raw" / card.folder
