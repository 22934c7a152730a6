"""Evaluate: from experiment records and predictions to scores, confusions and intervals.

Every file is a pure function of the records and predictions: the same input gives the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.data.cards import LABEL_SPACES, load_cards
from benchmark.data.haematology import (
    LINEAGE,
    PREVALENCES,
    Distances,
    NotInTree,
    Prevalences,
    read_distances,
    read_prevalences,
)
from benchmark.data.split import Fold, fold_of, read_split
from benchmark.errors import UserError
from benchmark.evaluation.acceptance import (
    LABELS_NEEDED_SCHEMA,
    LOCAL_THRESHOLDS_SCHEMA,
    draw_cells,
    labels_needed_rows,
    local_threshold_rows,
)
from benchmark.evaluation.columns import has_reduced_form, resample
from benchmark.evaluation.comparisons import scenario_columns
from benchmark.evaluation.cross_fitting import pooled_at_home
from benchmark.evaluation.differential import (
    DIFFERENTIAL_SCHEMA,
    PERFECT,
    Smears,
    differential_rows,
    draw_smears,
    perfect_rows,
)
from benchmark.evaluation.effects import EFFECTS_SCHEMA, adjusted_rows, effect_rows
from benchmark.evaluation.evidence import (
    COLUMNS_SCHEMA,
    INTERVALS_SCHEMA,
    STANDINGS_SCHEMA,
    TOGETHER,
    interval_rows,
    standing_rows,
)
from benchmark.evaluation.experiments import (
    Experiment,
    RecordedRun,
    ScenarioRuns,
    by_scenario,
    content_digest,
    done_runs,
    load_experiments,
    planned_since,
    predictions_digest,
    predictions_of,
)
from benchmark.evaluation.same_cells import SAME_CELLS_SCHEMA, same_cells_of, same_cells_rows
from benchmark.evaluation.scores import (
    CONFUSION_SCHEMA,
    METRICS_SCHEMA,
    confusion_rows,
    majority_id,
    majority_rows,
    metric_rows,
)
from benchmark.evaluation.selective import (
    CURVES_SCHEMA,
    OPEN_SET_SCHEMA,
    REJECTION_SCHEMA,
    curve_rows,
    open_set_rows,
    rejection_rows,
    scored_sets,
    stated_of,
)
from benchmark.evaluation.severity import SEVERITY_SCHEMA, severity_rows
from benchmark.evaluation.unlabelled import UNLABELLED_SCHEMA, regression_rows, unlabelled_rows
from benchmark.files import atomic
from benchmark.parallel import in_processes, processors
from benchmark.progress import say, track
from benchmark.scenarios import corruption_of, sources_of
from benchmark.study.predictions import (
    Predictions,
    RowOrders,
    RunPredictions,
    TestSet,
    networks_apart,
    train_command,
)

BY_RUN = {
    "metrics": METRICS_SCHEMA,
    "confusion": CONFUSION_SCHEMA,
    "rejection": REJECTION_SCHEMA,
    "curves": CURVES_SCHEMA,
    "open_set": OPEN_SET_SCHEMA,
    "unlabelled": UNLABELLED_SCHEMA,
    "severity": SEVERITY_SCHEMA,
    "same_cells": SAME_CELLS_SCHEMA,
}
"""Files whose rows belong to one run → schema."""
BY_METHOD = {
    "differential": DIFFERENTIAL_SCHEMA,
    "labels_needed": LABELS_NEEDED_SCHEMA,
    "local_thresholds": LOCAL_THRESHOLDS_SCHEMA,
}
"""Files about what a laboratory would do with a method → schema. Inductive methods that answer by
their own head in one view: what ensembles and adaptation add is asked elsewhere."""
EVIDENCE = {
    "intervals": INTERVALS_SCHEMA,
    "standings": STANDINGS_SCHEMA,
    "evidence": COLUMNS_SCHEMA,
    "effects": EFFECTS_SCHEMA,
}
"""Files about runs together → schema."""


def evaluate(results: Path) -> None:
    """Score every done run of a results folder once, and the majority constant of each test set.

    Writes a parquet file for each schema in `BY_RUN`, `BY_METHOD` and `EVIDENCE`, which says what
    it holds. What rests on facts of haematology is left out, and said, where those are not at hand.

    Raises:
        UserError: predictions are missing, changed, unreadable or incomplete, or two runs of a
            scenario were scored on different images. Nothing is written then.
    """
    results = Path(results)
    experiments = load_experiments(results)
    runs = done_runs(experiments)
    predictions = read_all(results, runs)
    for line in [*networks_apart(results, runs), *planned_since(results, experiments)]:
        say(f"note: {line}")
    known = {run_id: own.known for run_id, own in predictions.items()}
    for scenario_runs in by_scenario(experiments):
        known |= pooled_at_home(scenario_runs, known)
    pooled = {run.scenario.source for i, (run, _) in runs.items() if predictions[i].foreign}
    datasets = results.parent.parent / "datasets"
    tested = images_by_domain(datasets, pooled)
    apart, patients = distances_of(datasets, experiments), patients_of(datasets)
    twice = same_cells_of(datasets)
    # All in one pool, the longest first: no processor waits for the last job of each kind.
    resampling = evidence_jobs(experiments, known)
    answering = laboratory_jobs(experiments, known, patients)
    scoring = [
        partial(run_tables, *runs[i], own, tested, apart.get(runs[i][1]), twice)
        for i, own in predictions.items()
    ]
    found = iter(in_processes([*resampling, *answering, *scoring], "evaluate"))
    shown = evidence(list(islice(found, len(resampling))))
    asked = by_name(list(islice(found, len(answering))))
    by_run = dict(zip(runs, found, strict=True))
    constants = {i: {"metrics": own} for i, own in majority(runs, known).items()}
    # Rows of a run follow each other, whatever the file is sorted by next.
    ordered = [own for _, own in sorted((by_run | constants).items())]
    parts = {name: [own[name] for own in ordered if name in own] for name in BY_RUN}
    for (name, schema), rows in zip(EVIDENCE.items(), shown, strict=True):
        parts[name] = [table_of(rows, schema)]
    rows = pa.concat_tables([UNLABELLED_SCHEMA.empty_table(), *parts["unlabelled"]]).to_pylist()
    rows = regression_rows(rows, {i: run for i, (run, _) in runs.items()}, sets_of(datasets))
    parts["unlabelled"].append(table_of(rows, UNLABELLED_SCHEMA))
    for name, rows in asked.items():
        parts[name] = [table_of(rows, BY_METHOD[name])]
    digest = predictions_digest(experiments)
    for name, schema in (BY_RUN | BY_METHOD | EVIDENCE).items():
        table = pa.concat_tables([schema.empty_table(), *parts[name]]).combine_chunks()
        about = {"predictions": digest, "content": content_digest(table)}
        with atomic(results / f"{name}.parquet") as temporary:
            pq.write_table(table.replace_schema_metadata(about), temporary, compression="zstd")
    number = sum(len(part) for part in parts["metrics"])
    say(f"evaluate: {len(runs)} runs, {number} values in {results / 'metrics.parquet'}")


def run_tables(
    run: RecordedRun,
    classes: tuple[str, ...],
    predictions: RunPredictions,
    tested: dict[str, np.ndarray],
    apart: Distances | None,
    twice: pd.DataFrame,
) -> dict[str, pa.Table]:
    """What every file in `BY_RUN` holds of one run.

    Args:
        apart: distances between the classes; None where they are not known.
        twice: pairs of images that show one cell.
    """
    # Copies, so that what is computed along the way goes with them.
    known = {test_set: replace(own) for test_set, own in predictions.known.items()}
    stated = {test_set: stated_of(own) for test_set, own in known.items()}
    rows = {
        "metrics": metric_rows(run, classes, known, stated),
        "confusion": confusion_rows(run, classes, known),
        "rejection": rejection_rows(run, known),
        "curves": curve_rows(run, known, stated),
        "open_set": open_set_rows(run, known, predictions.foreign, tested),
        "unlabelled": unlabelled_rows(run, known),
        "severity": severity_rows(run, known, apart) if apart else [],
        "same_cells": same_cells_rows(run, known, twice),
    }
    return {name: table_of(rows[name], schema) for name, schema in BY_RUN.items()}


def images_by_domain(datasets: Path, sources: set[str]) -> dict[str, np.ndarray]:
    """Domain of a source of several → its images, as the split names them.

    Predictions name the source alone.

    Raises:
        UserError: a split is missing or damaged, or two domains of a source name an image alike.
    """
    found: dict[str, np.ndarray] = {}
    for domains in (sources_of(source) for source in sorted(sources)):
        for domain in domains if len(domains) > 1 else ():
            split = read_split(datasets, domain)
            found[domain] = split["path"].to_numpy(str)
        for one, other in itertools.combinations(domains, 2):
            if len(both := np.intersect1d(found[one], found[other])):
                raise UserError(
                    f"{both[0]} is an image of {one} and of {other}, so that predictions of "
                    f"{'+'.join(domains)} do not tell whose cells are meant: rename one of them"
                )
    return found


def distances_of(datasets: Path, experiments: list[Experiment]) -> dict[tuple[str, ...], Distances]:
    """Classes of a label space → how far apart they are, where the tree has them."""
    found = {}
    if not (datasets / LINEAGE).is_file():
        say(f"note: {datasets / LINEAGE} is missing: no severity of errors")
        return found
    for space, classes in dict.fromkeys((e.label_space, e.classes) for e in experiments):
        try:
            found[classes] = read_distances(datasets, space, classes)
        except NotInTree as error:
            say(f"note: no severity of errors in {space}: {error}")
    return found


def sets_of(datasets: Path) -> dict[str, str]:
    """Domain → the set of images, or family of sets, that it is of, where cards say so."""
    if not (datasets / LABEL_SPACES).is_file():
        return {}
    cards = load_cards(datasets).values()
    return {domain: card.family or card.name for card in cards for domain in card.domains}


def patients_of(datasets: Path) -> Prevalences | None:
    """The model patients, if they are at hand."""
    if (datasets / PREVALENCES).is_file():
        return read_prevalences(datasets)
    say(f"note: {datasets / PREVALENCES} is missing: no differential counts")
    return None


def laboratory_jobs(
    experiments: list[Experiment],
    known: dict[str, dict[TestSet, Predictions]],
    patients: Prevalences | None,
) -> list[Callable[[], dict[str, list[dict]]]]:
    """What finds the rows of the files in `BY_METHOD`, a part of them each."""
    jobs = []
    for runs in by_scenario(experiments):
        own = [run for run in runs.runs if run.track == "inductive" and run.method.answers_itself]
        runs = runs._replace(runs=tuple(own))
        plain = [name for name in runs.scenario.targets if corruption_of(name) is None]
        if not own or not plain:
            continue
        sets = {
            one.digest: one
            for run in runs.runs
            for one in scored_sets(run, known[run.run_id]).values()
        }
        cells = {digest: draw_cells(one) for digest, one in sets.items()}
        own = partial(method_rows, runs, known=known, cells=cells)
        if patients and set(patients.classes) == set(runs.classes):
            counts = patients.counts(runs.classes)
            smears = {digest: draw_smears(one, counts) for digest, one in sets.items()}
            own = partial(own, patients=patients, smears=smears)
            jobs.append(partial(own, PERFECT))
        jobs += [partial(own, method) for method in runs.methods]
    return jobs


def by_name(found: list[dict[str, list[dict]]]) -> dict[str, list[dict]]:
    """Rows of each file in `BY_METHOD` from what its jobs found."""
    return {name: [row for rows in found for row in rows.get(name, ())] for name in BY_METHOD}


def method_rows(
    runs: ScenarioRuns,
    method: str,
    known: dict[str, dict[TestSet, Predictions]],
    cells: dict[str, np.ndarray],
    patients: Prevalences | None = None,
    smears: dict[str, Smears | None] | None = None,
) -> dict[str, list[dict]]:
    """The same of one method in one scenario, or of what never errs.

    Args:
        cells, smears: what is drawn of each test set, by its digest.
        patients: None where smears are not drawn of them.
    """
    if method == PERFECT:
        return {"differential": perfect_rows(runs, known, patients, smears)}
    counted = differential_rows(runs, method, known, patients, smears) if patients else []
    return {
        "differential": counted,
        "labels_needed": labels_needed_rows(runs, method, known),
        "local_thresholds": local_threshold_rows(runs, method, known, cells),
    }


def majority(
    runs: dict[str, tuple[RecordedRun, tuple[str, ...]]],
    predictions: dict[str, dict[TestSet, Predictions]],
) -> dict[str, pa.Table]:
    """What `metrics.parquet` holds of the majority constant of each scenario, by its id."""
    found: dict[str, tuple[RecordedRun, tuple[str, ...], dict[TestSet, np.ndarray]]] = {}
    for run_id, (run, classes) in runs.items():
        _, _, labels = found.setdefault(run.scenario.name, (run, classes, {}))
        for test_set, own in predictions[run_id].items():
            labels.setdefault(test_set, own.labels)
    return {
        majority_id(name): table_of(majority_rows(*parts), METRICS_SCHEMA)
        for name, parts in found.items()
    }


def evidence_jobs(
    experiments: list[Experiment], predictions: dict[str, dict[TestSet, Predictions]]
) -> list[Callable[[], tuple[list[dict], ...]]]:
    """What finds the rows of the files in `EVIDENCE`, a part of them each; the longest first."""
    jobs = []
    for runs in by_scenario(experiments):
        own = {run.run_id: predictions[run.run_id] for run in runs.runs}
        # The two forms share no resample: halves for two processors.
        jobs += [
            partial(scenario_evidence, experiments, runs, own, reduced)
            for reduced in ((False, True) if has_reduced_form(runs) else (False,))
        ]
    return sorted(jobs, key=lambda job: -len(job.args[2]) * len(job.args[1].scenario.test_sets))


def evidence(found: list[tuple[list[dict], ...]]) -> tuple[list[dict], ...]:
    """Rows of each file in `EVIDENCE` from what its jobs found."""
    *others, effects = ([row for rows in found for row in rows[place]] for place in range(4))
    return *others, adjusted_rows(effects)


def scenario_evidence(
    experiments: list[Experiment],
    runs: ScenarioRuns,
    predictions: dict[str, dict[TestSet, Predictions]],
    reduced: bool,
) -> tuple[list[dict], ...]:
    """The same for one scenario, whose done runs are resampled together, once for all experiments.

    Args:
        predictions: of the done runs of the scenario, by run id.
        reduced: whether it is of the reduced label space; effects are of the whole one.
    """
    blocks = []
    for experiment in experiments:
        for (scenario, kind), planned in experiment.blocks().items():
            if scenario == runs.scenario and experiment.classes == runs.classes:
                names = dict.fromkeys(run.method.name for run in planned)
                done = [name for name in names if name in runs.methods]
                where = {"experiment": experiment.experiment, "scenario": scenario.name}
                blocks += [(where | {"track": kind}, done)] if done else []
    # A name that no experiment has: all methods of the profile, for the leaderboard.
    tracks: dict[str, list[str]] = {}
    for method, run in runs.methods.items():
        tracks.setdefault(run.track, []).append(method)
    where = {"experiment": TOGETHER, "scenario": runs.scenario.name}
    blocks += [(where | {"track": track}, methods) for track, methods in tracks.items()]
    resampled = resample(runs, predictions, reduced)
    columns = scenario_columns(resampled)
    effects = [] if reduced else effect_rows(resampled, columns)
    standings = standing_rows(resampled, blocks, columns)
    return interval_rows(resampled, columns), *standings, effects


def read_all(
    results: Path, runs: dict[str, tuple[RecordedRun, tuple[str, ...]]]
) -> dict[str, RunPredictions]:
    """Predictions by run id.

    Raises:
        UserError: comparisons are paired by image, and two test sets of one name are not the same.
    """
    orders: RowOrders = {}
    with ThreadPoolExecutor(processors()) as pool:
        jobs = pool.map(lambda pair: predictions_of(results, *pair, orders), runs.values())
        predictions = dict(zip(runs, track(jobs, "evaluate", total=len(runs)), strict=True))
    seen: dict[tuple[str, TestSet, Fold | None], tuple[str, str]] = {}
    for run_id, (run, _) in runs.items():
        for test_set, own in predictions[run_id].known.items():
            whole = test_set[1] == "shifted" and corruption_of(test_set[0]) is None
            held_out = None if whole else fold_of(run.seed, run.scenario.folds)
            key = run.scenario.name, test_set, held_out
            other, digest = seen.setdefault(key, (run_id, own.digest))
            if digest != own.digest:
                raise UserError(
                    f"runs {other} and {run_id} of scenario {run.scenario.name} were scored on "
                    f"different images of {test_set[0]} ({test_set[1]}) and cannot be compared: "
                    f"`{train_command(results)}` renews the stale one"
                )
    return predictions


def table_of(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """Rows in the order of their text columns, so that equal content has equal bytes."""
    keys = [field.name for field in schema if pa.types.is_string(field.type)]
    return pa.Table.from_pylist(sorted(rows, key=itemgetter(*keys)), schema=schema)
