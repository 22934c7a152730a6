"""Runs: found and planned runs by experiment, and every gap by name."""

from __future__ import annotations

from collections import Counter

from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.report.sheets.sheet import Sheet

OUTCOMES = ("done", "skipped", "nan", "oom", "error", "missing")


def runs_sheet(experiments: list[Experiment]) -> Sheet:
    """A line per experiment, scenario and track; notes name every run that is not done."""
    rows = []
    for experiment in experiments:
        for (scenario, track), runs in experiment.blocks().items():
            counts = Counter(run.outcome for run in runs)
            shown = (experiment.title, scenario.name, track, str(counts["done"]), str(len(runs)))
            rows.append((*shown, *(str(counts[name]) for name in OUTCOMES[1:])))
    return Sheet(
        "runs",
        "Runs found and planned by experiment. A run of several experiments counts in each.",
        ("experiment", "scenario", "track", "found", "planned", *OUTCOMES[1:]),
        tuple(rows),
        tuple(gaps(experiments)) or ("Every planned run is done",),
        text_columns=3,
    )
