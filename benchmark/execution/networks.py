"""A run's network, built from its settings and given the state of its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmark.data.arrays import PreparedImages
from benchmark.data.split import fold_of
from benchmark.device import choose_device, configure
from benchmark.errors import UserError, suggest
from benchmark.files import digest
from benchmark.models.build import build_model
from benchmark.models.weights import Preprocessing, preprocessing
from benchmark.parts import PLAIN, capability
from benchmark.study.plan import profile_folder
from benchmark.study.records import (
    checkpoint_path,
    is_network_of,
    load_network,
    read_checkpoint,
    run_folder,
)
from benchmark.study.runs import Run, RunRecord, read_run_record
from benchmark.training.contracts import Loss, join


def configured_device() -> torch.device:
    """The device of this process, set up so that a run is a function of its seed."""
    device = choose_device()
    configure(device)
    return device


@dataclass
class RunContext:
    """What the runs of a profile have in common: its classes and images, and a device."""

    root: Path
    profile: str
    classes: list[str]
    device: torch.device = field(default_factory=configured_device)
    seen: dict[tuple, PreparedImages] = field(default_factory=dict)

    @cached_property
    def images(self) -> PreparedImages:
        """The profile's prepared images."""
        return PreparedImages(self.root, self.profile, self.classes)

    def open_images(self) -> None:
        """Open the images before a run is worked on: missing ones are no outcome of the run."""
        _ = self.images

    def images_of(self, run: Run) -> PreparedImages:
        """The images as a run sees them: those of the last framing and stain are kept."""
        fold = fold_of(run.seed, run.scenario.folds)
        source, stain, framing = run.scenario.source, run.method.stain, run.method.framing
        if (stain, framing) == ("none", None):
            return self.images.in_fold(fold)
        # A stain is fitted on the training part; without one, all sources and folds see the same.
        key = (framing,) if stain == "none" else (framing, stain, source, fold)
        if key not in self.seen:
            self.seen = {key: self.images.in_fold(fold).seen_by(source, stain, framing)}
        return self.seen[key].in_fold(fold)


def axis_seed(*axis: str | int) -> int:
    """A 63-bit seed from the names it depends on, and on nothing else."""
    return int(digest(list(axis)), 16) >> 1


def input_of(run: Run) -> Preprocessing:
    """How the images that a run sees become its network's input."""
    expected = preprocessing(run.settings.weights, run.method.backbone)
    each_image = capability("stain", run.method.stain, "standardises_input")
    return replace(expected, each_image=bool(each_image))


def build_network(
    run: Run, classes: int, counts: Tensor | None = None, *, state_follows: bool = False
) -> tuple[nn.Module, Loss]:
    """A run's network, and its loss, which may have brought the network's head.

    Args:
        counts: images of each class in the training part, int64 [classes], on the device; None
            where the loss is not going to be used.
        state_follows: a whole state will be loaded next, so that the initial weights need not be
            here.
    """
    method, settings = run.method, run.settings
    model = build_model(
        method.backbone,
        method.normalisation,
        settings.normalisation,
        classes,
        settings.image_size,
        # Seeds by named axis: initial weights by backbone, so that normalisations and losses are
        # paired; order and augmentation by seed alone, the same for every method.
        seed=axis_seed("initialisation", method.backbone, run.seed),
        weights=settings.weights,
        head=method.head,
        freezing=method.freezing,
        state_follows=state_follows,
    )
    counts = torch.ones(classes) if counts is None else counts
    loss = run.build("loss")(counts)
    return model, join(loss, model, seed=axis_seed("head", method.backbone, run.seed))


def read_run(root: Path, profile: str, run_id: str) -> RunRecord:
    """The record of a finished run.

    Raises:
        UserError: no such run, or it is not done.
    """
    folder, runs = run_folder(root, profile, run_id), profile_folder(root, profile) / "runs"
    known = [p.parent.relative_to(runs).as_posix() for p in runs.glob("*/*/*/run.json")]
    if run_id not in known:
        near = suggest(run_id, known) or f": {len(known)} runs are in {runs}"
        raise UserError(f"{profile}: no run '{run_id}'{near}")
    record = read_run_record(folder / "run.json")
    if record.run_id != run_id:
        raise UserError(
            f"{folder / 'run.json'} is of {record.run_id}: copy the run again from where it was "
            f"trained, or delete {folder} and run `wbc-shift train -p {profile}`"
        )
    if record.outcome != "done":
        raise UserError(f"{run_id} is not done ({record.outcome}): choose another run")
    return record


def trained_network(context: RunContext, run_id: str) -> tuple[RunRecord, nn.Module]:
    """The record of a finished run, and the network that gave its predictions, at its best epoch.

    Raises:
        UserError: no such run, or it is not done; it predicts with more than its network; its
            checkpoint is not here, is damaged, or is that of another network, to which the run's
            temperature and threshold do not belong.
    """
    root, profile = context.root, context.profile
    record = read_run(root, profile, run_id)
    method, training = record.method, record.settings.training
    fitted = method.readout != PLAIN["readout"]
    if training is None or fitted or method.inference not in ("single", "tta"):
        raise UserError(
            f"{run_id} predicts with more than its network (an ensemble, a readout, or what adapts "
            "to the test images): choose a run whose network predicts by itself"
        )
    folder = run_folder(root, profile, run_id)
    path = checkpoint_path(root, profile, record.training_fingerprint)
    result = read_checkpoint(path) if training.epochs else None
    if result is None:
        raise UserError(
            f"{path} is not on this machine (checkpoints are not in git): copy it from where the "
            f"run was trained, or delete {folder} and train it again: "
            f"wbc-shift train -p {profile}"
        )
    if not is_network_of(record, result):
        raise UserError(
            f"{path} is another network than the one that gave the predictions of {run_id}, and "
            "its temperature and threshold: copy that one from where the run was trained, or "
            f"delete {folder} and predict anew with the one that is here: "
            f"wbc-shift train -p {profile}"
        )
    model, _ = build_network(record, len(context.classes), state_follows=True)
    load_network(model, result, path)
    return record, model.to(context.device, memory_format=torch.channels_last)
