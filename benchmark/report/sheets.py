"""Sheets: corruptions, single-part ablations, gaps, throughput and shared work, a table each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.metrics import HEADLINE
from benchmark.report.facts import (
    OUTCOMES,
    computed_seconds,
    device_text,
    recorded_seconds,
    training_of,
    trainings,
)
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.results import Records, Results, Scores, by_method, cell, done_ids
from benchmark.report.table import Cell, Table, sheet
from benchmark.report.write import NOTHING

OWN = "the profile's own"


def corruption_sheet(experiment: Experiment, scores: Scores) -> Table | None:
    """Corruption × severity: a line per method and corruption; None without corruptions."""
    rows = []
    severities: list[str] = []
    for (scenario, track), runs in experiment.blocks().items():
        groups = scenario.target_groups
        own = [name for name in groups if name.startswith("severity ")]
        severities = own or severities
        where = (experiment.experiment, scenario.name, track)
        for method, planned in by_method(runs).items():
            for kind in (name for name in groups if name not in own):
                # One target each: what a severity and a kind of corruption have in common.
                places = [i for name in own for i in set(groups[name]) & set(groups[kind])]
                columns = ["in_domain", *(scenario.targets[i] for i in places), kind]
                clean, *cells, mean = (
                    cell(scores, where, method, HEADLINE, "", column) for column in columns
                )
                rows.append(
                    (
                        scenario.source,
                        method if track == "inductive" else f"{method} ({track})",
                        f"{len(done_ids(planned))}/{len(planned)}",
                        kind.replace("_", " "),
                        *(Cell(c.mean) for c in (clean, *cells)),
                        mean._replace(best=False),
                        Cell(clean.mean - mean.mean),
                    )
                )
    if not rows:
        return None
    return sheet(
        f"{experiment.experiment}_corruptions",
        f"{experiment.title}: macro-F1 in % by corruption and severity, mean over seeds; "
        f"{found_of_planned(experiment)} runs. Mean: over severities, with its 95 % interval (the "
        "corruptions of an image stay together). Drop: clean minus mean, in points.",
        ("source", "method", "runs", "corruption", "clean", *severities, "mean", "drop"),
        rows,
        gap_notes(experiment),
        words=4,
    )


def ablations_sheet(results: Results) -> Table | None:
    """Single-part ablations: what changing one part of a method did to its mean of targets, a line
    per choice; None where no two methods differ in one part alone."""
    table = results.effects
    table = table[table["column"] == "mean_target"]
    rows = []
    keys = ["part", "choice", "plain", "track"]
    for (part, choice, plain, track), own in table.groupby(keys, sort=True):
        told = own["mean"][significant(own["p_holm"])]
        higher, lower = int((told > 0).sum()), int((told < 0).sum())
        counts = (len(own), higher, lower, len(own) - higher - lower)
        ends = (Cell(100 * own["mean"].min()), Cell(100 * own["mean"].max()))
        name = (choice or OWN) + ("" if track == "inductive" else f" ({track})")
        rows.append((part, name, plain or OWN, *counts, *ends))
    if not rows:
        return None
    untested = int(table["p_holm"].isna().sum())
    alone = f"{untested} of the pairs have one seed and are not tested; they count among those"
    return sheet(
        "ablations",
        "Single-part ablations: what changing one part of a method, all else being equal, does to "
        "macro-F1 (mean of targets). Pairs: one scenario and two methods, on the seeds of both; "
        "two trainings form one pair however many readouts predict from them, and readouts and "
        "inferences are compared on the same trainings. Higher, lower: significant at 5 % over "
        f"other test images and seeds, after Holm's correction for all {len(table)} pairs of this "
        "list. Smallest and largest difference over the pairs, in points. Transductive: the choice "
        "saw unlabelled images of the target, and the baseline did not.",
        ("part", "choice", "baseline", "pairs", "higher", "lower", "no significant difference")
        + ("smallest difference", "largest difference"),
        rows,
        (f"{alone} without a significant difference",) if untested else (),
        words=3,
    )


def runs_sheet(experiments: list[Experiment]) -> Table:
    """A line per experiment, scenario and track; notes name every run that is not done."""
    rows = []
    for experiment in experiments:
        for (scenario, track), runs in experiment.blocks().items():
            counts = Counter(run.outcome for run in runs)
            found = (counts["done"], len(runs), *(counts[name] for name in OUTCOMES[1:]))
            rows.append((experiment.title, scenario.name, track, *found))
    return sheet(
        "runs",
        "Runs found and planned by experiment. A run of several experiments counts in each.",
        ("experiment", "scenario", "track", "found", "planned", *OUTCOMES[1:]),
        rows,
        gaps(experiments) or ["Every planned run is done"],
        words=3,
    )


def throughput_sheet(results: Results) -> Table:
    """A line per method and device: medians over runs, and the range of the first."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for run_id, run in results.done.items():
        if record := results.records.get(run_id):
            groups.setdefault((run.method.name, device_text(record)), []).append(record)
    rows = []
    for (method, device), own in sorted(groups.items()):
        speeds = [float(speed) for r in own if (speed := r.get("train_images_per_s"))]
        spread = f"{min(speeds):.0f} to {max(speeds):.0f}" if speeds else NOTHING
        times = [record.get("time", {}) for record in own]
        seconds = [median([t.get(name) for t in times]) for name in ("train_s", "evaluate_s")]
        rows.append((method, device, len(own), median(speeds, 1), spread, *seconds))
    return sheet(
        "throughput",
        "Throughput: images per second in training (median over runs, range) and seconds per run, "
        "by method and device. Where runs shared their machine with other work, the range is part "
        "of the result; `wbc-shift speed` measures a network alone.",
        ("method", "device", "runs", "images/s (training)", "range", "training s", "testing s"),
        rows,
        words=2,
    )


def median(values: list[float | None], decimals: int = 0) -> Cell:
    """Median of what is there and above zero: a run that took over a training spent no time."""
    known = [value for value in values if value]
    return Cell(float(np.median(known)) if known else math.nan, decimals=decimals)


def work_sheet(results: Results) -> Table:
    """A line per experiment, and one of all together, in which a run counts once."""
    records = results.records
    recorded, computed = recorded_seconds(records), computed_seconds(records)
    seconds = recorded | computed
    rows = [(e.title, *work(done_ids(e.runs), records, seconds)) for e in results.experiments]
    rows.append(("all experiments", *work(results.done, records, seconds)))
    notes = [
        "An ensemble uses the trainings of its members; a colour histogram needs none",
        "Epochs are counted up to early stopping",
        "Hours include slowdown by other jobs on the same machine",
    ]
    if computed:
        notes.append(
            f"The time of {len(computed)} of {len(seconds)} trainings was not recorded (their "
            "checkpoint existed when the record was made): it is computed from their epochs and "
            "their recorded speed"
        )
    if unknown := sum(not spent for spent in seconds.values()):
        notes.append(
            f"{unknown} of {len(seconds)} trainings have no recorded time (their checkpoint "
            "existed when the record was made) and are in no column of hours"
        )
    return sheet(
        "work",
        "Shared work: runs that differ in readout, inference or ensemble membership alone share "
        "one training. Trainings, epochs and hours of training if every run had its own, and as "
        "they were shared; and hours of prediction.",
        ("experiment", "runs", "trainings, unshared", "trainings, shared")
        + ("epochs, unshared", "epochs, shared", "hours, unshared", "hours, shared")
        + ("hours saved (%)", "hours of prediction"),
        rows,
        notes,
    )


def work(ids: Iterable[str], records: Records, seconds: dict[str, float]) -> list[int | Cell]:
    """The columns of runs, but for their name."""
    ids = list(ids)
    epochs = {training_of(r): len(r["history"]) for r in records.values() if r.get("history")}
    asked = [training for run_id in ids for training in trainings(run_id, records)]
    shared = set(asked)
    own_s, shared_s = (sum(seconds.get(one, 0.0) for one in some) for some in (asked, shared))
    answering = sum(records.get(i, {}).get("time", {}).get("evaluate_s") or 0.0 for i in ids)
    return [
        *map(len, (ids, asked, shared)),
        *(sum(epochs[one] for one in some) for some in (asked, shared)),
        *(Cell(s / 3600) for s in (own_s, shared_s)),
        Cell(100 * (1 - shared_s / own_s) if own_s else math.nan, decimals=0),
        Cell(answering / 3600),
    ]
