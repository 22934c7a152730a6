"""Trained states kept beside the results: a new target domain, or a kill, costs no training."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from benchmark.files import atomic
from benchmark.plan import profile_folder
from benchmark.training.fit import Fit


def checkpoint_path(root: Path, profile: str, training_fingerprint: str) -> Path:
    """Where the state of a training lies; not in git."""
    return profile_folder(root, profile) / "checkpoints" / f"{training_fingerprint}.safetensors"


def write_checkpoint(path: Path, result: Fit) -> None:
    """Keep the best state and its history beside the results (not in git)."""
    facts = {
        "best_epoch": result.best_epoch,
        "id_val_macro_f1": result.id_val_macro_f1,
        "history": result.history,
        "images_per_s": result.images_per_s,
    }
    with atomic(path) as temporary:
        state = {name: value.contiguous() for name, value in result.state.items()}
        # Not `save_file`: on a full disk it raises an error of its own, which says less.
        temporary.write_bytes(save(state, metadata={"fit": json.dumps(facts)}))


def read_checkpoint(path: Path) -> Fit | None:
    """A checkpoint written by `write_checkpoint`, or None if there is no whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["fit"])
            names = file.keys()
            return Fit({name: file.get_tensor(name) for name in names}, **facts)
    except (FileNotFoundError, SafetensorError):
        return None
