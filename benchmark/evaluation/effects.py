"""Effects: runs of a scenario in; what exchanging one part of a method changes, out.

A method is compared with the one that differs from it in a single part, which has there its plain
choice: `resnet18-gn-ce` with `resnet18-bn-ce`. Both levels are in the interval, as everywhere.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmark.evaluation.columns import Resampled, ranked_columns
from benchmark.evaluation.evidence import Members, column_of, compare, rounded
from benchmark.evaluation.experiments import Method, Run

METRIC = "macro_f1"
REFERENCES = {
    "normalisation": ("bn",),
    "loss": ("ce",),
    "recipe": ("erm",),
    "augmentation": ("",),
    "framing": ("",),
    "stain": ("none",),
    "weights": ("scratch",),
    # Retraining the same head on the same features costs as much as the second stage it replaces.
    "readout": ("head", "decoupled_neither"),
    "inference": ("single",),
}
"""Part of a method → its plain choices, with which others are compared."""

EFFECTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("experiment", "scenario", "track", "part")),
        *((name, pa.string()) for name in ("choice", "plain", "method", "reference", "column")),
        ("seeds", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "low", "high", "p")),
    ]
)
"""`effects.parquet`: macro-F1 of `method` minus that of `reference`, on the seeds of both; in
their `part` the one has `choice` and the other `plain`. `p` is of no difference over other images
and seeds; NaN where the variance of seeds is not known."""


def one_part_pairs(methods: dict[str, Method]) -> list[tuple[str, str, str]]:
    """(part, method, reference) of all pairs that differ in one part alone, in plan order."""
    parts = {name: method.model_dump(exclude={"name"}) for name, method in methods.items()}
    return [
        (part, name, other)
        for name, own in parts.items()
        for part, plain in REFERENCES.items()
        for choice in plain
        for other, theirs in parts.items()
        if own["backbone"] and own[part] != choice and theirs == own | {part: choice}
    ]


def effect_rows(runs: Resampled, planned: list[Run], experiment: str) -> list[dict]:
    """Rows of `effects.parquet` of one experiment in one scenario, tracks together.

    Args:
        runs: at least the done runs among `planned`.
    """
    done = [run for run in planned if run.done]
    methods = {run.method.name: run.method for run in done}
    tracks = {run.method.name: run.track for run in done}
    members: Members = {}
    for run in done:
        members.setdefault(run.method.name, []).append((run.seed, run.run_id))
    pairs = one_part_pairs(methods)
    rows = []
    for name in ranked_columns(runs.scenario) if pairs else ():
        column = column_of(runs, members, (METRIC, ""), name)
        untested = {(method, reference): np.nan for _, method, reference in pairs}
        found = compare(column, name, untested, METRIC)
        for part, method, reference in pairs:
            if comparison := found.get((method, reference)):
                mean, low, high, seeds = comparison.difference
                where = {"experiment": experiment, "scenario": runs.scenario.name}
                where |= {"track": tracks[method], "part": part, "method": method}
                where |= {"reference": reference, "column": name, "seeds": seeds}
                where |= {"choice": getattr(methods[method], part)}
                where |= {"plain": getattr(methods[reference], part)}
                values = {"mean": mean, "low": low, "high": high, "p": comparison.p_both}
                rows.append(rounded(where | values))
    return rows
