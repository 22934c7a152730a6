"""The published results: one tidy table, the same in each form, told by its metadata."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from sklearn.metrics import accuracy_score, f1_score
from support.results import CLASSES, run_record, write_data, write_experiment, write_results

from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.features import Score
from benchmark.evaluation.intervals import Interval
from benchmark.files import read_json, sha256_file
from benchmark.report.published import (
    FIELDS,
    FILES,
    KEYS,
    constants,
    contamination,
    published,
    write_published,
)
from benchmark.report.results import Results
from benchmark.study.pipeline import REPORTED

BN = "resnet18-bn-ce"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods of two seeds in one experiment, one of them in another, and a missing run."""
    root = tmp_path_factory.mktemp("project")
    (root / "datasets").symlink_to(REPOSITORY / "datasets")
    (root / "CITATION.cff").symlink_to(REPOSITORY / "CITATION.cff")
    folder = root / "results" / "toy"
    runs = write_results(folder)
    write_experiment(folder, runs[:2], name="losses", title="Losses")
    runs.append(run_record("resnet18-in-ce", 0, None, outcome="missing"))
    write_experiment(folder, runs)
    write_data(folder)
    evaluate(folder)
    write_published(Results.of(folder))
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet")


def row(table: pd.DataFrame, **where: str) -> pd.Series:
    """The one row of such values; of bn on bccd over all classes and seeds if nothing else is
    said."""
    asked = {"method": BN, "target": "bccd", "class_name": "", "setting": "", "seed": "all"}
    for name, value in (asked | where).items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def answers(folder: Path, seed: int, domain: str = "bccd") -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers of a run of bn."""
    path = folder / "runs" / f"{BN}/raabin_to_others/seed{seed}" / "predictions.parquet"
    own = pd.read_parquet(path).query("domain == @domain and part in ('shifted', 'id_test')")
    logits = own[[f"logit_{name}" for name in CLASSES]].to_numpy()
    return own["label"].to_numpy(), logits.argmax(axis=1)


def test_a_row_is_told_from_all_others_by_what_it_is_of(table: pd.DataFrame) -> None:
    assert list(table) == [field.name for field in FIELDS]
    assert not table.duplicated(KEYS).any()
    assert set(table["method"]) == {BN, "resnet18-gn-ce", "no error"}
    assert (table.loc[table["method"] == BN, "experiments"] == "losses norms").all()
    assert (table.loc[table["method"] == "resnet18-gn-ce", "experiments"] == "norms").all()


def test_scores_of_a_run_are_those_of_its_answers(folder: Path, table: pd.DataFrame) -> None:
    for seed in (0, 1):
        labels, own = answers(folder, seed)
        found = row(table, metric="accuracy", seed=str(seed))
        assert found["value"] == pytest.approx(accuracy_score(labels, own), abs=1e-6)
        assert (found["n"], found["seeds"]) == (69, 1)
        # The commonest of its 69 cells are 30 neutrophils.
        assert found["constant"] == pytest.approx(30 / 69, abs=1e-6)
        assert np.isnan(found["low"])
        of_class = row(table, metric="f1", class_name="monocyte", seed=str(seed))
        expected = f1_score(labels == 2, own == 2)
        assert of_class["value"] == pytest.approx(expected, abs=1e-6)
        assert (of_class["n"], of_class["constant"]) == (10, 0)


def test_means_over_seeds_have_the_intervals_that_were_computed(
    folder: Path, table: pd.DataFrame
) -> None:
    found = row(table, metric="accuracy")
    means = [accuracy_score(*answers(folder, seed)) for seed in (0, 1)]
    assert found["value"] == pytest.approx(np.mean(means), abs=1e-6)
    intervals = pd.read_parquet(folder / "intervals.parquet").query("method == @BN")
    own = intervals.query("metric == 'accuracy' and column == 'bccd' and class_name == ''").iloc[0]
    assert (found["low"], found["high"]) == (own["low"], own["high"])
    assert (found["level"], found["covers"], found["seeds"]) == (0.95, "images and seeds", 2)
    drop = row(table, metric="accuracy", target="shift_drop")
    home, mean = (row(table, metric="accuracy", target=t) for t in ("raabin", "mean_target"))
    assert drop["value"] == pytest.approx(home["value"] - mean["value"], abs=2e-6)
    assert (home["part"], mean["part"]) == ("id_test", "summary")
    # The constant's answer differs by test set, so it has no drop.
    assert np.isnan(drop["constant"])
    assert mean["constant"] == pytest.approx((30 / 69 + 25 / 60) / 2, abs=1e-6)


def test_csv_and_parquet_are_one_table(folder: Path, table: pd.DataFrame) -> None:
    read = pd.read_csv(folder / "results.csv.gz", dtype={"seed": str}, keep_default_na=False,
                       na_values={name: "" for name in table.select_dtypes("number")})  # fmt: skip
    pd.testing.assert_frame_equal(read, table, check_dtype=False)


def test_writing_again_gives_the_same_bytes(folder: Path) -> None:
    before = [(folder / name).read_bytes() for name in FILES]
    assert set(FILES) < set(REPORTED)  # which the pipeline tracks
    write_published(Results.of(folder))
    assert [(folder / name).read_bytes() for name in FILES] == before


def test_contamination_is_of_the_test_sets_behind_a_value(folder: Path) -> None:
    results = Results.of(folder)
    seen, unknown = (
        {"settings": {"weights": {"timm": "x", "training_datasets": names}}}
        for names in (["imagenet-1k", "raabin"], None)
    )
    ids = {run.method.name: run_id for run_id, run in results.done.items()}
    vars(results)["records"] = {ids[BN]: seen, ids["resnet18-gn-ce"]: unknown}
    found = contamination(results).set_index(["method", "target"])["contamination"]
    assert found[BN, "raabin"] == found[BN, "shift_drop"] == "contaminated"
    assert found[BN, "bccd"] == found[BN, "mean_target"] == "clean"
    assert set(found["resnet18-gn-ce"]) == {"unknown"}
    members = [{"run_id": run_id} for run_id in ids.values()]
    both = {"settings": {"members": members}}
    vars(results)["records"] |= {next(iter(results.done)): both}
    vars(results)["records"][ids[BN]] = seen
    found = contamination(results).set_index(["method", "target"])["contamination"]
    assert found[BN, "bccd"] == "unknown"


def test_sets_of_features_stand_beside_methods_with_their_contamination(folder: Path) -> None:
    results = Results.of(folder)
    (scenario,) = {run.scenario for run in results.done.values()}
    record = SimpleNamespace(
        name=BN,
        scenarios=(scenario,),
        classes=CLASSES,
        contamination={"raabin": {"contaminated": ["bccd"]}},
    )
    of_one_fold = pd.DataFrame({"label": [0] * 30 + [1] * 10})  # two of the classes, of 40 cells
    tables = [
        (of_one_fold if part == "id_test" else of_one_fold[:0]).assign(domain=domain, part=part)
        for domain, part in scenario.test_sets
    ]
    predictions = pd.concat(tables).assign(scenario=scenario.name)
    vars(results)["feature_sets"] = [SimpleNamespace(record=record, predictions=predictions)]
    vars(results)["feature_scores"] = [
        Score(BN, scenario.name, "logistic", column, Interval(0.5, 0.4, 0.6, 1))
        for column in ("in_domain", "bccd", "mean_target")
    ]
    table = published(results).to_pandas()
    own = table[table["method"] == f"features/{BN}"].set_index("target")
    assert dict(own["contamination"]) == {
        "raabin": "clean",
        "bccd": "contaminated",
        "mean_target": "contaminated",
    }
    assert set(own["setting"]) == {"readout=logistic"}
    assert own.loc["raabin", ["value", "low", "high", "source"]].tolist() == [
        0.5,
        0.4,
        0.6,
        "raabin",
    ]
    assert own.at["bccd", "constant"] == row(table, metric="macro_f1")["constant"] > 0
    assert own.at["bccd", "n"] == row(table, metric="macro_f1")["n"]
    # Thirty of forty cells are of the answered class: F1 is 60/70, and 0 of the other.
    assert own.at["raabin", "n"] == 40 != row(table, metric="macro_f1", target="raabin")["n"]
    assert own.at["raabin", "constant"] == pytest.approx(60 / 70 / 2, abs=1e-6)


def test_a_run_of_one_fold_has_no_constant_of_all_folds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_more_images(results: Results) -> pd.DataFrame:
        found = constants(results)
        return found.assign(n=found["n"].where(found["part"] != "id_test", 1000))

    monkeypatch.setattr("benchmark.report.published.constants", of_more_images)
    table = published(Results.of(folder)).to_pandas()
    home = {"metric": "macro_f1", "target": "raabin"}
    assert row(table, **home)["constant"] > 0
    assert row(table, **home)["n"] == 1000
    assert np.isnan(row(table, **home, seed="0")["constant"])
    assert row(table, metric="macro_f1", seed="0")["constant"] > 0


def test_a_mean_is_not_contaminated_by_a_target_that_it_is_not_over(folder: Path) -> None:
    """Such as a laboratory's own images."""
    results = Results.of(folder)
    (scenario,) = {run.scenario for run in results.done.values()}
    more = {"targets": (*scenario.targets, "mine"), "own": ("mine",)}
    record = SimpleNamespace(
        name=BN,
        scenarios=(scenario.model_copy(update=more),),
        contamination={"raabin": {"unknown": ["mine"]}},
    )
    vars(results)["feature_sets"] = [SimpleNamespace(record=record)]
    found = contamination(results)
    own = found[found["method"] == f"features/{BN}"].set_index("target")["contamination"]
    assert (own["mine"], own["mean_target"]) == ("unknown", "clean")


def test_the_metadata_tells_files_columns_licence_and_citation(folder: Path) -> None:
    about = read_json(folder / "croissant.json")
    for file in about["distribution"]:
        assert file["sha256"] == sha256_file(folder / file["contentUrl"])
    (records,) = about["recordSet"]
    assert [field["name"] for field in records["field"]] == [field.name for field in FIELDS]
    assert all(len(field["description"]) > 10 for field in records["field"])
    assert about["license"].endswith("LICENSE-2.0")
    assert "WBC-Shift" in about["citeAs"]


def test_croissants_own_reader_takes_the_metadata_and_gives_the_rows(
    folder: Path, table: pd.DataFrame
) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="pip install 'wbc-shift[dev]'")
    dataset = croissant.Dataset(jsonld=folder / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    first = next(iter(dataset.records("results")))
    assert first["results/metric"].decode() == table["metric"].iloc[0]
    assert first["results/value"] == pytest.approx(table["value"].iloc[0])


def test_what_a_committed_report_leaves_for_people_is_little() -> None:
    for profile in ("core", "core2"):
        folder = REPOSITORY / "results" / profile
        assert len(list(folder.glob("tables/*"))) <= 40
        assert not list(folder.glob("tables/*.csv")) + list(folder.glob("figures/*.pdf"))


def test_the_documentation_tells_every_column_and_metric(table: pd.DataFrame) -> None:
    text = (REPOSITORY / "docs" / "results-file.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    told = {line.split("|")[1].strip(" `"): line.split("|")[2].strip() for line in lines}
    assert {name: told.get(name) for name, *_ in FIELDS} == {name: text for name, _, text in FIELDS}
    assert all(f"`{metric}`" in text for metric in table["metric"].unique())
