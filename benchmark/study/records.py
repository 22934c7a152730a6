"""A run on disk: `run.json` and `predictions.parquet` in one folder, which belong together.

The record states the SHA-256 of the predictions, and both state the run, its fingerprint and the
SHA-256 of the network that answered.

Trained states kept beside the results: a new target domain, or a kill, costs no training.

A network is known by the SHA-256 of its state. A checkpoint carries it, and is checked when it is
read; a record carries it, since its predictions, temperature and thresholds belong to one network.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from benchmark.errors import ChangedInput, UserError
from benchmark.files import (
    atomic,
    digest,
    read_json,
    sha256_file,
    writable_folder,
    write_json,
)
from benchmark.parts import BUILT
from benchmark.study.plan import plan_path, profile_folder, read_plan
from benchmark.study.predictions import fault_of_file, in_metadata
from benchmark.study.runs import Member, Run, RunRecord, read_run_record
from benchmark.texts import shortened

if TYPE_CHECKING:  # what has to do with networks loads PyTorch itself: a plan needs none
    from torch import Tensor, nn

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
    import torch

    whole = hashlib.sha256()
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        whole.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def write_checkpoint(path: Path, result: Fit, environment: dict[str, Any]) -> None:
    """Keep the best state, how it came about and where, beside the results (not in git)."""
    from safetensors.torch import save

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
    import torch

    from benchmark.training.fit import Fit

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


def is_network_of(record: RunRecord, result: Fit) -> bool:
    """Whether the answers in a record are those of the network at hand.

    A record from before networks were hashed is known by its history: the losses and scores of
    every epoch to the last bit, which another processor, or another number of threads, does not
    give again. Where nothing was trained there is none, and such a record is of no known network.
    """
    if record.network_sha256:
        return record.network_sha256 == network_sha256(result.state)
    told = record.history, record.selection
    return bool(result.history) and told == (result.history, result.selection)


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
    return FileLock(folder / f"{run.training_fingerprint}.lock", timeout=0)


def read_outcome(root: Path, profile: str, run: Run | Member) -> dict[str, Any]:
    """Outcome of a planned run: outcome, reason, predictions_sha256.

    A record of another fingerprint, a broken record, predictions that are not the recorded ones or
    are another run's, and an average of other predictions than its members have today count as
    `missing`: only what is whole and current is done.
    """
    if run.skip:
        return {"outcome": "skipped", "reason": run.skip, "predictions_sha256": None}
    missing = {"outcome": "missing", "reason": None, "predictions_sha256": None}
    folder = run_folder(root, profile, run.run_id)
    try:
        record = read_json(folder / "run.json")
    except UserError:
        return missing
    if not isinstance(record, dict) or record.get("fingerprint") != run.fingerprint:
        return missing
    if record.get("outcome") not in ("done", *FAILED):
        return missing
    if record["outcome"] == "done":
        if fault_of_file(folder / "predictions.parquet", record):
            return missing
        for member in record.get("members", []):
            today = find_record(root, profile, member["run_id"])
            if today is None or today.predictions_sha256 != member["predictions_sha256"]:
                return missing
    return {key: record.get(key) for key in missing}


def find_record(root: Path, profile: str, run_id: str) -> RunRecord | None:
    """A run's `run.json`; None if there is none that can be read."""
    try:
        return read_run_record(run_folder(root, profile, run_id) / "run.json")
    except UserError:
        return None


def kind_of_work(root: Path, profile: str, run: Run) -> str:
    """What a run that is not done costs: `predict` where its network is here, else `train`."""
    training = run.settings.training
    if training is None or not training.epochs:
        return "predict"  # an average of stored predictions, or a network that is not trained
    here = checkpoint_path(root, profile, run.training_fingerprint).is_file()
    return "predict" if here else "train"


def work_of(root: Path, profile: str, runs: list[Run]) -> Counter[str]:
    """How many of some runs that are not done only `predict`, how many need a network to `train`,
    how many `trainings` these come to, and how many recorded answers they `replace`."""
    work: Counter[str] = Counter()
    trainings = set()
    for run in runs:
        kind = kind_of_work(root, profile, run)
        work[kind] += 1
        if kind == "train":
            trainings.add(run.training_fingerprint)
            # The network of these answers is not here: another one must not go on with them.
            record = find_record(root, profile, run.run_id)
            current = record is not None and record.answering == run.answering
            work["replace"] += current and record.outcome == "done"
    work["trainings"] = len(trainings)
    return work


def told(work: Counter[str]) -> str:
    """What is to be done, as the end of a line; nothing if there is nothing to do."""
    text = f", {work['predict']} to predict" if work["predict"] else ""
    if work["train"]:
        text += f", {work['train']} to train ({work['trainings']} trainings)"
    return text


def finished(root: Path, profile: str, run: Run) -> bool:
    """Whether a run needs no work. A failed run is tried again, never taken for a result."""
    return read_outcome(root, profile, run)["outcome"] in ("done", "skipped")


def told_of(root: Path, profile: str, runs: list[Run], left: list[Run]) -> str:
    """How many runs are planned, how many of them are done, and what those that are left cost."""
    text = f"{len(runs)} runs planned, {len(runs) - len(left)} done or skipped"
    return text + told(work_of(root, profile, left))


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
    """Put a run's files in place of older ones of the same name.

    Both are on disk before the first gets its name. A kill between the two leaves a record of
    predictions that are not there, which counts as `missing` and is made again.
    """
    folder, record = Path(folder), {"schema_version": SCHEMA_VERSION} | record
    path = folder / "predictions.parquet"
    if predictions is None:
        write_json(folder / "run.json", record)
        path.unlink(missing_ok=True)
        return
    table = pa.Table.from_pandas(predictions, preserve_index=False)
    table = table.replace_schema_metadata(table.schema.metadata | in_metadata(record))
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
        write_json(folder / "run.json", record | {"predictions_sha256": sha256_file(temporary)})


def write_index(root: Path, profile: str, experiment: str) -> list[dict[str, Any]]:
    """Write `results/<profile>/experiments/<experiment>.json`: every planned run and its outcome.

    The index is what later stages depend on. It holds digests and no times, so that training again
    to the same bits changes nothing downstream.
    """
    path = plan_path(root, profile, experiment)
    rows = []
    for run in read_plan(path).runs:
        planned = run.record()
        row = {key: planned[key] for key in ("run_id", "fingerprint")}
        row |= read_outcome(root, profile, run)
        row["method"] = planned["method"] | {"training": training_digest(run)} | built(run)
        rows.append(row | {key: planned[key] for key in ("track", "scenario", "seed")})
    index = read_json(path) | {"runs": rows}
    write_json(profile_folder(root, profile) / "experiments" / f"{experiment}.json", index)
    return rows


def renew_indices(root: Path, profile: str, run: Run) -> None:
    """Write the index of each trained experiment that holds a run, after it was carried out."""
    for path in sorted((profile_folder(root, profile) / "experiments").glob("*.json")):
        if any(row["run_id"] == run.run_id for row in read_json(path)["runs"]):
            write_index(root, profile, path.stem)


def built(run: Run) -> dict[str, Any]:
    """What blocks of a run build, where their names do not say so."""
    of = {part: run.settings.block(part).get("of") for part in BUILT}
    of = {part: function for part, function in of.items() if function}
    return {"of": of} if of else {}


def training_digest(run: Run) -> str:
    """Tells apart methods that are trained for longer, averaged or sampled in another way."""
    # The name of the augmentation stands among the parts of the method.
    training = run.record()["settings"].get("training", {})
    return digest({key: value for key, value in training.items() if key != "augmentation"})
