"""Sheets and figures: claims, corruptions, ranks and speeds say what was run and what was not."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.results import predictions, run_record, write_experiment, write_run
from support.tables import read_lines

from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.effects import one_part_pairs
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.experiments import RecordedMethod, Scenario
from benchmark.report.claims import ensembles_against_members
from benchmark.report.figures.intervals import not_worse
from benchmark.report.figures.overview import Speed, front, heat_maps, speeds
from benchmark.report.report import report
from benchmark.report.results import Results
from benchmark.report.table import Cell, sheet
from benchmark.report.write import shares, to_latex, to_markdown
from benchmark.speed.records import training_speeds, write_rows

CORRUPTIONS = [f"raabin:{kind}:{s}" for kind in ("jpeg", "contrast") for s in (1, 2)]
HOME = [12, 20, 11, 10, 10]
NETWORK = {"stage": "train", "backbone": "resnet18", "image_size": 64, "batch_size": 64}
NETWORK |= {"outcome": "done", "device": "Toy", "device_type": "cpu", "threads": 1, "torch": "2"}
MEASURED = [
    NETWORK | {"normalisation": "bn", "images_per_s": 30.0},
    NETWORK | {"normalisation": "gn", "images_per_s": 25.0},
    NETWORK | {"normalisation": "in", "images_per_s": 40.0, "threads": 2},
    NETWORK | {"normalisation": "in", "images_per_s": 90.0, "stage": "inference"},
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three methods of two seeds on two targets, and two of them on corruptions."""
    folder = tmp_path_factory.mktemp("project") / "results" / "toy"
    shifted, corrupted = [], []
    for place, name in enumerate(("resnet18-bn-ce", "resnet18-gn-ce", "resnet18-in-ce")):
        for seed in (0, 1):
            record = run_record(name, seed, None)
            table = predictions(10 * place + seed, shifted_skill=0.5 + 2 * place)
            shifted.append(finished(folder, record, table))
            if place < 2:
                record = run_record(name, seed, None, targets=CORRUPTIONS)
                record["run_id"] = record["run_id"].replace("others", "corruptions")
                record["scenario"]["name"] = "raabin->corruptions"
                counts = {("raabin", "id_test"): HOME}
                counts |= {(target, "shifted"): HOME for target in CORRUPTIONS}
                table = predictions(place + seed, shifted_skill=3 + place, counts=counts)
                corrupted.append(finished(folder, record, table))
    write_experiment(folder, shifted)
    write_experiment(folder, corrupted, "corruptions", "Corruptions")
    write_rows(folder.parents[1], MEASURED, "fp32", "channels_last")
    evaluate(folder)
    report(folder)
    return folder


def finished(folder, record, table):
    """Write a run's predictions and record."""
    record["predictions_sha256"] = write_run(folder, record["run_id"], table)
    facts = {"device": "Toy", "device_type": "cpu", "threads": 1}
    history = [{"train_loss": 1.0 / (e + 1), "id_val_macro_f1": 0.2 * e} for e in range(3)]
    own = record | {"environment": facts, "history": history, "train_images_per_s": 20.0}
    own["training_fingerprint"] = record["run_id"]
    own |= {"time": {"train_s": 60.0, "evaluate_s": 5.0}}
    own |= {"settings": {"image_size": 64, "training": {"precision": "fp32"}}}
    (folder / "runs" / record["run_id"] / "run.json").write_text(json.dumps(own))
    return record


def lines(results, name):
    return read_lines(results / "tables" / f"{name}.md")


def test_a_corruption_has_a_line_and_each_severity_a_column(results):
    rows = lines(results, "corruptions_corruptions")
    assert [(row["method"], row["corruption"]) for row in rows] == [
        (method, kind)
        for method in ("resnet18-bn-ce", "resnet18-gn-ce")
        for kind in ("jpeg", "contrast")
    ]
    scores = pd.read_parquet(results / "metrics.parquet").query("metric == 'macro_f1'")
    own = scores.query("method == 'resnet18-bn-ce' and domain == 'raabin:contrast:2'")
    assert float(rows[1]["severity 2"]) == pytest.approx(100 * own["value"].mean(), abs=0.051)


def test_the_tables_of_many_corruptions_have_a_column_a_severity(results):
    columns = [name.partition(",")[0] for name in lines(results, "corruptions_macro_f1")[0]]
    assert columns[2:] == [
        *("raabin (in-domain)", "severity 1", "severity 2", "mean of targets", "worst target"),
        *("shift drop", "in-domain accuracy", "mean accuracy"),
    ]
    text = (results / "tables" / "corruptions_macro_f1.md").read_text()
    assert "A severity is the mean over 2 corruptions" in text
    assert "raabin:jpeg" not in text


def test_a_claim_without_runs_is_a_row_that_says_so(results):
    rows = lines(results, "claims")
    measured = {row["claim"]: row["measured here"] for row in rows}
    assert measured["Macenko normalisation helps"] == "not run"
    assert len(measured) == len(rows)
    assert measured["Ld measures learning under imbalance"].endswith(": Ld 100.0, accuracy 0.0")
    far = measured["CCL's confidence identifies unreliable predictions"]
    assert far.startswith("computed: D")
    assert "published 1.0000, max D 0.0000" in far


def test_the_effect_of_a_part_is_the_difference_of_means_over_seeds(results):
    scores = pd.read_parquet(results / "metrics.parquet").query("metric == 'macro_f1'")
    means = scores.query("scenario == 'raabin->*' and part == 'shifted'").groupby("method")
    expected = means["value"].mean()["resnet18-gn-ce"] - means["value"].mean()["resnet18-bn-ce"]
    effects = pd.read_parquet(results / "effects.parquet").query("scenario == 'raabin->*'")
    own = effects.query("choice == 'gn' and column == 'mean_target'").iloc[0]
    assert own["mean"] == pytest.approx(expected, abs=1e-6)
    assert own["low"] < own["mean"] < own["high"]
    claims = {row["claim"]: row["measured here"] for row in lines(results, "claims")}
    measured = claims["Group instead of batch normalisation helps under shift"]
    assert measured.count("resnet18-gn-ce - resnet18-bn-ce") == 2
    assert f"targets +{100 * expected:.1f} [" in measured


def test_ablations_count_each_pair_of_methods_once_a_scenario(results):
    row = next(row for row in lines(results, "ablations") if row["choice"] == "gn")
    assert (row["part"], row["baseline"], row["pairs"]) == ("normalisation", "bn", "2")
    effects = pd.read_parquet(results / "effects.parquet").query("column == 'mean_target'")
    own = effects.query("choice == 'gn' and plain == 'bn'")
    shown = own["p_holm"] < 0.05
    assert int(row["higher"]) == (shown & (own["mean"] > 0)).sum()
    assert int(row["lower"]) == (shown & (own["mean"] < 0)).sum()
    assert float(row["largest difference"]) == pytest.approx(100 * own["mean"].max(), abs=0.051)


@pytest.mark.parametrize(("ensemble", "network", "sign"), [(0.33, 0.30, "+"), (0.30, 0.33, "-")])
def test_an_ensemble_is_set_against_the_best_network_of_its_block(ensemble, network, sign):
    means = {"resnet18-bn-ce": 0.2, "resnet18-gn-ce": network, "ensemble-bn-gn": ensemble}
    behind = {"difference_low": -0.05, "difference_high": -0.01, "p_holm": 0.012}
    ends = {"low": 0.1, "high": 0.5, "seeds": 2, "freedom": 2.0}
    where = ("a->*", "inductive")
    scores = SimpleNamespace(
        intervals={
            (*where, name, "macro_f1", "", "mean_target"): {"mean": mean} | ends
            for name, mean in means.items()
        },
        standings={("e", *where, name, "macro_f1", "mean_target"): behind for name in means},
    )
    scenario = Scenario(name="a->*", source="a", targets=("b",))
    recipes = {"ensemble-bn-gn": "ensemble"}
    runs = [
        SimpleNamespace(method=RecordedMethod(name=name, recipe=recipes.get(name, "erm")))
        for name in means
    ]
    experiment = SimpleNamespace(experiment="e", blocks=lambda: {(scenario, "inductive"): runs})
    evidence = SimpleNamespace(experiments=[experiment], scores=scores)
    ends = "[1.0, 5.0]" if sign == "+" else "[-5.0, -1.0]"
    found = [
        tuple(text.replace("−", "-") for text in (found.where, found.value))
        for found in ensembles_against_members(evidence)
    ]
    assert found == [
        ("a->*, ensemble-bn-gn - resnet18-gn-ce", f"targets {sign}3.0 {ends}, p = 0.012")
    ]


def test_columns_that_wrap_share_what_the_others_leave():
    widths = [10, 400, 100]
    narrow, long, shorter = shares(widths)
    assert narrow == 0
    assert long == pytest.approx(2 * shorter)
    assert 0.8 < long + shorter < 1


def test_pairs_differ_in_one_part_alone():
    def method(normalisation, loss="ce", **parts):
        return RecordedMethod(
            name="", backbone="r", normalisation=normalisation, loss=loss, **parts
        )

    methods = {
        "bn": method("bn"),
        "gn": method("gn"),
        "bn strong": method("bn", augmentation="strong"),
        "gn focal": method("gn", "focal"),
        "gn ldam, for longer": method("gn", "ldam", training="epochs 100"),
        "both": RecordedMethod(name=""),
    }
    assert one_part_pairs(methods) == [
        ("normalisation", "gn", "bn"),
        ("augmentation", "bn strong", "bn"),
        ("loss", "gn focal", "gn"),
    ]


def test_a8_a_pair_stands_once_in_one_direction_and_not_again_by_readout():
    def method(normalisation, readout="head", **parts):
        own = {"backbone": "r", "loss": "ce", "recipe": "erm", "training": "10 epochs"}
        return RecordedMethod(name="", normalisation=normalisation, readout=readout, **own | parts)

    readouts = ("head", "decoupled_neither", "linear_probe")
    methods = {f"{n} {r}": method(n, r) for n in ("bn", "gn") for r in readouts}
    methods |= {f"{n} tta": method(n, inference="tta") for n in ("bn", "gn")}
    # Of two trainings that were only run with a readout, that readout stands for both.
    methods |= {f"{n} strong": method(n, "decoupled", augmentation="s") for n in ("bn", "gn")}
    pairs = one_part_pairs(methods)
    assert [pair for pair in pairs if pair[0] == "normalisation"] == [
        ("normalisation", "gn head", "bn head"),
        ("normalisation", "gn strong", "bn strong"),
    ]
    assert len({(part, frozenset(both)) for part, *both in pairs}) == len(pairs)
    assert [pair[1:] for pair in pairs if pair[0] == "readout" and "bn" in pair[1]] == [
        ("bn decoupled_neither", "bn head"),
        ("bn linear_probe", "bn head"),
        ("bn linear_probe", "bn decoupled_neither"),
    ]
    assert [pair[1:] for pair in pairs if pair[0] == "inference"] == [
        ("bn tta", "bn head"),
        ("gn tta", "gn head"),
    ]


def test_a8_what_is_shown_is_corrected_for_all_that_is_looked_through(results):
    """Holm by hand over the differences of all scenarios in one column."""
    effects = pd.read_parquet(results / "effects.parquet").query("column == 'mean_target'")
    assert effects["scenario"].nunique() == 2
    own = effects.sort_values("p")
    steps = own["p"].to_numpy() * np.arange(len(own), 0, -1)
    expected = np.minimum(np.maximum.accumulate(steps), 1)
    assert own["p_holm"].to_numpy() == pytest.approx(expected, abs=2e-6)
    assert significant(np.array([0.049, 0.05, np.nan])).tolist() == [True, False, False]
    standings = pd.read_parquet(results / "standings.parquet").query("metric == 'macro_f1'")
    compared = standings.dropna(subset=["p_holm"])
    assert (compared["as_good"] == ~significant(compared["p_holm"])).all()


def test_a_plain_method_may_have_any_backbone_normalisation_and_training():
    plain = RecordedMethod(name="a", backbone="r", normalisation="gn", loss="ce", recipe="erm")
    assert plain.model_copy(update={"training": "epochs 100"}).is_plain()
    for part in ("loss", "recipe", "augmentation", "stain", "weights", "readout", "inference"):
        other = plain.model_copy(update={part: "another"})
        assert not other.is_plain()
        assert other.is_plain(part)


def test_every_gap_is_named(tmp_path):
    runs = [run_record("resnet18-bn-ce", seed, None, outcome="oom") for seed in (0, 1)]
    write_experiment(tmp_path, runs)
    evaluate(tmp_path)
    report(tmp_path)
    text = (tmp_path / "tables" / "runs.md").read_text()
    assert all(f"resnet18-bn-ce/raabin\\_to\\_others/seed{seed} (oom)" in text for seed in (0, 1))
    assert lines(tmp_path, "runs")[0]["oom"] == "2"


def test_speeds_come_from_the_records(results):
    rows = {row["method"]: row for row in lines(results, "throughput")}
    assert rows["resnet18-in-ce"]["images/s (training)"] == "20.0"
    assert (rows["resnet18-bn-ce"]["runs"], rows["resnet18-in-ce"]["runs"]) == ("4", "2")


def test_a_figure_of_speed_shows_networks_that_were_measured_on_the_same_device(results):
    measured = training_speeds(results.parents[1])
    found = speeds(Results.of(results), measured)
    assert {name: own.images_per_s for name, own in found.methods.items()} == {
        "resnet18-bn-ce": 30.0,
        "resnet18-gn-ce": 25.0,
    }
    assert found.left_out == 1  # measured with other threads only
    scores = pd.read_parquet(results / "metrics.parquet").query("metric == 'macro_f1'")
    own = scores.query("method == 'resnet18-bn-ce' and domain in ('bccd', 'jtsc')")
    assert found.methods["resnet18-bn-ce"].score == pytest.approx(100 * own["value"].mean())
    assert training_speeds(results) == {}
    nowhere = Results.of(results)
    nowhere.scores.counted.update(dict.fromkeys(nowhere.scores.counted, ()))
    assert not speeds(nowhere, measured).methods, "no mean of targets"


def test_a_method_that_stands_alone_is_not_drawn_as_worse():
    best, good, worse = Cell(50.0, best=True), Cell(49.0, as_good=True), Cell(9.0)
    assert [not_worse(cell, [best, good, worse]) for cell in (best, good, worse)] == [1, 1, 0]
    assert not_worse(worse, [worse])


def test_the_front_holds_what_no_other_beats_in_both():
    values = {"a": (10, 50), "b": (20, 40), "c": (15, 39), "d": (20, 30)}
    points = {name: Speed(*value, "resnet18") for name, value in values.items()}
    assert front(points) == ["b", "a"]


def test_heat_maps_leave_corruptions_out_and_take_the_best_of_each_cell(results):
    maps = heat_maps(Results.of(results))
    cells = maps["resnet18, bn"]
    assert set(cells) == {("raabin", "raabin"), ("raabin", "bccd"), ("raabin", "jtsc")}
    best = max(np.mean(maps[f"resnet18, {kind}"]["raabin", "bccd"]) for kind in ("bn", "gn", "in"))
    assert np.mean(maps["best inductive method of each cell"]["raabin", "bccd"]) == best


def test_figures_of_corruptions_and_speed_are_drawn(results):
    found = {path.stem for path in (results / "figures").glob("*.png")}
    assert {"corruptions_corruptions_raabin_to_corruptions", "throughput"} <= found
    assert {"shift_corruptions", "heat_map", "confusion_raabin_to_others"} <= found
    assert "confusion_raabin_to_corruptions" not in found


def test_a_sheet_is_escaped_in_each_form():
    rows = (("a|b_c", Cell(-1.5)), ("d", Cell(np.nan)))
    shown = sheet("a_b", "5 % of x_1", ("name", "n"), rows, ("A note",))
    assert "a\\|b\\_c" in to_markdown(shown)
    text = to_latex(shown)
    assert "\\label{tab:a-b}" in text
    assert "a|b\\_c & $-$1.5 \\\\" in text
    assert "5 \\% of x\\_1" in text
