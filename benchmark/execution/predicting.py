"""A run's predictions: its network's, by readout and inference, or the average of an ensemble."""

from __future__ import annotations

import copy
import hashlib
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from benchmark.data.arrays import Images, PreparedImages
from benchmark.errors import UserError
from benchmark.execution.networks import RunContext, axis_seed, input_of
from benchmark.files import atomic, digest
from benchmark.models.predict import Conditions, Inference, log_mean_probability
from benchmark.study.numerics import version
from benchmark.study.plan import profile_folder
from benchmark.study.predictions import read_stored
from benchmark.study.records import checkpoint_path, predictions_table, read_outcome, run_folder
from benchmark.study.runs import Run, read_run_record
from benchmark.training.readouts import Features, PixelFeatures, Source


def predict_parts(
    context: RunContext,
    run: Run,
    model: torch.nn.Module,
    network: str,
    images: PreparedImages,
    parts: list[Images],
) -> list[np.ndarray]:
    """Logits float32 [N, C] of each part, by the run's readout and inference.

    Args:
        network: SHA-256 of the model's state.
    """
    source_name = run.scenario.source
    train = images.part(source_name, "train")
    conditions = conditions_of(context, run, train)
    inference, readout = run.build("inference")(), run.build("readout")()
    if readout is None:
        return [inference(model, part.pixels, conditions) for part in parts]
    id_val = images.part(source_name, "id_val")
    classes, seed = len(context.classes), axis_seed("readout", run.seed)
    if readout.drifts:
        # A copy: the checkpoint's own network goes on to serve other readouts.
        drifting = PixelFeatures(Features(copy.deepcopy(model)), conditions.preprocessing)
        drifting.requires_grad_(False)
        source = Source(train.pixels, train.labels, id_val.pixels, id_val.labels, drifting)
        _, head = readout(source, classes, seed)
        model = torch.nn.Sequential(drifting.features, head.to(context.device))
        return [inference(model, part.pixels, conditions) for part in parts]
    features = Features(model)

    def cached(chosen: Images) -> np.ndarray:
        return cached_features(context, run, features, network, chosen, conditions)

    source = Source(cached(train), train.labels, cached(id_val), id_val.labels)
    fitted = readout(source, classes, seed).to(context.device).eval()
    if type(inference) is Inference:  # the cache serves every readout of this network
        return [readout_logits(fitted, cached(part)) for part in parts]
    model = torch.nn.Sequential(features, fitted)
    return [inference(model, part.pixels, conditions) for part in parts]


def conditions_of(context: RunContext, run: Run, train: Images) -> Conditions:
    """What all predictions of a run have in common; `train` is its training part."""
    return Conditions(
        run.settings.training.precision,
        context.device,
        input_of(run),
        np.bincount(train.labels, minlength=len(context.classes)) / len(train),
        train.pixels,
    )


def cached_features(
    context: RunContext,
    run: Run,
    features: Features,
    network: str,
    images: Images,
    conditions: Conditions,
) -> np.ndarray:
    """Features float32 [N, D], computed once for all methods that predict from one network.

    Args:
        network: SHA-256 of the state of the network that they are features of.
    """
    seen = hashlib.sha256(np.ascontiguousarray(images.pixels)).hexdigest()
    folder = checkpoint_path(context.root, context.profile, run.training_fingerprint)
    key = digest([network, seen, version("inference")])
    path = folder.with_suffix("") / f"{key}.safetensors"
    values = kept_features(path)
    if values is None:
        values = np.ascontiguousarray(conditions.predict(features, images.pixels))
        with atomic(path) as temporary:
            about = {"sha256": hashlib.sha256(values).hexdigest()}
            temporary.write_bytes(save({"features": values}, metadata=about))
    return values


def kept_features(path: Path) -> np.ndarray | None:
    """The features in a file, or None if it is not there or not as it was written."""
    try:
        with safe_open(path, framework="np") as file:
            values = file.get_tensor("features")
            whole = file.metadata()["sha256"] == hashlib.sha256(values).hexdigest()
    except (OSError, SafetensorError, KeyError, TypeError):
        return None
    return values if whole else None


@torch.inference_mode()
def readout_logits(readout: torch.nn.Module, features: np.ndarray) -> np.ndarray:
    """Logits float32 [N, C] of features [N, D]."""
    device = next(chain(readout.parameters(), readout.buffers())).device
    return readout(torch.from_numpy(features).to(device)).float().cpu().numpy()


def average_of_members(context: RunContext, run: Run) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """An ensemble's predictions: log of the mean of its members' stored probabilities.

    Returns:
        What was averaged (run, digest of its predictions, hash of its network, if it is known),
        and the average.

    Raises:
        UserError: a member is not done, or its predictions are not the recorded ones.
    """
    averaged, tables = [], []
    for member in run.settings.members:
        outcome = read_outcome(context.root, context.profile, member)
        if outcome["outcome"] != "done":
            raise UserError(f"member {member.run_id} is {outcome['outcome']}: train it first")
        record = read_run_record(
            run_folder(context.root, context.profile, member.run_id) / "run.json"
        )
        of = ("run_id", "predictions_sha256", "network_sha256")
        averaged.append({key: getattr(record, key) for key in of})
        tables.append(read_stored(profile_folder(context.root, context.profile), record))
    columns = [f"logit_{name}" for name in context.classes]
    logits = [torch.from_numpy(t[columns].to_numpy(np.float32, copy=True)) for t in tables]
    mean = log_mean_probability(torch.stack(logits)).numpy()
    labels = tables[0]["label"].to_numpy().astype(np.int64)
    facts = tables[0].drop(columns=[*columns, "label"])
    return averaged, predictions_table(facts, labels, mean, context.classes)
