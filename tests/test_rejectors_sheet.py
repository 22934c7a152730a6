"""Rejectors in one table: the same runs for each, source and shift side by side, tracks apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.tables import texts_of

from benchmark.evaluation.experiments import Experiment, RecordedMethod
from benchmark.evaluation.selective import confidences
from benchmark.report.rejection import rejection_sheet, rejectors_sheet
from benchmark.report.results import Results, Scores
from benchmark.report.table import Table

SCORES = {"rejected": 0.5, "accuracy": 0.9, "right": 0.45, "threshold": 0.7}
SCORES |= {"excess_aurc": 0.1, "coverage_99": 0.2, "coverage_90": 0.4}
SCORES |= {"calibration_n": 300, "marginal_classes": 0, "temperature": np.nan}


def experiment(**tracks: str) -> Experiment:
    scenario = {"name": "raabin->*", "source": "raabin", "targets": ["bccd", "jtsc"]}
    common = {"outcome": "done", "scenario": scenario, "seed": 0}
    runs = [
        common
        | {"run_id": f"{name}/s/seed0", "track": track, "method": {"name": name}}
        # A network under a second name, `again_a`, has the predictions of `a`.
        | {"predictions_sha256": name.removeprefix("again_")}
        for name, track in tracks.items()
    ]
    facts = {"experiment": "norms", "title": "Norms", "profile": "toy", "label_space": "wbc5"}
    return Experiment(schema_version=1, classes=("neutrophil",), runs=runs, **facts)


def judged(method: str, rejector: str, **areas: float) -> list[dict]:
    """Rows of a run with an AURC a domain, at both kinds of threshold."""
    return [
        {"run_id": f"{method}/s/seed0", "domain": domain, "rejector": rejector, "fit": fit}
        | {"part": "id_test" if domain == "raabin" else "shifted", "aurc": area}
        | SCORES
        for domain, area in areas.items()
        for fit in ("plain", "guaranteed")
    ]


TABLE = pd.DataFrame(
    judged("a", "msp", raabin=0.02, bccd=0.3, jtsc=0.5)
    + judged("b", "msp", raabin=0.04, bccd=0.5)
    + judged("a", "energy", raabin=0.06, bccd=0.2, jtsc=0.2)
    + judged("b", "energy", raabin=0.06, bccd=0.2)
    + judged("seer", "msp", raabin=0.9, bccd=0.9)
    + judged("again_a", "msp", raabin=0.02, bccd=0.3, jtsc=0.5)
    + judged("corrupted", "msp", raabin=0.7)
)


def rejection_of(table: pd.DataFrame, **tracks: str) -> Table | None:
    """The table of methods, whose scores are not known."""
    results = Results(Path(), [experiment(**tracks)])
    counted = {run.scenario.name: () for run in results.done.values()}
    vars(results)["scores"] = Scores({}, {}, {}, {}, counted, {})
    vars(results)["rejection_counted"] = table
    return rejection_sheet(results)


def test_a_rejector_has_the_source_and_the_shift_in_one_line() -> None:
    tracks = dict.fromkeys(("a", "b", "again_a", "corrupted"), "inductive")
    both = experiment(**tracks, seer="transductive")
    results = Results(Path(), [both])
    vars(results)["rejection_counted"] = TABLE
    lines = texts_of(rejectors_sheet(results))
    assert [line["rejector"] for line in lines] == ["maximum probability", "energy"]
    assert {line["runs"] for line in lines} == {
        "2"
    }  # not the one that saw its target, and none twice
    # Shifted, by hand: the mean of (0.3 + 0.5) / 2 and 0.5.
    assert (lines[0]["AURC in-domain"], lines[0]["AURC shifted"]) == ("3.0", "45.0")
    assert (lines[1]["AURC in-domain"], lines[1]["AURC shifted"]) == ("6.0", "20.0")
    assert (lines[0]["cov@99 shifted"], lines[0]["cov@90 in-domain"]) == ("20.0", "40.0")


def test_what_saw_its_target_is_in_no_table_of_rejection() -> None:
    sheet = rejection_of(TABLE, a="inductive", seer="transductive")
    assert {line["method"] for line in texts_of(sheet)} == {"a"}
    shifted = [line for line in texts_of(sheet) if line["tested on"] == "mean of targets"]
    assert [line["AURC"] for line in shifted] == ["40.0"]  # (0.3 + 0.5) / 2
    assert rejection_of(TABLE, seer="transductive") is None


def test_a7_a_sheet_says_that_so_few_images_can_guarantee_nothing() -> None:
    few = TABLE.assign(calibration_n=284, temperature=1.0)
    guaranteed = few["fit"] == "guaranteed"
    few.loc[guaranteed, ["rejected", "accuracy", "right", "threshold"]] = np.nan
    sheet = rejection_of(few, a="inductive")
    guaranteed = {(line["Rr guaranteed"], line["Ra guaranteed"]) for line in texts_of(sheet)}
    assert guaranteed == {("", "")}
    notes = " ".join(sheet.notes)
    assert "284 of raabin" in notes
    assert "requires at least 299 calibration images" in notes
    assert "so raabin cannot give one" in notes
    enough = rejection_of(TABLE, a="inductive")
    assert "cannot give one" not in " ".join(enough.notes)


def test_a13_a_sheet_says_of_how_many_runs_the_temperature_is_one() -> None:
    unfitted = TABLE.assign(temperature=1.0)
    notes = " ".join(rejection_of(unfitted, a="inductive").notes)
    assert "The temperature is 1 in 1 of 1 runs" in notes
    fitted = rejection_of(TABLE.assign(temperature=1.4), a="inductive")
    assert "temperature is 1" not in " ".join(fitted.notes)


@pytest.mark.parametrize(
    "parts",
    [{"recipe": "ensemble"}, {"inference": "tta"}, {"readout": "nearest_neighbours"}],
)
def test_logarithms_of_probabilities_have_no_energy(parts: dict[str, str]) -> None:
    logits = np.log([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])
    assert set(confidences(logits, RecordedMethod(name="", **parts), None)) == {
        "msp",
        "entropy",
        "margin",
    }
    assert "energy" in confidences(logits, RecordedMethod(name="", readout="linear_probe"), None)


def test_an_ensemble_of_centroid_networks_answers_with_probabilities() -> None:
    logits = np.log([[0.7, 0.2, 0.1]])
    together = confidences(logits, RecordedMethod(name="", loss="ccl", recipe="ensemble"), None)
    assert together["msp"] == pytest.approx(0.7)
    alone = confidences(logits, RecordedMethod(name="", loss="ccl"), None)
    assert set(alone) == {"ccl_published", "ccl_max", "ccl_margin"}
