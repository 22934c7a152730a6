"""Evaluate: from experiment records and predictions to scores, confusions and intervals.

Every file is a pure function of the records and predictions: the same input gives the same bytes.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.data.split import read_split
from benchmark.errors import UserError
from benchmark.evaluation.columns import has_reduced_form, resample
from benchmark.evaluation.comparisons import Members, scenario_columns
from benchmark.evaluation.effects import EFFECTS_SCHEMA, adjusted_rows, effect_rows
from benchmark.evaluation.evidence import (
    COLUMNS_SCHEMA,
    INTERVALS_SCHEMA,
    STANDINGS_SCHEMA,
    interval_rows,
    standing_rows,
)
from benchmark.evaluation.experiments import (
    Experiment,
    Run,
    Scenario,
    content_digest,
    done_runs,
    load_experiments,
    planned_since,
    predictions_digest,
    read_run,
)
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
    stated_of,
)
from benchmark.files import atomic
from benchmark.parallel import in_processes, processors
from benchmark.progress import say, track
from benchmark.scenarios import sources_of
from benchmark.study.predictions import (
    Layouts,
    Predictions,
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
}
"""Files whose rows belong to one run → schema."""
EVIDENCE = {
    "intervals": INTERVALS_SCHEMA,
    "standings": STANDINGS_SCHEMA,
    "evidence": COLUMNS_SCHEMA,
    "effects": EFFECTS_SCHEMA,
}
"""Files about runs together → schema."""


def evaluate(results: Path) -> None:
    """Score every done run of a results folder once, and the majority constant of each test set.

    Writes `metrics.parquet` (long: one row per run, domain, part, class and metric; `class_name`
    is "" for a metric over all classes; `n` counts the images behind the value),
    `confusion.parquet` (one row per cell), `rejection.parquet` (one row per rejector and
    threshold), `curves.parquet` (points of reliability and risk-coverage curves),
    `open_set.parquet` (one row per rejector and kind of foreign cell),
    `intervals.parquet` (one row per method, metric and column of a scenario), `standings.parquet`
    (one row per cell of a table), `evidence.parquet` (one row per column of a table) and
    `effects.parquet` (one row per exchanged part and column). The majority rows have no seed and no
    track.

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
    answers = {run_id: own.known for run_id, own in predictions.items()}
    pooled = {run.scenario.source for i, (run, _) in runs.items() if predictions[i].foreign}
    tested = images_by_domain(results.parent.parent / "datasets", pooled)
    jobs = [partial(run_columns, *runs[i], own, tested) for i, own in predictions.items()]
    by_run = dict(zip(runs, in_processes(jobs, "scores"), strict=True))
    constants = {i: {"metrics": own} for i, own in majority(runs, answers).items()}
    # Rows of a run follow each other, whatever the file is sorted by next.
    ordered = [own for _, own in sorted((by_run | constants).items())]
    parts = {name: [own[name] for own in ordered if name in own] for name in BY_RUN}
    for (name, schema), rows in zip(EVIDENCE.items(), evidence(experiments, answers), strict=True):
        parts[name] = [in_columns(rows, schema)]
    key = {b"predictions": predictions_digest(experiments).encode()}
    for name, schema in (BY_RUN | EVIDENCE).items():
        write(results / f"{name}.parquet", parts[name], schema.with_metadata(key))
    number = sum(len(part["value"]) for part in parts["metrics"])
    say(f"evaluate: {len(runs)} runs, {number} values in {results / 'metrics.parquet'}")


def run_columns(
    run: Run,
    classes: tuple[str, ...],
    predictions: RunPredictions,
    tested: dict[str, np.ndarray],
) -> dict[str, dict[str, list]]:
    """Columns of every file in `BY_RUN` for one run."""
    # Copies, so that what is computed along the way goes with them.
    answers = {test_set: replace(answer) for test_set, answer in predictions.known.items()}
    stated = {test_set: stated_of(answer) for test_set, answer in answers.items()}
    rows = {
        "metrics": metric_rows(run, classes, answers, stated),
        "confusion": confusion_rows(run, classes, answers),
        "rejection": rejection_rows(run, answers),
        "curves": curve_rows(run, answers, stated),
        "open_set": open_set_rows(run, answers, predictions.foreign, tested),
    }
    return {name: in_columns(rows[name], schema) for name, schema in BY_RUN.items()}


def images_by_domain(datasets: Path, sources: set[str]) -> dict[str, np.ndarray]:
    """Domain of a source of several → the images of its in-domain test, as the split names them.

    Predictions name the source alone.

    Raises:
        UserError: a split is missing or damaged, or two domains of a source name an image alike.
    """
    found: dict[str, np.ndarray] = {}
    for domains in (sources_of(source) for source in sorted(sources)):
        for domain in domains if len(domains) > 1 else ():
            split = read_split(datasets, domain)
            found[domain] = split.loc[split["part"] == "id_test", "path"].to_numpy(str)
        for one, other in itertools.combinations(domains, 2):
            if len(both := np.intersect1d(found[one], found[other])):
                raise UserError(
                    f"{both[0]} is an image of {one} and of {other}, so that predictions of "
                    f"{'+'.join(domains)} do not tell whose cells are meant: rename one of them"
                )
    return found


def majority(
    runs: dict[str, tuple[Run, tuple[str, ...]]], answers: dict[str, dict[TestSet, Predictions]]
) -> dict[str, dict[str, list]]:
    """Columns of `metrics.parquet` for the majority constant of each scenario, by its id."""
    found: dict[str, tuple[Run, tuple[str, ...], dict[TestSet, np.ndarray]]] = {}
    for run_id, (run, classes) in runs.items():
        _, _, labels = found.setdefault(run.scenario.name, (run, classes, {}))
        for test_set, answer in answers[run_id].items():
            labels.setdefault(test_set, answer.labels)
    return {
        majority_id(name): in_columns(majority_rows(*parts), METRICS_SCHEMA)
        for name, parts in found.items()
    }


def evidence(
    experiments: list[Experiment], answers: dict[str, dict[TestSet, Predictions]]
) -> tuple[list[dict], ...]:
    """Rows of each file in `EVIDENCE`."""
    scenarios = dict.fromkeys(
        (run.scenario, classes) for run, classes in done_runs(experiments).values()
    )
    jobs = []
    for scenario, classes in scenarios:
        done = runs_of(experiments, scenario, classes)
        own = {run.run_id: answers[run.run_id] for run in done}
        forms = (False, True) if has_reduced_form(own, scenario) else (False,)
        # The two forms share no resample: halves for two processors.
        jobs += [
            partial(scenario_evidence, experiments, scenario, classes, own, reduced)
            for reduced in forms
        ]
    found = in_processes(jobs, "intervals")
    *others, effects = ([row for rows in found for row in rows[place]] for place in range(4))
    return *others, adjusted_rows(effects)


def runs_of(
    experiments: list[Experiment], scenario: Scenario, classes: tuple[str, ...]
) -> list[Run]:
    """The done runs of a scenario, each once, in the order in which the profile plans them."""
    runs = {
        run.run_id: run
        for experiment in experiments
        for run in experiment.runs
        if run.done and run.scenario == scenario and experiment.classes == classes
    }
    return list(runs.values())


def scenario_evidence(
    experiments: list[Experiment],
    scenario: Scenario,
    classes: tuple[str, ...],
    answers: dict[str, dict[TestSet, Predictions]],
    reduced: bool,
) -> tuple[list[dict], ...]:
    """The same for one scenario, whose done runs are resampled together, once for all experiments.

    Args:
        answers: of the done runs of the scenario, by run id.
        reduced: whether it is of the reduced label space; effects are of the whole one.
    """
    runs = runs_of(experiments, scenario, classes)
    members: Members = {}
    for run in runs:
        members.setdefault(run.method.name, []).append((run.seed, run.run_id))
    # By seed, whichever experiment planned it first.
    members = {method: sorted(own) for method, own in members.items()}
    methods = {run.method.name: run.method for run in runs}
    tracks = {run.method.name: run.track for run in runs}
    blocks = []
    for experiment in experiments:
        for (own, kind), planned in experiment.blocks().items():
            if own == scenario and experiment.classes == classes:
                names = dict.fromkeys(run.method.name for run in planned)
                done = [name for name in names if name in members]
                where = {"experiment": experiment.experiment, "scenario": scenario.name}
                blocks += [(where | {"track": kind}, done)] if done else []
    resampled = resample(scenario, classes, answers, reduced)
    columns = scenario_columns(resampled, members)
    standings = standing_rows(resampled, members, blocks, columns)
    effects = [] if reduced else effect_rows(resampled, methods, tracks, columns)
    return interval_rows(resampled, members, tracks, columns), *standings, effects


def read_all(
    results: Path, runs: dict[str, tuple[Run, tuple[str, ...]]]
) -> dict[str, RunPredictions]:
    """Predictions by run id, those of known classes checked to be paired."""
    layouts: Layouts = {}
    with ThreadPoolExecutor(processors()) as pool:
        jobs = pool.map(lambda pair: read_run(results, *pair, layouts), runs.values())
        predictions = dict(zip(runs, track(jobs, "evaluate", total=len(runs)), strict=True))
    seen: dict[tuple[str, TestSet], tuple[str, str]] = {}
    for run_id, (run, _) in runs.items():
        for test_set, answer in predictions[run_id].known.items():
            check_paired(results, run_id, (run.scenario.name, test_set), answer.digest, seen)
    return predictions


def check_paired(
    results: Path,
    run_id: str,
    key: tuple[str, TestSet],
    digest: str,
    seen: dict[tuple[str, TestSet], tuple[str, str]],
) -> None:
    """Comparisons are paired by image: refuse two test sets of the same name."""
    other, known = seen.setdefault(key, (run_id, digest))
    if known != digest:
        scenario, (domain, part) = key
        raise UserError(
            f"runs {other} and {run_id} of scenario {scenario} were scored on different images of "
            f"{domain} ({part}) and cannot be compared: "
            f"`{train_command(results)}` renews the stale one"
        )


def in_columns(rows: list[dict], schema: pa.Schema) -> dict[str, list]:
    """Rows in the order of their text columns, so that equal content has equal bytes."""
    keys = [field.name for field in schema if pa.types.is_string(field.type)]
    rows = sorted(rows, key=itemgetter(*keys))
    return {name: [row.get(name) for row in rows] for name in schema.names}


def write(path: Path, parts: list[dict[str, list]], schema: pa.Schema) -> None:
    """Write columns, one part after the other."""
    tables = [pa.Table.from_pydict(part, schema=schema) for part in parts]
    with atomic(path) as temporary:
        whole = pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
        about = whole.schema.metadata | {b"content": content_digest(whole).encode()}
        whole = whole.replace_schema_metadata(about)
        pq.write_table(whole, temporary, compression="zstd")
