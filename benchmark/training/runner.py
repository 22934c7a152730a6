"""Carry out the planned runs of an experiment: skip what is done, lock each, record outcomes."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from benchmark.config import Training, corruption_of
from benchmark.data.arrays import Images, PreparedImages
from benchmark.errors import UserError
from benchmark.files import digest, read_json
from benchmark.inference.predict import predict
from benchmark.models.build import build_model
from benchmark.models.loading import preprocessing, weights_sha256
from benchmark.models.weights import Preprocessing, Weights
from benchmark.plan import Run, plan_path, profile_folder
from benchmark.progress import say
from benchmark.training.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from benchmark.training.device import choose_device, configure, environment
from benchmark.training.fit import Fit, NotFinite, fit
from benchmark.training.loss import join
from benchmark.training.losses import LOSSES
from benchmark.training.records import (
    FAILED,
    predictions_table,
    read_outcome,
    run_folder,
    write_index,
    write_run,
)

HELD_OUT = ("id_val", "calibration", "id_test")


@dataclass
class Bench:
    """What the runs of an experiment have in common: a profile's images and a device."""

    root: Path
    profile: str
    classes: list[str]
    device: torch.device
    images: PreparedImages
    stained: dict[tuple[str, str], PreparedImages] = field(default_factory=dict)

    def images_of(self, run: Run) -> PreparedImages:
        """The images as a run sees them: those of the last stain normalisation are kept."""
        key = run["scenario"]["source"], run["method"].get("stain", "none")
        if key[1] == "none":
            return self.images
        if key not in self.stained:
            self.stained = {key: self.images.stained(*key)}
        return self.stained[key]


def train_experiment(root: Path, profile: str, experiment: str) -> None:
    """Carry out every run of a plan that is not done, then write the experiment's index.

    Two processes may work on the same plan at once: each takes the runs that the other has not.

    Raises:
        UserError: after all runs were tried, one line with those that failed.
    """
    plan = read_json(plan_path(root, profile, experiment))
    device = choose_device()
    configure(device)
    bench: Bench | None = None
    waiting = [r for r in plan["runs"] if not finished(root, profile, r)]
    done = len(plan["runs"]) - len(waiting)
    say(f"{profile}/{experiment}: {len(plan['runs'])} runs planned, {done} done or skipped")
    locks = profile_folder(root, profile) / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    while waiting:
        held_elsewhere = []
        for run in waiting:
            lock = FileLock(locks / f"{digest(run['run_id'])}.lock", timeout=0)
            try:
                with lock:
                    if not finished(root, profile, run):
                        if bench is None:
                            images = PreparedImages(root, profile, plan["classes"])
                            bench = Bench(root, profile, plan["classes"], device, images)
                        outcome = carry_out(bench, run)
                        say(f"[{done + 1}/{len(plan['runs'])}] {run['run_id']}: {outcome}")
                    done += 1
            except Timeout:
                held_elsewhere.append(run)
        if held_elsewhere and len(held_elsewhere) == len(waiting):
            time.sleep(2)
        waiting = held_elsewhere
    index = write_index(root, profile, experiment)
    failed = [r for r in index if r["outcome"] in (*FAILED, "missing")]
    if failed:
        first = failed[0]
        raise UserError(
            f"{experiment}: {len(failed)} of {len(index)} runs failed, the others are kept; "
            f"first: {first['run_id']}: {first['outcome']}: {first['reason']}"
        )


def finished(root: Path, profile: str, run: Run) -> bool:
    """Whether a run needs no work. A failed run is tried again, never taken for a result."""
    return read_outcome(root, profile, run)["outcome"] in ("done", "skipped")


def carry_out(bench: Bench, run: Run) -> str:
    """Train (or take the checkpoint), predict every held-out image, write the record.

    Returns:
        A line that tells the outcome.
    """
    record: dict[str, Any] = {
        "run_id": run["run_id"],
        "fingerprint": run["fingerprint"],
        "training_fingerprint": run["training_fingerprint"],
        "outcome": "done",
        "reason": None,
        **{k: run[k] for k in ("method", "track", "scenario", "seed", "settings")},
        "predictions_sha256": None,
        "environment": environment(bench.device),
    }
    predictions = None
    started = time.perf_counter()
    try:
        images = bench.images_of(run)
        model, result, trained_s = trained_model(bench, run, images)
        trained = time.perf_counter()
        precision = run["settings"]["training"]["precision"]
        weights = initial_weights(run)
        expected = preprocessing(weights, run["method"]["backbone"])
        parts = predicted_parts(images, run)
        logits = [predict(model, p.pixels, precision, bench.device, expected) for p in parts]
        if not all(np.isfinite(values).all() for values in logits):
            raise NotFinite("logits of a test set are not finite")
        predictions = predictions_table(
            [(p.table, p.labels, z) for p, z in zip(parts, logits, strict=True)], bench.classes
        )
        record |= {
            "selection": {
                "best_epoch": result.best_epoch,
                "id_val_macro_f1": result.id_val_macro_f1,
            },
            "history": result.history,
            **({"stain_failures": images.stain_failures} if images.stain else {}),
            **({} if weights.from_scratch else {"weights": loaded(weights, run, expected)}),
            "train_images_per_s": result.images_per_s,
            "time": {
                "train_s": round(trained_s, 3),
                "load_s": round(trained - started - trained_s, 3),
                "evaluate_s": round(time.perf_counter() - trained, 3),
            },
        }
        line = (
            f"done, id_val macro-F1 {result.id_val_macro_f1:.3f} at epoch {result.best_epoch}, "
            f"{time.perf_counter() - started:.0f} s"
        )
    except NotFinite as error:
        record |= {"outcome": "nan", "reason": str(error)}
    except (torch.OutOfMemoryError, MemoryError) as error:
        record |= {"outcome": "oom", "reason": f"out of memory, lower batch_size ({error})"}
    except UserError as error:
        record |= {"outcome": "error", "reason": str(error)}
    except Exception as error:  # noqa: BLE001  one broken method must not end the others
        record |= {
            "outcome": "error",
            "reason": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc().splitlines()[-12:],
        }
    if record["outcome"] != "done":
        line = f"{record['outcome']}: {record['reason']}"
    write_run(run_folder(bench.root, bench.profile, run["run_id"]), record, predictions)
    return line


def initial_weights(run: Run) -> Weights:
    """The weights that a run starts from."""
    return Weights.model_validate(run["settings"].get("weights", {}))


def loaded(weights: Weights, run: Run, expected: Preprocessing) -> dict[str, Any]:
    """What a record says of weights that were loaded: their hash and the input they expect."""
    return {"sha256": weights_sha256(weights, run["method"]["backbone"]), **asdict(expected)}


def predicted_parts(images: PreparedImages, run: Run) -> list[Images]:
    """What a run predicts: the source's held-out parts, then its targets."""
    source = run["scenario"]["source"]
    parts = [images.part(source, part) for part in HELD_OUT]
    for target in run["scenario"]["targets"]:
        corruption = corruption_of(target)
        parts.append(images.corrupted(*corruption) if corruption else images.domain(target))
    return parts


def trained_model(
    bench: Bench, run: Run, images: PreparedImages
) -> tuple[torch.nn.Module, Fit, float]:
    """The run's network at its best epoch, how it got there, and the seconds spent training.

    A checkpoint of the same training fingerprint is taken as it is: a new target domain, or a run
    killed while it predicted, costs no training.
    """
    method, settings, source = run["method"], run["settings"], run["scenario"]["source"]
    weights = initial_weights(run)
    train = images.part(source, "train")
    counts = torch.bincount(torch.from_numpy(train.labels), minlength=len(bench.classes))
    model = build_model(
        method["backbone"],
        method["normalisation"],
        settings["normalisation"],
        len(bench.classes),
        settings["image_size"],
        # Seeds by named axis: initial weights by backbone, so that normalisations and losses are
        # paired; order and augmentation by seed alone, the same for every method.
        seed=axis_seed("initialisation", method["backbone"], run["seed"]),
        weights=weights,
        head=method.get("head", "linear"),
        freezing=method.get("freezing", "none"),
    )
    loss = join(
        LOSSES[method["loss"]](counts.to(bench.device), **settings["loss"]),
        model,
        seed=axis_seed("head", method["backbone"], run["seed"]),
    )
    path = checkpoint_path(bench.root, bench.profile, run["training_fingerprint"])
    result, seconds = read_checkpoint(path), 0.0
    if result is None:
        started = time.perf_counter()
        result = fit(
            model,
            loss,
            train,
            images.part(source, "id_val"),
            Training.model_validate(settings["training"]),
            order_seed=axis_seed("order", run["seed"]),
            device=bench.device,
            description=f"epochs of {run['run_id']}",
            preprocessing=preprocessing(weights, method["backbone"]),
        )
        seconds = time.perf_counter() - started
        write_checkpoint(path, result)
    model.load_state_dict(result.state)
    return model.to(bench.device, memory_format=torch.channels_last), result, seconds


def axis_seed(*axis: str | int) -> int:
    """A 63-bit seed from the names it depends on, and on nothing else."""
    return int(digest(list(axis)), 16) >> 1
