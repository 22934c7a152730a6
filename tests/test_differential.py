"""Differential counts: smears as the patients are, limits, corrections and slopes by other code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from scipy.optimize import minimize
from scipy.stats import binomtest
from support.results import CLASSES, write_results

from benchmark.data.haematology import PREVALENCES, read_prevalences
from benchmark.errors import UserError
from benchmark.evaluation.differential import (
    PERFECT,
    SIZES,
    adjusted,
    counted,
    deming,
    draw_smears,
    emq,
    limits,
    nearest_shares,
)
from benchmark.evaluation.evaluate import evaluate
from benchmark.models.predict import log_prior_ratio
from benchmark.study.predictions import Predictions

DATASETS = REPOSITORY / "datasets"
PATIENTS = read_prevalences(DATASETS)
COUNTS = PATIENTS.counts(tuple(CLASSES))


def answered(labels: np.ndarray, groups: np.ndarray | None = None) -> Predictions:
    """A test set whose cells are all answered rightly."""
    images = np.array([f"{place:05d}.jpg" for place in range(len(labels))])
    groups = np.arange(len(labels)) if groups is None else groups
    logits = np.eye(len(CLASSES), dtype=np.float16)[labels]
    return Predictions(images, labels, groups, "0123456789abcdef", labels, None, logits)


def test_the_model_patients_are_the_healthy_mean_with_one_count_replaced() -> None:
    normal, *others = COUNTS
    assert dict(zip(CLASSES, normal, strict=True)) == {
        "neutrophil": 3.65,  # Orfanakis et al. 1970: 3,650 a cubic millimetre, and so on
        "lymphocyte": 2.50,
        "monocyte": 0.43,
        "eosinophil": 0.15,
        "basophil": 0.03,
    }
    assert [(other != normal).sum() for other in others] == [1, 1, 1]
    for name, flag in PATIENTS.flags.items():
        raised = flag.raised(COUNTS[:, CLASSES.index(flag.of)])
        assert [p for p, up in zip(PATIENTS.patients, raised, strict=True) if up] == [name]


def test_smears_have_the_shares_of_their_patients() -> None:
    own = answered(np.repeat(np.arange(5), 40))
    smears = draw_smears(own, COUNTS)
    shares = counted(own.labels, smears)
    expected = COUNTS / COUNTS.sum(axis=1, keepdims=True)
    # Six standard errors of a share over all cells of a patient.
    cells = smears.images.shape[1] * max(SIZES)
    tolerance = 6 * np.sqrt(expected * (1 - expected) / cells)
    assert (np.abs(shares[:, :, -1].mean(axis=1) - expected) < tolerance).all()
    assert np.allclose(shares.sum(axis=-1), 1)


def test_smaller_smears_are_the_first_cells_of_larger_ones() -> None:
    own = answered(np.repeat(np.arange(5), 40))
    smears = draw_smears(own, COUNTS)
    shares = counted(own.labels, smears)
    for place, size in enumerate(SIZES):
        first = own.labels[smears.images[2, 7, :size]]
        assert shares[2, 7, place].tolist() == (np.bincount(first, minlength=5) / size).tolist()


def test_a_class_of_nine_images_is_not_drawn_and_the_others_share_what_is_left() -> None:
    own = answered(np.repeat(np.arange(5), [40, 40, 40, 40, 9]))
    smears = draw_smears(own, COUNTS)
    assert smears.drawn.tolist() == [True] * 4 + [False]
    assert 4 not in own.labels[smears.images]
    assert smears.shares[0].tolist() == pytest.approx([*(COUNTS[0, :4] / COUNTS[0, :4].sum()), 0])
    assert draw_smears(answered(np.repeat([0, 1], [40, 9])), COUNTS) is None


def test_cells_of_a_class_are_of_one_slide_where_it_has_enough() -> None:
    labels = np.repeat(np.arange(5), 40)
    groups = np.arange(200) // 20  # two slides of 20 cells for each class
    smears = draw_smears(answered(labels, groups), COUNTS)
    drawn = groups[smears.images[0]]
    for c in range(5):
        for smear, cells in zip(drawn, labels[smears.images[0]], strict=True):
            assert len(set(smear[cells == c])) <= 1
    # Both slides of a class are met, each in about half of the smears.
    neutrophils = [row[labels[i] == 0][0] for row, i in zip(drawn, smears.images[0], strict=True)]
    assert 0.2 < np.mean(neutrophils) < 0.8


def test_cells_of_single_patients_are_drawn_together() -> None:
    smears = draw_smears(answered(np.repeat(np.arange(5), 40)), COUNTS)
    assert len(np.unique(smears.images[0, 0])) > 60


@pytest.mark.parametrize("cells", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.004, 0.06, 0.54, 1.0])
def test_limits_hold_the_counts_whose_clopper_pearson_interval_holds_the_truth(share, cells):
    low, high = limits(share, cells)
    for count in range(cells + 1):
        interval = binomtest(count, cells).proportion_ci(0.95, method="exact")
        assert (low - 1e-9 <= count / cells <= high + 1e-9) == (
            interval.low <= share <= interval.high
        )


def test_demings_slope_has_the_least_weighted_distances() -> None:
    random = np.random.default_rng(0)
    truth = np.array([0.2, 0.3, 0.5, 0.6])[:, None]
    x = truth + random.normal(0, 0.02, (4, 50))
    y = 0.7 * truth + 0.1 + random.normal(0, 0.05, (4, 50))
    ratio = y.var(axis=1, ddof=1).mean() / x.var(axis=1, ddof=1).mean()

    def distance(line: np.ndarray) -> float:
        slope, intercept = line
        return float(((y - intercept - slope * x) ** 2).sum() / (ratio + slope**2))

    fitted = minimize(distance, (1.0, 0.0), method="Nelder-Mead", options={"xatol": 1e-9})
    assert deming(x, y) == pytest.approx(fitted.x[0], abs=1e-5)


def test_expectation_maximisation_is_that_of_the_inference_for_every_smear() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (6, 120, 5))
    prior = np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    stated = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    found = emq(stated, prior, 25)
    for smear, own in zip(found, logits, strict=True):
        ratio = np.exp(log_prior_ratio(own, prior, 25).astype(float))
        assert smear[:4] == pytest.approx(prior[:4] * ratio[:4], abs=1e-6)


def test_an_adjusted_count_undoes_the_confusion_that_made_it() -> None:
    confusion = np.array([[8, 2, 0], [1, 6, 3], [0, 5, 15]])
    truth = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    rates = confusion / confusion.sum(axis=1, keepdims=True)
    assert adjusted(truth @ rates, confusion) == pytest.approx(truth)


def test_a_class_that_the_source_lacks_is_taken_as_recognised() -> None:
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    assert adjusted(np.array([0.0, 0.0, 1.0]), confusion).tolist() == pytest.approx([0, 0, 1])


def test_the_nearest_shares_are_those_that_a_search_finds() -> None:
    random = np.random.default_rng(0)
    grid = np.array([(a, b, 100 - a - b) for a in range(101) for b in range(101 - a)]) / 100
    for point in random.normal(1 / 3, 0.5, (20, 3)):
        found = nearest_shares(point)
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1)
        best = ((grid - point) ** 2).sum(axis=1).min()
        assert ((found - point) ** 2).sum() <= best + 1e-12


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """`differential.parquet` of two drawn methods, two seeds each."""
    root = tmp_path_factory.mktemp("project")
    (root / "datasets").mkdir()
    for name in ("label_spaces.yaml", "haematology"):
        (root / "datasets" / name).symlink_to(DATASETS / name)
    (root / "datasets" / "chula.yaml").symlink_to(DATASETS / "chula.yaml")
    results = root / "results" / "toy"
    write_results(results)
    evaluate(results)
    return pd.read_parquet(results / "differential.parquet")


def test_what_never_errs_is_off_by_the_drawing_of_cells_alone(counts: pd.DataFrame) -> None:
    table = counts[(counts["method"] == PERFECT) & (counts["patient"] != "")]
    assert set(table["correction"]) == {"none"}
    error = np.sqrt(table["truth"] * (1 - table["truth"]) / table["cells"])
    assert (table["bias"].abs() < 5 * error / np.sqrt(table["smears"])).all()
    assert table["inside"].mean() >= 0.95
    whole = counts[(counts["method"] == PERFECT) & (counts["patient"] == "")]
    assert whole["slope"].dropna().between(0.85, 1.15).all()


def test_bias_and_error_are_those_of_the_patients_together(counts: pd.DataFrame) -> None:
    where = ["method", "domain", "part", "correction", "cells", "class_name"]
    single = counts[counts["patient"] != ""].groupby(where)[["bias", "mae", "inside"]].mean()
    whole = counts[counts["patient"] == ""].set_index(where)[["bias", "mae", "inside"]]
    pd.testing.assert_frame_equal(single, whole.loc[single.index], atol=2e-4, check_exact=False)


def test_rare_and_absent_classes_have_no_row(counts: pd.DataFrame) -> None:
    drawn = counts.groupby("domain")["class_name"].agg(set)
    assert drawn["raabin"] == set(CLASSES)
    assert drawn["bccd"] == drawn["jtsc"] == set(CLASSES) - {"basophil"}


def test_without_a_calibration_part_nothing_is_corrected(counts: pd.DataFrame) -> None:
    assert set(counts["correction"]) == {"none"}


def test_flags_stand_at_their_class_alone(counts: pd.DataFrame) -> None:
    flagged = counts[counts["sensitivity"].notna()]
    assert set(flagged["class_name"]) == {flag.of for flag in PATIENTS.flags.values()}
    assert set(flagged["patient"]) == {""}
    # Of 200 cells an eosinophilia of 13 % has 13 or fewer, 6.5 %, once in 500 smears.
    good = flagged[(flagged["method"] == PERFECT) & (flagged["cells"] >= 200)]
    assert good[["sensitivity", "specificity"]].min().min() > 0.95


def test_a_patient_who_lacks_a_class_is_one_line_of_error(tmp_path: Path) -> None:
    (tmp_path / "haematology").mkdir()
    text = (DATASETS / PREVALENCES).read_text()
    spoilt = text.replace("monocyte: 0.43, eosinophil: 1.00", "eosinophil: 1.00")
    (tmp_path / PREVALENCES).write_text(spoilt)
    with pytest.raises(UserError, match=r"patients\.eosinophilia: counts of neutrophil") as error:
        read_prevalences(tmp_path)
    assert "\n" not in str(error.value)
