"""Evaluate: from experiment records and predictions to scores, confusions and intervals.

Every file is a pure function of the records and predictions: the same input gives the same bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.evaluation import metrics
from benchmark.evaluation.columns import resample
from benchmark.evaluation.effects import EFFECTS_SCHEMA, effect_rows
from benchmark.evaluation.evidence import CELLS_SCHEMA, COLUMNS_SCHEMA, Members, block_evidence
from benchmark.evaluation.experiments import (
    Experiment,
    Run,
    Scenario,
    done_runs,
    load_experiments,
    predictions_digest,
)
from benchmark.evaluation.parallel import in_processes, processors
from benchmark.evaluation.predictions import (
    DROPPED,
    REDUCED,
    WBC5,
    Answers,
    Predictions,
    TestSet,
    read_predictions,
)
from benchmark.evaluation.selective import (
    CURVES_SCHEMA,
    OPEN_SET_SCHEMA,
    REJECTION_SCHEMA,
    curve_rows,
    open_set_rows,
    rejection_rows,
)
from benchmark.files import atomic
from benchmark.progress import say, track

MAJORITY = "majority"
"""Name of the constant that answers the commonest class of each test set: an oracle, no method."""

METRICS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "method", "backbone", "normalisation")),
        *((name, pa.string()) for name in ("loss", "recipe", "track", "scenario", "source")),
        ("seed", pa.int64()),
        *((name, pa.string()) for name in ("domain", "part", "class_name", "metric")),
        ("value", pa.float64()),
        ("n", pa.int64()),
    ]
)
CONFUSION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run_id", "domain", "part", "true", "predicted")),
        ("count", pa.int64()),
    ]
)


def evaluate(results: Path) -> None:
    """Score every done run of a results folder once, and the majority constant of each test set.

    Writes `metrics.parquet` (long: one row per run, domain, part, class and metric; `class_name`
    is "" for a metric over all classes; `n` counts the images behind the value),
    `confusion.parquet` (one row per cell), `rejection.parquet` (one row per rejector and
    threshold), `curves.parquet` (points of reliability and risk-coverage curves),
    `open_set.parquet` (one row per rejector and kind of foreign cell),
    `intervals.parquet` (one row per cell of a table), `evidence.parquet` (one row per column of a
    table) and `effects.parquet` (one row per exchanged part and column). The majority rows have no
    seed and no track.

    Raises:
        UserError: predictions are missing, changed, unreadable or incomplete, or two runs of a
            scenario were scored on different images. Nothing is written then.
    """
    results = Path(results)
    experiments = load_experiments(results)
    runs = done_runs(experiments)
    predictions = read_all(results, runs)
    answers = {run_id: own.known for run_id, own in predictions.items()}
    jobs = [partial(run_rows, *runs[run_id], own) for run_id, own in predictions.items()]
    by_run = in_processes(jobs, "scores")
    metric_rows, confusion_rows, rejected, curves, strange = (
        [row for rows in by_run for row in rows[place]] for place in range(5)
    )
    constants: dict[tuple[str, TestSet], tuple[Run, np.ndarray, tuple[str, ...]]] = {}
    for run_id, (run, classes) in runs.items():
        for test_set, answer in answers[run_id].items():
            key = (run.scenario.name, test_set)
            if key not in constants:
                counts = np.bincount(answer.labels, minlength=len(classes))
                constants[key] = run, counts, classes
    for (_, test_set), (run, counts, classes) in constants.items():
        constant = metrics.constant_confusion(counts)
        metric_rows += score_rows(describe_majority(run), test_set, constant, classes)
        reduced = reduced_confusion(constant, classes)
        metric_rows += reduced_rows(describe_majority(run), test_set, reduced)
    cells, columns, effects = evidence(experiments, runs, answers)
    key = {b"predictions": predictions_digest(experiments).encode()}
    for name, rows, schema in (
        ("metrics", metric_rows, METRICS_SCHEMA),
        ("confusion", confusion_rows, CONFUSION_SCHEMA),
        ("rejection", rejected, REJECTION_SCHEMA),
        ("curves", curves, CURVES_SCHEMA),
        ("open_set", strange, OPEN_SET_SCHEMA),
        ("intervals", cells, CELLS_SCHEMA),
        ("evidence", columns, COLUMNS_SCHEMA),
        ("effects", effects, EFFECTS_SCHEMA),
    ):
        write_sorted(results / f"{name}.parquet", rows, schema.with_metadata(key))
    say(f"evaluate: {len(runs)} runs, {len(metric_rows)} values in {results / 'metrics.parquet'}")


def run_rows(
    run: Run, classes: tuple[str, ...], predictions: Predictions
) -> tuple[list[dict], ...]:
    """Rows of `metrics`, `confusion`, `rejection`, `curves`, `open_set.parquet` for one run."""
    answers = predictions.known
    scored, counted = [], []
    for test_set, answer in answers.items():
        confusion = metrics.confusion_matrix(answer.labels, answer.predicted, len(classes))
        scored += score_rows(describe(run), test_set, confusion, classes)
        scored += answer_rows(describe(run), test_set, answer, classes)
        counted += count_rows(run.run_id, test_set, confusion, classes)
    strange = open_set_rows(run, answers, predictions.foreign)
    return scored, counted, rejection_rows(run, answers), curve_rows(run, answers), strange


def evidence(
    experiments: list[Experiment],
    runs: dict[str, tuple[Run, tuple[str, ...]]],
    answers: dict[str, dict[TestSet, Answers]],
) -> tuple[list[dict], list[dict], list[dict]]:
    """Rows of `intervals`, `evidence` and `effects.parquet`: each scenario is resampled once."""
    scenarios: dict[tuple[Scenario, tuple[str, ...]], dict[str, dict[TestSet, Answers]]] = {}
    for run_id, (run, classes) in runs.items():
        scenarios.setdefault((run.scenario, classes), {})[run_id] = answers[run_id]
    with ThreadPoolExecutor(processors()) as pool:
        drawn = pool.map(lambda item: resample(*item[0], item[1]), scenarios.items())
        resampled = dict(zip(scenarios, drawn, strict=True))
    blocks, exchanges = [], []
    for experiment in experiments:
        for (scenario, kind), planned in experiment.blocks().items():
            if found := resampled.get((scenario, experiment.classes)):
                members: Members = {}
                for run in planned:
                    own = [(run.seed, run.run_id)] if run.done else []
                    members.setdefault(run.method.name, []).extend(own)
                name = experiment.experiment
                where = {"experiment": name, "scenario": scenario.name, "track": kind}
                blocks.append(partial(block_evidence, found, members, where))
        for scenario in dict.fromkeys(run.scenario for run in experiment.runs):
            if found := resampled.get((scenario, experiment.classes)):
                planned = [run for run in experiment.runs if run.scenario == scenario]
                exchanges.append(partial(effect_rows, found, planned, experiment.experiment))
    rows = in_processes([*blocks, *exchanges], "intervals")
    cells, columns = ([row for both in rows[: len(blocks)] for row in both[k]] for k in (0, 1))
    return cells, columns, [row for own in rows[len(blocks) :] for row in own]


def read_all(results: Path, runs: dict[str, tuple[Run, tuple[str, ...]]]) -> dict[str, Predictions]:
    """Predictions by run id, those of known classes checked to be paired."""
    with ThreadPoolExecutor() as pool:
        jobs = pool.map(lambda pair: read_predictions(results, *pair), runs.values())
        predictions = dict(zip(runs, track(jobs, "evaluate", total=len(runs)), strict=True))
    seen: dict[tuple[str, TestSet], tuple[str, str]] = {}
    for run_id, (run, _) in runs.items():
        for test_set, answer in predictions[run_id].known.items():
            check_paired(run_id, (run.scenario.name, test_set), answer.digest, seen)
    return predictions


def check_paired(
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
            f"{domain} ({part}) and cannot be compared: `wbc-shift train` renews the stale one"
        )


def describe(run: Run) -> dict:
    """The columns of `metrics.parquet` that say which run a value belongs to."""
    method = run.method.model_dump(include={"backbone", "normalisation", "loss", "recipe"})
    scenario = {"scenario": run.scenario.name, "source": run.scenario.source}
    run_columns = {"run_id": run.run_id, "method": run.method.name, "track": run.track}
    return run_columns | method | scenario | {"seed": run.seed}


def describe_majority(run: Run) -> dict:
    """The same columns for the majority constant on the scenario of `run`."""
    nothing = dict.fromkeys(("backbone", "normalisation", "loss", "track"), "")
    return describe(run) | nothing | {
        "run_id": majority_id(run.scenario.name),
        "method": MAJORITY,
        "recipe": "constant",
        "seed": None,
    }  # fmt: skip


def majority_id(scenario: str) -> str:
    """Stands in the `run_id` column for the majority constant of a scenario."""
    return f"{MAJORITY}/{scenario}"


def score_rows(
    run: dict, test_set: TestSet, confusion: np.ndarray, classes: tuple[str, ...]
) -> list[dict]:
    """Rows of `metrics.parquet` that follow from a confusion matrix."""
    where = run | {"domain": test_set[0], "part": test_set[1]}
    images = int(confusion.sum())
    counts = metrics.support(confusion).tolist()
    rows = [
        where | {"class_name": "", "metric": name, "value": float(metric(confusion)), "n": images}
        for name, metric in metrics.OVERALL.items()
    ]
    for name, metric in metrics.PER_CLASS.items():
        rows += [
            where | {"class_name": class_name, "metric": name, "value": value, "n": n}
            for class_name, value, n in zip(
                classes, metric(confusion).tolist(), counts, strict=True
            )
        ]
    return rows


def answer_rows(
    run: dict, test_set: TestSet, answer: Answers, classes: tuple[str, ...]
) -> list[dict]:
    """Rows of stated probabilities, and of the score on four classes where there is one."""
    where = run | {"domain": test_set[0], "part": test_set[1], "class_name": ""}
    rows = [
        where | {"metric": name, "value": value, "n": len(answer.labels)}
        for name, value in answer.stated.items()
    ]
    if answer.reduced is not None:
        size = len(classes)
        kept = answer.labels != classes.index(DROPPED)
        if kept.any():
            confusion = metrics.confusion_matrix(answer.labels[kept], answer.reduced[kept], size)
            rows += reduced_rows(run, test_set, confusion)
    return rows


def reduced_rows(run: dict, test_set: TestSet, confusion: np.ndarray | None) -> list[dict]:
    """The headline metrics of a reduced label space, named `macro_f1_wbc4` and so on."""
    if confusion is None or not confusion.sum():
        return []
    where = run | {"domain": test_set[0], "part": test_set[1], "class_name": ""}
    return [
        where
        | {"metric": f"{name}_{REDUCED}", "value": float(metrics.OVERALL[name](confusion))}
        | {"n": int(confusion.sum())}
        for name in metrics.HEADLINE
    ]


def reduced_confusion(constant: np.ndarray, classes: tuple[str, ...]) -> np.ndarray | None:
    """The majority constant among the classes of the reduced label space."""
    if frozenset(classes) != WBC5:
        return None
    counts = metrics.support(constant).copy()
    counts[classes.index(DROPPED)] = 0
    return metrics.constant_confusion(counts)


def count_rows(
    run_id: str, test_set: TestSet, confusion: np.ndarray, classes: tuple[str, ...]
) -> list[dict]:
    """Rows of `confusion.parquet` for one run on one test set, zeros included."""
    where = {"run_id": run_id, "domain": test_set[0], "part": test_set[1]}
    return [
        where | {"true": true, "predicted": predicted, "count": int(confusion[i, j])}
        for i, true in enumerate(classes)
        for j, predicted in enumerate(classes)
    ]


def write_sorted(path: Path, rows: list[dict], schema: pa.Schema) -> None:
    """Write rows in the order of their text columns, so that equal content has equal bytes."""
    keys = [field.name for field in schema if pa.types.is_string(field.type)]
    rows = sorted(rows, key=lambda row: [row[key] for key in keys])
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")
