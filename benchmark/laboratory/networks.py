"""A network that answers a laboratory's images, with what is kept of it beside its weights.

Whether it was trained here (`Network.of_run`) or is one of the repository's (`Network.shipped`), it
knows the laboratory that it was trained in, how images are framed and stained for it, how its
source's own images look, and what it predicted of test images, from which its temperature and its
threshold follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmark.data.arrays import Images, PreparedImages, facts_path, read_prepared
from benchmark.data.prepare import decode_all, scaled
from benchmark.data.split import fold_of
from benchmark.data.stain import Moments, Stain, moments_of, restored_stain
from benchmark.domains.ranges import SourceRange, read_ranges
from benchmark.errors import UserError
from benchmark.evaluation.calibration import NO_TEMPERATURE, fit_temperature
from benchmark.evaluation.rejection import (
    guaranteed_threshold,
    images_needed,
    maximum_probability,
)
from benchmark.execution.networks import (
    RunContext,
    build_network,
    configured_device,
    input_of,
    trained_network,
)
from benchmark.laboratory.shipped import AGAIN, Shipped, read_shipped
from benchmark.metrics import predicted_classes
from benchmark.models.predict import VIEWS, Averaged, predict
from benchmark.models.weights import Preprocessing
from benchmark.parts import PLAIN
from benchmark.progress import track
from benchmark.scenarios import sources_of
from benchmark.study.plan import profile_folder
from benchmark.study.predictions import read_stored
from benchmark.study.runs import Run, RunRecord

Answers = tuple[np.ndarray, np.ndarray]
"""Logits [N, C] and labels [N] of some images."""
ERROR = 0.05
"""Probability that the guarantee of the threshold does not hold."""
CHUNK = 1024
"""Images decoded at a time."""
ACCURACY = 0.95
"""That accepted predictions have on the source, unless another is asked for."""


@dataclass(frozen=True)
class Gauge:
    """What a run's held-out source images say of its confidences.

    Attributes:
        source: the domain that they are from.
        images: how many they are.
        temperature: divides the logits before they become the probabilities of the classes.
        threshold: the confidence from which on a prediction is accepted; inf if none is.
        accuracy: what the accepted are guaranteed to reach, on the source.
        adapted: to what of the folder the network was adapted (`batch`, `colour`); "" if it was
            not. Neither a temperature nor a threshold is known of an adapted network.
    """

    source: str
    images: int
    temperature: float
    threshold: float
    accuracy: float
    adapted: str = ""

    def __str__(self) -> str:
        if self.adapted:
            return (
                f"adapted to the folder's own images (--adapt {self.adapted}, track transductive): "
                f"thresholds were fitted on {self.source} without that and no longer hold, so that "
                "nothing is accepted; the flag `check` says that a person has to look"
            )
        what = f"{self.accuracy:.1%} accuracy of what is accepted, with {1 - ERROR:.0%} confidence"
        fewest = images_needed(self.accuracy, ERROR)
        if self.images < fewest:
            return (
                f"{what}, cannot be guaranteed: too few calibration images of {self.source}, "
                f"{self.images} where {fewest} are the fewest; all are rejected: choose a lower "
                "--accuracy"
            )
        if np.isinf(self.threshold):
            return (
                f"{what}, cannot be guaranteed: too many of the most confident predictions for the "
                f"{self.images} calibration images of {self.source} are wrong; all are rejected: "
                "choose a lower --accuracy"
            )
        return (
            f"{what}: accepted from confidence "
            f"{self.digits(self.threshold)} on. This holds for images like "
            f"those of {self.source} ONLY, and for images drawn independently. On another "
            "laboratory's images nothing is guaranteed, and confident predictions are often wrong"
        )

    @property
    def scaling(self) -> str:
        """What was done to the probabilities of the classes."""
        if self.adapted:
            return "Probabilities are as the adapted network states them: no temperature was fitted"
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
        """A confidence in as many digits, three at least, as tell it from the threshold and 1; the
        threshold in as many as tell it from 1."""
        others = {self.threshold, 1.0} - {confidence}
        for places in range(3, 17):
            shown = f"{confidence:.{places}f}"
            if shown not in {f"{other:.{places}f}" for other in others}:
                return shown
        return f"{confidence!r}"


class Network(ABC):
    """A trained network, its settings, and how its images are to be treated.

    Attributes:
        name: its run, or what the repository calls it.
        classes: what it tells apart, in the order of its logits.
        model: the network itself, on `device`, in evaluation mode when it predicts.
        tta: whether the probabilities of the 8 flips and quarter turns are averaged.
    """

    name: str
    classes: list[str]
    model: torch.nn.Module
    device: torch.device
    tta: bool

    @staticmethod
    def of_run(
        root: Path, profile: str, run_id: str, classes: list[str], tta: bool = False
    ) -> Network:
        """The network of a finished run at its best epoch.

        Raises:
            UserError: no such run; its checkpoint is not here; more than one network predicts.
        """
        context = RunContext(root, profile, classes)
        return RunNetwork(context, *trained_network(context, run_id), tta)

    @staticmethod
    def shipped(root: Path, name: str, tta: bool = False) -> Network:
        """One of the repository's networks, of which neither the run nor an image is needed.

        Raises:
            UserError: there is none of this name; its files are broken or belong to another.
        """
        shipped = read_shipped(root, name)
        run, device = shipped.record.run, configured_device()
        model, _ = build_network(run, len(shipped.record.classes), state_follows=True)
        state = shipped.state()
        try:
            model.load_state_dict(state)  # into single precision, in which it computes
        except RuntimeError as error:
            why = str(error).splitlines()[1].strip()
            raise UserError(
                f"{shipped.folder}: the file is of another network ({why}): {AGAIN}"
            ) from None
        model = model.to(device, memory_format=torch.channels_last)
        return ShippedNetwork(root, shipped, model, device, tta)

    @property
    @abstractmethod
    def profile(self) -> str:
        """The profile of the run that it is from."""

    @property
    @abstractmethod
    def sha256(self) -> str | None:
        """Of the network; None where it is not known."""

    @property
    @abstractmethod
    def record(self) -> Run:
        """Method, scenario and settings of the run that it is from."""

    @property
    @abstractmethod
    def ranges(self) -> list[SourceRange]:
        """Where the source's own images lie, in the network's framing.

        Raises:
            UserError: it is not known.
        """

    @property
    @abstractmethod
    def stain(self) -> Stain | None:
        """The stain normalisation that images get first, as fitted on the source; None without.

        Raises:
            UserError: it has to be fitted, and the source's images are not prepared.
        """

    @abstractmethod
    def stored(self) -> pd.DataFrame:
        """The predictions that are kept with the network, a row per image of its test sets: image,
        domain, part, group, label, logit_<class>. Home is the part id_test; targets are `shifted`,
        and cells of no class, with a negative label, `open_set`."""

    @abstractmethod
    def prepared(self, domain: str, part: str) -> Images:
        """A test set as the network sees it, in its framing and stain.

        Raises:
            UserError: the profile's images are not prepared.
        """

    @property
    @abstractmethod
    def moments(self) -> Moments:
        """Mean and spread of R, G and B of the source's training images, before any stain.

        Raises:
            UserError: they are not known, and the source's images are not prepared.
        """

    @property
    @abstractmethod
    def crops(self) -> dict[str, Any]:
        """Source domain → which part of its pictures shows one cell, as in its card."""

    @property
    def source(self) -> str:
        """What the network was trained on: a domain, or several (`a+b`)."""
        return self.record.scenario.source

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it takes."""
        return self.record.settings.image_size

    @property
    def framing_crop(self) -> float:
        """Factor of its framing to the side of the square that shows one cell."""
        return self.record.settings.crop

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become its input: by the mean and spread that its weights expect, or each
        image by its own."""
        return input_of(self.record)

    @property
    def averages(self) -> bool:
        """Whether the probabilities of several views are averaged, by choice or by its method."""
        return self.tta or self.record.method.inference == "tta"

    def view(self, files: Sequence[Path], crop: float, name: str, bits: int) -> np.ndarray:
        """Images as it is shown them: uint8 [N, S, S, 3].

        Args:
            crop: side of the centred square that shows one cell, as a fraction of the shorter side;
                its own framing makes it larger or smaller.
            name: of the folder, for the progress.
            bits: of the values of 16-bit files, 0 if there are none.
        """
        framed = scaled(crop, self.framing_crop)
        return decode_all(list(files), framed, self.image_size, name, bits)

    def views(
        self, files: Sequence[Path], crop: float, name: str, bits: int, doing: str
    ) -> Iterator[np.ndarray]:
        """The same of any number of images, `CHUNK` at a time; `doing` names the progress."""
        for start in track(range(0, len(files), CHUNK), doing):
            yield self.view(files[start : start + CHUNK], crop, name, bits)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 [N, C] of uint8 images [N, S, S, 3] as decoded."""
        return self.logits_of_seen(self.stained(pixels))

    def stained(self, pixels: np.ndarray) -> np.ndarray:
        """Images uint8 [N, S, S, 3] in the network's stain; as they are where it has none."""
        return self.stain(pixels)[0] if self.stain is not None else pixels

    def logits_of_seen(self, pixels: np.ndarray) -> np.ndarray:
        """The same of images as the network sees them, in its stain."""
        model = Averaged(self.model, VIEWS["dihedral"]) if self.averages else self.model
        precision = self.record.settings.training.precision
        return predict(model, pixels, precision, self.device, self.preprocessing)

    def held_out(self, part: str) -> Answers:
        """Logits and labels of a held-out part of the source, predicted as new images will be.

        Raises:
            UserError: several views are asked for, and the images are not prepared.
        """
        if self.tta and self.record.method.inference != "tta":
            chosen = self.prepared(self.source, part)
            return self.logits_of_seen(chosen.pixels), chosen.labels
        return part_of(self.stored(), self.classes, self.source, part)

    def gauge(self, accuracy: float) -> Gauge:
        """Temperature and threshold, neither of which there is without calibration images."""
        return gauge_of(self.source, *self.held_out("calibration"), accuracy)


def gauge_of(source: str, logits: np.ndarray, labels: np.ndarray, accuracy: float) -> Gauge:
    """Temperature and threshold from logits [N, C] and labels [N] of calibration images."""
    temperature, threshold = NO_TEMPERATURE, float("inf")
    if len(labels):
        temperature = fit_temperature(logits, labels)
        # Not of scaled probabilities: the guarantee wants images that nothing was fitted to.
        correct = predicted_classes(logits) == labels
        confidence = maximum_probability(logits)
        threshold = guaranteed_threshold(confidence, correct, accuracy, ERROR)
    return Gauge(source, len(labels), temperature, threshold, accuracy)


def part_of(table: pd.DataFrame, classes: list[str], domain: str, part: str) -> Answers:
    """Logits float64 [N, C] and labels int64 [N] of a test set in a table of predictions."""
    table = table[(table["domain"] == domain) & (table["part"] == part)]
    logits = table[[f"logit_{name}" for name in classes]]
    return logits.to_numpy(np.float64), table["label"].to_numpy(np.int64)


@dataclass
class RunNetwork(Network):
    """The network of a run that was trained here, or whose checkpoint was copied here."""

    context: RunContext
    run: RunRecord
    model: torch.nn.Module
    tta: bool = False

    @property
    def name(self) -> str:
        return self.run.run_id

    @property
    def classes(self) -> list[str]:
        return self.context.classes

    @property
    def profile(self) -> str:
        return self.context.profile

    @property
    def sha256(self) -> str | None:
        """Of the network's tensors; None in records from before networks were hashed."""
        return self.run.network_sha256

    @property
    def device(self) -> torch.device:
        return self.context.device

    @property
    def record(self) -> RunRecord:
        return self.run

    @cached_property
    def ranges(self) -> list[SourceRange]:
        root, profile = self.context.root, self.context.profile
        return read_ranges(root, profile, self.source, self.run.method.framing)

    @property
    def stain(self) -> Stain | None:
        plain = self.run.method.stain == PLAIN["stain"]
        return None if plain else self.context.images_of(self.run).stain

    @property
    def crops(self) -> dict[str, Any]:
        known = read_prepared(facts_path(self.context.root, self.context.profile))["domains"]
        return {name: known[name]["crop"] for name in sources_of(self.source)}

    @cached_property
    def moments(self) -> Moments:
        framed = self.context.images.seen_by(self.source, PLAIN["stain"], self.run.method.framing)
        framed = framed.in_fold(fold_of(self.run.seed, self.run.scenario.folds))
        return moments_of(framed.part(self.source, "train").pixels)

    def stored(self) -> pd.DataFrame:
        return read_stored(profile_folder(self.context.root, self.context.profile), self.run)

    def prepared(self, domain: str, part: str) -> Images:
        return self.context.images_of(self.run).test_set(domain, part)


@dataclass
class ShippedNetwork(Network):
    """A network of the repository, in `results/networks/<name>/`."""

    root: Path
    files: Shipped
    model: torch.nn.Module
    device: torch.device
    tta: bool = False

    @property
    def name(self) -> str:
        return self.files.record.name

    @property
    def classes(self) -> list[str]:
        return list(self.files.record.classes)

    @property
    def record(self) -> Run:
        return self.files.record.run

    @property
    def profile(self) -> str:
        return self.files.record.profile

    @property
    def sha256(self) -> str:
        """Of the file `network.safetensors`."""
        return self.files.record.sha256

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(**self.files.record.preprocessing.model_dump())

    @property
    def ranges(self) -> list[SourceRange]:
        return self.files.ranges

    @property
    def moments(self) -> Moments:
        kept = self.files.record.colour
        return Moments(np.array(kept.mean), np.array(kept.spread))

    @property
    def crops(self) -> dict[str, Any]:
        return {name: self.files.record.sets[name].crop for name in sources_of(self.source)}

    @cached_property
    def stain(self) -> Stain | None:
        kept = self.files.record.stain
        return None if kept is None else restored_stain(kept.name, kept.fitted)

    def stored(self) -> pd.DataFrame:
        return self.files.stored()

    def prepared(self, domain: str, part: str) -> Images:
        return self.prepared_images.test_set(domain, part)

    @cached_property
    def prepared_images(self) -> PreparedImages:
        """The profile's prepared images as the network sees them, which must be here."""
        profile, run = self.files.record.profile, self.record
        images = PreparedImages(self.root, profile, self.classes, run.method.framing, self.stain)
        return images.in_fold(fold_of(run.seed, run.scenario.folds))
