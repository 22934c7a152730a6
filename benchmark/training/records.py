"""A run on disk: `run.json` and `predictions.parquet` in one folder, whole or absent."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from benchmark.errors import UserError
from benchmark.files import (
    cannot_write,
    digest,
    read_json,
    sha256_file,
    writable_folder,
    write_json,
)
from benchmark.plan import plan_path, profile_folder
from benchmark.runs import Run

SCHEMA_VERSION = 1
FAILED = ("nan", "oom", "error")


def run_folder(root: Path, profile: str, run_id: str) -> Path:
    """Folder of a run: `results/<profile>/runs/<method>/<scenario>/seed<k>`."""
    return profile_folder(root, profile) / "runs" / run_id


def locks_folder(root: Path, profile: str) -> Path:
    """Where each training has its lock."""
    return profile_folder(root, profile) / "locks"


def run_lock(root: Path, profile: str, run: Run) -> FileLock:
    """The lock of a run's training: runs that share one wait for it, then take its checkpoint.

    It is released by the system when a process dies.
    """
    folder = writable_folder(locks_folder(root, profile))
    return FileLock(folder / f"{run['training_fingerprint']}.lock", timeout=0)


def read_outcome(root: Path, profile: str, run: Run) -> dict[str, Any]:
    """Outcome of a planned run: outcome, reason, predictions_sha256.

    A record of another fingerprint, a broken record or predictions that are not the recorded ones
    count as `missing`: only what is whole and current is done.
    """
    if run["skip"]:
        return {"outcome": "skipped", "reason": run["skip"], "predictions_sha256": None}
    missing = {"outcome": "missing", "reason": None, "predictions_sha256": None}
    folder = run_folder(root, profile, run["run_id"])
    try:
        record = read_json(folder / "run.json")
    except UserError:
        return missing
    if record.get("fingerprint") != run["fingerprint"]:
        return missing
    if record["outcome"] == "done":
        predictions = folder / "predictions.parquet"
        if not predictions.exists() or sha256_file(predictions) != record["predictions_sha256"]:
            return missing
    return {key: record[key] for key in missing}


def predictions_table(
    facts: pd.DataFrame, labels: np.ndarray, logits: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """One row per predicted image: image, domain, part, group, label, logit_<class> (float16).

    Args:
        facts: table of the images.
        labels: int64 [N].
        logits: float32 [N, C].
    """
    columns = {"label": labels.astype(np.int8)}
    # float16 holds logits to three digits, ends at 65504, and halves what is committed.
    halves = np.clip(logits, -65504, 65504).astype(np.float16)
    columns |= {f"logit_{name}": halves[:, i] for i, name in enumerate(classes)}
    return facts.reset_index(drop=True).assign(**columns)


def write_run(folder: Path, record: dict[str, Any], predictions: pd.DataFrame | None) -> None:
    """Put a run's folder in place in one rename; an older run of the same name gives way to it."""
    work = folder.with_name(f".{folder.name}.{os.getpid()}.work")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if predictions is not None:
            path = work / "predictions.parquet"
            predictions.to_parquet(path, index=False, compression="zstd")
            with path.open("rb+") as file:
                os.fsync(file.fileno())
            record = record | {"predictions_sha256": sha256_file(path)}
        write_json(work / "run.json", {"schema_version": SCHEMA_VERSION} | record)
        if folder.exists():
            folder.rename(old)
        work.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_index(root: Path, profile: str, experiment: str) -> list[dict[str, Any]]:
    """Write `results/<profile>/experiments/<experiment>.json`: every planned run and its outcome.

    The index is what later stages depend on. It holds digests and no times, so that training again
    to the same bits changes nothing downstream.
    """
    plan = read_json(plan_path(root, profile, experiment))
    keys = ("run_id", "fingerprint")
    more = ("track", "scenario", "seed")
    plan["runs"] = [
        {k: run[k] for k in keys}
        | read_outcome(root, profile, run)
        | {"method": run["method"] | {"training": training_digest(run)}}
        | {k: run[k] for k in more}
        for run in plan["runs"]
    ]
    write_json(profile_folder(root, profile) / "experiments" / f"{experiment}.json", plan)
    return plan["runs"]


def training_digest(run: Run) -> str:
    """Tells apart methods that are trained for longer, averaged or sampled in another way."""
    training = run["settings"].get("training", {})
    # The name of the augmentation stands among the parts of the method.
    return digest({key: value for key, value in training.items() if key != "augmentation"})
