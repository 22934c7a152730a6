"""Trainings: records of runs in; the trainings that they answer from, and what each took, out.

Runs that differ in readout, inference or membership of an ensemble answer from one training.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

Records = dict[str, dict[str, Any]]
"""run id → its `run.json`"""


def trainings(run_id: str, records: Records) -> list[str]:
    """Fingerprints of the trainings that a run answers from: one, its members', or none."""
    record = records.get(run_id, {})
    members = record.get("settings", {}).get("members", [])
    if members:
        return [one for member in members for one in trainings(member["run_id"], records)]
    trained = record.get("history") and record.get("training_fingerprint")
    return [trained] if trained else []


def recorded_seconds(records: Records) -> dict[str, float]:
    """Seconds of each training by fingerprint: the longest in the records of the runs it serves.

    Only the run that trained has them; those that found its checkpoint say 0.
    """
    seconds: dict[str, float] = {}
    for run_id, record in records.items():
        for fingerprint in trainings(run_id, records):
            spent = record.get("time", {}).get("train_s") or 0.0
            seconds[fingerprint] = max(spent, seconds.get(fingerprint, 0.0))
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
        elif not seconds[record["training_fingerprint"]]:
            paces[record["training_fingerprint"]] = source, epochs / speed
    return {
        fingerprint: pace * median(images[source])
        for fingerprint, (source, pace) in paces.items()
        if images[source]
    }
