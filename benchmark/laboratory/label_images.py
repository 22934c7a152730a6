"""Label a laboratory's images: label, confidence, and whether to accept it.

Temperature and threshold of rejection are fitted on the source's calibration part, held out from
training and from the choice of the epoch, and are those of the evaluation's tables
(`benchmark/evaluation/selective.py`): the threshold is of the largest probability as the network
states it, to which nothing was fitted; the temperature scales the probabilities that are written
beside it. So the flag carries the guarantee of `guaranteed_threshold` for images like the source's,
and for no other laboratory's: beyond the range of the source's own images
(`benchmark/domains/ranges.py`) nothing is accepted.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.audit.images import address, small_picture
from benchmark.data.cards import read_label_spaces
from benchmark.data.fields import ORIGIN
from benchmark.data.image_files import FORMATS, find_images
from benchmark.data.layouts import refuse_links_outwards
from benchmark.domains.ranges import PARTS, SourceRange, appearance, beyond
from benchmark.errors import UserError
from benchmark.evaluation.calibration import NO_TEMPERATURE
from benchmark.evaluation.exact import exact_limits
from benchmark.evaluation.rejection import maximum_probability
from benchmark.files import write_text
from benchmark.laboratory.adaptation import (
    Adaptation,
    adapted_logits,
    cautions,
    check_adaptation,
)
from benchmark.laboratory.judge import alike, crop_wanted, look_at_own
from benchmark.laboratory.labels import boxed_cells, cells_cut_in
from benchmark.laboratory.networks import ACCURACY, Gauge, Network
from benchmark.metrics import predicted_classes, probabilities
from benchmark.progress import track
from benchmark.texts import csv_cell, csv_path, templates_beside, visible

PICTURE_SIDE = 96
MOST_PICTURES = 3000
"""Images that the sheet shows: all are in the CSV."""


class Labelled(NamedTuple):
    """A folder's images, labelled.

    Attributes:
        table: image, label, confidence (the largest probability as stated, which the flag follows
            from), flag (accept, reject or unreadable; check where the network was adapted),
            flag_holds_for, reason (why a file is not read, or what of it was; why an image is not
            like the source's, and so not accepted at any confidence), and a probability per class,
            scaled by the temperature; the least confident first.
        gauge: what the flags rest on.
        notes: what else is to be said.
    """

    table: pd.DataFrame
    gauge: Gauge
    notes: list[str]


def label_folder(
    root: Path,
    network: Network,
    folder: Path,
    out: Path,
    crop: float | None = None,
    accuracy: float = ACCURACY,
    adapt: Adaptation | None = None,
    boxes: Path | None = None,
) -> tuple[Labelled, Path]:
    """Label every image below a folder, or every boxed cell of its fields, and write the CSV and
    its sheet.

    Args:
        out: the CSV.
        crop: as in `label_images`; None: the whole image, of cells cut from fields what shows one.
        boxes: CSV that says where in the fields the cells lie; None: annotations tell.

    Returns:
        The labels, of cells with the field and the box of each; and the sheet.

    Raises:
        UserError: as `label_images`; fields of which no box can be used.
    """
    folder = Path(folder)
    datasets = Path(root) / "datasets"
    with cells_cut_in(datasets / "cache") as scratch:
        cells = boxed_cells(
            folder, read_label_spaces(datasets), scratch / folder.resolve().name, boxes
        )
        if cells is None:
            labelled = label_images(root, network, folder, crop or 1.0, accuracy, adapt)
            return labelled, write_labels(labelled, folder, network.name, out)
        table, gauge, notes = label_images(
            root, network, cells.folder, crop or cells.crop or 1.0, accuracy, adapt
        )
        places = cells.table[["path", *ORIGIN]].rename(columns={"path": "image"})
        told = list(cells.notes)
        if cells.left_out:
            path, _, why = cells.left_out[0]
            first = " ".join(filter(None, (path, why)))
            told.append(f"{len(cells.left_out)} fields or boxes were left out, the first: {first}")
        table = table.merge(places, on="image", how="left", validate="one_to_one")
        labelled = Labelled(table, gauge, [*told, *notes])
        return labelled, write_labels(labelled, cells.folder, network.name, out)


def label_images(
    root: Path,
    network: Network,
    folder: Path,
    crop: float = 1.0,
    accuracy: float = ACCURACY,
    adapt: Adaptation | None = None,
) -> Labelled:
    """Label every image below a folder.

    Args:
        crop: side of the centred square that shows one cell, as a fraction of the shorter side; a
            network's own framing makes it larger or smaller.
        accuracy: that accepted predictions shall have, on the source.
        adapt: how the network is adapted to these images first.

    Raises:
        UserError: no image; how the source's images look is not known; the adaptation does nothing
            to this network.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that holds the images")
    refuse_links_outwards(folder)
    found = find_images(folder)
    if not found.images:
        passed = [f"{path} {why}" for path, why in found.passed_over.items()][:1]
        raise UserError(
            f"{folder}: no image in it: {'; '.join([*passed, ', '.join(FORMATS) + ' are read'])}"
        )
    classes, ranges = network.classes, network.ranges
    if adapt is None:
        gauge = network.gauge(accuracy)
    else:
        check_adaptation(network, adapt)
        gauge = Gauge(network.source, 0, NO_TEMPERATURE, float("inf"), accuracy, adapt)
    files = [folder / path for path in found.images]
    looks, bits = look_at_own(files, root / "datasets" / "cache" / "audit")
    reasons = [seen.fault or seen.note for seen in looks] + list(found.passed_over.values())
    unreadable = [seen.fault is not None for seen in looks] + [True] * len(found.passed_over)
    sound = np.flatnonzero(~np.array(unreadable))
    logits = np.full((len(reasons), len(classes)), np.nan)
    facts = np.full((len(reasons), 8), np.nan)
    whole: list[np.ndarray] = []
    readable, done = [files[row] for row in sound], 0
    for pixels in network.views(readable, crop, folder.name, bits, f"labelling {folder.name}"):
        rows = sound[done : done + len(pixels)]
        logits[rows] = network.logits(pixels)
        facts[rows] = appearance(pixels)
        done += len(pixels)
        if adapt is not None:
            whole.append(pixels)
    notes = [size for size in [size_note(ranges, facts[sound], crop)] if size]
    if adapt is not None and len(sound):
        before = logits[sound]
        logits[sound] = adapted_logits(network, np.concatenate(whole), adapt)
        notes += cautions(before, logits[sound], classes)
    confidence = maximum_probability(logits)
    table = pd.DataFrame(
        {
            "image": [*found.images, *found.passed_over],
            "label": "",
            "confidence": confidence,
            "flag": np.where(confidence >= gauge.threshold, "accept", "reject"),
            "flag_holds_for": "no laboratory" if gauge.adapted else f"{gauge.source} only",
            "reason": reasons,
        }
    )
    for name, column in zip(classes, probabilities(logits, gauge.temperature).T, strict=True):
        table[f"p_{name}"] = column
    table.loc[sound, "label"] = np.array(classes)[predicted_classes(logits[sound])]
    table.loc[unreadable, "flag"] = "unreadable"
    for row, why in zip(sound, beyond(ranges, facts[sound]), strict=True):
        if why:
            table.loc[row, "flag"] = "reject"
            table.loc[row, "reason"] = "; ".join(filter(None, (why, table.loc[row, "reason"])))
    if gauge.adapted:
        # What is unlike the source is what adapting is for: neither flag would say anything.
        table.loc[table["flag"] != "unreadable", "flag"] = "check"
    table = table.sort_values(["confidence", "image"], ignore_index=True)
    return Labelled(table, gauge, notes)


def size_note(ranges: list[SourceRange], facts: np.ndarray, crop: float) -> str:
    """A line where the nucleus of most images is of another size in the picture than the source's:
    the crop is another one, or the pictures are whole fields; else "".

    Args:
        facts: `appearance` of the images that can be read, [N, 8].
    """
    column = PARTS["size of the nucleus"].start
    known = facts[~np.isnan(facts[:, column]), column]
    if not len(facts):
        return ""
    if len(known) < max(1, len(facts) / 2):
        return (
            "in most images no single nucleus is found in the middle: are they whole fields? "
            "`predict` labels pictures of one cell each"
        )
    size = float(np.median(known))
    own = min(ranges, key=lambda one: abs(np.log(one.mean[column] / size)))
    factor = size / own.mean[column]
    if alike(factor):
        return ""
    wanted = crop_wanted(crop, factor)
    if wanted is None or not alike(factor * crop / wanted):  # the whole picture is not enough
        mend = "the pictures are cut too closely"
    else:
        mend = f"try --crop {wanted:.2f} if each picture shows one cell"
    return (
        f"the nucleus is {100 * size:.0f} % of the square's side, in {own.source}'s images "
        f"{100 * own.mean[column]:.0f} %, which a network does not bridge: {mend}"
    )


def differential(labels: pd.Series, classes: list[str]) -> str:
    """The differential count of a folder, in a line.

    Args:
        labels: predicted class of each image that could be read.
    """
    number = len(labels)
    shares = []
    for name in classes:
        counted = int((labels == name).sum())
        low, high = exact_limits(counted, number)
        shares.append(f"{name} {counted / number:.1%} [{100 * low:.1f}, {100 * high:.1f}]")
    return (
        f"differential of {number} cells as labelled: {', '.join(shares)}; in brackets the exact "
        "95 % limits of counting alone: errors of the network come on top"
    )


def write_labels(labelled: Labelled, folder: Path, network: str, out: Path) -> Path:
    """Write the CSV, and a sheet of the images beside it, which is one file; return the sheet."""
    table, gauge, notes = labelled
    # In all digits: rounded, a confidence could not be told from the threshold, or from 1.
    shown = table.assign(image=table["image"].map(csv_path), reason=table["reason"].map(csv_cell))
    if "field" in shown:
        shown["field"] = shown["field"].map(csv_path)
    write_text(out, shown.to_csv(index=False, lineterminator="\n"))
    environment = templates_beside(__file__)
    readable = table[table["flag"] != "unreadable"]
    shown = readable[:MOST_PICTURES]
    thumbnails = [
        address(small_picture(folder / path, PICTURE_SIDE))
        for path in track(shown["image"], "drawing the sheet", len(shown))
    ]
    sheet = out.with_suffix(".html")
    text = environment.get_template("label_images.html.jinja").render(
        folder=visible(folder.name),
        network=network,
        gauge=gauge,
        notes=notes,
        counts=pd.crosstab(readable["label"], readable["flag"]),
        images=list(zip(shown.to_dict("records"), thumbnails, strict=True)),
        hidden=len(readable) - len(shown),
        unreadable=table[table["flag"] == "unreadable"].to_dict("records"),
    )
    write_text(sheet, text)
    return sheet
