"""Exchanges: what exchanging one part of a method did to its mean of targets, counted by choice."""

from __future__ import annotations

from benchmark.evaluation.comparisons import significant
from benchmark.report.formats import number
from benchmark.report.sheets.measures import Evidence
from benchmark.report.sheets.sheet import Sheet

HEADER = ("part", "choice", "instead of", "pairs", "higher", "lower", "not told apart")
HEADER += ("least difference", "greatest difference")
OWN = "the profile's own"


def exchanges_sheet(evidence: Evidence) -> Sheet | None:
    """A line per choice of a part; None where no two methods differ in one part alone."""
    table = evidence.effects
    table = table[table["column"] == "mean_target"]
    rows = []
    keys = ["part", "choice", "plain", "track"]
    for (part, choice, plain, track), own in table.groupby(keys, sort=True):
        told = own["mean"][significant(own["p_holm"])]
        higher, lower = int((told > 0).sum()), int((told < 0).sum())
        counts = (len(own), higher, lower, len(own) - higher - lower)
        ends = (number(100 * own["mean"].min()), number(100 * own["mean"].max()))
        name = (choice or OWN) + ("" if track == "inductive" else f" ({track})")
        rows.append((part, name, plain or OWN, *map(str, counts), *ends))
    if not rows:
        return None
    return Sheet(
        "exchanges",
        "What exchanging one part of a method, all others equal, does to macro-F1 on the mean of "
        "targets. Pairs: a scenario and two methods, on the seeds of both; two trainings are one "
        "pair, however many readouts answer from them, and readouts and inferences are compared at "
        "equal trainings. Higher, lower: shown, over other test images and seeds, at 5 % after "
        f"Holm's correction for all {len(table)} pairs of this list. Differences in points, of the "
        "pairs with the least and the greatest. Transductive: the choice saw unlabelled images of "
        "the target, and the other did not.",
        HEADER,
        tuple(rows),
        text_columns=3,
    )
