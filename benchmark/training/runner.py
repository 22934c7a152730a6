"""Carry out the planned runs of an experiment: skip what is done, lock each, record outcomes."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from benchmark.config import Training
from benchmark.data.arrays import PreparedImages
from benchmark.errors import UserError
from benchmark.files import digest, read_json
from benchmark.inference.predict import predict
from benchmark.models.build import build_model
from benchmark.plan import Run, plan_path, profile_folder
from benchmark.progress import say
from benchmark.training.checkpoints import checkpoint_path, read_checkpoint, write_checkpoint
from benchmark.training.device import choose_device, configure, environment
from benchmark.training.fit import Fit, NotFinite, fit
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


def train_experiment(root: Path, profile: str, experiment: str) -> None:
    """Carry out every run of a plan that is not done, then write the experiment's index.

    Two processes may work on the same plan at once: each takes the runs that the other has not.

    Raises:
        UserError: after all runs were tried, one line with those that failed.
    """
    plan = read_json(plan_path(root, profile, experiment))
    device = choose_device()
    configure(device)
    images: PreparedImages | None = None
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
                        images = images or PreparedImages(root, profile, plan["classes"])
                        outcome = carry_out(root, profile, run, plan["classes"], images, device)
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


def carry_out(
    root: Path,
    profile: str,
    run: Run,
    classes: list[str],
    images: PreparedImages,
    device: torch.device,
) -> str:
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
        "environment": environment(device),
    }
    predictions = None
    started = time.perf_counter()
    try:
        model, result, trained_s = trained_model(root, profile, run, classes, images, device)
        trained = time.perf_counter()
        source, precision = run["scenario"]["source"], run["settings"]["training"]["precision"]
        parts = [images.part(source, part) for part in HELD_OUT]
        parts += [images.domain(target) for target in run["scenario"]["targets"]]
        logits = [predict(model, part.pixels, precision, device) for part in parts]
        if not all(np.isfinite(values).all() for values in logits):
            raise NotFinite("logits of a test set are not finite")
        predictions = predictions_table(
            [(p.table, p.labels, z) for p, z in zip(parts, logits, strict=True)], classes
        )
        record |= {
            "selection": {
                "best_epoch": result.best_epoch,
                "id_val_macro_f1": result.id_val_macro_f1,
            },
            "history": result.history,
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
    write_run(run_folder(root, profile, run["run_id"]), record, predictions)
    return line


def trained_model(
    root: Path,
    profile: str,
    run: Run,
    classes: list[str],
    images: PreparedImages,
    device: torch.device,
) -> tuple[torch.nn.Module, Fit, float]:
    """The run's network at its best epoch, how it got there, and the seconds spent training.

    A checkpoint of the same training fingerprint is taken as it is: a new target domain, or a run
    killed while it predicted, costs no training.
    """
    method, settings = run["method"], run["settings"]
    model = build_model(
        method["backbone"],
        method["normalisation"],
        settings["normalisation"],
        len(classes),
        settings["image_size"],
        # Seeds by named axis: initial weights by backbone, so that normalisations and losses are
        # paired; order and augmentation by seed alone, the same for every method.
        seed=axis_seed("initialisation", method["backbone"], run["seed"]),
    )
    path = checkpoint_path(root, profile, run["training_fingerprint"])
    result, seconds = read_checkpoint(path), 0.0
    if result is None:
        train = images.part(run["scenario"]["source"], "train")
        counts = torch.bincount(torch.from_numpy(train.labels), minlength=len(classes))
        loss = LOSSES[method["loss"]](counts.to(device), **settings["loss"])
        started = time.perf_counter()
        result = fit(
            model,
            loss,
            train,
            images.part(run["scenario"]["source"], "id_val"),
            Training.model_validate(settings["training"]),
            order_seed=axis_seed("order", run["seed"]),
            device=device,
            description=f"epochs of {run['run_id']}",
        )
        seconds = time.perf_counter() - started
        write_checkpoint(path, result)
    model.load_state_dict(result.state)
    return model.to(device, memory_format=torch.channels_last), result, seconds


def axis_seed(*axis: str | int) -> int:
    """A 63-bit seed from the names it depends on, and on nothing else."""
    return int(digest(list(axis)), 16) >> 1
