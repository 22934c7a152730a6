"""Sets of features that were scored: what is kept of them, and the scores that follow from it.

A set is a folder of three small files below `results/<profile>/features/`: what it is and what was
measured of it, the class that each readout answers for every test image, and the confusion matrices
of what labelled cells buy. Neither features nor images are needed for a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from benchmark import metrics
from benchmark.errors import UserError
from benchmark.evaluation.columns import counted_targets
from benchmark.evaluation.intervals import Interval, interval
from benchmark.evaluation.resampling import JointPredictions, observed_and_drawn
from benchmark.evaluation.scores import macro_f1_of_parts
from benchmark.files import atomic, write_json
from benchmark.schema import Record, Strict, read_shape
from benchmark.study.predictions import TestSet
from benchmark.study.runs import Scenario

READOUTS = ("1-NN", "20-NN", "logistic", "prototypes")
LOCAL = ("logistic", "prototypes")
"""Readouts that are fitted on labelled cells of a target as well."""
ABOUT, PREDICTIONS, BUDGETS = "about.json", "predictions.parquet", "budgets.parquet"
COLUMNS = (
    ("scenario", "domain", "part", "image", "group", "label", *READOUTS),
    ("source", "target", "method", "per_class", "number", "draw", "support", "confusion"),
)
"""Of the two tables."""


class About(Strict):
    """What a file may say of the network that its features are of; all of it may be left out."""

    network: str | None = None
    """How the network was asked for, or any description of it."""
    network_sha256: str | None = None
    """Of its tensors; see `benchmark.study.records.network_sha256`."""
    parameters: int | None = Field(None, ge=0)
    """Weights of the network without its classifier."""
    image_size: int | None = Field(None, ge=1)
    training_datasets: tuple[str, ...] | None = None
    """Every data set that the network was made with, in the names of cards or their domains; null
    is unknown."""
    trained_on: str | None = None
    """The source whose training part, in the same fold, it has learnt; null: of none."""


class FeatureRecord(Record):
    """`about.json` of a set of features."""

    schema_version: int
    name: str
    profile: str
    about: About
    dimension: int
    classes: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    cells: str
    """digest of the cells that were scored"""
    penalty: dict[str, float]
    """source → C of its logistic regression"""
    robustness: dict[str, list[float | None]]
    """neighbours, index, low, high, class_told; a value per number of neighbours"""
    laboratory_told: float | None = None
    contamination: dict[str, dict[str, list[str]]]
    """source → verdict → domains"""


class FeatureSet(NamedTuple):
    """What is kept of a set of features: enough for every table, without features or images."""

    record: FeatureRecord
    predictions: pd.DataFrame
    """scenario, domain, part, image, group, label, and the class that each readout answers"""
    budgets: pd.DataFrame
    """source ("" where it is fitted on labelled cells of the target alone), target, method (its
    readout), per_class and number (labelled cells of each class, and of all), draw; support, cells
    of each class in the whole target; confusion of the tested half, true × predicted, in rows"""


def features_folder(results: Path) -> Path:
    """Where the scored sets of a profile lie."""
    return Path(results) / "features"


def write_set(results: Path, scored: FeatureSet) -> Path:
    """Write a set to a folder of its own below `results/<profile>/features/`."""
    folder = features_folder(results) / scored.record.name
    tables = (scored.predictions, scored.budgets)
    with atomic(folder / PREDICTIONS) as first, atomic(folder / BUDGETS) as second:
        for temporary, table in zip((first, second), tables, strict=True):
            rows = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
            pq.write_table(rows, temporary, compression="zstd")
        # Without it there is no set: a killed process leaves none, rather than two halves of two.
        (folder / ABOUT).unlink(missing_ok=True)
    write_json(folder / ABOUT, scored.record.model_dump(mode="json", exclude_none=True))
    return folder


def read_sets(results: Path) -> list[FeatureSet]:
    """Every scored set of a profile, by name; none where there is no folder.

    Raises:
        UserError: a file is missing or broken; two sets were scored on other cells.
    """
    found = []
    for path in sorted(features_folder(results).glob(f"*/{ABOUT}")):
        again = f"score the features again, or delete {path.parent}"
        record = read_shape(path, FeatureRecord, again)
        try:
            tables = [pd.read_parquet(path.parent / n) for n in (PREDICTIONS, BUDGETS)]
        except (ValueError, OSError) as error:  # pyarrow's errors are ValueErrors
            raise UserError(f"{path.parent}: {str(error).splitlines()[0]}: {again}") from None
        if record.name != path.parent.name:
            raise UserError(f"{path.parent} holds the features '{record.name}': {again}")
        for table, columns, name in zip(tables, COLUMNS, (PREDICTIONS, BUDGETS), strict=True):
            if absent := set(columns) - set(table):
                raise UserError(f"{path.parent / name}: no column '{min(absent)}': {again}")
        if found and record.cells != found[0].record.cells:
            raise UserError(
                f"{path.parent} was scored on other cells than {found[0].record.name}: {again}"
            )
        found.append(FeatureSet(record, *tables))
    return found


class Score(NamedTuple):
    """Macro-F1 of a readout, with the interval over other test images."""

    features: str
    scenario: str
    readout: str
    column: str
    """`in_domain`, a target, or `mean_target`"""
    value: Interval


def scores_of(sets: list[FeatureSet]) -> list[Score]:
    """Macro-F1 of every set, scenario and readout: at home, on each target, and their mean.

    The resamples are those of `evaluate`, and the same for all sets.
    """
    found = []
    for scenario in sets[0].record.scenarios if sets else ():
        names = [(own.record.name, readout) for own in sets for readout in READOUTS]
        classes = len(sets[0].record.classes)
        drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        counts = []
        for domain, part in scenario.test_sets:
            tables = [in_test_set(own, scenario.name, (domain, part)) for own in sets]
            labels = tables[0]["label"].to_numpy()
            groups = np.unique(tables[0]["group"], return_inverse=True)[1]
            predicted = np.stack([table[name] for table in tables for name in READOUTS])
            joint = JointPredictions(f"{domain}/{part}", labels, groups, predicted, classes)
            metric = {metrics.HEADLINE: metrics.METRICS[metrics.HEADLINE]}
            column = "in_domain" if part == "id_test" else domain
            drawn[column] = observed_and_drawn(joint, metric)[metrics.HEADLINE]
            counts.append(np.bincount(labels, minlength=classes))
        if targets := counted_targets(scenario, np.array(counts[1:])):
            values, draws = zip(*(drawn[target] for target in targets), strict=True)
            drawn["mean_target"] = np.mean(values, axis=0), np.mean(draws, axis=0)
        found += [
            Score(*name, scenario.name, readout, column, interval(draws[at], values[at], 1))
            for column, (values, draws) in drawn.items()
            for at, (*name, readout) in enumerate(names)
        ]
    return found


def majority_of(own: FeatureSet, scenario: Scenario) -> tuple[float, float]:
    """Macro-F1 of the commonest class of each test set, answered for every image: at home, and the
    mean of targets."""
    size = len(own.record.classes)
    tables = [in_test_set(own, scenario.name, test_set) for test_set in scenario.test_sets]
    counts = np.stack([np.bincount(table["label"], minlength=size) for table in tables])
    home, *others = (metrics.macro_f1(metrics.constant_confusion(each)) for each in counts)
    chosen = counted_targets(scenario, counts[1:])
    values = [v for t, v in zip(scenario.targets, others, strict=True) if t in chosen]
    return float(home), float(np.mean(values)) if values else float("nan")


def verdict_of(own: FeatureSet, source: str) -> str:
    """`clean`, or `contaminated` or `unknown` with the domains that are."""
    found = own.record.contamination[source]
    if "contaminated" in found:
        return f"contaminated ({', '.join(found['contaminated'])})"
    return "unknown" if found else "clean"


def in_test_set(own: FeatureSet, scenario: str, test_set: TestSet) -> pd.DataFrame:
    table = own.predictions
    chosen = (table["domain"] == test_set[0]) & (table["part"] == test_set[1])
    return table[chosen & (table["scenario"] == scenario)]


def common_neighbours(sets: list[FeatureSet]) -> int:
    """k at which sets are compared: the median of those at which each tells the class best."""
    best = []
    for own in sets:
        curve = own.record.robustness
        told = [-1.0 if value is None else value for value in curve["class_told"]]
        best.append(curve["neighbours"][int(np.argmax(told))])
    middle = np.sort(best)[(len(best) - 1) // 2]
    return int(middle)


def robustness_at(own: FeatureSet, k: int) -> tuple[float, float, float]:
    """Robustness index at k neighbours, and its range over the draws; NaN where there is none."""
    curve = own.record.robustness
    at = curve["neighbours"].index(k)
    found = (curve[name][at] for name in ("index", "low", "high"))
    return tuple(float("nan") if value is None else value for value in found)


def budget_scores(own: FeatureSet) -> pd.DataFrame:
    """The rows of a set's labelled cells with macro_f1 in the place of their confusion matrix.

    The mean is over the classes with enough images in the whole target (`metrics.supported`), of
    which a tested half has fewer.
    """
    support = np.stack(own.budgets["support"].to_list())
    size = support.shape[1]
    matrices = np.stack(own.budgets["confusion"].to_list()).reshape(-1, size, size)
    columns = own.budgets.drop(columns=["support", "confusion"])
    scores = macro_f1_of_parts(matrices, support)
    return columns.assign(features=own.record.name, macro_f1=scores)
