"""Cross-fitting: what the folds of a source held out is one test set of a method at home.

Where a source is cut into folds, each seed is tested at home on groups of its own. A method's
in-domain score is of their union, in which a network that has not seen its group predicts each
image: so an interval rests on every group of the source, not on those of one fold. All seeds of a
method share this score, which is paired by image like every other: it is of the folds that every
method of the scenario has a run for. Corruptions of the source's test images are pooled alike.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from benchmark.evaluation.experiments import RecordedRun, ScenarioRuns
from benchmark.scenarios import corruption_of
from benchmark.study.predictions import Predictions, TestSet

ByRun = dict[str, dict[TestSet, Predictions]]
"""run id → its predictions of known classes by test set"""


def pooled_at_home(runs: ScenarioRuns, predictions: ByRun) -> ByRun:
    """Predictions of a scenario's runs, those at home pooled over the folds, if there are any."""
    found = {run.run_id: dict(predictions[run.run_id]) for run in runs.runs}
    if runs.scenario.folds:
        sources = runs_by_fold(runs.runs, runs.scenario.folds)
        home, *others = runs.scenario.test_sets
        for test_set in (home, *(other for other in others if corruption_of(other[0]))):
            for run_id, own in found.items():
                parts = [predictions[source][test_set] for source in sources[run_id]]
                own[test_set] = joined(parts) if parts else nothing_of(own[test_set])
    return found


def runs_by_fold(runs: Iterable[RecordedRun], folds: int) -> dict[str, list[str]]:
    """For each run of a scenario the runs of its method that predict the folds all methods share.

    Seeds beyond the folds begin a second round: a run is joined by those of its own round, and by
    earlier ones where its round has none.
    """
    methods: dict[str, dict[int, dict[int, str]]] = {}
    for run in runs:
        rounds = methods.setdefault(run.method.name, {}).setdefault(run.seed % folds, {})
        rounds[run.seed // folds] = run.run_id
    shared = sorted(set.intersection(*map(set, methods.values())))
    return {
        run.run_id: [
            rounds.get(run.seed // folds, rounds[min(rounds)])
            for rounds in (methods[run.method.name][fold] for fold in shared)
        ]
        for run in runs
    }


def joined(parts: list[Predictions]) -> Predictions:
    """Predictions of several folds as one test set; groups, none of which lies in two folds, are
    numbered through."""
    firsts = np.cumsum([0, *(part.groups.max() + 1 for part in parts[:-1])])
    groups = [part.groups + first for part, first in zip(parts, firsts, strict=True)]
    reduced = [part.reduced for part in parts if part.reduced is not None]
    return Predictions(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(groups),
        "+".join(part.digest for part in parts),
        np.concatenate([part.predicted for part in parts]),
        np.concatenate(reduced) if reduced else None,
        np.concatenate([part.logits for part in parts]),
        parts[0].shares,
    )


def nothing_of(whole: Predictions) -> Predictions:
    """No image of a test set: the methods of its scenario share no fold."""
    fields = (whole.images, whole.labels, whole.groups)
    none = None if whole.reduced is None else whole.reduced[:0]
    kept = [values[:0] for values in fields]
    return Predictions(*kept, "", whole.predicted[:0], none, whole.logits[:0], whole.shares)
