"""Test a network on a laboratory's labelled images: a folder in, a certificate on one page out.

Nothing is trained, and the project stays as it is: the images are read where they are, by the rules
of `wbc-shift domain add`, and all that is written lies in one folder, which git ignores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmark.data.cards import OPEN_SET, Card, load_cards, read_label_spaces, share_cells
from benchmark.data.fields import ORIGIN
from benchmark.domains.ranges import appearance, beyond
from benchmark.errors import UserError
from benchmark.files import (
    TEMPORARY,
    cannot_write,
    read_json,
    writable_folder,
    write_json,
    write_text,
)
from benchmark.laboratory.add import NAME
from benchmark.laboratory.certificate import Answers, home_of, listed, numbers, per_cent
from benchmark.laboratory.crop import CropChoice, LabelledCells, choose_crop, write_crop_sheet
from benchmark.laboratory.judge import judge, published_hashes, read_own
from benchmark.laboratory.labels import cells_cut_in
from benchmark.laboratory.networks import ACCURACY, Gauge, Network
from benchmark.laboratory.printing import print_page
from benchmark.metrics import MINIMUM_SUPPORT, predicted_classes, probabilities
from benchmark.scenarios import sources_of
from benchmark.tables import shown
from benchmark.texts import csv_cell, csv_path, templates_beside

MADE_BY = "wbc-shift test"
"""In `certificate.json`: a folder without it was made by something else, and is left alone."""
FOUND = ("left out", "not used", "in one group", "label to be checked", "converted")
"""What `domain add` finds in files that are not simply used, as far as the certificate counts it:
broken or unlabelled; copies, conflicts and what is outside its scope; images of one cell; …"""
IN_WORDS = {
    "in one group": ("pair shows one cell", "pairs show one cell"),
    "label to be checked": ("label to be checked", "labels to be checked"),
}
"""Of findings that do not read well behind a number: one of them, several."""
UNSURE = (
    "Whether the crop is right is not known, and a wrong crop alone lowers the numbers: look at "
    "crop.html, give --crop, and test again."
)
TABLES = ("audit.csv", "predictions.csv", "crop.html")
"""What is written beside the certificate, and names or shows images."""


class Tested(NamedTuple):
    """A network on a laboratory's images."""

    network: Network
    answers: Answers
    gauge: Gauge
    numbers: dict[str, Any]


def certify(
    root: Path,
    folder: Path,
    name: str,
    networks: Sequence[Network],
    version: str,
    labels: Path | None = None,
    crop: float | None = None,
    cells: dict[str, str] | None = None,
    level: float = 0.9,
    out: Path | None = None,
    with_file_names: bool = False,
) -> list[str]:
    """Test networks on the labelled images of a folder, and write the certificate of the first.

    Args:
        name: of what is tested, on the certificate.
        networks: the one that the certificate is of, and others to be compared with it.
        version: of WBC-Shift.
        labels, cells: as in `domain add`.
        crop: side of the centred square that shows one cell; None: the whole, or, if nuclei are far
            from the source's size, the one that shows them alike.
        level: sensitivity that every class is to reach.
        out: folder to write; by default `name`, in the current folder.
        with_file_names: name the images that were taken for another class, on a second page.

    Returns:
        Lines that say what was found and written.

    Raises:
        UserError: a name that cannot be a folder's; what `read_images` refuses; too few images, or
            of one class; a folder to write that holds something else. Nothing was written then.
    """
    root, folder, first = Path(root), Path(folder), networks[0]
    out = folder_to_write(name, out)
    with cells_cut_in(root / "datasets" / "cache") as scratch:
        own, found, notes = cells_to_test(root, folder, labels, cells or {}, first, scratch)
        refuse_too_few(folder, own.table, first.classes, found)
        chosen = choose_crop(own, crop, first)
        tested = tried(first, own, chosen.used, level)
        if chosen.unsure:
            told = tested.numbers["verdict"]
            told["headline"] += ", in a crop that may be wrong"
            told["sentences"].insert(0, UNSURE)
        certificate = {
            "schema_version": 1,
            "made_by": MADE_BY,
            "version": version,
            "date": date.today().isoformat(),
            "name": name,
            "network": facts_of(first),
            "crop": asdict(chosen),
            "files": {kind: int((found["finding"] == kind).sum()) for kind in FOUND},
            "by_group": bool(own.table["group"].duplicated().any()),
            "groups_told": own.grouped,
            **tested.numbers,
            "other_networks": [
                beside(root, other, own, chosen.used, level) for other in networks[1:]
            ],
        }
        writable_folder(out)
        page = out / "certificate.html"
        for earlier in (page, page.with_suffix(".pdf"), *(out / name for name in TABLES)):
            earlier.unlink(missing_ok=True)  # nothing stays beside numbers that are not its own
        # First, for by it the folder is known as a test's if the disk is full, or this is killed.
        write_json(out / "certificate.json", certificate)
        write_text(out / ".gitignore", "*\n")
        write_table(out / "audit.csv", found)
        table = table_of(own.table, tested)
        write_table(out / "predictions.csv", table)
        write_crop_sheet(out / "crop.html", name, own, chosen, first)
    wrong = table[(table["class"] != table["predicted"]) & table["class"].isin(first.classes)]
    write_text(page, page_of(certificate, chosen, wrong if with_file_names else None))
    printed = print_page(page)
    return lines_on(certificate, out, chosen, found, notes, printed)


def folder_to_write(name: str, out: Path | None) -> Path:
    """The folder that a test writes: a new one, or that of an earlier test; it can be written.

    Raises:
        UserError: a name that cannot be a folder's; what `refuse_others_folder` refuses; a place
            where no file can be made.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: use small letters, digits and hyphens")
    out = Path(out) if out is not None else Path(name)
    refuse_others_folder(out)
    writable_folder(next(place for place in (out, *out.absolute().parents) if place.exists()))
    return out


def refuse_others_folder(out: Path) -> None:
    """Refuse to write where something else lies than what an earlier test wrote, or nothing can."""
    try:
        there = [file.name for file in out.iterdir()] if out.is_dir() else [out.name]
        # Empty, perhaps but for what a killed test was writing.
        if not os.path.lexists(out) or all(name.endswith(TEMPORARY) for name in there):
            return
    except OSError as error:
        raise cannot_write(out, error) from error
    made = out / "certificate.json"
    try:
        ours = out.is_dir() and made.is_file() and read_json(made).get("made_by") == MADE_BY
    except (UserError, AttributeError):
        ours = False
    if not ours:
        raise UserError(
            f"{out} is there already, and no earlier test made it: name another folder with --out"
        )


def cells_to_test(
    root: Path,
    folder: Path,
    labels: Path | None,
    cells: dict[str, str],
    network: Network,
    scratch: Path,
) -> tuple[LabelledCells, pd.DataFrame, list[str]]:
    """The cells that are used, and what was found in the other images and how labels were found,
    as in `ReadableImages`.

    Args:
        scratch: folder that cells of fields are cut into.
    """
    datasets = root / "datasets"
    spaces, cards = read_label_spaces(datasets), load_cards(datasets)
    own = read_own(folder, labels, spaces, cells, datasets / "cache" / "audit", scratch)
    space = next(name for name, known in spaces.spaces.items() if known == network.classes)
    targets = spaces.labels_of(own.types)[space]
    images = own.table.assign(
        class_name=own.table["label"].map(targets).fillna(""),
        sha256=[seen.sha256 for seen in own.looks],
    )
    nothing = pd.DataFrame(columns=["domain", "path", "class_name"])
    trained_on = source_hashes(datasets, cards, network.source)
    judged, found = judge(images, own.looks, nothing, [], trained_on)
    wanted = judged["class_name"].isin([*network.classes, *OPEN_SET])
    passed = judged[~wanted & (judged["excluded"] == "")]
    because = "is labelled " + passed["label"] + ", which is neither a class nor a cell to reject"
    passed = pd.DataFrame({"path": passed["path"], "finding": "not used", "because": because})
    used = judged[wanted & (judged["excluded"] == "")].reset_index(drop=True)
    found = pd.concat([own.found, found, passed], ignore_index=True)
    files = [own.folder / path for path in used["path"]]
    cells_used = LabelledCells(used, files, own.bits, folder.name, own.crop, own.grouped)
    return cells_used, found, [*own.notes, *groups_joined(own.table["group"], judged["group"])]


def groups_joined(told: pd.Series, used: pd.Series) -> list[str]:
    """A note on patients or slides that are taken for one, since images of one cell lie in both.

    Args:
        told, used: group of each image: the laboratory's, or itself; and after the comparison.
    """
    names = told.groupby(used).unique()
    several = names[names.map(len) > 1]
    if told.is_unique or several.empty:
        return []
    groups = sum(map(len, several))
    return [
        f"{groups} of {told.nunique()} patients, slides or fields, as told, are counted as "
        f"{len(several)}, for images of one cell lie in several of them (audit.csv: in one group): "
        f"{shown(several.iloc[0])}"
    ]


def source_hashes(datasets: Path, cards: dict[str, Card], source: str) -> dict[str, str]:
    """SHA-256 of every published image of a network's source, or of a set that shares cells with
    it → what it is: images that a network may have learnt test nothing."""
    own = [name for name in sources_of(source) if any(name in c.domains for c in cards.values())]
    learnt = {
        domain
        for card in cards.values()
        for domain in card.domains
        if any(name == domain or share_cells(cards, domain, name) for name in own)
    }
    return {
        sha256: f"{image}, whose images the network was trained on"
        for sha256, image in published_hashes(datasets, cards, learnt).items()
    }


def refuse_too_few(
    folder: Path, images: pd.DataFrame, classes: list[str], found: pd.DataFrame
) -> None:
    """Refuse images of which nothing could be said, and say why others are not used."""
    counts = images["class_name"].value_counts().reindex(classes, fill_value=0)
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    passed = found[found["finding"] == "not used"]
    if len(passed):
        path, _, because = passed.iloc[0]
        folder = f"{folder}: {len(passed)} images are not used, the first, {path}: {because}"
    if (counts > 0).sum() < 2:
        others = "none of the others is" if len(passed) else "none is"
        told = f"all are {told}" if told else f"{others} of a class of {', '.join(classes)}"
        raise UserError(
            f"{folder}: {told}: a test needs two classes or more, since sensitivity without "
            "specificity says nothing; images without labels: wbc-shift predict"
        )
    if counts.max() < MINIMUM_SUPPORT:
        raise UserError(
            f"{folder}: {counts.sum()} labelled images ({told}): no class has the "
            f"{MINIMUM_SUPPORT} without which nothing is claimed: label more"
        )


def answer(network: Network, cells: LabelledCells, crop: float) -> Answers:
    """What a network answers to cells, and how these look to it."""
    logits, facts = [], []
    doing = f"testing {network.name} on {cells.name}"
    for pixels in network.views(cells.files, crop, cells.name, cells.bits, doing):
        logits.append(network.logits(pixels))
        facts.append(appearance(pixels))
    facts = np.concatenate(facts)
    place = {label: index for index, label in enumerate(network.classes)}
    return Answers(
        cells.table["class_name"].map(place).fillna(-1).to_numpy(np.int64),
        cells.table["group"].to_numpy(str),
        np.concatenate(logits),
        facts,
        beyond(network.ranges, facts),
    )


def tried(network: Network, cells: LabelledCells, crop: float, level: float) -> Tested:
    """What a network answers to cells, and the numbers that follow."""
    answers = answer(network, cells, crop)
    home = home_of(network.stored(), network.classes, network.source)
    gauge = network.gauge(ACCURACY)
    found = numbers(answers, home, gauge, network.ranges, network.classes, level)
    return Tested(network, answers, gauge, found)


def beside(
    root: Path, network: Network, cells: LabelledCells, crop: float, level: float
) -> dict[str, Any]:
    """What the certificate of another network says of this one: its numbers too, unless images are
    of its own source, which it may have learnt."""
    datasets = root / "datasets"
    learnt = source_hashes(datasets, load_cards(datasets), network.source)
    known = int(cells.table["sha256"].isin(list(learnt)).sum())
    found = None if known else tried(network, cells, crop, level).numbers
    return facts_of(network) | {"images_of_its_source": known, "numbers": found}


def facts_of(network: Network) -> dict[str, Any]:
    """What a certificate says of a network."""
    return {
        "name": network.name,
        "sha256": network.sha256,
        "source": network.source,
        "method": network.record.method.name,
        "backbone": network.record.method.backbone,
        "image_size": network.image_size,
    }


def table_of(images: pd.DataFrame, tested: Tested) -> pd.DataFrame:
    """A row per image that was used: what it is labelled, and what the network said; of a cell that
    was cut, where it lies in which field."""
    network, answers = tested.network, tested.answers
    table = pd.DataFrame(
        {
            "image": images["path"],
            "label": images["label"],
            "class": images["class_name"],
            "group": images["group"],
            "predicted": np.array(network.classes)[predicted_classes(answers.logits)],
            "confidence": answers.confidence,
            "flag": np.where(answers.accepted(tested.gauge), "accept", "reject"),
            "reason": answers.unlike,
        }
    )
    for name, column in zip(network.classes, probabilities(answers.logits).T, strict=True):
        table[f"p_{name}"] = column
    of_a_field = [column for column in ORIGIN if column in images]
    return table.join(images[of_a_field])


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV that people open."""
    paths = [column for column in ("image", "path", "group", "field") if column in table]
    cells = table.map(csv_cell).assign(**{name: table[name].map(csv_path) for name in paths})
    write_text(path, cells.to_csv(index=False, lineterminator="\n"))


def page_of(certificate: dict[str, Any], chosen: CropChoice, wrong: pd.DataFrame | None) -> str:
    """The certificate as a page, of what `certificate.json` holds.

    Args:
        wrong: images that were taken for another class, to be named; None: no file is.
    """
    environment = templates_beside(__file__)
    environment.filters["percent"] = per_cent
    environment.filters["listed"] = listed
    template = environment.get_template("certificate.html.jinja")
    # Through JSON: what the page prints is what the file says.
    held = json.loads(json.dumps(certificate))
    return template.render(
        c=held,
        crop=str(chosen),
        minimum=MINIMUM_SUPPORT,
        wrong=None if wrong is None else wrong.to_dict("records"),
    )


def lines_on(
    certificate: dict[str, Any],
    out: Path,
    chosen: CropChoice,
    found: pd.DataFrame,
    notes: list[str],
    printed: str,
) -> list[str]:
    """What a user must know of a test."""
    rows = certificate["classes"]
    counts = ", ".join(f"{row['images']} {name}" for name, row in rows.items())
    cells = certificate["by_group"] and not certificate["groups_told"]
    of_cells = f" of {certificate['groups']} cells" if cells else ""
    lines = [f"{certificate['name']}: {certificate['images']} images{of_cells} used ({counts})"]
    if certificate["cells_of_no_class"]:
        lines.append(
            f"{certificate['cells_of_no_class']} images of other cells test what should be rejected"
        )
    if len(found):
        # Two images of one cell are a finding, of which an image may have several.
        counts = found["finding"].value_counts()
        kinds = [
            f"{number} {IN_WORDS.get(kind, (kind, kind))[number != 1]}"
            for kind, number in counts.items()
        ]
        path, finding, because = found.iloc[0]
        lines.append(
            f"note: {'; '.join(kinds)}: see {out / 'audit.csv'}; the first: {path or 'a row'} "
            f"{finding}: {because}"
        )
    lines += [f"note: {note}" for note in notes]
    lines.append(f"crop {chosen}: look at {out / 'crop.html'}")
    told = certificate["verdict"]
    lines += [f"{told['headline']}.", *told["sentences"]]
    return [
        *lines,
        printed,
        f"wrote {out / 'certificate.html'} and .json, without names of files unless asked for, and "
        "predictions.csv, audit.csv and crop.html, which name or show the images: keep these "
        "private",
    ]
