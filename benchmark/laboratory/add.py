"""Make a laboratory's folder of labelled images a domain of its own, a target in every scenario.

`wbc-shift domain add` copies the images below `datasets/raw/`, which git ignores, with their
manifest and what was found in them; writes the card `datasets/<name>.yaml`; and adds the domain to
a profile in `params.yaml`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import schema
from benchmark.audit.images import look_at
from benchmark.data.cards import OPEN_SET, Card, card_of, load_cards, read_label_spaces
from benchmark.data.fields import ORIGIN
from benchmark.data.layouts import CsvLabels
from benchmark.data.prepare import UnusableImage
from benchmark.data.split import split_path
from benchmark.errors import UserError, suggest
from benchmark.files import write_text
from benchmark.laboratory.judge import (
    ReadableImages,
    crop_advice,
    images_at_hand,
    judge,
    nuclei,
    published_hashes,
    published_nuclei,
    read_own,
)
from benchmark.laboratory.labels import cells_cut_in
from benchmark.laboratory.transaction import (
    FOUND,
    LABELS,
    MANIFEST,
    alone,
    place,
    with_domain,
    without_domain,
)
from benchmark.settings import PARAMS, Profile, load_params
from benchmark.study.pipeline import write_pipelines

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def add_domain(
    root: Path,
    profile_name: str,
    folder: Path,
    name: str,
    labels: Path | None = None,
    crop: float | None = None,
    cells: dict[str, str] | None = None,
    update: bool = False,
) -> list[str]:
    """Make the images of a folder a domain of a profile, or those of one that is there.

    Args:
        folder: holds a folder per class, the images that `labels` names, or fields with boxes, of
            which cells are cut; only read.
        labels: a CSV of the columns path (below `folder`) and label, and perhaps group; and of a
            box, if the images are fields.
        crop: side of the centred square that shows one cell, as a fraction of the shorter side; by
            default the whole, of cells that were cut `fields.SHOWN`, or what the domain has.
        cells: the laboratory's label → cell type, where it cannot be told from the label.
        update: take the place of the images of the domain of this name.

    Returns:
        Lines that say what became of the images.

    Raises:
        UserError: a name that is taken, or to be updated and not there; labels whose cell type is
            unknown; what `read_images` refuses; no image that can be used. Nothing was written
            then.
    """
    root, folder = Path(root), Path(folder)
    with alone(root) as finished:
        params, cards = load_params(root / PARAMS), load_cards(root / "datasets")
        profile = params.profile(profile_name)
        if update or name in finished:
            before = own_card_of(cards, name)
            cards = {key: card for key, card in cards.items() if key != name}
        else:
            check_name(root / "datasets", cards, name)
            before = None
        others = [domain for domain in profile.domains if domain != name]
        cache = root / "datasets" / "cache"
        with cells_cut_in(cache) as scratch:
            own, images, found, card, lines = examine(
                root,
                profile_name,
                profile.model_copy(update={"domains": others}),
                cards,
                folder,
                name,
                labels,
                crop,
                cells or {},
                scratch,
                before,
            )
            if name not in profile.domains and not update:
                with_domain(root / PARAMS, profile_name, name)
            place(root, own.folder, images, found, card, None if update else profile_name)
    return lines


def examine(
    root: Path,
    profile_name: str,
    profile: Profile,
    cards: dict[str, Card],
    folder: Path,
    name: str,
    labels: Path | None,
    crop: float | None,
    cells: dict[str, str],
    scratch: Path,
    before: Card | None = None,
) -> tuple[ReadableImages, pd.DataFrame, pd.DataFrame, dict[str, Any], list[str]]:
    """Look at the images of a folder: what was read, those to be copied, what was found in them,
    their card, and what is to be told.

    Args:
        profile: without the domain.
        cards: those of other sets.
        scratch: folder that cells of fields are cut into.
        before: the domain's card, if it is there: its crop stays, unless it was of whole images
            and is of cells that are cut now, or the other way round.
    """
    datasets = root / "datasets"
    spaces = read_label_spaces(datasets)
    cache = datasets / "cache" / "audit"
    own = read_own(folder, labels, spaces, cells, cache, scratch)
    if crop is None and before is not None and was_cut(before) == (own.crop is not None):
        crop = before.domains[name].crop
    crop = crop or own.crop or 1.0
    targets, notes = spaces.labels_of(own.types), own.notes
    classes_of = own.table["label"].map(targets[profile.label_space])
    images = own.table.assign(class_name=classes_of.fillna(""))
    others, unseen = images_at_hand(root, profile, cards)
    judged, found = judge(
        images,
        own.looks,
        others,
        look_at(others["file"].to_list(), cache, others["square"].to_list()),
        published_hashes(datasets, cards),
    )
    found = pd.concat([own.found, found], ignore_index=True)
    used = judged[judged["excluded"] == ""]
    classes = {c: int((used["class_name"] == c).sum()) for c in spaces.spaces[profile.label_space]}
    if not any(classes.values()):
        why = f"; {found['path'].iloc[-1]}: {found['because'].iloc[-1]}" if len(found) else ""
        raise UserError(f"{folder}: no usable image has a class of {profile.label_space}{why}")
    sources = [domain for domain in profile.sources() if domain in profile.domains]
    theirs = published_nuclei(root / "results" / profile_name / "domains" / "domains.json", sources)
    for source in sources:
        here = others[others["domain"] == source]
        if source not in theirs and len(here):
            source_crop = card_of(cards, source).domains[source].crop_for(profile.label_space)
            # A broken image of theirs is for `prepare` to tell.
            with suppress(UnusableImage):
                theirs[source] = nuclei(datasets / "raw", here, source_crop, source)
    of_class = used[used["class_name"].isin(list(classes))]
    notes += crop_advice(own.folder, of_class, crop, name, theirs)
    card = own_card(name, judged, targets, crop, own.grouped)
    outside = int(used["class_name"].isin(OPEN_SET).sum())
    lines = lines_on(name, profile_name, classes, outside, found, notes, unseen)
    return own, judged, found, card, lines


def lines_on(
    name: str,
    profile: str,
    classes: dict[str, int],
    outside: int,
    found: pd.DataFrame,
    notes: list[str],
    unseen: int,
) -> list[str]:
    """What a user must know of a domain.

    Args:
        classes: images used per class of the profile's label space.
        outside: images used of cells that are near or far, in no class of the space.
        found: path, finding and reason of every image that is not simply used.
        unseen: images of the profile's other domains that were not here to be compared.
    """
    counts = ", ".join(f"{number} {c}" for c, number in classes.items())
    kinds = [f"{number} {finding}" for finding, number in found["finding"].value_counts().items()]
    lines = [f"{name}: {sum(classes.values())} images used ({counts})"]
    if outside:
        lines.append(f"{outside} images of other cells test what should be rejected")
    if kinds:
        path, finding, because = found.iloc[0]
        lines.append(
            f"note: {'; '.join(kinds)}: see datasets/raw/{name}/{FOUND}; the first: "
            f"{path or 'a row'} {finding}: {because}"
        )
    lines += [f"note: {note}" for note in notes]
    if unseen:
        lines.append(
            f"note: {unseen} images of other domains are not here and were not compared: "
            f"after `wbc-shift fetch -p {profile}`, `wbc-shift audit -p {profile}` does it"
        )
    return [
        *lines,
        f"the images lie in datasets/raw/{name}, which git ignores; datasets/{name}.yaml, "
        f"{PARAMS}, pipelines and the predictions to come (they name images) are not ignored",
        f"next: wbc-shift fetch -p {profile} && wbc-shift prepare -p {profile} && "
        f"wbc-shift plan -p {profile}, which says how many runs are predicted from a "
        "checkpoint that is here and how many have none and would be trained here, then "
        f"wbc-shift train -p {profile}, or dvc repro with the dvc.yaml of that profile",
    ]


def check_name(datasets: Path, cards: dict[str, Card], name: str) -> None:
    """Refuse a name that is taken or cannot be a file's, and a project in which git would see
    the images."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: use small letters, digits and hyphens")
    try:
        schema.check_name(name, "domain")
    except ValueError as error:
        raise UserError(f"--name: {error}") from None
    if name in cards or any(name in card.domains for card in cards.values()):
        hint = f", or `wbc-shift domain update {name} DIR`" if is_own(cards.get(name)) else ""
        raise UserError(
            f"--name {name}: a set or domain has that name already: choose another{hint}"
        )
    for path in (datasets / f"{name}.yaml", datasets / "raw" / name):
        if path.exists():
            raise UserError(f"{path} is there already: choose another name, or remove it")
    asked = ["git", "-C", str(datasets), "check-ignore", "-q", f"raw/{name}/{LABELS}"]
    if shutil.which("git") and subprocess.run(asked, capture_output=True).returncode == 1:
        raise UserError(f"git does not ignore {datasets / 'raw'}: add /datasets/raw/ to .gitignore")


def own_card(
    name: str,
    images: pd.DataFrame,
    targets: dict[str, dict[str, str | None]],
    crop: float,
    grouped: bool,
) -> dict[str, Any]:
    """The card of a laboratory's images, ready for YAML.

    Args:
        images: column label; of cells that were cut also `ORIGIN`.
    """
    groups = "group, as the laboratory names it"
    groups += ", else the field" if "field" in images else ""
    kept = ["group", "excluded", *(column for column in ORIGIN if column in images)]
    return {
        "name": name,
        "title": name,
        "homepage": "none",
        "citation": {"key": name, "bibtex": f"@misc{{{name}, note = {{own images}}}}"},
        "licence": {"name": "own images, not published", "redistribution": "forbidden"},
        "own": True,
        "folder": name,
        "by_hand": f"copy datasets/raw/{name} from the machine that made datasets/{name}.yaml",
        "manifest": MANIFEST.format(name),
        "layout": {
            "reader": "csv_labels",
            "tables": {LABELS: "{image}"},
            "image": "path",
            "label": "label",
            "columns": {column: column for column in kept},
        },
        "counts": {
            label: int(n) for label, n in images["label"].value_counts().sort_index().items()
        },
        "counts_source": "counted",
        "groups": groups if grouped else None,
        "domains": {name: {"title": name, "crop": crop}},
        "labels": targets,
    }


def was_cut(card: Card) -> bool:
    """Whether the images of a laboratory's card are cells that were cut from fields."""
    return isinstance(card.layout, CsvLabels) and "field" in card.layout.columns


def is_own(card: Card | None) -> bool:
    """Whether a card is one of a laboratory's own images, as made here."""
    return card is not None and card.own and card.name in card.domains


def own_card_of(cards: dict[str, Card], name: str) -> Card:
    """The card of a laboratory's own domain.

    Raises:
        UserError: there is none of that name, or it is that of a published set.
    """
    if not is_own(cards.get(name)):
        own = [key for key, card in cards.items() if is_own(card)]
        raise UserError(
            f"{name} is no domain that `wbc-shift domain add` made here"
            f"{suggest(name, own) or ': there is none'}"
        )
    return cards[name]


def remove_domain(root: Path, name: str) -> list[str]:
    """Remove a laboratory's own domain: images, labels, manifest, card, and its place in profiles.

    Killed halfway, it can be repeated: the card, by which the domain is known, goes last.

    Returns:
        Lines that say what was removed and what stays.

    Raises:
        UserError: no such domain; a scenario names it; a profile shares its list of domains.
    """
    root = Path(root)
    with alone(root):
        datasets = root / "datasets"
        cards = load_cards(datasets)
        card = own_card_of(cards, name)
        params = load_params(root / PARAMS)
        listed = [key for key, profile in params.profiles.items() if name in profile.domains]
        for profile in listed:
            write_text(root / PARAMS, without_domain(root / PARAMS, profile, name))
        split = split_path(datasets, name)
        split.unlink(missing_ok=True)
        shutil.rmtree(datasets / "raw" / card.folder, ignore_errors=True)
        (datasets / card.manifest).unlink(missing_ok=True)
        del cards[name]
        write_pipelines(root, load_params(root / PARAMS), cards, check=False)
        (datasets / f"{name}.yaml").unlink()
    profiles = f" of {' and '.join(listed)}" if listed else ""
    return [
        f"{name} is no domain{profiles} any more; its images below datasets/raw were removed",
        "results/ keeps what was predicted on it, file names included; the next `wbc-shift plan` "
        "no longer asks for it",
    ]
