"""Scores of the committed predictions of `core` that were published wrongly, with the right values.

What is right was computed by other code: exact votes, exact ties, one laboratory's cells alone.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmark.evaluation.evaluate import images_by_domain
from benchmark.evaluation.experiments import done_runs, load_experiments, predictions_of
from benchmark.evaluation.selective import open_set_rows, rejection_rows
from benchmark.report.claims import constant_ld
from benchmark.report.results import read_evaluated

ROOT = Path(__file__).parent.parent
CORE = ROOT / "results" / "core"

pytestmark = pytest.mark.skipif(
    not (CORE / "runs").is_dir(), reason="the committed predictions are not here"
)


@pytest.fixture(scope="module")
def scores() -> dict[str, pd.DataFrame]:
    """Rejection and open set of the nearest neighbours, and of the runs on two sources."""
    tested = images_by_domain(ROOT / "datasets", {"raabin+pbc-main"})
    found: dict[str, list[dict]] = {"rejection": [], "open_set": []}
    for run, classes in done_runs(load_experiments(CORE)).values():
        if run.method.readout == "nearest_neighbours" or "+" in run.scenario.source:
            own = predictions_of(CORE, run, classes)
            about = {"method": run.method.name, "source": run.scenario.source}
            rows = open_set_rows(run, own.known, own.foreign, tested)
            found["open_set"] += [about | row for row in rows]
            found["rejection"] += [about | row for row in rejection_rows(run, own.known)]
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def mean(table: pd.DataFrame, score: str, **chosen: str) -> float:
    """In per cent, over the seeds."""
    for column, value in chosen.items():
        table = table[table[column] == value]
    assert len(table) == 3
    return 100 * float(table[score].mean())


@pytest.mark.parametrize(
    ("normalisation", "kind", "right"),
    [("bn", "far", 58.0), ("gn", "far", 67.1), ("bn", "near", 69.4)],
)
def test_a1_votes_that_tie_count_half_in_the_auroc(scores, normalisation, kind, right) -> None:
    method = f"resnet18-{normalisation}-ce-nearest_neighbours"
    chosen = {"method": method, "source": "pbc-main", "kind": kind, "rejector": "msp"}
    assert mean(scores["open_set"], "auroc", **chosen) == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize(
    ("normalisation", "source", "right"), [("gn", "raabin", 57.4), ("bn", "pbc-main", 86.9)]
)
def test_a1_votes_that_tie_come_in_any_order_in_the_aurc(
    scores, normalisation, source, right
) -> None:
    method = f"resnet18-{normalisation}-ce-nearest_neighbours"
    chosen = {"method": method, "source": source, "domain": "jtsc", "rejector": "msp"}
    found = mean(scores["rejection"], "aurc", fit="plain", **chosen)
    assert found == pytest.approx(right, abs=0.05)


@pytest.mark.parametrize("rejector", ["msp", "scaled_msp"])
def test_a1_a_threshold_at_a_tie_does_not_cut_it(scores, rejector) -> None:
    chosen = {"method": "resnet18-bn-ce-nearest_neighbours", "source": "pbc-main"}
    chosen |= {"domain": "bccd", "fit": "plain", "rejector": rejector}
    assert mean(scores["rejection"], "rejected", **chosen) == pytest.approx(33.4, abs=0.05)


@pytest.mark.parametrize(
    ("method", "kind", "score", "right"),
    [
        ("pair-coral", "near", "auroc", 82.7),
        ("pair-coral", "near", "fpr_at_95", 74.4),
        ("pair-erm", "near", "auroc", 79.2),
        ("pair-idg_boda", "near", "auroc", 81.8),
        ("pair-mixup", "far", "auroc", 73.0),
    ],
)
def test_a2_known_cells_are_those_of_the_laboratory_of_the_foreign_ones(
    scores, method, kind, score, right
) -> None:
    chosen = {"method": method, "kind": kind, "rejector": "msp", "domain": "pbc-main"}
    table = scores["open_set"]
    assert mean(table, score, **chosen) == pytest.approx(right, abs=0.05)
    assert set(table.loc[table["method"] == method, "known_n"]) == {500}


def test_a7_a_guarantee_that_cannot_be_had_has_no_number(scores) -> None:
    table = scores["rejection"].query("fit == 'guaranteed' and rejector == 'msp'")
    enough = table["calibration_n"] >= 299
    assert set(table.loc[~enough, "calibration_n"]) == {250, 284}
    assert table.loc[~enough, ["threshold", "rejected", "accuracy", "right"]].isna().all(axis=None)
    assert table.loc[enough, "rejected"].notna().all()


def test_a13_a_temperature_is_fitted_where_the_calibration_part_has_an_error(scores) -> None:
    table = scores["rejection"]
    fitted = table.loc[table["rejector"] == "scaled_msp", "temperature"]
    assert fitted.between(0.3, 3).all()
    assert (fitted != 1).all()
    scaled = table.query("rejector == 'scaled_msp' and fit == 'guaranteed'")
    assert np.isnan(scaled["threshold"]).all(), (
        "no guarantee on images that something was fitted to"
    )


def test_a3_the_constant_is_set_against_scores_of_test_sets_alone() -> None:
    """What a run was selected and calibrated on is no test set: 3,119 were counted."""
    experiments = load_experiments(CORE)
    table = read_evaluated(CORE / "metrics.parquet", experiments)
    key = ("run_id", "domain", "part", "class_name", "metric")
    names = zip(*(table[name] for name in key), strict=True)
    values = dict(zip(names, zip(table["value"], table["n"], strict=True), strict=True))
    evidence = SimpleNamespace(experiments=experiments, scores=SimpleNamespace(values=values))
    (found,) = constant_ld(evidence)
    assert found.value.endswith("298 of 2463 (without corruptions 222 of 1863)")
