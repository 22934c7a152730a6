"""Carry out the planned runs of an experiment: skip what is done, lock each, record outcomes."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import Timeout

from benchmark.data.arrays import OPEN_SET_PART, OPEN_SET_SUFFIX, PreparedImages, open_set_of
from benchmark.device import environment
from benchmark.errors import ChangedInput, UserError
from benchmark.execution.networks import RunContext, axis_seed, build_network, input_of
from benchmark.execution.predicting import average_of_members, predict_parts
from benchmark.metrics import confusion_matrix, macro_f1_present
from benchmark.models.weights import preprocessing, weights_sha256
from benchmark.parts import PLAIN
from benchmark.progress import say
from benchmark.settings import Weights
from benchmark.study.plan import plan_path, profile_folder, read_plan
from benchmark.study.predictions import TestSet, networks_apart, read_stored
from benchmark.study.records import (
    FAILED,
    checkpoint_path,
    find_record,
    finished,
    is_network_of,
    kind_of_work,
    load_network,
    network_sha256,
    predictions_table,
    read_checkpoint,
    read_outcome,
    renew_indices,
    run_folder,
    run_lock,
    told_of,
    write_checkpoint,
    write_index,
    write_run,
)
from benchmark.study.runs import Run, RunRecord, read_run_record
from benchmark.training.fit import Fit, NotFinite, fit

HELD_OUT = ("id_val", "calibration", "id_test")
DONE_BEFORE = "done already"
WAIT_S = 2.0
"""How long to wait before runs that another process holds are asked for again."""


def train_experiment(root: Path, profile: str, experiment: str) -> None:
    """Carry out every run of a plan that is not done, then write the experiment's index.

    Two processes may work on the same plan at once: each takes the runs that the other has not.

    Raises:
        UserError: raised after all runs were attempted, one line with those that failed.
    """
    plan = read_plan(plan_path(root, profile, experiment))
    runs = plan.runs
    context = RunContext(root, profile, plan.classes)
    # Seed by seed, so that what is there when a long study is stopped are whole repetitions.
    planned = sorted(runs, key=lambda run: run.seed)
    left = [run for run in planned if not finished(root, profile, run)]
    say(f"{profile}/{experiment}: {told_of(root, profile, runs, left)}")
    first = len(runs) - len(left) + 1
    for number, (run, outcome) in enumerate(carry_out(context, left), first):
        if outcome != DONE_BEFORE:
            say(f"[{number}/{len(runs)}] {run.run_id}: {outcome}")
    for line in networks_apart(profile_folder(root, profile), [run.run_id for run in runs]):
        say(f"note: {line}")
    write_indices(root, profile, [experiment], experiment)


def train_one(root: Path, profile: str, classes: list[str], runs: list[Run]) -> None:
    """Carry out single runs, say what became of each, and tell the experiments that hold them.

    Raises:
        UserError: a run failed or makes no sense, or another process works on it.
    """
    for run, line in carry_out(RunContext(root, profile, classes), runs, wait=False):
        name, folder = run.run_id, run_folder(root, profile, run.run_id)
        if line is None:
            raise UserError(f"{name}: another process works on it: wait for it")
        if line != DONE_BEFORE:
            say(f"{name}: {line}")
        elif kind_of_work(root, profile, run) == "train":
            say(
                f"{name}: done before; its network is not on this machine (checkpoints are not in "
                "git): a new target and `wbc-shift predict` need it. To train one here, whose "
                f"predictions then replace the recorded ones, delete {folder} and run this again"
            )
        renew_indices(root, profile, run)
        outcome = read_outcome(root, profile, run)
        if outcome["outcome"] != "done":
            raise UserError(f"{name}: {outcome['outcome']}: {outcome['reason']}")
        table = read_stored(profile_folder(root, profile), read_run_record(folder / "run.json"))
        known = table[table["part"] != OPEN_SET_PART]
        for (domain, part), rows in known.groupby(["domain", "part"], sort=False):
            predicted = rows[[f"logit_{name}" for name in classes]].to_numpy().argmax(1)
            counts = confusion_matrix(rows["label"].to_numpy(), predicted, len(classes))
            score = macro_f1_present(counts)
            text = f"macro-F1 over present classes {100 * score:.1f} %"
            say(f"  {domain} ({part}, n = {len(rows)}): {text}")


def write_indices(root: Path, profile: str, experiments: list[str], title: str) -> None:
    """Write the index of experiments that were carried out.

    Args:
        title: what the experiments are together, for the message.

    Raises:
        UserError: some of their runs are not done.
    """
    rows: dict[str, dict[str, Any]] = {}
    for experiment in experiments:
        rows |= {row["run_id"]: row for row in write_index(root, profile, experiment)}
    failed = [
        f"{name}: {row['outcome']}: {row['reason']}"
        for name, row in rows.items()
        if row["outcome"] in (*FAILED, "missing")
    ]
    if failed:
        raise UserError(
            f"{title}: {len(failed)} of {len(rows)} runs failed, the others are kept; "
            f"first: {failed[0]}"
        )


def carry_out(
    context: RunContext, runs: list[Run], wait: bool = True
) -> Iterator[tuple[Run, str | None]]:
    """Carry out runs one after the other, each under its lock.

    A run that another process holds comes last, when it is released, and an ensemble after its
    members.

    Args:
        wait: for runs that another process holds; else they are yielded in their turn.

    Yields:
        A run and a line that tells its outcome: `DONE_BEFORE` where there was nothing to do, None
        where another process holds it.
    """
    root, profile = context.root, context.profile
    waiting = runs
    while waiting:
        held: list[Run] = []
        for run in waiting:
            names = {one.run_id for one in held}
            if any(member.run_id in names for member in run.settings.members):
                held.append(run)
                continue
            line: str | None = DONE_BEFORE
            try:
                with run_lock(root, profile, run):
                    if not finished(root, profile, run):
                        context.open_images()
                        line = carry_out_run(context, run)
            except Timeout:
                if wait:
                    held.append(run)
                    continue
                line = None
            yield run, line
        if len(held) == len(waiting):
            time.sleep(WAIT_S)
        waiting = held


def carry_out_run(context: RunContext, run: Run) -> str:
    """Train (or take the checkpoint), predict every held-out image, write the record.

    Returns:
        A line that tells the outcome.
    """
    record = record_of(run) | {"environment": environment(context.device)}
    predictions = None
    started = time.perf_counter()
    try:
        work = average_members if run.settings.members else train_and_predict
        facts, predictions, line = work(context, run)
        record |= facts
        line = f"done, {line}, {time.perf_counter() - started:.0f} s"
    except NotFinite as error:
        record |= {"outcome": "nan", "reason": str(error)}
    except (torch.OutOfMemoryError, MemoryError) as error:
        record |= {"outcome": "oom", "reason": f"out of memory, lower batch_size ({error})"}
    except ChangedInput:
        raise  # no outcome of the run: its record, which may be whole, stays
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
    write_run(run_folder(context.root, context.profile, run.run_id), record, predictions)
    return line


def record_of(run: Run) -> dict[str, Any]:
    """What a run's record says of any outcome, as of one that is done."""
    planned = run.record()
    return {
        **{k: planned[k] for k in ("run_id", "fingerprint", "training_fingerprint")},
        "outcome": "done",
        "reason": None,
        **{k: planned[k] for k in ("answering", "tested")},
        **{k: planned[k] for k in ("method", "track", "scenario", "seed", "settings")},
        "predictions_sha256": None,
    }


def record_failure(root: Path, profile: str, run: Run, reason: str) -> str:
    """Record that a run failed which could not do so itself, and tell it in a line.

    Where another process has the run by now, or has done it, its record stays.
    """
    try:
        with run_lock(root, profile, run):
            if finished(root, profile, run):
                return DONE_BEFORE
            record = record_of(run) | {"outcome": "error", "reason": reason}
            write_run(run_folder(root, profile, run.run_id), record, None)
    except Timeout:
        return f"{reason}; another process works on it"
    return f"error: {reason}"


def average_members(context: RunContext, run: Run) -> tuple[dict[str, Any], pd.DataFrame, str]:
    """An ensemble's facts, predictions and a line for the log; nothing is computed twice."""
    started = time.perf_counter()
    averaged, predictions = average_of_members(context, run)
    seconds = {"evaluate_s": round(time.perf_counter() - started, 3)}
    return {"members": averaged, "time": seconds}, predictions, f"from {len(averaged)} stored runs"


def train_and_predict(context: RunContext, run: Run) -> tuple[dict[str, Any], pd.DataFrame, str]:
    """A network's facts, its predictions of every held-out image, and a line for the log.

    What an earlier record of the run predicted stands if this very network did: else every test set
    is predicted anew, and the record is of the network that is here. A readout is fitted anew, to
    other weights on another processor, so that nothing stands of what an earlier fit said.
    """
    started = time.perf_counter()
    images = context.images_of(run)
    model, result, trained_s = trained_model(context, run, images)
    trained = time.perf_counter()
    here = environment(context.device)
    network = network_sha256(result.state)
    weights = run.settings.weights
    recorded = earlier_record(context, run)
    earlier = recorded if recorded and is_network_of(recorded, result) else None
    fitted = run.method.readout != PLAIN["readout"]
    standing = standing_predictions(context, run, earlier) if earlier and not fitted else {}
    answered = earlier.answered_in or [earlier.environment] if standing else []
    answered = [*answered, here] if here not in answered else answered
    asked = [name for name in test_sets(run) if name not in standing]
    parts = [images.test_set(*name) for name in asked]
    logits = predict_parts(context, run, model, network, images, parts)
    if not all(np.isfinite(values).all() for values in logits):
        raise NotFinite("logits of a test set are not finite")
    for name, part, values in zip(asked, parts, logits, strict=True):
        standing[name] = predictions_table(part.table, part.labels, values, context.classes)
    predictions = pd.concat([standing[name] for name in test_sets(run)], ignore_index=True)
    # Where the network was trained: in this process, where its checkpoint says, where its record
    # was made.
    place = here
    if not trained_s:
        place = result.environment or (earlier.environment if earlier else here)
    spent = earlier.time if earlier else {}
    facts = {
        "network_sha256": network,
        "environment": place,
        **({} if answered == [place] else {"answered_in": answered}),
        "selection": result.selection,
        "history": result.history,
        **({"stain_failures": images.stain_failures} if images.stain else {}),
        **({} if weights.from_scratch else {"weights": loaded(weights, run)}),
        "train_images_per_s": result.images_per_s,
        "time": {
            # A record made anew keeps what its training took; one that shares a training has none.
            "train_s": round(trained_s, 3) or spent.get("train_s", 0.0),
            "load_s": round(trained - started - trained_s, 3),
            "evaluate_s": round(time.perf_counter() - trained, 3),
        },
    }
    line = f"id_val macro-F1 {result.id_val_macro_f1:.3f} at epoch {result.best_epoch}"
    line = line if result.history else "nothing to train"
    if recorded and not earlier:
        line += ", every test set predicted anew (the network of the earlier record is not here)"
    return facts, predictions, line


def loaded(weights: Weights, run: Run) -> dict[str, Any]:
    """What a record says of weights that were loaded: their hash and the input they expect."""
    expected = asdict(preprocessing(weights, run.method.backbone))
    del expected["each_image"]  # what the run's stain does, not what its weights expect
    return {"sha256": weights_sha256(weights, run.method.backbone), **expected}


def test_sets(run: Run) -> list[TestSet]:
    """What a run predicts: the source's held-out parts, its targets, and cells of no class."""
    held_out = [(run.scenario.source, part) for part in HELD_OUT]
    shifted = [(target, "shifted") for target in run.scenario.targets]
    named = [name for name in run.tested if name.endswith(OPEN_SET_SUFFIX)]
    foreign = [(name.removesuffix(OPEN_SET_SUFFIX), OPEN_SET_PART) for name in named]
    return [*held_out, *shifted, *foreign]


def tested_as(domain: str, part: str) -> str | None:
    """The key of a test set among a run's `tested`; None of one that its training settles."""
    return {"shifted": domain, OPEN_SET_PART: open_set_of(domain)}.get(part)


def earlier_record(context: RunContext, run: Run) -> RunRecord | None:
    """The whole record of the same training, readout and inference, whatever it was tested on."""
    record = find_record(context.root, context.profile, run.run_id)
    if record is None or record.answering != run.answering:
        return None
    earlier = run.model_copy(update={"fingerprint": record.fingerprint})
    whole = read_outcome(context.root, context.profile, earlier)["outcome"] == "done"
    return record if whole else None


def standing_predictions(
    context: RunContext, run: Run, record: RunRecord
) -> dict[TestSet, pd.DataFrame]:
    """Predictions of an earlier record that still hold: those of test sets that are the same.

    A new target costs its own images alone.
    """
    stored = read_stored(profile_folder(context.root, context.profile), record)
    tables = stored.groupby(["domain", "part"], sort=False)
    return {
        name: table.reset_index(drop=True)
        for name, table in tables
        if name in test_sets(run)
        and ((key := tested_as(*name)) is None or record.tested.get(key) == run.tested[key])
    }


def trained_model(
    context: RunContext, run: Run, images: PreparedImages
) -> tuple[torch.nn.Module, Fit, float]:
    """The run's network at its best epoch, how it got there, and the seconds spent training.

    A checkpoint of the same training fingerprint is taken as it is: a new target domain, or a run
    killed while it predicted, costs no training and needs no initial weights.
    """
    source, training = run.scenario.source, run.settings.training
    path = checkpoint_path(context.root, context.profile, run.training_fingerprint)
    trains = training.epochs > 0
    result, seconds = read_checkpoint(path) if trains else None, 0.0
    train = images.part(source, "train")
    counts = torch.bincount(torch.from_numpy(train.labels), minlength=len(context.classes))
    model, loss = build_network(
        run,
        len(context.classes),
        counts.to(context.device),
        state_follows=result is not None,
    )
    if not trains:
        result = Fit(model.state_dict())
    elif result is None:
        started = time.perf_counter()
        result = fit(
            model,
            loss,
            train,
            images.part(source, "id_val"),
            training,
            order_seed=axis_seed("order", run.seed),
            device=context.device,
            description=f"epochs of {run.run_id}",
            preprocessing=input_of(run),
            recipe=run.build("recipe")(),
        )
        seconds = time.perf_counter() - started
        write_checkpoint(path, result, environment(context.device))
    load_network(model, result, path)
    return model.to(context.device, memory_format=torch.channels_last), result, seconds
