"""Predictions, scores and comparisons of a results folder as tables, for a notebook."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark import metrics
from benchmark.evaluation.compare import compare_methods
from benchmark.evaluation.experiments import done_runs, load_experiments, predictions_of
from benchmark.study.predictions import Layouts

KEYS = ["run_id", "method", "track", "scenario", "seed", "domain", "part"]


def load_predictions(results: Path) -> pd.DataFrame:
    """A row for each image of each finished run: whose it is, its label, what was predicted.

    `label` and `predicted` are categories, the classes of the label space; the columns `p_<class>`
    are the probabilities. Files are checked against the digests that were recorded.
    """
    layouts: Layouts = {}
    frames = []
    for run, classes in done_runs(load_experiments(Path(results))).values():
        predictions = predictions_of(Path(results), run, classes, layouts)
        for test_set, own in predictions.known.items():
            facts = (run.run_id, run.method.name, run.track, run.scenario.name, run.seed, *test_set)
            frame = pd.DataFrame(dict(zip(KEYS, facts, strict=True)) | {"image": own.images})
            frame["label"] = pd.Categorical.from_codes(own.labels, classes)
            frame["predicted"] = pd.Categorical.from_codes(own.predicted, classes)
            frame[[f"p_{name}" for name in classes]] = own.probabilities
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def score(predictions: pd.DataFrame) -> pd.DataFrame:
    """Every metric over all classes, a row for each run and test set of `load_predictions`."""
    classes = len(predictions["label"].cat.categories)
    rows = []
    for key, own in predictions.groupby(KEYS, sort=False):
        codes = own["label"].cat.codes, own["predicted"].cat.codes
        confusion = metrics.confusion_matrix(*codes, classes)
        row = dict(zip(KEYS, key, strict=True)) | {"n": len(own)}
        overall = {name: m for name, m in metrics.METRICS.items() if m.over != "each class"}
        rows.append(row | {name: float(m.of_confusion(confusion)) for name, m in overall.items()})
    return pd.DataFrame(rows)


def compare(results: Path, first: str, second: str, scenario: str | None = None) -> pd.DataFrame:
    """`first` minus `second` in macro-F1, a row for each column of the tables; see `compare`.

    `p` is over other images and seeds, `p_images` over other images alone; both are corrected
    (Holm). `detectable` is the smallest difference that would have been found, across seeds.
    """
    rows = []
    for own in compare_methods(results, first, second, scenario):
        row = {"scenario": own.scenario.name, "column": own.column}
        row |= own.found.difference._asdict() | {"p": own.p, "p_images": own.p_images}
        rows.append(row | {"detectable": own.found.detectable_both})
    return pd.DataFrame(rows)
