"""Work shared: trainings are counted once, and ensembles ask for their members'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tables import texts_of

from benchmark.evaluation.experiments import Experiment
from benchmark.report.facts import computed_seconds, environment, trained_apart, training_of
from benchmark.report.results import Results
from benchmark.report.sheets import work_sheet
from benchmark.report.table import Table


def run_id(name: str) -> str:
    return f"{name}/raabin_to_others/seed0"


def network(training: str, train_s: float, epochs: int, evaluate_s: float = 360) -> dict[str, Any]:
    return {
        "training_fingerprint": training,
        "settings": {},
        "history": [{"epoch": epoch} for epoch in range(epochs)],
        "time": {"train_s": train_s, "evaluate_s": evaluate_s},
    }


def ensemble(*members: str) -> dict[str, Any]:
    settings = {"members": [{"run_id": run_id(member), "fingerprint": "0"} for member in members]}
    return {"training_fingerprint": "e", "settings": settings, "time": {"evaluate_s": 0}}


RECORDS = {
    "plain": network("a", 3600, 4),
    "probe": network("a", 0, 4),  # found the checkpoint
    "other": network("b", 7200, 10),
    "both": ensemble("plain", "other"),
    "colours": network("c", 0, 0) | {"history": []},
    "untimed": network("d", 0, 5),
}
RECORDS = {run_id(name): record for name, record in RECORDS.items()}


def experiment(title: str, *names: str) -> Experiment:
    scenario = {"name": "raabin->*", "source": "raabin", "targets": ["bccd"]}
    common = {"outcome": "done", "track": "inductive", "scenario": scenario, "seed": 0}
    runs = [common | {"run_id": run_id(name), "method": {"name": name}} for name in names]
    facts = {"experiment": title, "title": title, "profile": "toy", "label_space": "wbc5"}
    return Experiment(schema_version=1, classes=("neutrophil",), runs=runs, **facts)


def table_of(*experiments: Experiment, records: dict[str, Any] = RECORDS) -> Table:
    results = Results(Path(), list(experiments))
    vars(results)["records"] = records
    return work_sheet(results)


def lines(table: Table) -> dict[str, dict[str, str]]:
    """Rows by experiment."""
    return {row.pop("experiment"): row for row in texts_of(table)}


def test_runs_of_one_training_count_it_once_and_its_time_is_the_longest_recorded() -> None:
    assert lines(table_of(experiment("answers", "plain", "probe", "colours")))["answers"] == {
        "runs": "3",
        "trainings, unshared": "2",
        "trainings, shared": "1",
        "epochs, unshared": "8",
        "epochs, shared": "4",
        "hours, unshared": "2.0",
        "hours, shared": "1.0",
        "hours saved (%)": "50",
        "hours of prediction": "0.3",
    }


def test_an_ensemble_asks_for_the_trainings_of_its_members() -> None:
    own = lines(table_of(experiment("ensembles", "plain", "other", "both")))["ensembles"]
    assert (own["trainings, unshared"], own["trainings, shared"]) == ("4", "2")
    assert (own["hours, unshared"], own["hours, shared"]) == ("6.0", "3.0")


def test_a_run_of_two_experiments_counts_once_in_all() -> None:
    first, second = experiment("one", "plain", "other"), experiment("two", "plain", "probe")
    total = lines(table_of(first, second))["all experiments"]
    assert (total["runs"], total["trainings, unshared"]) == ("3", "3")
    assert (total["trainings, shared"], total["hours, unshared"]) == ("2", "4.0")


def test_trainings_without_a_recorded_time_are_counted_aloud_and_save_nothing() -> None:
    sheet = table_of(experiment("one", "untimed"))
    own = lines(sheet)["one"]
    assert (own["epochs, shared"], own["hours, shared"]) == ("5", "0.0")
    assert own["hours saved (%)"] == ""
    assert "1 of 3 trainings have no recorded time" in sheet.notes[-1]


def test_c1_the_same_settings_trained_elsewhere_are_another_training_and_are_told() -> None:
    records = RECORDS | {run_id("elsewhere"): network("a", 1800, 3)}
    records = {
        path: record | {"method": {"name": path.partition("/")[0]}}
        for path, record in records.items()
    }
    assert trained_apart(records) == [[["elsewhere"], ["plain", "probe"]]]
    sheet = table_of(experiment("one", "plain", "probe", "elsewhere"), records=records)
    own = lines(sheet)["one"]
    assert (own["trainings, shared"], own["hours, shared"]) == ("2", "1.5")


def test_a8_a_training_without_a_recorded_time_has_that_of_its_epochs_and_speed() -> None:
    """22 of 172 trainings were left out of the hours."""
    source = {"scenario": {"source": "raabin"}}
    records = {
        # 3,600 s of 4 epochs at 50 images a second: 45,000 images an epoch.
        "timed": network("a", 3600, 4) | source | {"train_images_per_s": 50.0},
        "untimed": network("b", 0, 10) | source | {"train_images_per_s": 125.0},
        "probe": network("b", 0, 10) | source | {"train_images_per_s": 125.0},
        "elsewhere": network("c", 0, 10)
        | {"scenario": {"source": "pbc-main"}, "train_images_per_s": 125.0},
    }
    names, records = list(records), {run_id(name): own for name, own in records.items()}
    assert computed_seconds(records) == {
        training_of(records[run_id("untimed")]): pytest.approx(3600)
    }
    sheet = table_of(experiment("one", *names), records=records)
    own = lines(sheet)["one"]
    assert (own["trainings, shared"], own["hours, shared"]) == ("3", "2.0")
    assert "The time of 1 of 3 trainings was not recorded" in sheet.notes[-2]
    assert "1 of 3 trainings have no recorded time" in sheet.notes[-1]
    shown = environment(records)
    # Four answers of 360 s beside them.
    assert (shown.hours, shown.trainings, shown.computed) == (pytest.approx(2.4), 3, 1)
