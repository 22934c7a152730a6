"""Report: tables, figures and page say what was found, what was planned, and what is missing."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from support.results import (
    predictions,
    results_with_own_targets,
    run_record,
    scores,
    write_data,
    write_experiment,
    write_results,
    write_run,
)
from support.tables import cells_of, read_lines, rows_of

from benchmark.errors import UserError
from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.experiments import Scenario, load_experiments
from benchmark.report.blocks import build_table
from benchmark.report.facts import cells_shown
from benchmark.report.notes import contamination_notes, evidence_notes, repeated_cells_notes
from benchmark.report.pictures import draw_all
from benchmark.report.report import report
from benchmark.report.results import Results, load_scores
from benchmark.report.table import Cell
from benchmark.report.write import (
    cell_text,
    latex_cell,
    markdown_cell,
    number,
    to_latex,
    to_markdown,
)
from benchmark.texts import latex

GOLDEN = Path(__file__).parent / "fixtures" / "golden"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with a gap, evaluated and reported: gn has one seed of two, in has none."""
    folder = tmp_path_factory.mktemp("results")
    runs = write_results(folder)
    runs[3] |= {"outcome": "missing", "predictions_sha256": None}
    for seed in (0, 1):
        reason = "loss is NaN in epoch 3"
        runs.append(run_record("resnet18-in-ce", seed, None, outcome="nan", reason=reason))
    write_experiment(folder, runs)
    write_data(folder)
    evaluate(folder)
    report(folder)
    return folder


def table(results, metric="macro_f1"):
    """A table of the first experiment."""
    experiments = load_experiments(results)
    return build_table(experiments[0], load_scores(results, experiments), metric)


def support(results, metric):
    """Images below each test set of a table."""
    return {column.key: column.n for column in table(results, metric).blocks[0].columns}


def written(results):
    """Everything that the report wrote, by path."""
    paths = [*results.glob("tables/*"), *results.glob("figures/*"), *results.glob("pages/*")]
    paths.append(results / "report.html")
    return {str(path.relative_to(results)): path.read_bytes() for path in paths}


def markdown(results):
    """The headline table of the first experiment, without drawing figures."""
    return to_markdown(table(results))


def test_the_headline_table_is_the_golden_one(results):
    name = "norms_macro_f1.md"
    assert (results / "tables" / name).read_text() == (GOLDEN / name).read_text()
    assert to_latex(table(results)) == (GOLDEN / "norms_macro_f1.tex").read_text()


def test_cells_are_means_over_seeds_and_the_intervals_that_evaluate_wrote(results):
    values = scores(results)["value"]

    def of_seed(seed, domain, part):
        run_id = f"resnet18-bn-ce/raabin_to_others/seed{seed}"
        return 100 * values[run_id, domain, part, "", "macro_f1"]

    source = [of_seed(seed, "raabin", "id_test") for seed in (0, 1)]
    bccd = [of_seed(seed, "bccd", "shifted") for seed in (0, 1)]
    jtsc = [of_seed(seed, "jtsc", "shifted") for seed in (0, 1)]
    drops = [source[k] - (bccd[k] + jtsc[k]) / 2 for k in (0, 1)]
    worst = [min(bccd[k], jtsc[k]) for k in (0, 1)]
    cells = cells_of(table(results), "resnet18-bn-ce")
    intervals = pd.read_parquet(results / "intervals.parquet").query(
        "method == 'resnet18-bn-ce' and metric == 'macro_f1'"
    )
    intervals = intervals.set_index("column")
    expected = {"in_domain": source, "bccd": bccd, "worst_target": worst, "shift_drop": drops}
    for key, seeds in expected.items():
        assert cells[key].mean == pytest.approx(sum(seeds) / 2, abs=1e-4)
        for end in ("low", "high"):
            assert getattr(cells[key], end) == pytest.approx(100 * intervals.loc[key, end])
    images = support(results, "macro_f1")
    assert (images["in_domain"], images["bccd"], images["jtsc"]) == (63, 69, 60)


def test_a_missing_run_never_vanishes(results):
    rows = rows_of(table(results))
    assert list(rows) == ["resnet18-bn-ce", "resnet18-gn-ce", "resnet18-in-ce", "majority"]
    assert (rows["resnet18-in-ce"].found, rows["resnet18-in-ce"].planned) == (0, 2)
    markdown = (results / "tables" / "norms_macro_f1.md").read_text()
    line = next(line for line in markdown.splitlines() if "resnet18-in-ce " in line)
    assert [cell.strip() for cell in line.split("|")[2:-1]] == ["0/2", *["–"] * 9]
    assert "found 3 of 6 planned" in markdown
    assert "nan: loss is NaN in epoch 3" in markdown
    assert "Found 3 of 6 planned runs." in (results / "report.html").read_text()
    page = (results / "pages" / "runs.html").read_text()
    assert "resnet18-gn-ce/raabin_to_others/seed1 (missing)" in page


def test_an_interval_that_knows_of_one_seed_only_says_so(results):
    """gn has one seed, and bn alone is too few to lend it a variance."""
    stored = pd.read_parquet(results / "intervals.parquet").query("metric == 'macro_f1'")
    assert stored.set_index("method")["freedom"].groupby("method").max().to_dict() == {
        "resnet18-bn-ce": 1,
        "resnet18-gn-ce": 0,
    }
    cell = cells_of(table(results), "resnet18-gn-ce")["bccd"]
    assert cell.low < cell.mean < cell.high
    text = (results / "tables" / "norms_macro_f1.md").read_text()
    assert "Intervals of resnet18-gn-ce cover test images only" in text


def test_a_single_best_is_bold_and_marked(results):
    whole = table(results)
    cells = [cells_of(whole, method) for method in rows_of(whole)]
    assert [own["mean_target"].best for own in cells].count(True) == 1
    assert not any(own["shift_drop"].best or own["shift_drop"].as_good for own in cells)
    text = (results / "tables" / "norms_macro_f1.md").read_text()
    assert text.count("**") % 2 == 0
    best = next(own["bccd"] for own in cells if own["bccd"].best)
    assert f"**{best.mean:.1f}** [" in text


def test_a_mark_follows_the_mean():
    assert markdown_cell(Cell(45.25, 43.1, 47.04, 2, best=True)) == "**45.2** [43.1, 47.0]"
    assert markdown_cell(Cell(45.25, 43.1, 47.04, 2, as_good=True)) == "45.2° [43.1, 47.0]"
    assert latex_cell(Cell(-3.0, -4.0, 1.0, 2, best=True)) == "\\bfseries -3.0 & [$-$4.0, 1.0]"
    assert latex_cell(Cell(45.2, 43.1, 47.0, 2, as_good=True)) == "45.2 & $^\\circ$ [43.1, 47.0]"
    assert latex_cell(Cell(45.2)) == "45.2 &"


def test_four_classes_have_no_rare_one(results):
    whole = table(results, "macro_f1_wbc4")
    assert "without basophils" in to_markdown(whole)
    assert "†" not in to_markdown(whole)
    images = support(results, "macro_f1_wbc4")
    assert (images["in_domain"], images["bccd"], images["jtsc"]) == (53, 66, 60)


def test_a6_other_scores_stand_beside_the_headline_and_are_those_of_their_own_tables(results):
    own, present, accuracy = (
        cells_of(table(results, metric), "resnet18-bn-ce")
        for metric in ("macro_f1", "macro_f1_present", "accuracy")
    )
    # bccd holds three basophils; jtsc none, so that nothing differs there.
    assert own["mean_target_macro_f1_present"].mean == present["mean_target"].mean
    assert present["bccd"].mean != own["bccd"].mean
    assert present["jtsc"].mean == own["jtsc"].mean
    assert own["in_domain_accuracy"].mean == accuracy["in_domain"].mean
    assert own["mean_target_accuracy"].mean == accuracy["mean_target"].mean
    constant = cells_of(table(results), "majority")
    # bccd: 30 of 69 images, jtsc: 25 of 60.
    assert constant["bccd"].mean == pytest.approx(100 * 2 * 30 / 99 / 4)
    assert constant["mean_target_macro_f1_present"].mean == pytest.approx(
        100 * (2 * 30 / 99 / 5 + 2 * 25 / 85 / 4) / 2
    )
    assert constant["mean_target_accuracy"].mean == pytest.approx(100 * (30 / 69 + 25 / 60) / 2)
    text = (results / "tables" / "norms_macro_f1.md").read_text()
    assert "mean, all classes" in text
    assert "Macro-F1 is the mean over the classes of a test set with n ≥ 10" in text
    assert "macro-F1 leaves it out" in text
    other = table(results, "macro_f1_present")
    assert "macro-F1 over all present classes in %" in other.caption


def test_a7_the_range_of_kendalls_tau_is_called_no_interval(results):
    text = (results / "tables" / "norms_macro_f1.md").read_text()
    line = next(line for line in text.splitlines() if "Kendall" in line)
    assert "in brackets its range over resamples, which is no confidence interval" in line
    evidence = pd.read_parquet(results / "evidence.parquet")
    assert {"tau", "tau_range_low", "tau_range_high"} <= set(evidence)


def test_a7_a_test_set_of_few_groups_says_what_its_intervals_cover():
    scenario = Scenario(name="raabin->*", source="raabin", targets=("bccd",))
    home = {"images": 592, "groups": 12, "effective_groups": 3.9, "detectable": None}
    away = {"images": 351, "groups": 334, "effective_groups": 300.0, "detectable": None}
    found = evidence_notes({"in_domain": home, "bccd": away}, scenario)
    (few,) = (note for note in found if note.startswith("Few groups"))
    assert "raabin 3.9." in few
    assert "bccd" not in few
    assert "78 to 89 %" in few
    many = evidence_notes({"bccd": away}, scenario)
    assert not any(note.startswith("Few groups") for note in many)


def test_what_is_said_about_an_experiment_stands_under_its_tables(results):
    experiments = load_experiments(results)
    told = experiments[0].model_copy(update={"about": ("Differs from the paper: smaller",)})
    scored = load_scores(results, experiments)
    plain, table = (to_markdown(build_table(e, scored, "macro_f1")) for e in (experiments[0], told))
    assert table.replace("Differs from the paper: smaller.\n\n", "", 1) == plain != table


def test_a5_a_table_says_how_many_seeds_its_values_are_of(tmp_path):
    runs = write_results(tmp_path, seeds=3)
    write_experiment(tmp_path, runs[:2], name="losses")
    evaluate(tmp_path)
    experiments = load_experiments(tmp_path)
    scored = load_scores(tmp_path, experiments)
    tables = {e.experiment: build_table(e, scored, "macro_f1") for e in experiments}
    few, many = (tables[name].blocks[0].rows[0] for name in ("losses", "norms"))
    assert (few.runs, many.runs) == ("2/2 (3)", "3/3")
    values = [[(c.mean, c.low, c.high) for c in row.cells] for row in (few, many)]
    assert values[0] == values[1]


def test_c6_targets_that_enter_no_mean_are_named_and_have_their_columns(tmp_path):
    results_with_own_targets(tmp_path)
    evaluate(tmp_path)
    text = markdown(tmp_path)
    assert "own-baso†" not in text
    assert "own-baso, n = 12" in text
    assert (
        "Excluded from the mean of targets, the worst target and the shift drop, which cover "
        "published sets with at least 3 such classes: own-baso (own images), few (2 classes with "
        "n ≥ 10), own-good (own images)." in text
    )
    report(tmp_path)
    found = pd.read_parquet(tmp_path / "rejection.parquet").query("rejector == 'msp'")
    own = found[found["domain"].isin(["bccd", "jtsc"])]
    own = own[own["run_id"].str.startswith("a-bn-ce/")]
    lines = [x for x in read_lines(tmp_path / "tables/rejection.md") if x["method"] == "a-bn-ce"]
    line = next(line for line in lines if line["tested on"] == "mean of targets")
    assert float(line["AURC"]) == pytest.approx(100 * own["aurc"].mean(), abs=0.051)
    page = (tmp_path / "report.html").read_text()
    assert "on cells of 2 other domains" in page
    assert "4 other" not in page


def test_small_and_confounded_classes_are_flagged(results):
    text = (results / "tables" / "norms_macro_f1.md").read_text()
    assert "bccd†, n = 69" in text
    assert "bccd (basophil 3)" in text
    assert "Absent classes" in text
    assert "jtsc (basophil)" in text
    assert "basophil and capture date are confounded" in text


def test_a_caveat_on_raabins_basophils_stands_only_where_raabin_is_scored(tmp_path):
    counts = {("bccd", "id_test"): [10] * 5, ("jtsc", "shifted"): [10] * 5}
    record = run_record("resnet18-bn-ce", 0, None, source="bccd", targets=["jtsc"])
    record["predictions_sha256"] = write_run(
        tmp_path, record["run_id"], predictions(0, counts=counts)
    )
    write_experiment(tmp_path, [record])
    evaluate(tmp_path)
    assert "confounded" not in markdown(tmp_path)


def test_the_majority_row_has_no_interval_and_no_drop(results):
    whole = table(results, "accuracy")
    cells = cells_of(whole, "majority")
    assert cells["bccd"].mean == pytest.approx(100 * 30 / 69)
    assert math.isnan(cells["bccd"].low)
    assert math.isnan(cells["shift_drop"].mean)
    assert rows_of(whole)["majority"].runs == ""


def test_reporting_again_prints_the_headline_and_gives_the_same_bytes(results, capsys):
    before = written(results)
    report(results)
    assert written(results) == before
    out = capsys.readouterr().out
    assert "macro-F1 (%), found 3 of 6 planned runs" in out
    line = next(line for line in out.splitlines() if line.split()[:1] == ["resnet18-in-ce"])
    assert line.split() == ["resnet18-in-ce", "0/2", "–", "–", "–"]


def test_the_figures_are_those_that_the_pages_show(results):
    figures = {path.name for path in (results / "figures").iterdir()}
    stems = ["shift_norms", "heat_map", "local_labels"]
    stems += [f"{kind}_raabin_to_others" for kind in ("confusion", "reliability", "risk")]
    assert figures == {f"{stem}.png" for stem in stems}
    pages = "".join(path.read_text() for path in (results / "pages").iterdir())
    assert all(f"../figures/{name}" in pages for name in figures)


def test_a_figure_in_print_holds_no_date_and_is_told_by_its_words(results, tmp_path):
    pictures = draw_all(Results.of(results), tmp_path, "pdf")
    assert list(pictures) == ["", "norms"]
    shown = [picture for own in pictures.values() for picture in own]
    assert {f"{picture.name}.pdf" for picture in shown} == {p.name for p in tmp_path.iterdir()}
    for picture in shown:
        assert b"CreationDate" not in (tmp_path / f"{picture.name}.pdf").read_bytes()
        assert picture.caption != picture.alt
        assert len(picture.alt) >= 40
        assert (results / picture.source).exists()


def blocks_of_two_tracks(folder):
    """Markdown of bn on the inductive track, and of gn on the transductive one."""
    runs = write_results(folder)
    for run in runs[2:]:
        run["track"] = "transductive"
    write_experiment(folder, runs)
    evaluate(folder)
    return markdown(folder).split("transductive)**")


def test_tracks_never_share_a_table_block(tmp_path):
    inductive, transductive = blocks_of_two_tracks(tmp_path)
    assert "resnet18-bn-ce" in inductive
    assert "resnet18-gn-ce" not in inductive
    assert "resnet18-gn-ce" in transductive
    assert "resnet18-bn-ce" not in transductive


def test_c10_a_table_of_adapted_methods_warns_of_smears_of_one_class(tmp_path):
    inductive, transductive = blocks_of_two_tracks(tmp_path)
    assert "AdaBN collapses on a smear of one class" in transductive
    assert "AdaBN" not in inductive


def test_strict_names_the_first_gaps(results):
    with pytest.raises(UserError, match=r"3 planned runs .*resnet18-gn-ce/.*seed1 \(missing\)"):
        report(results, strict=True)


def test_strict_passes_when_every_planned_run_is_done_or_skipped(tmp_path):
    runs = write_results(tmp_path, methods=["resnet18-bn-ce"], seeds=1)
    reason = "no batch normalisation"
    runs.append(run_record("vit-gn-ce", 0, None, outcome="skipped", reason=reason))
    write_experiment(tmp_path, runs)
    evaluate(tmp_path)
    report(tmp_path, strict=True)
    assert (tmp_path / "report.html").exists()


def test_stale_or_absent_metrics_are_refused(tmp_path):
    runs = write_results(tmp_path)
    with pytest.raises(UserError, match="wbc-shift evaluate"):
        report(tmp_path)
    evaluate(tmp_path)
    runs[0]["predictions_sha256"] = write_run(tmp_path, runs[0]["run_id"], predictions(99))
    write_experiment(tmp_path, runs)
    with pytest.raises(UserError, match="wbc-shift evaluate"):
        report(tmp_path)


def test_a_report_without_any_done_run_still_shows_the_plan(tmp_path):
    runs = [run_record("resnet18-bn-ce", seed, None, outcome="oom") for seed in (0, 1)]
    write_experiment(tmp_path, runs)
    evaluate(tmp_path)
    report(tmp_path)
    assert rows_of(table(tmp_path))["resnet18-bn-ce"].planned == 2
    assert "Found 0 of 2 planned runs." in (tmp_path / "report.html").read_text()
    assert not list((tmp_path / "figures").glob("shift_*"))  # a panel of nothing says nothing


def test_numbers_are_printed_with_one_decimal_and_a_true_minus():
    assert cell_text(Cell(45.25, 43.14, 47.0)) == "45.2 [43.1, 47.0]"
    assert cell_text(Cell(-3.14)) == "−3.1"
    assert cell_text(Cell(float("nan"))) == "–"
    assert number(-0.04) == "0.0"


def test_latex_characters_are_escaped():
    assert latex("a_b 5 % raabin->*") == "a\\_b 5 \\% raabin$\\to$$*$"
    assert latex("of `robust` alone") == "of `robust' alone"


def test_weights_that_have_seen_a_test_set_or_may_have_are_named(results):
    (experiment, *_) = load_experiments(results)
    first = {run.method.name: run.run_id for run in reversed(experiment.runs)}

    def records(*datasets):
        """Of bn and gn, whose weights were made with these."""
        blocks = ({"timm": "x", "training_datasets": names} for names in datasets)
        ids = (first["resnet18-bn-ce"], first["resnet18-gn-ce"])
        return {i: {"settings": {"weights": b}} for i, b in zip(ids, blocks, strict=True)}

    names = {"raabin": {"raabin", "raabin-wbc"}}
    assert contamination_notes(experiment, records(["imagenet-1k"], []), names) == []
    seen, unknown = contamination_notes(experiment, records(["Raabin-WBC"], None), names)
    assert seen.endswith("weights of resnet18-bn-ce were made with images of raabin")
    assert unknown.endswith("test images: resnet18-gn-ce")
    # An ensemble has seen what its members have.
    both = records(["raabin"], [])
    members = [{"run_id": first["resnet18-bn-ce"]}]
    both[first["resnet18-gn-ce"]] = {"settings": {"members": members}}
    assert [note.split()[5] for note in contamination_notes(experiment, both, names)] == [
        "resnet18-bn-ce",
        "resnet18-gn-ce",
    ]


def test_a_cell_shown_several_times_is_counted_once_and_said(tmp_path):
    """Pairs a-b, b-c and d-e of six images show three cells; scores are of images all the same."""
    pairs = [("a", "b"), ("b", "c"), ("d", "e")]
    find = {"check": "same cell", "text": "", "similarity": 1.0, "view": 0, "mend": []}
    found = [find | {"images": [["chula", one], ["chula", two]]} for one, two in pairs]
    domains = {
        name: {"dataset": dataset, "images": 6, "groups": 2, "parts": {}}
        for name, dataset in (("chula", "chula"), ("jtsc", "jtsc"))
    }
    audit = {
        "schema_version": 1,
        "verdict": "passed",
        "domains": domains,
        "failures": [],
        "warnings": [],
        "known": found[:1],
        "unreviewed_in_one_group": found[1:],
        "pairs_kept_together_by_their_group": 3,
    }
    (tmp_path / "audit.json").write_text(json.dumps(audit))
    assert cells_shown(tmp_path) == {"chula": (6, 3)}
    assert cells_shown(tmp_path / "elsewhere") == {}

    core2 = Path(__file__).parents[1] / "results/core2"
    shown = cells_shown(core2)
    assert shown["chula"] == (506, 274)
    (experiment,) = (e for e in load_experiments(core2) if e.experiment == "robust")
    (note,) = repeated_cells_notes(experiment, shown)
    assert "chula, 506 images of 274 cells. n and scores" in note
    assert "raabin" not in note  # 42 of its 2,717 images show a cell again
