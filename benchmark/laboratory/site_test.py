"""Test a network on a laboratory's labelled images: a folder in, a certificate on one page out.

Nothing is trained, and the project stays as it is: the images are read where they are, by the rules
of `wbc-shift domain add`, and all that is written lies in one folder, which git ignores.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from benchmark.audit.images import address, small_picture
from benchmark.data.cards import OPEN_SET, Card, load_cards, read_label_spaces, share_cells
from benchmark.data.fields import ORIGIN
from benchmark.data.manifests import read_manifest
from benchmark.data.prepare import crop_box, decode_all, scaled
from benchmark.domains.ranges import PARTS, appearance, beyond
from benchmark.errors import UserError
from benchmark.evaluation.rejection import maximum_probability
from benchmark.files import read_json, writable_folder, write_json, write_text
from benchmark.laboratory.add import NAME
from benchmark.laboratory.certificate import Answers, home_of, listed, numbers, per_cent
from benchmark.laboratory.judge import ALIKE, MOST, ReadableImages, judge, read_own
from benchmark.laboratory.labels import cells_cut_in
from benchmark.laboratory.networks import Network
from benchmark.laboratory.printing import print_page
from benchmark.metrics import MINIMUM_SUPPORT, predicted_classes, probabilities
from benchmark.progress import track
from benchmark.scenarios import sources_of
from benchmark.texts import csv_cell, csv_path, templates_beside

MADE_BY = "wbc-shift test"
"""In `certificate.json`: a folder without it was made by something else, and is left alone."""
ACCURACY = 0.95
"""Of accepted predictions, on the source: the default of `wbc-shift predict`."""
CLEARLY = 1.4
"""Nuclei smaller or larger than the source's by this factor are cropped for without being asked:
no cell type's nuclei differ so much between laboratories that see them at one scale."""
TRIES = 4
"""Crops that are measured before one is proposed: nuclei are found more easily in the right one."""
FOUND = ("left out", "not used", "in one group", "label to be checked", "converted")
"""What `domain add` finds in files that are not simply used, as far as the certificate counts it:
broken or unlabelled; copies, conflicts and what is outside its scope; images of one cell; …"""
CHUNK = 1024
"""Images decoded at a time."""
SHOWN = 12
"""Cells on the contact sheet."""
SHOWN_SIDE = 160


@dataclass(frozen=True)
class CropChoice:
    """The crop that was used, and why.

    Attributes:
        given: by the user; None if none was.
        used: side of the centred square, as a fraction of the shorter side.
        proposed: the one that would show nuclei as large as the source's; None if the used one does
            or none would.
        nucleus: diameter of the nucleus as a fraction of the network's view, median over classes,
            in the crop that was given (or the whole image), and in the one that was used.
        nucleus_of_source: the source's mean.
        whole: the crop that stands for the whole image (`choose_crop`).
    """

    given: float | None
    used: float
    proposed: float | None
    nucleus: tuple[float, float]
    nucleus_of_source: float
    whole: float = 1.0

    @property
    def automatic(self) -> bool:
        """Whether it was applied without being asked for."""
        return self.given is None and self.used != self.whole

    def __str__(self) -> str:
        before, after = (f"{100 * share:.0f} %" for share in self.nucleus)
        theirs = f"{100 * self.nucleus_of_source:.0f} %"
        if self.automatic:
            return (
                f"{self.used:.2f}, chosen by the size of the nucleus: without it nuclei took "
                f"{before} of the side, with it {after}, the source's {theirs}"
            )
        uncut = "the whole image" if self.whole == 1.0 else "cells as cut around their boxes"
        whose = "as asked for" if self.given is not None else uncut
        text = f"{self.used:.2f}, {whose}: nuclei take {after} of the side, the source's"
        text = f"{text} {theirs}"
        if self.proposed is not None:
            text += f"; --crop {self.proposed:.2f} would show them alike"
        return text


class Tested(NamedTuple):
    """A network on a laboratory's images."""

    network: Network
    answers: Answers
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
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: use small letters, digits and hyphens")
    out = Path(out) if out is not None else Path(name)
    refuse_others_folder(out)
    classes = first.classes
    with cells_cut_in(root / "datasets" / "cache") as scratch:
        images, own, found = images_to_test(root, folder, labels, cells or {}, first, scratch)
        refuse_too_few(folder, images, classes)
        writable_folder(out)
        files, bits = [own.folder / path for path in images["path"]], own.bits
        whole = own.crop or 1.0
        chosen = choose_crop(files, images["class_name"], crop, first, bits, folder.name, whole)
        tested = tried(first, images, files, chosen.used, bits, folder.name, level)
        certificate = {
            "schema_version": 1,
            "made_by": MADE_BY,
            "version": version,
            "date": date.today().isoformat(),
            "name": name,
            "network": facts_of(first),
            "crop": asdict(chosen),
            "files": {kind: int((found["finding"] == kind).sum()) for kind in FOUND},
            "by_group": bool(images["group"].duplicated().any()),
            **tested.numbers,
            "other_networks": [
                beside(root, other, images, files, chosen.used, bits, folder.name, level)
                for other in networks[1:]
            ],
        }
        write_text(out / ".gitignore", "*\n")
        write_json(out / "certificate.json", certificate)
        write_table(out / "audit.csv", found)
        table = table_of(images, tested)
        write_table(out / "predictions.csv", table)
        write_crop_sheet(out / "crop.html", name, images, files, chosen, first, bits)
        wrong = table[(table["class"] != table["predicted"]) & table["class"].isin(classes)]
        page = out / "certificate.html"
        write_text(page, page_of(certificate, chosen, wrong if with_file_names else None))
        printed = print_page(page)
        return lines_on(certificate, out, chosen, found, own.notes, printed)


def refuse_others_folder(out: Path) -> None:
    """Refuse to write where something else lies than what an earlier test wrote."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    made = out / "certificate.json"
    try:
        ours = out.is_dir() and made.is_file() and read_json(made).get("made_by") == MADE_BY
    except (UserError, AttributeError):
        ours = False
    if not ours:
        raise UserError(
            f"{out} is there already, and no earlier test made it: name another folder with --out"
        )


def images_to_test(
    root: Path,
    folder: Path,
    labels: Path | None,
    cells: dict[str, str],
    network: Network,
    scratch: Path,
) -> tuple[pd.DataFrame, ReadableImages, pd.DataFrame]:
    """The images that are used (path, label, class_name, group, sha256), what was read of the
    folder, and what was found in the images that are not used.

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
    return used, own, pd.concat([own.found, found, passed], ignore_index=True)


def source_hashes(datasets: Path, cards: dict[str, Card], source: str) -> dict[str, str]:
    """SHA-256 of every published image of a network's source, or of a set that shares cells with
    it → what it is: images that a network may have learnt test nothing."""
    hashes = {}
    own = [name for name in sources_of(source) if any(name in c.domains for c in cards.values())]
    for card in cards.values():
        for domain in card.domains:
            if not any(name == domain or share_cells(cards, domain, name) for name in own):
                continue
            if not (datasets / card.manifest).exists():
                continue
            table = read_manifest(datasets, card, "all", domain)
            for sha256, path in zip(table["sha256"].str.lower(), table["path"], strict=True):
                if sha256:
                    hashes[sha256] = f"{path} of {domain}, whose images the network was trained on"
    return hashes


def refuse_too_few(folder: Path, images: pd.DataFrame, classes: list[str]) -> None:
    """Refuse images of which nothing could be said."""
    counts = images["class_name"].value_counts().reindex(classes, fill_value=0)
    told = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    if (counts > 0).sum() < 2:
        told = f"all are {told}" if told else f"none is of a class of {', '.join(classes)}"
        raise UserError(
            f"{folder}: {told}: a test needs two classes or more, since sensitivity without "
            "specificity says nothing; images without labels: wbc-shift predict"
        )
    if counts.max() < MINIMUM_SUPPORT:
        raise UserError(
            f"{folder}: {counts.sum()} labelled images ({told}): no class has the "
            f"{MINIMUM_SUPPORT} without which nothing is claimed: label more"
        )


def choose_crop(
    files: list[Path],
    classes: pd.Series,
    given: float | None,
    network: Network,
    bits: int,
    name: str,
    whole: float = 1.0,
) -> CropChoice:
    """The crop to use: what is given, else the whole image, unless nuclei are far from the source's
    size and another crop shows them alike.

    Args:
        whole: the crop that stands for the whole image: of cells cut from fields, without what was
            cut around them so that a wider crop is possible.
    """
    column = PARTS["size of the nucleus"].start
    theirs = float(np.mean([own.mean[column] for own in network.ranges]))
    crop = given or whole
    first = share = nucleus_share(files, classes, crop, network, bits, name)
    wanted = crop
    for _ in range(TRIES):
        if not np.isfinite(share) or 1 / ALIKE <= share / theirs <= ALIKE:
            break
        last, wanted = wanted, float(np.clip(wanted * share / theirs, 0.05, 1.0))
        if wanted == last:
            break
        share = nucleus_share(files, classes, wanted, network, bits, name)
    alike = np.isfinite(share) and 1 / ALIKE <= share / theirs <= ALIKE
    proposed = round(wanted, 2) if alike and abs(wanted - crop) >= 0.02 else None
    clearly = not 1 / CLEARLY <= first / theirs <= CLEARLY
    if given is None and proposed is not None and clearly:
        return CropChoice(None, proposed, None, (first, share), theirs, whole)
    return CropChoice(given, crop, proposed, (first, first), theirs, whole)


def nucleus_share(
    files: list[Path],
    classes: pd.Series,
    crop: float,
    network: Network,
    bits: int,
    name: str,
) -> float:
    """Diameter of the nucleus as a fraction of the network's view, mean over classes of their
    medians; NaN where none is found."""
    rows = [
        own.index[np.linspace(0, len(own) - 1, min(MOST, len(own))).astype(int)]
        for label, own in classes.groupby(classes)
        if label not in OPEN_SET
    ]
    pixels = seen_by(network, [files[row] for own in rows for row in own], crop, bits, name)
    diameters = appearance(pixels)[:, PARTS["size of the nucleus"].start]
    ends = np.cumsum([len(own) for own in rows])[:-1]
    medians = [
        np.median(own[np.isfinite(own)])
        for own in np.split(diameters, ends)
        if np.isfinite(own).any()
    ]
    return float(np.mean(medians)) if medians else float("nan")


def seen_by(network: Network, files: list[Path], crop: float, bits: int, name: str) -> np.ndarray:
    """Images as a network gets them: uint8 [N, S, S, 3]."""
    framed = scaled(crop, network.framing_crop)
    return decode_all(files, framed, network.image_size, name, bits)


def answer(
    network: Network,
    images: pd.DataFrame,
    files: list[Path],
    crop: float,
    bits: int,
    name: str,
) -> Answers:
    """What a network answers to images, and how these look to it."""
    logits, facts = [], []
    for start in track(range(0, len(files), CHUNK), f"testing {network.name} on {name}"):
        pixels = seen_by(network, files[start : start + CHUNK], crop, bits, name)
        logits.append(network.logits(pixels))
        facts.append(appearance(pixels))
    facts = np.concatenate(facts)
    place = {label: index for index, label in enumerate(network.classes)}
    return Answers(
        images["class_name"].map(place).fillna(-1).to_numpy(np.int64),
        images["group"].to_numpy(str),
        np.concatenate(logits),
        facts,
        beyond(network.ranges, facts),
    )


def tried(
    network: Network,
    images: pd.DataFrame,
    files: list[Path],
    crop: float,
    bits: int,
    name: str,
    level: float,
) -> Tested:
    """What a network answers to images, and the numbers that follow."""
    answers = answer(network, images, files, crop, bits, name)
    home = home_of(network.stored(), network.classes, network.source)
    gauge = network.gauge(ACCURACY)
    found = numbers(answers, home, gauge, network.ranges, network.classes, level)
    return Tested(network, answers, found)


def beside(root: Path, network: Network, images: pd.DataFrame, *how: Any) -> dict[str, Any]:
    """What the certificate of another network says of this one: its numbers too, unless images are
    of its own source, which it may have learnt.

    Args:
        how: as in `tried`.
    """
    datasets = root / "datasets"
    learnt = source_hashes(datasets, load_cards(datasets), network.source)
    known = int(images["sha256"].isin(list(learnt)).sum())
    found = None if known else tried(network, images, *how).numbers
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
    threshold = tested.numbers["accepted"]["threshold"]
    confidence = maximum_probability(answers.logits)
    sure = confidence >= (np.inf if threshold is None else threshold)
    like = np.array([not why for why in answers.unlike], bool)
    table = pd.DataFrame(
        {
            "image": images["path"],
            "label": images["label"],
            "class": images["class_name"],
            "group": images["group"],
            "predicted": np.array(network.classes)[predicted_classes(answers.logits)],
            "confidence": confidence,
            "flag": np.where(sure & like, "accept", "reject"),
            "reason": answers.unlike,
        }
    )
    for name, column in zip(network.classes, probabilities(answers.logits).T, strict=True):
        table[f"p_{name}"] = column
    for column in ORIGIN:
        if column in images:
            table[column] = images[column]
    return table


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV that people open."""
    paths = [column for column in ("image", "path", "group", "field") if column in table]
    shown = table.map(csv_cell).assign(**{name: table[name].map(csv_path) for name in paths})
    write_text(path, shown.to_csv(index=False, lineterminator="\n"))


def write_crop_sheet(
    path: Path,
    name: str,
    images: pd.DataFrame,
    files: list[Path],
    chosen: CropChoice,
    network: Network,
    bits: int,
) -> None:
    """Write the contact sheet: some cells as given, and as the network sees them, beside what it
    would see in the proposed crop."""
    rows = []
    for _, own in images.groupby("class_name"):
        each = max(1, SHOWN // images["class_name"].nunique())
        rows += list(own.index[np.linspace(0, len(own) - 1, min(each, len(own))).astype(int)])
    squares = {"used": chosen.used}
    if chosen.proposed is not None:
        squares["proposed"] = chosen.proposed
    seen = {
        title: seen_by(network, [files[row] for row in rows], crop, bits, name)
        for title, crop in squares.items()
    }
    shown = []
    for place, row in enumerate(rows):
        given = small_picture(files[row], SHOWN_SIDE)
        draw = ImageDraw.Draw(given)
        for title, crop in squares.items():
            box = crop_box(given.size, scaled(crop, network.framing_crop))
            left, top, right, bottom = map(round, box)
            ink = "#0072B2" if title == "used" else "#D55E00"
            draw.rectangle((left, top, right - 1, bottom - 1), outline=ink, width=2)
        views = [
            address(Image.fromarray(pixels[place]).resize((SHOWN_SIDE, SHOWN_SIDE)))
            for pixels in seen.values()
        ]
        shown.append((images["class_name"][row], address(given), views))
    text = (
        templates_beside(__file__)
        .get_template("crop.html.jinja")
        .render(name=name, network=network.name, chosen=chosen, titles=list(squares), cells=shown)
    )
    write_text(path, text)


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
    lines = [f"{certificate['name']}: {certificate['images']} images used ({counts})"]
    if certificate["cells_of_no_class"]:
        lines.append(
            f"{certificate['cells_of_no_class']} images of other cells test what should be rejected"
        )
    if len(found):
        kinds = [f"{number} {kind}" for kind, number in found["finding"].value_counts().items()]
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
        f"predictions.csv, audit.csv and crop.html, which name or show the images: keep these",
    ]
