"""Trained states kept beside the results: a new target domain, or a kill, costs no training.

A network is known by the SHA-256 of its state. A checkpoint carries it, and is checked when it is
read; a record carries it, since its predictions, temperature and thresholds belong to one network.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from benchmark.errors import ChangedInput
from benchmark.files import atomic
from benchmark.plan import profile_folder
from benchmark.texts import shortened
from benchmark.training.fit import Fit


def checkpoints_folder(root: Path, profile: str) -> Path:
    """Where the networks of a profile lie; not in git."""
    return profile_folder(root, profile) / "checkpoints"


def checkpoint_path(root: Path, profile: str, training_fingerprint: str) -> Path:
    """Where the state of a training lies."""
    return checkpoints_folder(root, profile) / f"{training_fingerprint}.safetensors"


def network_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 of a network's state: name, type, shape and bytes of each tensor, by name.

    By name, since a file of tensors keeps no order of its own.
    """
    whole = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def write_checkpoint(path: Path, result: Fit, environment: dict[str, Any]) -> None:
    """Keep the best state, how it came about and where, beside the results (not in git)."""
    facts = {
        "best_epoch": result.best_epoch,
        "id_val_macro_f1": result.id_val_macro_f1,
        "history": result.history,
        "images_per_s": result.images_per_s,
    }
    about = {
        "fit": json.dumps(facts),
        "environment": json.dumps(environment),
        "network_sha256": network_sha256(result.state),
        "training": path.stem,
    }
    with atomic(path) as temporary:
        state = {name: value.contiguous() for name, value in result.state.items()}
        # Not `save_file`: on a full disk it raises an error of its own, which says less.
        temporary.write_bytes(save(state, metadata=about))


def read_checkpoint(path: Path) -> Fit | None:
    """A checkpoint written by `write_checkpoint`, or None if there is none.

    Raises:
        ChangedInput: the file is damaged, or is not what was written (another hash than it states,
            the name of another training, a value that is not finite).
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        result = Fit(state, **json.loads(about["fit"]))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise damaged(path, reason) from None
    # What was written before checkpoints were hashed states no hash.
    if about.get("network_sha256", known := network_sha256(state)) != known:
        raise damaged(path, "its tensors have another SHA-256 than it states")
    # A network under the name of another seed answers like one, and no tensor tells.
    if (training := about.get("training", path.stem)) != path.stem:
        raise damaged(path, f"the network of training {shortened(training)}")
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise damaged(path, f"{name} holds values that are not finite")
    result.environment = json.loads(about.get("environment", "null"))
    return result


def damaged(path: Path, reason: str) -> ChangedInput:
    """What a checkpoint that cannot be trusted is answered with."""
    return ChangedInput(
        f"{path} is no checkpoint as it was written ({reason}): copy it again from where it was "
        "trained, or delete it"
    )


def load_network(model: nn.Module, result: Fit, path: Path) -> None:
    """Put a checkpoint's state into a network built for it.

    Raises:
        ChangedInput: the state is of another architecture.
    """
    try:
        model.load_state_dict(result.state)
    except RuntimeError as error:
        # The first line names the class; the second begins with the first name that is amiss.
        reason = str(error).splitlines()[1].strip()
        raise damaged(path, f"of another network: {shortened(reason, 100)}") from None


def is_network_of(record: dict[str, Any], result: Fit) -> bool:
    """Whether the answers in a record are those of the network at hand.

    A record from before networks were hashed is known by its history: the losses and scores of
    every epoch to the last bit, which another processor, or another number of threads, does not
    give again. Where nothing was trained there is none, and such a record is of no known network.
    """
    if known := record.get("network_sha256"):
        return known == network_sha256(result.state)
    told = record.get("history"), record.get("selection")
    return bool(result.history) and told == (result.history, result.selection)
