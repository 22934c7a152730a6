"""Label a laboratory's images with a finished run: label, confidence, and whether to accept it.

Temperature and threshold of rejection are fitted on the source's calibration part, held out from
training and from the choice of the epoch, and are those of the evaluation's tables
(`benchmark/evaluation/selective.py`): the threshold is of the largest probability as the network
states it, to which nothing was fitted; the temperature scales the probabilities that are written
beside it. So the flag carries the guarantee of `guaranteed_threshold` for images like the source's,
and for no other laboratory's: beyond the range of the source's own images
(`benchmark/domains/ranges.py`) nothing is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmark.audit.images import address, small_picture
from benchmark.data.arrays import PreparedImages
from benchmark.data.image_files import FORMATS, find_images
from benchmark.data.layouts import refuse_links_outwards
from benchmark.data.prepare import decode_all, scaled
from benchmark.domains.ranges import appearance, beyond, read_ranges
from benchmark.errors import UserError
from benchmark.evaluation.calibration import NO_TEMPERATURE, fit_temperature
from benchmark.evaluation.rejection import (
    guaranteed_threshold,
    images_needed,
    maximum_probability,
)
from benchmark.execution.networks import RunContext, trained_network
from benchmark.files import write_text
from benchmark.laboratory.judge import look_at_own
from benchmark.metrics import predicted_classes, probabilities
from benchmark.models.predict import VIEWS, Averaged, predict
from benchmark.models.weights import preprocessing
from benchmark.parts import PLAIN
from benchmark.progress import track
from benchmark.study.plan import profile_folder
from benchmark.study.predictions import read_stored
from benchmark.study.runs import RunRecord
from benchmark.texts import csv_cell, csv_path, templates_beside, visible

ERROR = 0.05
"""Probability that the guarantee of the threshold does not hold."""
CHUNK = 1024
"""Images decoded at a time."""
PICTURE_SIDE = 96
MOST_PICTURES = 3000
"""Images that the sheet shows: all are in the CSV."""


@dataclass(frozen=True)
class Gauge:
    """What a run's held-out source images say of its confidences.

    Attributes:
        source: the domain that they are from.
        images: how many they are.
        temperature: divides the logits before they become the probabilities of the classes.
        threshold: the confidence from which on a prediction is accepted; inf if none is.
        accuracy: what the accepted are guaranteed to reach, on the source.
    """

    source: str
    images: int
    temperature: float
    threshold: float
    accuracy: float

    def __str__(self) -> str:
        what = f"{self.accuracy:.1%} accuracy of what is accepted, at {1 - ERROR:.0%} certainty"
        fewest = images_needed(self.accuracy, ERROR)
        if self.images < fewest:
            return (
                f"{what}, cannot be guaranteed: too few calibration images of {self.source}, "
                f"{self.images} where {fewest} are the fewest; all are rejected: ask for less"
            )
        if np.isinf(self.threshold):
            return (
                f"{what}, cannot be guaranteed: too many of the most confident predictions for the "
                f"{self.images} calibration images of {self.source} are wrong; all are rejected: "
                "ask for less"
            )
        return (
            f"{what}: accepted from confidence {self.threshold} on. This holds for images like "
            f"those of {self.source} ONLY, and for images drawn independently. On another "
            "laboratory's images nothing is guaranteed, and confident predictions are often wrong"
        )

    @property
    def scaling(self) -> str:
        """What was done to the probabilities of the classes."""
        if self.temperature == NO_TEMPERATURE:
            return (
                f"Temperature 1: none can be fitted to the {self.images} calibration images of "
                f"{self.source}, for want of an error among them, so that probabilities are as "
                "the network states them"
            )
        return (
            f"Probabilities of the classes are at temperature {self.temperature:.3f}, fitted to "
            f"the {self.images} calibration images of {self.source}; the confidence is the "
            "largest one without it"
        )

    def digits(self, confidence: float) -> str:
        """A confidence in as many digits, three at least, as tell it from the threshold and 1."""
        others = {self.threshold, 1.0} - {confidence}
        for places in range(3, 17):
            shown = f"{confidence:.{places}f}"
            if shown not in {f"{other:.{places}f}" for other in others}:
                return shown
        return f"{confidence!r}"


def label_images(
    root: Path,
    profile: str,
    run_id: str,
    classes: list[str],
    folder: Path,
    crop: float = 1.0,
    tta: bool = False,
    accuracy: float = 0.95,
) -> tuple[pd.DataFrame, Gauge]:
    """Label every image below a folder.

    Args:
        crop: side of the centred square that shows one cell, as a fraction of the shorter side; a
            run's own framing makes it larger or smaller.
        tta: average the probabilities of the 8 flips and quarter turns.
        accuracy: that accepted predictions shall have, on the source.

    Returns:
        image, label, confidence (the largest probability as stated, which the flag follows from),
        flag (accept, reject, or unreadable), flag_holds_for, reason (why a file is not read, or
        what of it was; why an image is not like the source's, and so not accepted at any
        confidence), and a probability per class, scaled by the temperature, the least confident
        first; what the flags rest on.

    Raises:
        UserError: no image; no such run; its checkpoint is not here, or more than one network
            predicts; how the source's images look is not known.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    refuse_links_outwards(folder)
    found = find_images(folder)
    if not found.images:
        passed = [f"{path} {why}" for path, why in found.passed_over.items()][:1]
        raise UserError(
            f"{folder}: no image in it: {'; '.join([*passed, ', '.join(FORMATS) + ' are read'])}"
        )
    network = Network.of_run(root, profile, run_id, classes, tta)
    gauge = network.gauge(accuracy)
    settings = network.record.settings
    ranges = read_ranges(root, profile, network.source, network.record.method.framing)
    files = [folder / path for path in found.images]
    looks, bits = look_at_own(files, root / "datasets" / "cache" / "audit")
    reasons = [seen.fault or seen.note for seen in looks] + list(found.passed_over.values())
    unreadable = [seen.fault is not None for seen in looks] + [True] * len(found.passed_over)
    sound = np.flatnonzero(~np.array(unreadable))
    logits = np.full((len(reasons), len(classes)), np.nan)
    facts = np.full((len(reasons), 8), np.nan)
    for start in track(range(0, len(sound), CHUNK), f"labelling {folder.name}"):
        rows = sound[start : start + CHUNK]
        chosen = [files[row] for row in rows]
        framed = scaled(crop, settings.crop)
        pixels = decode_all(chosen, framed, settings.image_size, folder.name, bits)
        logits[rows] = network.logits(pixels)
        facts[rows] = appearance(pixels)
    confidence = maximum_probability(logits)
    table = pd.DataFrame(
        {
            "image": [*found.images, *found.passed_over],
            "label": "",
            "confidence": confidence,
            "flag": np.where(confidence >= gauge.threshold, "accept", "reject"),
            "flag_holds_for": f"{gauge.source} only",
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
    return table.sort_values(["confidence", "image"], ignore_index=True), gauge


@dataclass(frozen=True)
class Network:
    """A run's trained network, its settings, and how its images are to be treated."""

    context: RunContext
    record: RunRecord
    model: torch.nn.Module
    tta: bool

    @classmethod
    def of_run(
        cls, root: Path, profile: str, run_id: str, classes: list[str], tta: bool = False
    ) -> Network:
        """The network of a finished run at its best epoch.

        Raises:
            UserError: no such run; its checkpoint is not here; more than one network predicts.
        """
        context = RunContext(root, profile, classes)
        return cls(context, *trained_network(context, run_id), tta)

    @property
    def images(self) -> PreparedImages:
        """The profile's prepared images as the run sees them, which must be here."""
        return self.context.images_of(self.record)

    @property
    def source(self) -> str:
        """What the run was trained on."""
        return self.record.scenario.source

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 [N, C] of uint8 images [N, S, S, 3] as decoded."""
        if self.record.method.stain != PLAIN["stain"]:
            pixels, _ = self.images.stain(pixels)
        return self.logits_of_seen(pixels)

    def logits_of_seen(self, pixels: np.ndarray) -> np.ndarray:
        """The same of images as the run sees them, in its stain."""
        method, settings = self.record.method, self.record.settings
        averaged = self.tta or method.inference == "tta"
        model = Averaged(self.model, VIEWS["dihedral"]) if averaged else self.model
        wanted = preprocessing(settings.weights, method.backbone)
        precision = settings.training.precision
        return predict(model, pixels, precision, self.context.device, wanted)

    def held_out(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels of a held-out part of the source, predicted as new images will be.

        Raises:
            UserError: several views are asked for, and the images are not prepared.
        """
        if self.tta and self.record.method.inference != "tta":
            chosen = self.images.part(self.source, part)
            return self.logits_of_seen(chosen.pixels), chosen.labels
        table = read_stored(profile_folder(self.context.root, self.context.profile), self.record)
        table = table.query("part == @part")
        logits = table[[f"logit_{name}" for name in self.context.classes]]
        return logits.to_numpy(np.float64), table["label"].to_numpy(np.int64)

    def gauge(self, accuracy: float) -> Gauge:
        """Temperature and threshold, neither of which there is without calibration images."""
        logits, labels = self.held_out("calibration")
        temperature, threshold = NO_TEMPERATURE, float("inf")
        if len(labels):
            temperature = fit_temperature(logits, labels)
            # Not of scaled probabilities: the guarantee wants images that nothing was fitted to.
            correct = predicted_classes(logits) == labels
            confidence = maximum_probability(logits)
            threshold = guaranteed_threshold(confidence, correct, accuracy, ERROR)
        return Gauge(self.source, len(labels), temperature, threshold, accuracy)


def write_labels(table: pd.DataFrame, gauge: Gauge, folder: Path, run_id: str, out: Path) -> Path:
    """Write the CSV, and a sheet of the images beside it, which is one file; return the sheet."""
    # In all digits: rounded, a confidence could not be told from the threshold, or from 1.
    shown = table.assign(image=table["image"].map(csv_path), reason=table["reason"].map(csv_cell))
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
        run_id=run_id,
        gauge=gauge,
        counts=pd.crosstab(readable["label"], readable["flag"]),
        images=list(zip(shown.to_dict("records"), thumbnails, strict=True)),
        hidden=len(readable) - len(shown),
        unreadable=table[table["flag"] == "unreadable"].to_dict("records"),
    )
    write_text(sheet, text)
    return sheet
