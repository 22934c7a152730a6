"""Tables and figures of what laboratories ask, from drawn predictions to the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from sklearn.metrics import accuracy_score
from support.results import (
    CLASSES,
    COUNTS,
    TARGETS,
    predictions,
    run_record,
    write_data,
    write_experiment,
    write_run,
)

from benchmark.evaluation.evaluate import evaluate
from benchmark.report import questions
from benchmark.report.pictures import question_jobs, save_job
from benchmark.report.results import Results
from benchmark.report.table import Cell, Table
from benchmark.report.write import write_table

METHODS = ("resnet18-bn-ce", "resnet18-gn-ce", "resnet18-in-ce")
SIZES = COUNTS | {("raabin", "calibration"): [20] * 5}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Three methods, the second the best on the targets, two seeds each."""
    root = tmp_path_factory.mktemp("project")
    (root / "datasets").mkdir()
    for name in ("label_spaces.yaml", "haematology", "chula.yaml"):
        (root / "datasets" / name).symlink_to(REPOSITORY / "datasets" / name)
    folder = root / "results" / "toy"
    runs = []
    for skill, name in zip((1.0, 3.0, 2.0), METHODS, strict=True):
        for seed in range(2):
            record = run_record(name, seed, None)
            table = predictions(int(10 * skill) + seed, skill, SIZES)
            record["predictions_sha256"] = write_run(folder, record["run_id"], table)
            runs.append(record)
    write_experiment(folder, runs)
    write_data(folder)
    evaluate(folder)
    return Results.of(folder)


def frame(table: Table) -> pd.DataFrame:
    """Its values by column."""
    (block,) = table.blocks
    names = [column.key for column in block.columns]
    values = ([c.mean if isinstance(c, Cell) else c for c in row.cells] for row in block.rows)
    return pd.DataFrame(values, columns=names)


def predicted(results: Results, run_id: str, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers of a run."""
    table = pd.read_parquet(results.folder / "runs" / run_id / "predictions.parquet")
    table = table[(table["domain"] == domain) & table["part"].isin(["shifted", "id_test"])]
    logits = table[[f"logit_{name}" for name in CLASSES]].to_numpy()
    return table["label"].to_numpy(), logits.argmax(axis=1)


def test_the_first_plain_method_and_the_best_are_shown(results: Results) -> None:
    assert questions.shown(results) == {"raabin->*": ["resnet18-bn-ce", "resnet18-gn-ce"]}
    table = frame(questions.severity_sheet(results))
    assert set(table["method"]) == {"resnet18-bn-ce", "resnet18-gn-ce"}


def test_severities_are_those_of_the_answers(results: Results) -> None:
    table = frame(questions.severity_sheet(results))
    row = table[(table["method"] == "resnet18-gn-ce") & (table["tested on"] == "bccd")].iloc[0]
    wrong = 0
    lymphoid = 0
    for run in questions.asked(results)["raabin->*"]["resnet18-gn-ce"]:
        labels, answers = predicted(results, run.run_id, "bccd")
        wrong += (labels != answers).sum()
        lymphoid += ((labels == 1) != (answers == 1)).sum()
    assert row["n"] == 69
    assert row["errors"] == pytest.approx(100 * wrong / (2 * 69))
    assert row["height 4"] == pytest.approx(100 * lymphoid / wrong)
    heights = [f"height {h}" for h in (1, 2, 4)]
    assert row[heights].sum() == pytest.approx(100)
    assert row[[f"{name} by chance" for name in heights]].sum() == pytest.approx(100)
    assert "immature called mature" not in table


def test_differences_and_ranks_of_the_estimates_are_those_of_the_file(results: Results) -> None:
    table = frame(questions.unlabelled_sheet(results))
    table = table[(table["tested on"] == "other domains") & (table["of"] == "accuracy")]
    row = table[table["estimate"] == "average confidence"].iloc[0]
    stored = results.unlabelled.query("metric == 'accuracy' and estimator == 'confidence'")
    stored = stored[stored["part"] == "shifted"]
    assert row["n"] == len(stored) == len(METHODS) * 2 * len(TARGETS)
    for run_id, domain, truth in zip(stored.run_id, stored.domain, stored.truth, strict=True):
        assert truth == pytest.approx(accuracy_score(*predicted(results, run_id, domain)))
    off = 100 * (stored["estimate"] - stored["truth"])
    assert row["mean abs. error"] == pytest.approx(off.abs().mean())
    assert row["bias"] == pytest.approx(off.mean())
    by_set = off.abs().groupby(stored["domain"]).mean()
    above = (by_set > questions.GOAL).sum()
    assert row["warning"] == (f"fails on {above} of 2" if above else "holds")
    assert row["rank corr."] == pytest.approx(
        stored["estimate"].corr(stored["truth"], method="spearman")
    )


def test_the_regression_is_of_targets_alone(results: Results) -> None:
    table = frame(questions.unlabelled_sheet(results))
    own = table[table["estimate"].str.startswith("regression")]
    assert set(own["tested on"]) == {"other domains"}


def test_every_correction_has_a_row_and_what_never_errs_has_one(results: Results) -> None:
    table = frame(questions.differential_sheet(results))
    rows = table.groupby(["method", "tested on"])["correction"].agg(list)
    assert rows["resnet18-gn-ce", "bccd"] == ["none", "adjusted count", "EMQ"]
    assert rows["no error", "bccd"] == ["none"]
    assert table.loc[table["tested on"] == "bccd", "basophil"].isna().all()
    assert table.loc[table["method"] == "no error", "neutrophil"].min() >= 90


def test_cells_to_label_stand_with_the_observed_sensitivity(results: Results) -> None:
    table = frame(questions.labels_needed_sheet(results))
    row = table.query("method == 'resnet18-gn-ce' and `tested on` == 'bccd'").set_index("class")
    right = cells = 0
    for run in questions.asked(results)["raabin->*"]["resnet18-gn-ce"]:
        labels, answers = predicted(results, run.run_id, "bccd")
        right += ((labels == 0) & (answers == 0)).sum()
        cells += (labels == 0).sum()
    assert row.at["neutrophil", "recognised"] == pytest.approx(100 * right / cells)
    assert "basophil" not in row.index


def test_every_table_is_written_and_every_figure_drawn(results: Results, tmp_path: Path) -> None:
    sheets = [
        questions.differential_sheet,
        questions.labels_needed_sheet,
        questions.local_thresholds_sheet,
        questions.unlabelled_sheet,
        questions.severity_sheet,
    ]
    for sheet in sheets:
        write_table(tmp_path, sheet(results))
    jobs = list(question_jobs(results))
    assert [job.picture.name for job in jobs] == [
        "differential",
        "local_labels",
        "unlabelled",
        "severity",
    ]
    for job in jobs:
        save_job(tmp_path, "png", job)
        assert (tmp_path / f"{job.picture.name}.png").stat().st_size > 10_000
    assert len(list(tmp_path.glob("*.md"))) == len(sheets)


def test_without_the_facts_it_is_said_and_the_rest_is_there(
    results: Results, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert len(results.severity)
    assert len(results.differential)
    copied = tmp_path / "results" / "toy"
    copied.mkdir(parents=True)
    for name in ("experiments", "runs"):
        (copied / name).symlink_to(results.folder / name)
    evaluate(copied)
    printed = capsys.readouterr()
    told = printed.out + printed.err
    assert "haematology/lineage.yaml is missing: no severity of errors" in told
    assert "haematology/prevalences.yaml is missing: no differential counts" in told
    other = Results.of(copied)
    assert questions.differential_sheet(other) is None
    assert questions.severity_sheet(other) is None
    assert questions.labels_needed_sheet(other) is not None


def test_of_methods_that_saw_the_target_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "datasets").symlink_to(REPOSITORY / "datasets")
    folder = tmp_path / "results" / "toy"
    record = run_record(METHODS[0], 0, None) | {"track": "transductive"}
    record["predictions_sha256"] = write_run(folder, record["run_id"], predictions(0, 1.0, SIZES))
    write_experiment(folder, [record])
    evaluate(folder)
    found = Results.of(folder)
    assert found.differential.empty
    assert found.labels_needed.empty
    assert found.local_thresholds.empty
    assert set(found.unlabelled["run_id"]) == {record["run_id"]}
    assert questions.differential_sheet(found) is None
    assert questions.local_thresholds_sheet(found) is None
