"""Performance without labels: each estimator by hand or by other code, and where it is right."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, f1_score

from benchmark.evaluation.at_source import AtSource, at_source
from benchmark.evaluation.unlabelled import (
    ESTIMATORS,
    estimates,
    expected_confusion,
    nuclear_norm,
    reaching,
    regression_rows,
    shifted_confusion,
)
from benchmark.metrics import accuracy, confusion_matrix, f1
from benchmark.study.predictions import Predictions

CLASSES = 3


def source_of(confusion: np.ndarray) -> AtSource:
    """A source of which the confusion alone matters."""
    return AtSource(None, np.asarray(confusion), 1.0)


def drawn(images: int, shares: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are drawn from the probabilities, and the probabilities: perfectly calibrated."""
    random = np.random.default_rng(seed)
    stated = random.dirichlet(np.array(shares), images)
    labels = (random.random((images, 1)) > np.cumsum(stated, axis=1)).sum(axis=1)
    return labels, stated


def test_the_expected_confusion_is_right_of_calibrated_probabilities() -> None:
    labels, stated = drawn(40_000, [0.6, 0.3, 0.2])
    predicted = stated.argmax(axis=1)
    expected = expected_confusion(predicted, stated)
    assert expected.sum() == pytest.approx(len(labels))
    assert accuracy(expected) == pytest.approx(stated.max(axis=1).mean())
    assert accuracy(expected) == pytest.approx(accuracy_score(labels, predicted), abs=0.01)
    found = f1_score(labels, predicted, average="macro")
    assert f1(expected).mean() == pytest.approx(found, abs=0.01)


def test_the_shifted_confusion_is_right_where_class_shares_alone_differ() -> None:
    rates = np.array([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.05, 0.05, 0.9]])
    truth = np.array([0.2, 0.1, 0.7])
    counts = np.round(10_000 * truth[:, None] * rates).astype(int)
    predicted = np.repeat(np.arange(CLASSES), counts.sum(axis=0))
    source = source_of(np.round(1000 * rates).astype(int))
    assert shifted_confusion(predicted, source) == pytest.approx(counts / 10_000, abs=1e-6)


def test_the_threshold_is_reached_by_the_share_that_was_right() -> None:
    there = np.array([0.1, 0.9, 0.5, 0.3])
    assert reaching(there, there, 0.75) == 0.75
    assert reaching(np.array([0.4, 0.2, 0.31, 0.3]), there, 0.75) == 0.75
    assert reaching(there, there, 0.0) == 0.0


def test_the_nuclear_norm_is_the_sum_of_singular_values() -> None:
    _, stated = drawn(50, [1, 1, 1])
    values = np.linalg.svd(stated, compute_uv=False)
    assert nuclear_norm(stated) == pytest.approx(values.sum() / np.sqrt(50 * CLASSES))
    # One-hot answers spread over the classes alike reach the largest value that there is.
    assert nuclear_norm(np.eye(CLASSES)[np.arange(30) % CLASSES]) == pytest.approx(1)


def test_at_the_source_itself_every_estimate_is_its_accuracy() -> None:
    labels, stated = drawn(500, [0.5, 0.5, 0.5])
    predicted = stated.argmax(axis=1)
    source = source_of(confusion_matrix(labels, predicted, CLASSES))
    found = estimates(predicted, stated, source, stated, np.ones(CLASSES, bool))["accuracy"]
    assert set(found) == set(ESTIMATORS)
    right = accuracy_score(labels, predicted)
    for name in ("difference", "threshold", "nuclear", "confusion"):
        assert found[name] == pytest.approx(right, abs=1e-6)


def test_the_drop_of_confidence_is_taken_off_the_accuracy() -> None:
    here, there = np.array([[0.6, 0.4], [0.7, 0.3]]), np.array([[0.9, 0.1], [0.2, 0.8]])
    source = source_of([[9, 1], [0, 10]])
    found = estimates(np.array([0, 0]), here, source, there, np.ones(2, bool))
    assert found["accuracy"]["difference"] == pytest.approx(0.95 - (0.85 - 0.65))
    assert found["accuracy"]["confidence"] == pytest.approx(0.65)


def test_where_no_class_counts_there_is_no_macro_f1_to_estimate() -> None:
    labels, stated = drawn(20, [1, 1, 1])
    source = source_of(confusion_matrix(labels, labels, CLASSES))
    found = estimates(stated.argmax(axis=1), stated, source, stated, np.zeros(CLASSES, bool))
    assert set(found["accuracy"]) == set(ESTIMATORS)
    assert np.isnan(found["macro_f1"]["confidence"])


def rows_of(domains: list[str], runs: int) -> list[dict]:
    """Estimates of drawn runs, whose truth depends on two of them."""
    random = np.random.default_rng(0)
    rows = []
    for run in range(runs):
        for domain in domains:
            values = dict(zip(ESTIMATORS, random.random(len(ESTIMATORS)), strict=True))
            truth = 0.2 + 0.5 * values["nuclear"] - 0.1 * values["threshold"]
            truth += random.normal(0, 0.02)
            about = {"run_id": f"run{run}", "domain": domain, "part": "shifted", "n": 10}
            about |= {"metric": "macro_f1", "truth": truth, "calibration_n": 5}
            rows += [about | {"estimator": n, "estimate": v} for n, v in values.items()]
    return rows


def test_the_regression_never_meets_the_set_that_it_is_asked_about() -> None:
    domains = ["a", "b", "b-again", "c", "c:blur:1"]
    rows = rows_of(domains, 12)
    runs = {f"run{i}": SimpleNamespace(scenario=SimpleNamespace(source="s")) for i in range(12)}
    found = regression_rows(rows, runs, {"b": "B", "b-again": "B"})
    assert {row["domain"] for row in found} == {"a", "b", "b-again", "c"}  # no corruption
    table: dict[tuple, dict] = {}
    for row in rows:
        if row["domain"] != "c:blur:1":
            case = table.setdefault((row["run_id"], row["domain"]), {"truth": row["truth"]})
            case[row["estimator"]] = row["estimate"]
    for row in found:
        left = {"b": {"b", "b-again"}, "b-again": {"b", "b-again"}}.get(
            row["domain"], {row["domain"]}
        )
        known = [case for (_, domain), case in table.items() if domain not in left]
        x = [[case[name] for name in ESTIMATORS] for case in known]
        model = LinearRegression().fit(x, [case["truth"] for case in known])
        own = table[row["run_id"], row["domain"]]
        expected = model.predict([[own[name] for name in ESTIMATORS]])[0]
        assert row["estimate"] == pytest.approx(np.clip(expected, 0, 1))


def test_a_source_of_one_target_has_no_regression() -> None:
    runs = {"run0": SimpleNamespace(scenario=SimpleNamespace(source="s"))}
    assert regression_rows(rows_of(["a"], 1), runs, {}) == []


def test_shares_of_votes_are_not_scaled() -> None:
    shares = np.log(np.array([[0.75, 0.25], [0.05, 0.95]])).astype(np.float16)
    fields = (np.array(["a", "b"]), np.array([0, 0]), np.arange(2), "0", np.array([0, 1]))
    held = Predictions(*fields, None, shares, shares=True)
    method = SimpleNamespace(states_shares=True, answers_itself=False)
    run = SimpleNamespace(method=method, scenario=SimpleNamespace(source="s"))
    source = at_source(run, {("s", "calibration"): held})
    assert source.temperature is None
    assert source.stated(held) == pytest.approx(np.exp(shares.astype(float)))
    assert source.prior.tolist() == [1, 0]
    assert at_source(run, {}) is None
