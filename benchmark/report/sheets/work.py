"""Work: runs asked for, the trainings that they shared, and what each training of its own costs."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.evaluation.experiments import Experiment, done_runs
from benchmark.report.formats import NOTHING, number
from benchmark.report.sheets.sheet import Sheet
from benchmark.report.trainings import (
    Records,
    computed_seconds,
    recorded_seconds,
    training_of,
    trainings,
)

HEADER = ("experiment", "runs", "trainings, each its own", "trainings, shared")
HEADER += ("epochs, each its own", "epochs, shared", "hours, each its own", "hours, shared")
HEADER += ("hours saved (%)", "hours answering")


def work_sheet(experiments: list[Experiment], records: Records) -> Sheet:
    """A line per experiment, and one of all together, in which a run counts once."""
    recorded, computed = recorded_seconds(records), computed_seconds(records)
    seconds = recorded | computed
    done = [(e.title, [run.run_id for run in e.runs if run.done]) for e in experiments]
    rows = [(title, *texts(ids, records, seconds)) for title, ids in done]
    rows.append(("all experiments", *texts(done_runs(experiments), records, seconds)))
    unknown = sum(not spent for spent in seconds.values())
    notes = [
        "An ensemble asks for the trainings of its members, and a colour histogram for none",
        "Epochs are those before training stopped early",
        "What other runs of the machine took from a training's speed is part of its hours",
    ]
    if computed:
        notes.append(
            f"The time of {len(computed)} of {len(seconds)} trainings was not recorded (their "
            "checkpoint stood when the record was made): it is computed from their epochs and "
            "their recorded speed"
        )
    if unknown:
        notes.append(
            f"{unknown} of {len(seconds)} trainings have no recorded time (their checkpoint stood "
            "when the record was made) and are in no column of hours"
        )
    return Sheet(
        "work",
        "Work shared: runs that differ in readout, inference, or membership of an ensemble answer "
        "from one training. Trainings, epochs and hours of training if each run had its own, and "
        "as they were; and hours that the answers took.",
        HEADER,
        tuple(rows),
        tuple(notes),
    )


def texts(ids: Iterable[str], records: Records, seconds: dict[str, float]) -> list[str]:
    """The columns of runs, but for their name."""
    ids = list(ids)
    epochs = {
        training_of(record): len(record["history"])
        for record in records.values()
        if record.get("history")
    }
    asked = [training for run_id in ids for training in trainings(run_id, records)]
    shared = set(asked)
    own_s, shared_s = (sum(seconds.get(one, 0.0) for one in some) for some in (asked, shared))
    answering = sum(records.get(i, {}).get("time", {}).get("evaluate_s") or 0.0 for i in ids)
    return [
        *(str(count) for count in (len(ids), len(asked), len(shared))),
        *(str(sum(epochs[one] for one in some)) for some in (asked, shared)),
        *(number(s / 3600, 1) for s in (own_s, shared_s)),
        number(100 * (1 - shared_s / own_s), 0) if own_s else NOTHING,
        number(answering / 3600, 1),
    ]
