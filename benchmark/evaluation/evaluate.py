"""Evaluate: from experiment records and predictions to `metrics.parquet` and `confusion.parquet`.

Both files are pure functions of the records and predictions: the same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.evaluation import metrics
from benchmark.evaluation.experiments import Run, done_runs, load_experiments, predictions_digest
from benchmark.files import atomic, sha256_file
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
TestSet = tuple[str, str]
"""(domain, part)"""


class Scored(NamedTuple):
    """A run's confusion matrix and the digest of (image, label) for each of its test sets."""

    confusions: dict[TestSet, np.ndarray]
    digests: dict[TestSet, str]


def evaluate(results: Path) -> None:
    """Score every done run of a results folder once, and the majority constant of each test set.

    Writes `metrics.parquet` (long: one row per run, domain, part, class and metric; `class_name`
    is "" for a metric over all classes; `n` counts the images behind the value) and
    `confusion.parquet` (one row per cell). The majority rows have no seed and no track.

    Raises:
        UserError: predictions are missing, changed, unreadable or incomplete, or two runs of a
            scenario were scored on different images. Nothing is written then.
    """
    results = Path(results)
    experiments = load_experiments(results)
    runs = done_runs(experiments)
    with ThreadPoolExecutor() as pool:
        jobs = pool.map(lambda pair: score(results, *pair), runs.values())
        scored = list(track(jobs, "evaluate", total=len(runs)))
    constants: dict[tuple[str, TestSet], tuple[Run, np.ndarray, tuple[str, ...]]] = {}
    seen: dict[tuple[str, TestSet], tuple[str, str]] = {}
    metric_rows: list[dict] = []
    confusion_rows: list[dict] = []
    for (run, classes), result in zip(runs.values(), scored, strict=True):
        for test_set, confusion in result.confusions.items():
            key = (run.scenario.name, test_set)
            check_paired(run.run_id, key, result.digests[test_set], seen)
            constants.setdefault(key, (run, metrics.support(confusion), classes))
            metric_rows += score_rows(describe(run), test_set, confusion, classes)
            confusion_rows += count_rows(run.run_id, test_set, confusion, classes)
    for (_, test_set), (run, counts, classes) in constants.items():
        constant = metrics.constant_confusion(counts)
        metric_rows += score_rows(describe_majority(run), test_set, constant, classes)
    key = {b"predictions": predictions_digest(experiments).encode()}
    write_sorted(results / "metrics.parquet", metric_rows, METRICS_SCHEMA.with_metadata(key))
    write_sorted(results / "confusion.parquet", confusion_rows, CONFUSION_SCHEMA.with_metadata(key))
    say(f"evaluate: {len(runs)} runs, {len(metric_rows)} values in {results / 'metrics.parquet'}")


def score(results: Path, run: Run, classes: tuple[str, ...]) -> Scored:
    """Check a run's predictions against its record and count its confusions.

    Raises:
        UserError: the file is missing, is not the one recorded, or does not follow the schema.
    """
    path = results / "runs" / run.run_id / "predictions.parquet"
    if not path.is_file():
        raise UserError(f"run {run.run_id}: {path} is missing: `wbc-shift train` makes it again")
    if sha256_file(path) != run.predictions_sha256:
        raise UserError(
            f"run {run.run_id}: {path} is not the file that the run recorded (other SHA-256): "
            "`wbc-shift train` makes it again"
        )
    logit_columns = [f"logit_{name}" for name in classes]
    columns = ["domain", "part", "image", "label", *logit_columns]
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
        # One order for all runs, so that equal test sets have equal digests.
        table = table.sort_by([(name, "ascending") for name in ("domain", "part", "image")])
        labels = table["label"].to_numpy().astype(np.int64)
        logits = np.column_stack([table[name].to_numpy() for name in logit_columns])
        predicted = metrics.predicted_classes(logits)
        confusions, digests = {}, {}
        for test_set, rows in contiguous(table):
            confusions[test_set] = metrics.confusion_matrix(
                labels[rows], predicted[rows], len(classes)
            )
            images = "\n".join(table["image"][rows].to_pylist()).encode()
            digests[test_set] = hashlib.sha256(images + labels[rows].tobytes()).hexdigest()
    except (ValueError, KeyError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(
            f"run {run.run_id}: {path}: {error}: delete it, then `wbc-shift train` makes it again"
        ) from error
    for domain, part in run.scenario.test_sets:
        if (domain, part) not in confusions:
            raise UserError(
                f"run {run.run_id}: no prediction for domain '{domain}', part '{part}', which its "
                "scenario tests: delete its folder, then `wbc-shift train` makes it again"
            )
    return Scored(confusions, digests)


def contiguous(table: pa.Table) -> list[tuple[TestSet, slice]]:
    """The test sets of a table sorted by domain and part, each with its slice of rows."""
    names = [table[name].to_numpy(zero_copy_only=False) for name in ("domain", "part")]
    if not len(table):
        return []
    changes = (names[0][1:] != names[0][:-1]) | (names[1][1:] != names[1][:-1])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(table)]
    return [
        ((str(names[0][start]), str(names[1][start])), slice(start, stop))
        for start, stop in itertools.pairwise(edges)
    ]


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
    """Rows of `metrics.parquet` for one run on one test set."""
    where = run | {"domain": test_set[0], "part": test_set[1]}
    images = int(confusion.sum())
    counts = metrics.support(confusion).tolist()
    rows = [
        where | {"class_name": "", "metric": name, "value": metric(confusion), "n": images}
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
