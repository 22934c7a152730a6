"""Throughput: images per second and seconds per run, by method and device."""

from __future__ import annotations

import numpy as np

from benchmark.evaluation.experiments import Experiment, done_runs
from benchmark.report.figures.throughput import device_text
from benchmark.report.formats import NOTHING, number
from benchmark.report.sheets.sheet import Sheet
from benchmark.report.trainings import Records

HEADER = ("method", "device", "runs", "images/s (training)", "range", "training s", "testing s")


def throughput_sheet(experiments: list[Experiment], records: Records) -> Sheet:
    """A line per method and device: medians over runs, and the range of the first."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for run_id, (run, _) in done_runs(experiments).items():
        if record := records.get(run_id):
            groups.setdefault((run.method.name, device_text(record)), []).append(record)
    rows = []
    for (method, device), own in sorted(groups.items()):
        speeds = [record.get("train_images_per_s") for record in own]
        speeds = [float(speed) for speed in speeds if speed]
        spread = f"{min(speeds):.0f} to {max(speeds):.0f}" if speeds else NOTHING
        times = [record.get("time", {}) for record in own]
        seconds = [median([t.get(name) for t in times]) for name in ("train_s", "evaluate_s")]
        rows.append((method, device, str(len(own)), median(speeds, 1), spread, *seconds))
    return Sheet(
        "throughput",
        "Throughput: images per second in training (median over runs, range) and seconds per run, "
        "by method and device. Where runs shared their machine with other work, the range is part "
        "of the result; `wbc-shift speed` measures a network alone.",
        HEADER,
        tuple(rows),
        text_columns=2,
    )


def median(values: list[float | None], decimals: int = 0) -> str:
    """Median of what is there and above zero: a run that took over a training spent no time."""
    known = [value for value in values if value]
    return number(float(np.median(known)), decimals) if known else NOTHING
