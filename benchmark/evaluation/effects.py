"""Effects: single-part ablations, what one part of a method changes.

A method is compared with the one that differs from it in a single part, which has there its plain
choice: `resnet18-gn-ce` with `resnet18-bn-ce`, whichever experiments they are of. Both levels are
in the interval, as everywhere.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from benchmark.evaluation.columns import Resampled
from benchmark.evaluation.comparisons import MetricColumns, compare_pairs, holm
from benchmark.evaluation.evidence import rounded
from benchmark.evaluation.experiments import RecordedMethod
from benchmark.metrics import HEADLINE
from benchmark.parts import ANSWERING, PARTS, PLAIN

BASELINES = {
    name: (PLAIN[name] or "", *part.more_baselines) for name, part in PARTS.items() if part.compared
}
"""Part of a method → values with which others are compared; one of them with those before it."""

UNCOMPARED = {"name", "of"}
"""What a record says of a method beside its parts and its training."""

EFFECTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("scenario", "track", "part")),
        *((name, pa.string()) for name in ("choice", "plain", "method", "reference", "column")),
        ("seeds", pa.int64()),
        *((name, pa.float64()) for name in ("mean", "low", "high", "p", "p_holm")),
    ]
)
"""`effects.parquet`: the headline score of `method` minus that of `reference`, on the seeds of
both; in their `part` the one has `choice` and the other `plain`. Every pair of trainings stands in
it once, and no pair in both directions. `p` is of no difference over other images and seeds; NaN
where the variance of seeds is not known. `p_holm` is adjusted for all differences of the profile in
that column, which are looked through together."""


def one_part_pairs(methods: dict[str, RecordedMethod]) -> list[tuple[str, str, str]]:
    """(part, method, reference) of all pairs that differ in one part alone, in plan order.

    Two trainings that differ in a part are one pair, however many readouts and inferences predict
    from both: the trained heads in one view stand for them, or the first readout if these were not
    run.
    """
    parts = {
        name: {part: value or "" for part, value in method.model_dump(exclude=UNCOMPARED).items()}
        for name, method in methods.items()
    }
    pairs = [
        (part, name, other)
        for name, own in parts.items()
        for part, plain in BASELINES.items()
        for choice in (plain[: plain.index(own[part])] if own[part] in plain else plain)
        for other, theirs in parts.items()
        if own["backbone"] and theirs == own | {part: choice}
    ]
    once: dict[tuple, tuple[str, str, str]] = {}
    for pair in sorted(pairs, key=lambda pair: not methods[pair[1]].answers_itself):
        part, *both = pair
        whose = (methods[name].training_parts() for name in both)
        once.setdefault((part, *(both if part in ANSWERING else whose)), pair)
    return [pair for pair in pairs if pair in once.values()]


def effect_rows(runs: Resampled, columns: MetricColumns) -> list[dict]:
    """Rows of `effects.parquet` of one scenario, tracks together, still without `p_holm`."""
    methods = {name: run.method for name, run in runs.runs.methods.items()}
    pairs = one_part_pairs(methods)
    untested = {(method, reference): np.nan for _, method, reference in pairs}
    rows = []
    for name in runs.ranked_columns if pairs else ():
        found = compare_pairs(columns[HEADLINE, name], untested)
        for part, method, reference in pairs:
            if comparison := found.get((method, reference)):
                mean, low, high, seeds = comparison.difference
                row = {"scenario": runs.scenario.name, "track": runs.runs.methods[method].track}
                row |= {"part": part, "method": method, "reference": reference, "column": name}
                row |= {"choice": getattr(methods[method], part)}
                row |= {"plain": getattr(methods[reference], part), "seeds": seeds}
                rows.append(row | {"mean": mean, "low": low, "high": high, "p": comparison.p_both})
    return rows


def adjusted_rows(rows: list[dict]) -> list[dict]:
    """The effects of all scenarios with the p-values that belong to looking through them all."""
    by_column: dict[str, list[dict]] = {}
    for row in rows:
        by_column.setdefault(row["column"], []).append(row)
    return [
        rounded(row | {"p_holm": float(p)})
        for own in by_column.values()
        for row, p in zip(own, holm([row["p"] for row in own]), strict=True)
    ]
