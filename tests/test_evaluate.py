"""Evaluate: predictions as they are written by training become scores, and bad ones are refused."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, log_loss
from support.results import (
    CLASSES,
    COUNTS,
    predictions,
    results_with_own_targets,
    run_record,
    scores,
    write_experiment,
    write_results,
    write_run,
)

from benchmark.errors import UserError
from benchmark.evaluation.evaluate import evaluate

FILES = ("metrics", "confusion", "intervals", "standings", "evidence", "effects")
FILES += (
    "unlabelled",
    "severity",
    "same_cells",
    "differential",
    "labels_needed",
    "local_thresholds",
)


def test_scores_are_those_of_the_predictions(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    table = predictions(11, shifted_skill=1.5).query("domain == 'bccd'")
    logits = table[[f"logit_{name}" for name in CLASSES]].to_numpy()
    hits = logits.argmax(axis=1) == table["label"].to_numpy()
    recalls = [hits[table["label"] == label].mean() for label in range(5)]
    found = scores(tmp_path).loc[runs[3]["run_id"], "bccd", "shifted"]
    assert found.loc[("", "accuracy"), "value"] == pytest.approx(hits.mean())
    assert found.loc[("", "balanced_accuracy"), "value"] == pytest.approx(np.mean(recalls))
    assert found.loc[("", "accuracy"), "n"] == 69
    assert found.loc[("basophil", "recall"), "value"] == pytest.approx(recalls[4])
    assert found.loc[("basophil", "recall"), "n"] == 3
    row = found.loc[("", "accuracy")]
    columns = ["method", "backbone", "normalisation", "loss", "recipe", "track", "scenario"]
    assert row[columns].tolist() == [
        *("resnet18-gn-ce", "resnet18", "gn", "ce", "erm", "inductive", "raabin->*")
    ]
    assert (row["source"], row["seed"]) == ("raabin", 1)


def test_an_absent_class_has_rows_without_a_value(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    row = scores(tmp_path).loc[(runs[0]["run_id"], "jtsc", "shifted", "basophil", "f1")]
    assert row["n"] == 0
    assert math.isnan(row["value"])


def test_the_majority_constant_answers_the_commonest_class_of_each_test_set(tmp_path):
    write_results(tmp_path)
    evaluate(tmp_path)
    table = scores(tmp_path).loc["majority/raabin->*"]
    assert table.loc[("bccd", "shifted", "", "accuracy"), "value"] == pytest.approx(30 / 69)
    assert table.loc[("raabin", "id_test", "", "accuracy"), "value"] == pytest.approx(20 / 63)
    # Neutrophils alone are answered: F1 = 2·25 / (25 + 60) over the four classes present.
    macro_f1 = table.loc[("jtsc", "shifted", "", "macro_f1"), "value"]
    assert macro_f1 == pytest.approx(2 * 25 / (25 + 60) / 4)
    assert table["seed"].isna().all()
    assert (table["method"] == "majority").all()


def test_four_classes_are_scored_without_basophils_among_labels_and_answers(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    table = predictions(1, shifted_skill=0.5).query("domain == 'bccd' and label != 4")
    logits = table[[f"logit_{name}" for name in CLASSES[:4]]].to_numpy()
    hits = logits.argmax(axis=1) == table["label"].to_numpy()
    found = scores(tmp_path).loc[runs[1]["run_id"], "bccd", "shifted", ""]
    assert found.loc["accuracy_wbc4", "value"] == pytest.approx(hits.mean())
    assert found.loc["accuracy_wbc4", "n"] == 66
    expected = f1_score(table["label"], logits.argmax(axis=1), average="macro")
    assert found.loc["macro_f1_wbc4", "value"] == pytest.approx(expected)
    majority = scores(tmp_path).loc["majority/raabin->*", "bccd", "shifted", ""]
    assert majority.loc["accuracy_wbc4", "value"] == pytest.approx(30 / 66)


def test_stated_probabilities_are_scored_too(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    table = predictions(0, shifted_skill=0.5).query("domain == 'jtsc'")
    logits = table[[f"logit_{name}" for name in CLASSES]].to_numpy().astype(float)
    stated = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = scores(tmp_path).loc[runs[0]["run_id"], "jtsc", "shifted", ""]["value"]
    expected = log_loss(table["label"], stated, labels=range(5))
    assert found["nll"] == pytest.approx(expected)
    assert 0 < found["excess_aurc"] < found["aurc"] < 1
    assert "nll" not in scores(tmp_path).loc["majority/raabin->*", "jtsc", "shifted", ""].index


def cells(results):
    """`intervals.parquet` of macro-F1, one row per method and column."""
    table = pd.read_parquet(results / "intervals.parquet").query("metric == 'macro_f1'")
    return table.set_index(["method", "column"]).sort_index()


def standings(results, experiment="norms"):
    """`standings.parquet` of macro-F1 in an experiment, one row per method and column."""
    table = pd.read_parquet(results / "standings.parquet").query("metric == 'macro_f1'")
    table = table[table["experiment"] == experiment]
    return table.set_index(["method", "column"]).sort_index()


def test_intervals_are_around_the_mean_over_seeds_of_every_column(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    values = scores(tmp_path)["value"]
    per_seed = np.array(
        [
            [
                values[run["run_id"], domain, part, "", "macro_f1"]
                for domain, part in list(COUNTS)[1:]
            ]
            for run in runs[:2]
        ]
    )
    targets = per_seed[:, 1:]
    expected = {
        "in_domain": per_seed[:, 0],
        "bccd": per_seed[:, 1],
        "jtsc": per_seed[:, 2],
        "mean_target": targets.mean(axis=1),
        "worst_target": targets.min(axis=1),
        "shift_drop": per_seed[:, 0] - targets.mean(axis=1),
    }
    table = cells(tmp_path)
    found = table.loc["resnet18-bn-ce"]
    for column, seeds in expected.items():
        assert found.loc[column, "mean"] == pytest.approx(seeds.mean(), abs=1e-6)
    assert set(found.index) == set(expected)
    assert (table["low"] < table["mean"]).all()
    assert (table["mean"] < table["high"]).all()
    assert (table["seeds"] == 2).all()


def test_the_best_method_leads_and_a_much_worse_one_is_not_as_good(tmp_path):
    write_experiment(tmp_path, skilled_runs(tmp_path, {"a-bn-ce": 3, "b-bn-ce": 3, "c-bn-ce": 0.3}))
    evaluate(tmp_path)
    column = standings(tmp_path).xs("mean_target", level="column")
    leader, second = column.loc[["a-bn-ce", "b-bn-ce"]].sort_values("best").index[::-1]
    assert column.loc[leader, "best"]
    assert not column.loc[leader, "as_good"]
    assert column.loc[second, "as_good"]
    worst = column.loc["c-bn-ce"]
    assert not worst["as_good"]
    assert worst["p_holm"] < 0.05
    assert worst["difference_high"] < 0
    assert (worst["rank"], worst["rank_low"], worst["first"]) == (3, 3, 0)
    drop = standings(tmp_path).xs("shift_drop", level="column")
    assert not drop["best"].any()


def skilled_runs(results, skills, seeds=2):
    """Records of runs whose skill on the targets is given by method."""
    runs = []
    for place, (name, skill) in enumerate(skills.items()):
        for seed in range(seeds):
            record = run_record(name, seed, None)
            table = predictions(100 * place + seed, shifted_skill=skill)
            record["predictions_sha256"] = write_run(results, record["run_id"], table)
            runs.append(record)
    return runs


def test_with_one_seed_each_the_interval_covers_the_images_only(tmp_path):
    write_results(tmp_path, seeds=1)
    evaluate(tmp_path)
    table = cells(tmp_path)
    assert (table["freedom"] == 0).all()
    assert (table["low"] < table["high"]).all()
    assert standings(tmp_path)["p_both"].isna().all()


def test_what_a_column_could_show_is_written_beside_it(tmp_path):
    write_results(tmp_path)
    evaluate(tmp_path)
    table = pd.read_parquet(tmp_path / "evidence.parquet").query("metric == 'macro_f1'")
    table = table.set_index("column")
    assert table.loc[["in_domain", "bccd", "jtsc"], "images"].tolist() == [63, 69, 60]
    assert table.loc["bccd", "groups"] == 69
    assert (table["detectable"].drop("shift_drop") > 0).all()
    assert (table[["sd_method", "sd_seed", "sd_image"]] >= 0).all(axis=None)
    assert table.loc["in_domain", "tau"] == 1


def test_the_same_table_of_two_experiments_says_the_same(tmp_path):
    runs = write_results(tmp_path)
    write_experiment(tmp_path, runs, name="again")
    evaluate(tmp_path)
    pd.testing.assert_frame_equal(
        standings(tmp_path).drop(columns="experiment"),
        standings(tmp_path, "again").drop(columns="experiment"),
    )


def test_a5_a_method_has_one_interval_from_all_its_seeds_whatever_table_shows_it(tmp_path):
    """Five seeds in one experiment, the first three of them in another one, beside one other."""
    runs = skilled_runs(tmp_path, {"a-bn-ce": 2, "b-bn-ce": 1}, seeds=5)
    others = skilled_runs(tmp_path, {"c-bn-ce": 1.5}, seeds=3)
    write_experiment(tmp_path, runs)
    write_experiment(tmp_path, runs[:3] + others, name="losses")
    evaluate(tmp_path)
    table = cells(tmp_path)
    assert table.index.is_unique
    assert table.loc["a-bn-ce"]["seeds"].eq(5).all()
    values = scores(tmp_path)["value"]
    bccd = [values[run["run_id"], "bccd", "shifted", "", "macro_f1"] for run in runs[:5]]
    assert table.loc[("a-bn-ce", "bccd"), "mean"] == pytest.approx(np.mean(bccd), abs=1e-6)
    # The variance between seeds has the freedom of all methods of the scenario, 4 + 4 + 2 at most.
    assert table["freedom"].max() <= 10
    assert table.xs("bccd", level="column")["freedom"].min() >= 2
    both = [standings(tmp_path, name).loc["a-bn-ce"] for name in ("norms", "losses")]
    assert [len(own) for own in both] == [len(table.loc["a-bn-ce"])] * 2
    # In the second experiment it is compared on the seeds that both have.
    compared = standings(tmp_path, "losses").loc[("c-bn-ce", "bccd")]
    own = [
        np.mean([values[run["run_id"], "bccd", "shifted", "", "macro_f1"] for run in chosen])
        for chosen in (runs[:3], others)
    ]
    assert compared["difference"] == pytest.approx(own[1] - own[0], abs=1e-6)


def test_a5_another_experiment_moves_no_number_of_the_same_methods(tmp_path):
    runs = skilled_runs(tmp_path, {"a-bn-ce": 2, "b-bn-ce": 1, "c-bn-ce": 1.5})
    write_experiment(tmp_path, runs)
    evaluate(tmp_path)
    before = cells(tmp_path), standings(tmp_path)
    write_experiment(tmp_path, runs[2:], name="losses")
    evaluate(tmp_path)
    for old, new in zip(before, (cells(tmp_path), standings(tmp_path)), strict=True):
        pd.testing.assert_frame_equal(old, new)


def test_a6_the_headline_leaves_rare_classes_out_and_the_other_score_stands_beside(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    table = predictions(1, shifted_skill=0.5).query("domain == 'bccd'")
    answers = table[[f"logit_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)
    found = scores(tmp_path).loc[runs[1]["run_id"], "bccd", "shifted", ""]["value"]
    for name, classes in (("macro_f1", range(4)), ("macro_f1_present", range(5))):
        expected = f1_score(table["label"], answers, labels=classes, average="macro")
        assert found[name] == pytest.approx(expected)
    table = pd.read_parquet(tmp_path / "intervals.parquet")
    assert set(table["metric"]) >= {"macro_f1", "macro_f1_present", "macro_f1_wbc4"}
    majority = scores(tmp_path).loc["majority/raabin->*", "bccd", "shifted", ""]["value"]
    # Neutrophils alone are answered: F1 = 2·30 / (30 + 69), over four classes and over five.
    assert majority["macro_f1"] == pytest.approx(2 * 30 / 99 / 4)
    assert majority["macro_f1_present"] == pytest.approx(2 * 30 / 99 / 5)


def test_case_05_a_target_of_basophils_alone_is_scored_and_stops_nothing(tmp_path):
    runs = results_with_own_targets(tmp_path)
    evaluate(tmp_path)
    table = scores(tmp_path)
    own = table.loc[runs[0]["run_id"], "own-baso", "shifted", ""]
    assert own.loc["macro_f1", "n"] == 12
    recall = table.loc[(runs[0]["run_id"], "own-baso", "shifted", "basophil", "recall"), "value"]
    assert own.loc["macro_f1", "value"] == pytest.approx(2 * recall / (1 + recall))
    assert "macro_f1_wbc4" not in own.index
    intervals = pd.read_parquet(tmp_path / "intervals.parquet").query("column == 'own-baso'")
    four = intervals.query("metric == 'macro_f1_wbc4'")
    assert len(four) == 2
    assert four[["mean", "low", "high"]].isna().all(axis=None)
    compared = pd.read_parquet(tmp_path / "standings.parquet").query("column == 'own-baso'")
    four = compared.query("metric == 'macro_f1_wbc4'")
    assert four["p_images"].isna().all()
    assert not four["best"].any()
    assert not four["as_good"].any()
    assert intervals.query("metric == 'macro_f1'")["mean"].notna().all()


def test_c6_own_domains_and_targets_of_few_classes_enter_no_mean(tmp_path):
    runs = results_with_own_targets(tmp_path)
    evaluate(tmp_path)
    values = scores(tmp_path)["value"]
    table = cells(tmp_path).loc["a-bn-ce"]
    of = {
        domain: np.array([values[r["run_id"], domain, "shifted", "", "macro_f1"] for r in runs[:2]])
        for domain in ("bccd", "jtsc", "few", "own-baso", "own-good")
    }
    home = [values[r["run_id"], "raabin", "id_test", "", "macro_f1"] for r in runs[:2]]
    mean = (of["bccd"] + of["jtsc"]) / 2
    assert table.loc["mean_target", "mean"] == pytest.approx(mean.mean(), abs=1e-6)
    worst = np.minimum(of["bccd"], of["jtsc"]).mean()
    assert table.loc["worst_target", "mean"] == pytest.approx(worst, abs=1e-6)
    assert table.loc["shift_drop", "mean"] == pytest.approx((home - mean).mean(), abs=1e-6)
    for domain, own in of.items():
        assert table.loc[domain, "mean"] == pytest.approx(own.mean(), abs=1e-6)


def test_c6_without_a_target_that_counts_there_is_no_mean(tmp_path):
    counts = {("raabin", "id_test"): [12] * 5, ("own", "shifted"): [12] * 5}
    record = run_record("a-bn-ce", 0, None, targets=["own"])
    record["scenario"]["own"] = ["own"]
    record["predictions_sha256"] = write_run(
        tmp_path, record["run_id"], predictions(0, counts=counts)
    )
    write_experiment(tmp_path, [record])
    evaluate(tmp_path)
    assert set(cells(tmp_path).loc["a-bn-ce"].index) == {"in_domain", "own"}


def test_confusion_counts_every_image_once(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    confusion = pd.read_parquet(tmp_path / "confusion.parquet")
    assert set(confusion["run_id"]) == {run["run_id"] for run in runs}
    part = confusion.query("run_id == @runs[0]['run_id'] and domain == 'bccd'")
    counts = part.groupby("true")["count"].sum()
    assert counts[CLASSES].tolist() == COUNTS["bccd", "shifted"]


def test_the_same_input_gives_the_same_bytes(tmp_path):
    contents = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        write_results(folder)
        evaluate(folder)
        contents.append([(folder / f"{name}.parquet").read_bytes() for name in FILES])
    assert contents[0] == contents[1]


def test_the_order_of_a_runs_images_does_not_matter(tmp_path):
    runs = write_results(tmp_path)
    evaluate(tmp_path)
    before = scores(tmp_path)["value"]
    shuffled = predictions(0, shifted_skill=0.5).sample(frac=1, random_state=0)
    runs[0]["predictions_sha256"] = write_run(tmp_path, runs[0]["run_id"], shuffled)
    write_experiment(tmp_path, runs)
    evaluate(tmp_path)
    pd.testing.assert_series_equal(before, scores(tmp_path)["value"])


def test_a_run_of_two_experiments_is_scored_once(tmp_path):
    runs = write_results(tmp_path)
    write_experiment(tmp_path, runs[:2], name="losses")
    evaluate(tmp_path)
    assert scores(tmp_path).index.is_unique


def test_only_done_runs_are_scored(tmp_path):
    runs = write_results(tmp_path)
    runs[1] |= {"outcome": "nan", "reason": "loss is NaN", "predictions_sha256": None}
    write_experiment(tmp_path, runs)
    evaluate(tmp_path)
    found = set(pd.read_parquet(tmp_path / "metrics.parquet")["run_id"])
    assert found == {runs[i]["run_id"] for i in (0, 2, 3)} | {"majority/raabin->*"}


def refused(results, *words):
    """`evaluate` fails with one line that holds all the words, and writes nothing."""
    with pytest.raises(UserError) as error:
        evaluate(results)
    line = str(error.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    assert not list(results.glob("*.parquet"))


def test_damaged_predictions_are_refused(tmp_path):
    runs = write_results(tmp_path)
    path = tmp_path / "runs" / runs[2]["run_id"] / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(tmp_path, runs[2]["run_id"], f"wbc-shift train -p {tmp_path.name}")


def test_missing_predictions_are_refused(tmp_path):
    runs = write_results(tmp_path)
    (tmp_path / "runs" / runs[2]["run_id"] / "predictions.parquet").unlink()
    refused(tmp_path, runs[2]["run_id"], "is missing", f"wbc-shift train -p {tmp_path.name}")


def replace_run(results, runs, table):
    """Let the first run have these predictions, correctly recorded."""
    runs[0]["predictions_sha256"] = write_run(results, runs[0]["run_id"], table)
    write_experiment(results, runs)


def test_a_non_finite_logit_is_refused(tmp_path):
    runs = write_results(tmp_path)
    table = predictions(0)
    table.loc[5, "logit_monocyte"] = np.float16("inf")
    replace_run(tmp_path, runs, table)
    refused(tmp_path, runs[0]["run_id"], "non-finite")


def test_d5_an_image_that_stands_twice_in_a_test_set_is_refused(tmp_path):
    runs = write_results(tmp_path)
    table = predictions(0)
    twice = table.query("domain == 'bccd'").iloc[[7]]
    replace_run(tmp_path, runs, pd.concat([table, twice], ignore_index=True))
    refused(tmp_path, runs[0]["run_id"], "shifted/0007.jpg", "bccd", "twice")


def test_d5_a_run_that_an_experiment_lists_twice_is_refused(tmp_path):
    runs = write_results(tmp_path)
    write_experiment(tmp_path, [*runs, runs[1]])
    refused(tmp_path, "norms.json", runs[1]["run_id"], "twice")


def test_a_missing_column_is_refused(tmp_path):
    runs = write_results(tmp_path)
    replace_run(tmp_path, runs, predictions(0).drop(columns="logit_monocyte"))
    refused(tmp_path, runs[0]["run_id"], "logit_monocyte")


def test_a_missing_target_is_refused(tmp_path):
    runs = write_results(tmp_path)
    replace_run(tmp_path, runs, predictions(0).query("domain != 'jtsc'"))
    refused(tmp_path, runs[0]["run_id"], "jtsc")


def test_runs_scored_on_different_images_are_refused(tmp_path):
    runs = write_results(tmp_path)
    counts = COUNTS | {("bccd", "shifted"): [30, 12, 10, 14, 4]}
    replace_run(tmp_path, runs, predictions(0, counts=counts))
    refused(tmp_path, "different images", "bccd", runs[0]["run_id"])


def test_a_folder_without_experiments_is_refused(tmp_path):
    refused(tmp_path, "experiments", f"wbc-shift train -p {tmp_path.name}")


def test_a_record_that_breaks_the_schema_is_refused(tmp_path):
    runs = write_results(tmp_path)
    runs[0]["outcome"] = "finished"
    write_experiment(tmp_path, runs)
    refused(tmp_path, "norms.json", "runs.0.outcome")
