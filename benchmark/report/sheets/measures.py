"""Measures: what the runs of a results folder say about a published claim, as texts.

Each is a function of `Evidence` that yields (where, value) pairs, none where nothing was run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.evaluation import metrics, rejection
from benchmark.evaluation.compare import p_text
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.metrics import HEADLINE
from benchmark.evaluation.scores import majority_id
from benchmark.report.formats import interval_text, number
from benchmark.report.sheets.open_set import load_open_set
from benchmark.report.sheets.rejection import load_rejection, of_counted_targets
from benchmark.report.sheets.sheet import percent
from benchmark.report.tables import Cell, Scores, by_method, cell, read_evaluated, values
from benchmark.scenarios import corruption_of


class Evidence(NamedTuple):
    """What claims are checked against."""

    experiments: list[Experiment]
    scores: Scores
    effects: pd.DataFrame
    rejection: pd.DataFrame
    rejection_counted: pd.DataFrame
    """the same without targets that enter no mean over targets"""
    open_set: pd.DataFrame


Measured = Iterator[tuple[str, str]]
"""(where, value) pairs; none where nothing was run"""


def load_evidence(results: Path, experiments: list[Experiment], scores: Scores) -> Evidence:
    """What `evaluate` wrote."""
    rejection = load_rejection(results, experiments)
    return Evidence(
        experiments,
        scores,
        load_effects(results, experiments),
        rejection,
        of_counted_targets(rejection, experiments, scores.counted),
        load_open_set(results, experiments),
    )


def load_effects(results: Path, experiments: list[Experiment]) -> pd.DataFrame:
    """`effects.parquet`."""
    return pd.DataFrame(read_evaluated(Path(results) / "effects.parquet", experiments))


def constant_against_models(evidence: Evidence) -> Measured:
    """Accuracy of the constant on BCCD beside that of the best method, by scenario."""
    found: dict[str, dict[str, Cell]] = {}
    for experiment in evidence.experiments:
        for scenario, track in experiment.blocks():
            if "bccd" not in scenario.targets or track != "inductive":
                continue
            where = (experiment.experiment, scenario.name, track)
            for name in by_method(experiment.blocks()[scenario, track]):
                shown = cell(evidence.scores, where, name, "accuracy", "", "bccd")
                if not math.isnan(shown.mean):
                    found.setdefault(scenario.name, {}).setdefault(name, shown)
    for scenario, cells in found.items():
        ids = [majority_id(scenario)]
        constant = 100 * values(evidence.scores, ids, (("bccd", "shifted"),), "accuracy")[0, 0]
        best = max(sorted(cells), key=lambda name: cells[name].mean)
        below = sum(c.mean < constant for c in cells.values())
        yield (
            f"{scenario}, accuracy on bccd",
            f"constant {number(constant)}, above {below} of {len(cells)} methods; best {best} "
            f"{text(cells[best])}",
        )


def effect(part: str, choice: str, plain: str) -> Callable[[Evidence], Measured]:
    """Difference in macro-F1 between two choices of one part, on the source and the targets.

    Of methods that are plain in all other parts but normalisation, or of all if there are none.
    """

    def measure(evidence: Evidence) -> Measured:
        own = evidence.effects
        own = own[(own["part"] == part) & (own["choice"] == choice) & (own["plain"] == plain)]
        methods = {run.method.name: run.method for e in evidence.experiments for run in e.runs}
        simple = own["reference"].map(lambda name: methods[name].is_plain(part)).astype(bool)
        own = own[simple] if simple.any() else own
        keys = ["scenario", "method", "reference"]
        for (scenario, method, ref), rows in own.groupby(keys, sort=False):
            found = rows.set_index("column")
            away = "corruptions" if scenario.endswith("->corruptions") else "targets"
            parts = [
                f"{label} {signed(found.loc[column])}, {p_text(found.loc[column, 'p_holm'])}"
                for column, label in (("in_domain", "in-domain"), ("mean_target", away))
                if column in found.index
            ]
            yield f"{scenario}, {method} − {ref}", " and ".join(parts)

    return measure


def ensembles_against_members(evidence: Evidence) -> Measured:
    """The best ensemble beside the best network of its experiment, by mean of targets.

    The p-value is the table's: corrected for the methods of its column.
    """
    scores = evidence.scores
    for experiment in evidence.experiments:
        for (scenario, track), runs in experiment.blocks().items():
            where = (experiment.experiment, scenario.name, track)
            best: dict[bool, tuple[float, str, dict]] = {}
            for run in runs:
                name, together = run.method.name, run.method.is_ensemble
                mean = cell(scores, where, name, HEADLINE, "", "mean_target").mean / 100
                if mean > best.get(together, (-1.0, "", {}))[0]:
                    standing = scores.standings[(*where, name, HEADLINE, "mean_target")]
                    best[together] = mean, name, standing
            if len(best) < 2:
                continue
            (one, name, row), (other, single, theirs) = best[True], best[False]
            # The row of whichever is not the best of the column says how far it lies behind.
            behind, sign = (theirs, -1) if one >= other else (row, 1)
            ends = [behind[key] for key in ("difference_low", "difference_high")]
            low, high = sorted(math.nan if end is None else sign * end for end in ends)
            shown = signed(pd.Series({"mean": one - other, "low": low, "high": high}))
            p = behind["p_holm"]
            text = f"targets {shown}, {p_text(math.nan if p is None else p)}"
            yield f"{scenario.name}, {name} − {single}", text


def augmentation_against_normalisation(evidence: Evidence) -> Measured:
    """Spread of the mean of targets over augmentations and over normalisations, same backbone.

    By scenario, from the experiment that crosses the most of both.
    """
    grids: dict[str, pd.DataFrame] = {}
    for experiment in evidence.experiments:
        for (scenario, track), runs in experiment.blocks().items():
            where = (experiment.experiment, scenario.name, track)
            table: dict[tuple[str, str], float] = {}
            for run in runs:
                found = cell(evidence.scores, where, run.method.name, HEADLINE, "", "mean_target")
                if run.method.is_plain("augmentation") and not math.isnan(found.mean):
                    table[run.method.normalisation, run.method.augmentation] = found.mean
            grid = pd.Series(table, dtype=float).unstack() if table else pd.DataFrame()
            if min(grid.shape) < 2 or grid.isna().any().any():
                continue
            if grid.size > grids.get(scenario.name, pd.DataFrame()).size:
                grids[scenario.name] = grid
    for scenario, grid in grids.items():
        over = {"augmentations": grid.mean(axis=0), "normalisations": grid.mean(axis=1)}
        shown = []
        for name, means in over.items():
            ascending = ", ".join(kind or "plain" for kind in means.sort_values().index)
            spread = number(means.max() - means.min())
            shown.append(f"{spread} points over {name} ({ascending})")
        yield f"{scenario}, range of means, mean of targets", ", ".join(shown)


def useless_ld(_: Evidence) -> Measured:
    """Ld of an answer that is never right, on the class counts of BCCD (207, 33, 20, 88, 3)."""
    counts = np.array([207, 33, 20, 88, 3])
    confusion = np.roll(np.diag(counts), 1, axis=1)
    shown = number(100 * float(metrics.ld(confusion)))
    yield (
        "computed: every image answered wrongly, counts 207, 33, 20, 88 and 3",
        f"Ld {shown}, accuracy {number(100 * float(metrics.accuracy(confusion)))}",
    )


def far_from_centroids(evidence: Evidence) -> Measured:
    """The published confidence of a cell that no centroid is near, and its ranking in our runs."""
    far = np.full((1, 5), 1e-6)
    published, closest = (
        float(rejection.CCL_CONFIDENCES[name](far)[0]) for name in ("published", "max")
    )
    yield (
        "computed: D = 0.000001 for all of 5 classes",
        f"published {published:.4f}, max D {closest:.4f} (1 is most reliable)",
    )
    table = evidence.rejection_counted
    own = table[table["rejector"].isin(["ccl_published", "ccl_max"]) & (table["part"] == "shifted")]
    methods = [run_id.split("/")[0] for run_id in own["run_id"]]
    for method, rows in own.groupby(methods):
        means = rows.groupby("rejector")["aurc"].mean()
        shown = (f"{name.removeprefix('ccl_')} {percent(v)}" for name, v in means.items())
        yield f"{method}: AURC on targets (× 100, lower is better)", ", ".join(shown)


def constant_ld(evidence: Evidence) -> Measured:
    """How many scores of runs on test sets the majority constant passes by Ld.

    What the runs were selected and calibrated on is no test set.
    """
    found = evidence.scores.values
    constants = {
        (key[0].split("/", 1)[1], *key[1:3]): value
        for key, (value, _) in found.items()
        if key[0].startswith("majority/") and key[4] == "ld"
    }
    runs = {run.run_id: run for e in evidence.experiments for run in e.runs if run.done}
    passed: dict[bool, list[bool]] = {False: [], True: []}
    for (run_id, domain, part, _, metric), (value, _) in found.items():
        run = runs.get(run_id) if metric == "ld" else None
        if run and (domain, part) in run.scenario.test_sets and not math.isnan(value):
            constant = constants[run.scenario.name, domain, part]
            passed[corruption_of(domain) is not None].append(value < constant)
    both = [*passed[False], *passed[True]]
    if both:
        shown = f"the majority constant has a higher Ld in {sum(both)} of {len(both)}"
        if passed[True]:
            shown += f" (without corruptions {sum(passed[False])} of {len(passed[False])})"
        yield "all runs and test sets", shown


def text(shown: Cell) -> str:
    """`45.3 [43.1, 47.0]`."""
    return f"{number(shown.mean)}{interval_text(shown)}"


def signed(row: pd.Series) -> str:
    """`+3.2 [−1.0, 7.4]`, in points."""
    mean = 100 * row["mean"]
    plus = "+" if number(mean)[0] not in "−0" or mean >= 0.05 else ""
    if math.isnan(row["low"]):
        return f"{plus}{number(mean)}"
    return f"{plus}{number(mean)} [{number(100 * row['low'])}, {number(100 * row['high'])}]"
