"""What a notebook uses: a profile's predictions as a table, their scores, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark import metrics
from benchmark.data.arrays import OPEN_SET_PART
from benchmark.errors import UserError, suggest
from benchmark.evaluation.compare import compare_methods
from benchmark.evaluation.experiments import done_runs, load_experiments
from benchmark.schema import DEFAULT_PROFILE
from benchmark.study.predictions import read_stored, stated_probabilities
from benchmark.study.runs import read_run_record

RUN_AND_TEST_SET = ("method", "scenario", "seed", "domain", "part")


def predictions(
    profile: str = DEFAULT_PROFILE, experiment: str | None = None, root: str | Path = "."
) -> pd.DataFrame:
    """The stored predictions of all finished runs, a row per run and image.

    Cells that are of no class of the label space are left out.

    Args:
        experiment: one of the profile's; without it, all, each run once.
        root: the project's folder.

    Returns:
        method, scenario and seed of the run; domain, part, image and group; label and predicted
        class by name; and the probability `p_<class>` of each class.

    Raises:
        UserError: no results, no such experiment, or predictions that are not the recorded ones.
    """
    results = Path(root) / "results" / profile
    experiments = load_experiments(results)
    if experiment is not None:
        names = [one.experiment for one in experiments]
        if experiment not in names:
            raise UserError(f"{results}: no experiment '{experiment}'{suggest(experiment, names)}")
        experiments = [one for one in experiments if one.experiment == experiment]
    tables = []
    for run, classes in done_runs(experiments).values():
        stored = read_stored(results, read_run_record(results / "runs" / run.run_id / "run.json"))
        stored = stored[stored["part"] != OPEN_SET_PART]
        logits = stored[[f"logit_{name}" for name in classes]].to_numpy()
        table = stored[["domain", "part", "image", "group"]].reset_index(drop=True)
        for place, part in enumerate((run.method.name, run.scenario.name, run.seed)):
            table.insert(place, RUN_AND_TEST_SET[place], part)
        table["label"] = np.array(classes)[stored["label"]]
        table["predicted"] = np.array(classes)[metrics.predicted_classes(logits)]
        stated = stated_probabilities(logits, run.method.states_shares)
        table[[f"p_{name}" for name in classes]] = stated
        tables.append(table)
    if not tables:
        raise UserError(f"{results}: no run is finished: `wbc-shift train -p {profile}`")
    return pd.concat(tables, ignore_index=True)


def score(table: pd.DataFrame, by: str | Sequence[str] = RUN_AND_TEST_SET) -> pd.DataFrame:
    """Metrics of predictions, the harness's or your own: a row per run and test set.

    Args:
        table: columns `label` and `predicted`, classes by name, and those of `by`. The classes are
            those that have a column `p_<class>`; without one, those that occur.
        by: what makes a group of rows that is scored together.

    Returns:
        Number of images and every metric of `benchmark.metrics.METRICS` that is of all classes
        together, as `wbc-shift evaluate` computes it.

    Raises:
        UserError: a column is missing, the table is empty, or a class is none of the classes.
    """
    by = [by] if isinstance(by, str) else list(by)
    needed = ("label", "predicted", *by)
    if table.empty or not by or not set(needed) <= set(table.columns):
        lacking = [name for name in needed if name not in table.columns]
        why = f"no column {', '.join(lacking)}" if lacking else "no row, or nothing in `by`"
        raise UserError(f"score: {why}: a table of predictions with {', '.join(needed)} is needed")
    classes = [name.removeprefix("p_") for name in table.columns if name.startswith("p_")]
    classes = classes or sorted({*table["label"], *table["predicted"]})
    coded = {name: pd.Index(classes).get_indexer(table[name]) for name in ("label", "predicted")}
    if min(codes.min() for codes in coded.values()) < 0:
        raise UserError(f"score: a label or prediction is none of {', '.join(classes)}")
    rows = {}
    for group, places in table.groupby(by, sort=False).indices.items():
        confusion = metrics.confusion_matrix(
            coded["label"][places], coded["predicted"][places], len(classes)
        )
        rows[group] = {"images": len(places)} | {
            name: float(metric.of_confusion(confusion))
            for name, metric in metrics.METRICS.items()
            if metric.over != "each class"
        }
    index = pd.MultiIndex.from_tuples([np.atleast_1d(np.array(g, object)) for g in rows], names=by)
    return pd.DataFrame(rows.values(), index=index)


def compare(
    first: str,
    second: str,
    profile: str = DEFAULT_PROFILE,
    scenario: str | None = None,
    root: str | Path = ".",
) -> str:
    """Whether one method is better than another, as `wbc-shift compare` says it: paired by image
    and seed, with intervals and corrected p-values."""
    return "\n".join(compare_methods(Path(root) / "results" / profile, first, second, scenario))
