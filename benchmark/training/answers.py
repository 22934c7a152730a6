"""A run's answers: its network by readout and inference, or the members of an ensemble."""

from __future__ import annotations

import copy
import hashlib
from itertools import chain

import numpy as np
import pandas as pd
import torch

from benchmark.data.arrays import Images, PreparedImages
from benchmark.errors import UserError
from benchmark.files import atomic, digest
from benchmark.inference.inferences import (
    INFERENCES,
    Conditions,
    Inference,
    log_mean_probability,
)
from benchmark.inference.readouts import READOUTS, Features, PixelFeatures, Source
from benchmark.models.loading import preprocessing
from benchmark.numerics import version
from benchmark.runs import Run
from benchmark.training.bench import Bench, axis_seed, initial_weights
from benchmark.training.checkpoints import checkpoint_path
from benchmark.training.records import predictions_table, read_outcome, run_folder


def answers(
    bench: Bench, run: Run, model: torch.nn.Module, images: PreparedImages, parts: list[Images]
) -> list[np.ndarray]:
    """Logits float32 [N, C] of each part, by the run's readout and inference."""
    method, settings = run["method"], run["settings"]
    train = images.part(run["scenario"]["source"], "train")
    where = conditions(bench, run, train.labels)
    inference = INFERENCES[method.get("inference", "single")](**settings.get("inference", {}))
    block = settings.get("readout", {})
    if readout := READOUTS[method.get("readout", "head")](**block):
        features = Features(model)
        id_val = images.part(run["scenario"]["source"], "id_val")
        seed = axis_seed("readout", run["seed"])
        if block.get("stage2_bn") == "drift":
            # A copy: the checkpoint's own network goes on to serve other readouts.
            network = PixelFeatures(copy.deepcopy(features), where.preprocessing)
            network.requires_grad_(False)
            source = Source(train.pixels, train.labels, id_val.pixels, id_val.labels, network)
            _, head = readout(source, len(bench.classes), seed)
            model = torch.nn.Sequential(network.features, head.to(bench.device))
            return [inference(model, part.pixels, where) for part in parts]
        source = Source(
            cached_features(bench, run, features, train, where),
            train.labels,
            cached_features(bench, run, features, id_val, where),
            id_val.labels,
        )
        fitted = readout(source, len(bench.classes), seed)
        fitted = fitted.to(bench.device).eval()
        if type(inference) is Inference:  # the cache serves every readout of this network
            return [
                readout_logits(fitted, cached_features(bench, run, features, part, where))
                for part in parts
            ]
        model = torch.nn.Sequential(features, fitted)
    return [inference(model, part.pixels, where) for part in parts]


def conditions(bench: Bench, run: Run, labels: np.ndarray) -> Conditions:
    """What all answers of a run have in common; `labels` are those of its training part."""
    return Conditions(
        run["settings"]["training"]["precision"],
        bench.device,
        preprocessing(initial_weights(run), run["method"]["backbone"]),
        np.bincount(labels, minlength=len(bench.classes)) / len(labels),
    )


def cached_features(
    bench: Bench, run: Run, features: Features, images: Images, where: Conditions
) -> np.ndarray:
    """Features float32 [N, D], computed once for all methods that share a training."""
    seen = hashlib.sha256(np.ascontiguousarray(images.pixels)).hexdigest()
    folder = checkpoint_path(bench.root, bench.profile, run["training_fingerprint"])
    path = folder.with_suffix("") / f"{digest([seen, version('inference')])}.npy"
    try:
        return np.load(path)
    except (FileNotFoundError, ValueError, EOFError):
        values = where.predict(features, images.pixels)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, values)
        return values


@torch.inference_mode()
def readout_logits(readout: torch.nn.Module, features: np.ndarray) -> np.ndarray:
    """Logits float32 [N, C] of features [N, D]."""
    device = next(chain(readout.parameters(), readout.buffers())).device
    return readout(torch.from_numpy(features).to(device)).float().cpu().numpy()


def average_of_members(bench: Bench, run: Run) -> pd.DataFrame:
    """An ensemble's predictions: log of the mean of its members' stored probabilities.

    Raises:
        UserError: a member is not done, or its predictions are not the recorded ones.
    """
    tables = []
    for member in run["settings"]["members"]:
        outcome = read_outcome(bench.root, bench.profile, member | {"skip": None})
        if outcome["outcome"] != "done":
            raise UserError(f"member {member['run_id']} is {outcome['outcome']}: train it first")
        folder = run_folder(bench.root, bench.profile, member["run_id"])
        tables.append(pd.read_parquet(folder / "predictions.parquet"))
    columns = [f"logit_{name}" for name in bench.classes]
    logits = [torch.from_numpy(t[columns].to_numpy(np.float32, copy=True)) for t in tables]
    mean = log_mean_probability(torch.stack(logits)).numpy()
    labels = tables[0]["label"].to_numpy().astype(np.int64)
    facts = tables[0].drop(columns=[*columns, "label"])
    return predictions_table(facts, labels, mean, bench.classes)
