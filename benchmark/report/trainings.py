"""Trainings: records of runs in; the trainings that they answer from, and what each took, out.

Runs that differ in readout, inference or membership of an ensemble answer from one training.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

from benchmark.files import digest

Records = dict[str, dict[str, Any]]
"""run id → its `run.json`"""


def trainings(run_id: str, records: Records) -> list[str]:
    """The trainings that a run answers from: one, its members', or none."""
    record = records.get(run_id, {})
    members = record.get("settings", {}).get("members", [])
    if members:
        return [one for member in members for one in trainings(member["run_id"], records)]
    return [training_of(record)] if record.get("history") else []


def training_of(record: dict[str, Any]) -> str:
    """Tells trainings apart: by settings, data and seed, and by the course that each took.

    The same settings trained on another processor are another training.
    """
    return digest([record["training_fingerprint"], record["history"]])


def trained_apart(records: Records) -> list[list[list[str]]]:
    """Methods that share a training by their settings and answer from several: by training.

    Each way of falling apart once, whatever the seed and scenario.
    """
    alike: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records.values():
        if record.get("history"):
            same = alike[record["training_fingerprint"]]
            same[training_of(record)].append(record["method"]["name"])
    found = [sorted(sorted(own) for own in same.values()) for same in alike.values()]
    return [one for place, one in enumerate(found) if len(one) > 1 and one not in found[:place]]


def recorded_seconds(records: Records) -> dict[str, float]:
    """Seconds of each training: the longest in the records of the runs it serves.

    Only the run that trained has them; those that found its checkpoint say 0.
    """
    seconds: dict[str, float] = {}
    for run_id, record in records.items():
        for training in trainings(run_id, records):
            spent = record.get("time", {}).get("train_s") or 0.0
            seconds[training] = max(spent, seconds.get(training, 0.0))
    return seconds


def computed_seconds(records: Records) -> dict[str, float]:
    """Seconds of each training that no record times, from its epochs and its recorded speed.

    Images an epoch are those of the timed trainings on the same source (median); without one the
    training is left out.
    """
    images: dict[str, list[float]] = defaultdict(list)
    paces: dict[str, tuple[str, float]] = {}
    seconds = recorded_seconds(records)
    for record in records.values():
        epochs, speed = len(record.get("history") or []), record.get("train_images_per_s")
        if not (epochs and speed):
            continue
        source = record["scenario"]["source"]
        if spent := record.get("time", {}).get("train_s"):
            images[source].append(spent * speed / epochs)
        elif not seconds[training_of(record)]:
            paces[training_of(record)] = source, epochs / speed
    return {
        training: pace * median(images[source])
        for training, (source, pace) in paces.items()
        if images[source]
    }
