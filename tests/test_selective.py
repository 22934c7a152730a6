"""Selective: thresholds come from the source's calibration part and meet test sets unseen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit
from support.results import CLASSES, predictions, run_record, write_experiment, write_run

from benchmark.errors import UserError
from benchmark.evaluation import rejection, selective
from benchmark.evaluation.evaluate import evaluate, images_by_domain
from benchmark.evaluation.experiments import RecordedRun, load_experiments, predictions_of
from benchmark.evaluation.selective import curve_rows, open_set_rows, rejection_rows, stated_of
from benchmark.study.predictions import Foreign

COUNTS = {
    ("raabin", "calibration"): [100, 100, 90, 80, 30],
    ("raabin", "id_test"): [60, 60, 50, 40, 30],
    ("bccd", "shifted"): [30, 12, 10, 14, 3],
}


def answers_of(tmp_path, name="resnet18-bn-ce", table=None, targets=("bccd",)):
    """A run and its answers, read as `evaluate` reads them."""
    record = run_record(name, 0, None, targets=list(targets))
    table = predictions(3, counts=COUNTS) if table is None else table
    record["predictions_sha256"] = write_run(tmp_path, record["run_id"], table)
    write_experiment(tmp_path, [record])
    run = RecordedRun.model_validate(record)
    return run, predictions_of(tmp_path, run, tuple(CLASSES)).known


def curves(run, answers):
    return curve_rows(run, answers, {name: stated_of(own) for name, own in answers.items()})


def by_rejector(rows, domain):
    return {(row["rejector"], row["fit"]): row for row in rows if row["domain"] == domain}


def test_a_threshold_is_the_calibration_parts_and_rejects_the_rest(tmp_path):
    run, answers = answers_of(tmp_path)
    rows = by_rejector(rejection_rows(run, answers), "raabin")
    held, tested = answers["raabin", "calibration"], answers["raabin", "id_test"]

    def softmax(answer):
        powers = np.exp(answer.logits.astype(float))
        return powers / powers.sum(axis=1, keepdims=True)

    # By hand: the smallest confidence above which 99 % of the calibration images are right.
    confidence, right = softmax(held).max(axis=1), held.predicted == held.labels
    candidates = [t for t in confidence if right[confidence >= t].mean() >= 0.99]
    row = rows["msp", "plain"]
    assert row["threshold"] == pytest.approx(min(candidates))
    accepted = softmax(tested).max(axis=1) >= min(candidates)
    hits = (tested.predicted == tested.labels)[accepted]
    assert row["rejected"] == pytest.approx(1 - accepted.mean())
    assert row["accuracy"] == pytest.approx(hits.mean())
    assert row["right"] == pytest.approx(hits.sum() / len(tested.labels))
    assert (row["n"], row["calibration_n"]) == (240, 400)


def test_a_guarantee_rejects_at_least_as_much(tmp_path):
    run, answers = answers_of(tmp_path)
    rows = by_rejector(rejection_rows(run, answers), "bccd")
    for name in ("msp", "entropy", "energy", "margin"):
        assert rows[name, "guaranteed"]["rejected"] >= rows[name, "plain"]["rejected"]
    assert rows["conformal", "plain"]["marginal_classes"] == 0


def test_a13_scaled_probabilities_have_no_guarantee_since_they_were_fitted_there(tmp_path):
    run, answers = answers_of(tmp_path)
    rows = by_rejector(rejection_rows(run, answers), "bccd")
    assert np.isnan(rows["scaled_msp", "guaranteed"]["threshold"])
    assert 0.01 < rows["scaled_msp", "plain"]["temperature"] < 100


def test_a7_too_few_calibration_images_leave_the_guarantee_without_a_number(tmp_path):
    counts = COUNTS | {("raabin", "calibration"): [80, 80, 80, 40, 18]}
    run, answers = answers_of(tmp_path, table=predictions(3, counts=counts))
    rows = by_rejector(rejection_rows(run, answers), "bccd")
    for score in ("threshold", "rejected", "accuracy", "right"):
        assert np.isnan(rows["msp", "guaranteed"][score])
        assert not np.isnan(rows["msp", "plain"][score])


def test_a2_known_cells_of_a_pooled_test_set_are_those_of_the_foreign_cells_laboratory(tmp_path):
    run, answers = answers_of(tmp_path)
    scenario = run.scenario.model_copy(update={"source": "raabin+pbc-main"})
    pooled = run.model_copy(update={"scenario": scenario})
    tested = answers["raabin", "id_test"]
    own = np.arange(len(tested.labels)) % 3 == 0
    foreign = {"pbc-main": Foreign(np.full(40, -1), tested.logits[:40])}
    places = {"pbc-main": tested.images[own], "raabin": tested.images[~own]}
    row = open_set_rows(pooled, {("raabin+pbc-main", "id_test"): tested}, foreign, places)[0]
    confidence = tested.probabilities.max(axis=1)
    assert row["known_n"] == own.sum()
    assert row["auroc"] == pytest.approx(rejection.auroc(confidence[own], confidence[:40]))


def test_a2_two_laboratories_that_name_an_image_alike_are_refused(tmp_path):
    split = "path,group,label,part\nneutrophil/1.png,g,neutrophil,id_test\n"
    (tmp_path / "splits").mkdir()
    for name in ("a", "b"):
        (tmp_path / "splits" / f"{name}.csv").write_text(split)
    with pytest.raises(UserError, match="is an image of a and of b"):
        images_by_domain(tmp_path, {"a+b"})


def test_conformal_prediction_says_when_classes_are_too_small_for_it(tmp_path):
    counts = COUNTS | {("raabin", "calibration"): [100, 100, 90, 19, 3]}
    run, answers = answers_of(tmp_path, table=predictions(3, counts=counts))
    rows = by_rejector(rejection_rows(run, answers), "bccd")
    assert rows["conformal", "plain"]["marginal_classes"] == 2


def test_no_label_of_a_target_moves_a_threshold_or_what_is_rejected(tmp_path):
    run, answers = answers_of(tmp_path)
    target = answers["bccd", "shifted"]
    wrong = answers | {("bccd", "shifted"): replace(target, labels=(target.labels + 1) % 5)}
    honest, poisoned = (by_rejector(rejection_rows(run, a), "bccd") for a in (answers, wrong))
    assert ("conformal", "plain") in honest
    for rejector, row in honest.items():
        for score in ("threshold", "rejected"):
            assert poisoned[rejector][score] == pytest.approx(row[score], nan_ok=True)
    assert poisoned["msp", "plain"]["aurc"] != honest["msp", "plain"]["aurc"]


def test_without_a_calibration_part_nothing_is_rejected_or_accepted(tmp_path):
    counts = {key: n for key, n in COUNTS.items() if key[1] != "calibration"}
    run, answers = answers_of(tmp_path, table=predictions(3, counts=counts))
    rows = rejection_rows(run, answers)
    assert {row["rejector"] for row in rows} == {"msp", "entropy", "energy", "margin"}
    assert all(np.isnan(row["rejected"]) and np.isnan(row["threshold"]) for row in rows)
    assert all(0 <= row["aurc"] <= 1 for row in rows)


def test_a_cell_far_from_every_centroid_is_accepted_by_the_published_confidence(tmp_path):
    table = predictions(3, counts=COUNTS)
    columns = [f"logit_{name}" for name in CLASSES]
    near = logit(np.full((len(table), 5), 0.02))
    near[np.arange(len(table)), table["label"]] = logit(0.9)
    foreign = (table["domain"] == "bccd").to_numpy()
    near[foreign] = logit(1e-4) + np.random.default_rng(0).normal(0, 0.1, (foreign.sum(), 5))
    table[columns] = near.astype(np.float16)
    run, answers = answers_of(tmp_path, "resnet18-bn-ccl", table)
    rows = by_rejector(rejection_rows(run, answers), "bccd")
    assert {name for name, _ in rows} == {"ccl_published", "ccl_max", "ccl_margin", "conformal"}
    assert rows["ccl_published", "plain"]["rejected"] == 0
    assert rows["ccl_max", "plain"]["rejected"] == 1


def test_coverage_at_an_accuracy_is_the_largest_one(tmp_path):
    correct = np.array([True] * 9 + [False, True, False])
    scores = selective.curve_scores(np.arange(12, 0, -1.0), correct)
    # Of the first 10, 9 are right; of the first 11, 10 (90.9 %); of all 12, 10.
    assert scores["coverage_90"] == pytest.approx(11 / 12)
    assert scores["coverage_99"] == pytest.approx(9 / 12)


def test_curves_end_at_the_accuracy_of_all_images(tmp_path):
    run, answers = answers_of(tmp_path)
    rows = [row for row in curves(run, answers) if row["domain"] == "raabin"]
    risk = [row for row in rows if row["curve"] == "risk_coverage"]
    bins = [row for row in rows if row["curve"] == "reliability"]
    tested = answers["raabin", "id_test"]
    wrong = (tested.predicted != tested.labels).mean()
    assert (risk[-1]["x"], risk[-1]["n"]) == (1, 240)
    assert risk[-1]["y"] == pytest.approx(wrong, abs=1e-5)
    assert sum(row["n"] for row in bins) == 240
    assert sum(row["n"] * row["y"] for row in bins) / 240 == pytest.approx(1 - wrong, abs=1e-4)


def test_corruptions_have_groups_of_columns_and_no_curves(tmp_path):
    targets = [f"raabin:{kind}:{s}" for kind in ("jpeg", "contrast") for s in (1, 2)]
    counts = {("raabin", "id_test"): COUNTS["raabin", "id_test"]}
    counts |= {(target, "shifted"): counts["raabin", "id_test"] for target in targets}
    table = predictions(3, counts=counts)
    table["image"] = table["group"] = table["image"].str.split("/").str[1]
    run, answers = answers_of(tmp_path, table=table, targets=targets)
    assert {row["domain"] for row in curves(run, answers)} == {"raabin"}
    evaluate(tmp_path)
    cells = pd.read_parquet(tmp_path / "intervals.parquet").query("metric == 'macro_f1'")
    means = cells.set_index("column")["mean"]
    assert means["severity 2"] == pytest.approx(
        (means[targets[1]] + means[targets[3]]) / 2, abs=2e-6
    )
    assert means["jpeg"] == pytest.approx((means[targets[0]] + means[targets[1]]) / 2, abs=2e-6)
    assert means["mean_target"] == pytest.approx((means["jpeg"] + means["contrast"]) / 2, abs=2e-6)
    assert load_experiments(tmp_path)[0].runs[0].scenario.target_groups["severity 1"] == [0, 2]
