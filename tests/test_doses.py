"""Dose and response: the committed table says what the stored predictions say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY
from sklearn.metrics import f1_score

from benchmark.data.cards import load_cards
from benchmark.phantom.acquisition import DOSES, dose_of
from benchmark.report.doses import doses_of

RESULTS = REPOSITORY / "results" / "dose"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    lines = (RESULTS / "tables" / "dose_response.md").read_text().splitlines()
    rows = [[cell.strip() for cell in ln.strip("|").split("|")] for ln in lines if ln[:1] == "|"]
    return pd.DataFrame(rows[2:], columns=rows[0]).astype({"level": float})


@pytest.mark.parametrize("domain", ["dose-none", "dose-focus-5", "dose-lamp-2", "dose-buffer-5"])
def test_a_response_is_macro_f1_of_the_stored_predictions(domain: str, table: pd.DataFrame) -> None:
    """By scikit-learn, mean over seeds."""
    knob, value = dose_of(
        load_cards(REPOSITORY / "datasets")["phantom-dose"].domains[domain].acquisition
    )
    for method, rows in table.groupby("method"):
        found = []
        for run in sorted((RESULTS / "runs" / method).glob("*/seed*/predictions.parquet")):
            own = pd.read_parquet(run).query("domain == @domain")
            logits = own[[name for name in own if name.startswith("logit_")]].to_numpy()
            found.append(100 * f1_score(own["label"], logits.argmax(1), average="macro"))
        label = DOSES["ph_shift" if knob == "none" else knob].label
        level = DOSES["ph_shift"].reference if knob == "none" else value
        shown = rows[(rows["setting"] == label) & (rows["level"] == level)]["macro-F1"].item()
        assert float(shown.split()[0]) == pytest.approx(sum(found) / len(found), abs=0.051)


def test_every_setting_has_its_levels_for_every_network(table: pd.DataFrame) -> None:
    counts = table.groupby(["setting", "method"]).size()
    assert set(counts) == {6}
    assert set(table["setting"]) == {scale.label for scale in DOSES.values()}


def test_a_folder_without_cards_has_no_doses(tmp_path: Path) -> None:
    assert doses_of(tmp_path / "results" / "any") == {}
