"""The paper: its prose types no number, and what is generated says what the tables say."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from support.results import write_gaps

from benchmark.errors import UserError
from benchmark.evaluation.experiments import Scenario, load_experiments
from benchmark.evaluation.scores import majority_id
from benchmark.report.blocks import LEGEND, build_table
from benchmark.report.claims import CLAIMS, Measurement, verdict
from benchmark.report.paper.cells import frozen_features, unlabelled_cells
from benchmark.report.paper.figures import srgb
from benchmark.report.paper.latex import description, flat, inline, macros, tex
from benchmark.report.paper.numbers import seeds_of
from benchmark.report.paper.paper import MOST_ROWS, PROSE, floats_text, sentence, write_paper
from benchmark.report.paper.paper import printed as as_printed
from benchmark.report.paper.prose import fillings, prose
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.second import read_second, second_study
from benchmark.report.results import Results, Scores, load_scores
from benchmark.report.table import Block, Cell, Column, Row, sheet
from benchmark.report.tables import tables_of
from benchmark.report.write import to_latex
from benchmark.texts import latex

PAPER = REPOSITORY / "paper"
OWN_WORDS = [PAPER / "core" / f"{name}.tex" for name in PROSE]
DOCUMENTS = [(PAPER / name).read_text(encoding="utf-8") for name in ("main.tex", "supplement.tex")]
TEXTS = [text.partition("\\begin{document}")[2] for text in DOCUMENTS]
TEXTS += [path.read_text(encoding="utf-8") for path in OWN_WORDS]
BODY = re.sub(r"(?<!\\)%.*", "", "".join(TEXTS))
SETTINGS = """\
split: {seed: 0, fractions: {train: 0.6, id_val: 0.1, calibration: 0.1, id_test: 0.2}}
losses: {ce: {}, focal: {gamma: 2.0, note: "γ ≥ 0 → ½ × µ² ≈ α − β"}}
methods: {named: {backbone: resnet18, loss: focal}}
profiles:
  toy:
    image_size: 48
    training: {epochs: 3, augmentation: {dihedral: true}}
    experiments:
      norms:
        {title: Norms, scenarios: ["raabin->*"], losses: [ce], methods: [named], seeds: 2}
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The paper of a results folder with gaps."""
    root = tmp_path_factory.mktemp("project")
    write_gaps(root / "results" / "toy")
    (root / "params.yaml").write_text(SETTINGS)
    (root / "datasets").symlink_to(REPOSITORY / "datasets")
    shutil.copytree(
        REPOSITORY / "paper",
        root / "paper",
        ignore=shutil.ignore_patterns("generated", "main.[!t]*", "supplement.[!t]*"),
    )
    (root / "paper" / "toy").mkdir()
    for name in PROSE:
        text = "\\score{raabin->*}{resnet18-bn-ce}{in_domain}\\,\\%\n"
        (root / "paper" / "toy" / f"{name}.tex").write_text(text)
    return write_paper(root, "toy")


def defined(generated):
    text = (generated / "numbers.tex").read_text(encoding="utf-8")
    return dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\\xspace\}", text))


def test_the_prose_types_no_number():
    keys = r"\\(?:cite[a-z]*(?:\[[^]]*\])?|ref|label|input|bibliography)\{[^}]*\}"
    keys += rf"|\\(?:{'|'.join(fillings(None))})(?:\{{[^}}]*\}})+"
    keys += r"|ResNet-\d+|[Mm]acro-F1|WBCBench 2026|pbc-366"
    keys += r"|[\d.]+\\(?:textwidth|linewidth)|\{1\.5em\}"
    assert re.findall(r"[^\n]*\d[^\n]*", re.sub(keys, "", BODY)) == []
    words = r"\b(?:one|two|three|four|five|six|seven|eight|nine|ten)\s+(?:runs?|seeds?|networks?)\b"
    assert re.findall(words, BODY, re.IGNORECASE) == []


def test_every_macro_and_file_that_the_prose_names_is_generated(generated):
    assert set(re.findall(r"\\([A-Z]\w*)", BODY)) <= set(defined(generated))
    for name in re.findall(r"\\input\{(generated/\w+)\}", "".join(DOCUMENTS)):
        assert (generated.parent / f"{name}.tex").is_file()


def test_every_citation_is_in_the_bibliography(generated):
    texts = [BODY, *(path.read_text(encoding="utf-8") for path in generated.glob("*.tex"))]
    cited = {
        key.strip()
        for text in texts
        for keys in re.findall(r"\\cite[a-z]*\{([^}]*)\}", text)
        for key in keys.split(",")
    }
    entries = re.findall(r"^@\w+\{([^,]+),", (generated / "references.bib").read_text(), re.M)
    assert {"tsutsui2023benchmarking", "kouzehkanan2022raabin"} <= cited <= set(entries)
    assert len(entries) == len(set(entries))


def test_the_macros_count_what_is_there(generated):
    found = defined(generated)
    assert (found["RunsFound"], found["RunsPlanned"]) == ("3", "5")
    assert found["Methods"] == "3 methods"
    assert found["Scenarios"] == "1 scenario"
    assert found["Seeds"] == "1 to 2 seeds"
    assert found["Images"] == "15 images"
    assert found["SplitIdTest"] == "20\\,\\%"
    gaps = (generated / "gaps.tex").read_text()
    assert "seed1 (missing)" in gaps
    assert "$<$NaN$>$" in gaps


def test_a_number_of_the_text_is_the_number_of_the_table(generated):
    line = next(
        line
        for line in (generated / "tables" / "norms_macro_f1.tex").read_text().splitlines()
        if line.startswith("resnet18-bn-ce")
    )
    for name in ("abstract", "scores"):
        mean = re.search(r"(\d+\.\d) ", (generated / f"{name}.tex").read_text())[1]
        assert mean in line


def scores_of(intervals):
    """`Scores` that hold these intervals of macro-F1 alone: (scenario, method, column) → three."""
    found = {
        (scenario, "inductive", method, "macro_f1", "", column): dict(
            zip(("mean", "low", "high"), ends, strict=True), seeds=2, freedom=1
        )
        for (scenario, method, column), ends in intervals.items()
    }
    runs = {(scenario, method): [f"{method}/0"] for scenario, method, _ in intervals}
    constants = {
        (majority_id("a->*"), domain, part, "", metric): (value, 40)
        for domain, part, value in (("a", "id_test", 0.2), ("b", "shifted", 0.148))
        for metric in ("macro_f1", "macro_f1_present")
    }
    # Of the leaderboard, whose sign of a tie belongs into no sentence.
    tied = {("", "a->*", "inductive", "bn", "macro_f1", "mean_target"): {"as_good": True}}
    return Scores(constants, found, tied, {}, {"a->*": ("b",)}, runs)


EFFECTS = pd.DataFrame(
    [
        ("a->*", "loss", "focal", "ce", "focal", "bn", "mean_target", -0.053, -0.1, 0.02, 0.412),
        ("a->*", "normalisation", "in", "bn", "in", "bn", "mean_target", 0.2, 0.1, 0.3, 0.012),
        ("a->*", "loss", "ccl", "ce", "ccl", "bn", "mean_target", -0.2, -0.3, -0.1, 0.012),
        ("a->*", "readout", "probe", "head", "probe", "bn", "mean_target", 0.3, 0.2, 0.4, 0.001),
    ],
    columns=["scenario", "part", "choice", "plain", "method", "reference", "column"]
    + ["mean", "low", "high", "p_holm"],
)
REJECTION = pd.DataFrame(
    [
        ("bn/0", "id_test", "msp", "plain", 0.1, 0.99),
        ("bn/0", "shifted", "msp", "plain", 0.2, 0.4),
        ("bn/0", "shifted", "msp", "plain", 0.4, 0.2),
        ("bn/0", "shifted", "msp", "plain", 1.0, math.nan),
        ("bn/0", "shifted", "msp", "guaranteed", 0.9, 0.9),
        ("bn/0", "shifted", "energy", "plain", 0.9, 0.9),
    ],
    columns=["run_id", "part", "rejector", "fit", "rejected", "accuracy"],
)


@pytest.fixture
def filled(tmp_path):
    """Fills in a text about results with three methods, one of them transductive."""
    scenario = Scenario(name="a->*", source="a", targets=("b",))
    tracks = {"bn": "inductive", "in": "inductive", "gn": "inductive", "adabn": "transductive"}
    runs = {
        name: SimpleNamespace(method=SimpleNamespace(name=name), track=track, scenario=scenario)
        for name, track in tracks.items()
    }
    home, away = "in_domain", "mean_target"
    scores = scores_of(
        {
            ("a->*", "bn", home): (0.9, 0.8, 0.95),
            ("a->*", "bn", away): (0.1234, 0.1006, 0.2),
            ("a->*", "in", home): (0.8, 0.7, 0.85),
            ("a->*", "in", away): (0.3, 0.25, 0.35),
            ("a->*", "gn", home): (0.7, 0.6, 0.75),
            ("a->*", "gn", away): (0.1, 0.05, 0.12),
            ("a->*", "bn", "b"): (0.022, 0.019, 0.169),
            ("a->*", "in", "b"): (0.027, 0.020, 0.068),
        }
    )
    confusions = {("bn/0", "b", "shifted"): np.array([[0, 3], [0, 5], [2, 0]])}
    results = SimpleNamespace(
        done=runs,
        scores=scores,
        effects=EFFECTS,
        rejection_counted=REJECTION,
        confusions=confusions,
    )
    path = tmp_path / "toy.tex"

    def fill(named):
        path.write_text(f"first line\n{named}\\,\\%\n")
        return prose(path, fillings(Readings(results)))

    return fill


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        (r"\score{a->*}{bn}{mean_target}", "12.3 [10.1, 20.0]"),
        (r"\score{a->*}{majority}{b}", "14.8"),
        (r"\mean{a->*}{bn}{mean_target}", "12.3"),
        (r"\difference{a->*}{focal}{bn}{mean_target}", "−5.3 [−10.0, 2.0]"),
        (r"\compared{a->*}{in}{mean_target}", "lies, with its whole interval, above"),
        (r"\isshown{a->*}{focal}{bn}{mean_target}", "not shown, p = 0.41"),
        (r"\isshown{a->*}{in}{bn}{mean_target}", "shown, p = 0.012"),
        (r"\tally{a->*}{all}", "3"),
        (r"\tally{*}{helped}", "1"),
        (r"\tally{a->*}{harmed}{loss}", "1"),
        (r"\tally{a->*}{helped}{loss}", "none"),
        (r"\best{a->*}", "in"),
        (r"\bestscore{a->*}{mean_target}", "30.0 [25.0, 35.0]"),
        (r"\helpers{a->*}", "instance normalisation"),
        (r"\leastloss{a->*}", "50.0"),
        (r"\rankcorrelation{a->*}", "0.33"),
        (r"\onename{a->*}{bn}{b}", "80.0"),
        (r"\rejected{a->*}{bn}{home}{accuracy}", "99.0"),
        (r"\rejected{a->*}{bn}{elsewhere}{accuracy}", "30.0"),
    ],
)
def test_a_text_is_filled_with_the_numbers_that_it_names(filled, named, shown):
    assert filled(f"before {named}") == f"first line\nbefore {tex(shown)}\\,\\%\n"


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        (r"\score{a->*}{bm}{b}", "there is no method bm; known: adabn, bn, gn, in"),
        (r"\score{c->*}{bn}{b}", "there is no scenario c->*"),
        (r"\score{a->*}{gn}{b}", "gn of a->* has no macro_f1 of b"),
        (r"\difference{a->*}{ibn}{bn}{mean_target}", "there is no method ibn"),
        (r"\difference{a->*}{in}", "missing 2 required positional arguments"),
        (r"\tally{a->*}{helpful}", "helpful is none of all, helped, harmed, neither"),
        (r"\rejected{a->*}{bn}{away}{accuracy}", "there is no place away"),
    ],
)
def test_a_number_that_the_results_do_not_hold_is_refused(filled, named, fault):
    with pytest.raises(UserError, match=r"toy.tex, line 2: \\") as refused:
        filled(named)
    assert fault in str(refused.value)


def test_a_profile_without_prose_has_no_paper(filled, tmp_path):
    with pytest.raises(UserError, match=r"other\.tex is missing"):
        prose(tmp_path / "other.tex", {})


def test_a8_what_an_interval_holds_is_not_said_to_lie_below_it(filled):
    """2.2 [1.9, 16.9] was said to lie below 14.8; over four classes 2.7 [2.0, 6.8] does."""
    between = "with this interval cannot be told from"
    assert filled(r"\compared{a->*}{bn}{b}") == f"first line\n{between}\\,\\%\n"
    assert (
        filled(r"\compared{a->*}{in}{b}")
        == "first line\nlies, with its whole interval, below\\,\\%\n"
    )


@pytest.fixture(scope="module")
def core():
    results = Results.of(REPOSITORY / "results" / "core")
    return results, tables_of(results)


@pytest.mark.parametrize("path", OWN_WORDS, ids=lambda path: path.stem)
def test_the_results_hold_every_number_of_the_text(path, core):
    kinds = fillings(Readings(core[0]))
    text = prose(path, kinds)
    assert len(text) > 1000
    assert not re.search(rf"\\(?:{'|'.join(kinds)})\b", text)


def test_a8_no_sentence_of_the_prose_says_what_a_table_may_refute():
    """Directions and verdicts are filled in; what is typed holds whatever the numbers are."""
    text = re.sub(r"\s+", " ", BODY)
    for refuted in (
        "\\% lies below the",
        "is shown to help",
        "are not shown to help",
        "none of them changes what the features see",
        "has the highest mean of targets of all",
    ):
        assert refuted not in text
    for told in ("stain}{pbc-366}", "\\isshown{pbc-main->*}{resnet18-in-ce}"):
        assert told in text


def test_a_reference_of_the_prose_leads_to_a_table_or_figure(generated):
    texts = [BODY, *(path.read_text() for path in generated.glob("*.tex"))]
    labels = {name for text in texts for name in re.findall(r"\\label\{([^}]*)\}", text)}
    labels |= {f"fig:{name}" for name in re.findall(r"\\paperfigure\*?\{(\w+)\}", BODY)}
    assert set(re.findall(r"\\ref\{([^}]*)\}", BODY)) <= labels


def test_an_srgb_colour_is_that_of_its_lightness():
    assert srgb(100.0, 0.0, 0.0) == pytest.approx((1, 1, 1), abs=0.002)
    assert srgb(0.0, 0.0, 0.0) == (0, 0, 0)
    # CIELAB of sRGB red, computed with the matrix of IEC 61966-2-1
    assert srgb(53.24, 80.09, 67.20) == pytest.approx((1, 0, 0), abs=0.005)


def test_the_figures_of_the_paper_show_what_was_run(generated):
    drawn = {path.stem for path in (generated / "figures").glob("paper_*.pdf")}
    assert drawn == {f"paper_{name}" for name in ("shift", "differences", "heat")}


def test_study_two_says_what_is_there_and_no_more(tmp_path, capsys):
    assert "nothing in this text rests on them" in second_study(read_second(tmp_path / "none"))
    text = second_study(read_second(write_gaps(tmp_path / "core2")))
    assert "So far 3 of 5 planned runs" in text  # one run is of two experiments
    assert "ladder" not in text
    (tmp_path / "core2" / "standings.parquet").unlink()
    assert read_second(tmp_path / "core2") is None
    assert "study two is left out of the paper: " in capsys.readouterr().out


def test_cells_of_a_new_laboratory_are_told_with_the_numbers_of_the_tables():
    """Of study two as committed: AdaBN by unlabelled cells, and the index of frozen features."""
    results = Results.of(REPOSITORY / "results" / "core2")
    printed = "".join(unlabelled_cells(results)).replace("$-$", "−").replace("+", "")
    columns = re.findall(r"& (\d+ cells)", printed)
    assert len(columns) == 3
    for row in markdown_rows_of(results.folder / "tables/unlabelled_cells.md"):
        if (row["order"], row["method"]) == ("at random", "AdaBN"):
            assert " & ".join(row[column] for column in columns) in printed, row["network"]
    printed = "".join(frozen_features(results))
    for row in markdown_rows_of(results.folder / "tables/features.md"):
        if row["trained on"] == "raabin" and row["features"] != "majority":
            assert f" & {row['robustness index']} & {row['laboratory told']} & " in printed


def markdown_rows_of(path):
    """The rows of the only table of a file, as dictionaries."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_claims_stand_with_what_was_found_and_a_verdict(generated):
    text = (generated / "claims.tex").read_text()
    assert "\\label{tab:claims-in-print}" in text
    lines = {line.split(" \\citep")[0].split(" &")[0]: line for line in text.splitlines()}
    for claim in CLAIMS:
        assert lines[tex(claim.text)].count("&") == 3
    assert "not run & not run" in lines["Macenko normalisation helps"]
    assert "contradicted" in lines["Ld measures learning under imbalance"]


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        ((), "not run"),
        ((1, 1), "confirmed"),
        ((1, 0, None), "confirmed in 1 of 2"),
        ((1, -1), "confirmed in 1 of 2"),
        ((-1, 0, 0), "contradicted in 1 of 3"),
        ((0,), "not shown"),
        ((None,), "untested"),
    ],
)
def test_a_verdict_is_of_all_places_that_were_tested(holds, said):
    assert verdict([Measurement("", "", one, "") for one in holds]) == said


def test_a_table_longer_than_a_page_is_named_and_not_printed():
    tables = [
        sheet(name, "Caption.", ("a", "b"), [("c", 1)] * rows)
        for name, rows in (("long_one", MOST_ROWS), ("short_one", MOST_ROWS - 1))
    ]
    assert [to_latex(table).count(" \\\\\n") for table in tables] == [MOST_ROWS + 1, MOST_ROWS]
    text = floats_text(tables, [])
    assert "long\\_\\allowbreak{}one.md." in text
    assert re.findall(r"\\input\{(.*)\}", text) == ["generated/tables/short_one"]


def test_each_table_is_printed_once_in_the_supplement(generated):
    text = (generated / "more.tex").read_text(encoding="utf-8")
    printed = re.findall(r"\\input\{generated/tables/(\w+)\}", text)
    assert sorted(printed) == sorted(path.stem for path in (generated / "tables").glob("*.tex"))
    figures = re.findall(r"\\fitted\{generated/figures/(\w+)\.pdf\}", text)
    report = {path.stem for path in (generated / "figures").glob("*.pdf")}
    assert sorted(figures) == sorted(name for name in report if not name.startswith("paper_"))


def test_a_heading_wider_than_its_column_stands_in_two_lines_and_no_number_is_touched():
    rows = (("a rather long method", Cell(12.3), "7"), ("b", "–", "8 %"))
    table = sheet("s", "Caption.", ("of", "cov@99 in-domain (%)", "runs"), rows)
    text = to_latex(table)
    assert "\nof & \\shortstack{cov@99\\\\in-domain (\\%)} & runs \\\\\n" in text
    assert "\na rather long method & 12.3 & 7 \\\\\nb & -- & 8 \\% \\\\\n" in text


def test_in_print_a_table_of_scores_loses_its_accuracies_and_nothing_else(generated):
    results = generated.parents[1] / "results" / "toy"
    experiments = load_experiments(results)
    table = build_table(experiments[0], load_scores(results, experiments), "macro_f1")
    printed = as_printed(table)
    for whole, block in zip(table.blocks, printed.blocks, strict=True):
        assert [column.metric for column in whole.columns[-2:]] == ["accuracy"] * 2
        assert block.columns == whole.columns[:-2]
        assert [row.cells for row in block.rows] == [row.cells[:-2] for row in whole.rows]
    assert table.caption == f"{printed.caption} {LEGEND}"
    assert "accuracy" not in to_latex(printed)
    assert (generated / "legend.tex").read_text() == tex(LEGEND) + "\n"


def test_the_supplement_says_of_each_claim_what_its_comparison_leaves_open(generated):
    text = (generated / "tables" / "claims.tex").read_text()
    assert "published &" not in text
    for claim in CLAIMS:
        assert f"{latex(claim.text)} &" in text
        assert latex(claim.not_shown) in text


def test_the_appendix_lists_the_blocks_that_a_named_method_uses(generated):
    text = (generated / "methods.tex").read_text()
    assert "\\item[{focal}] gamma 2" in text
    assert "found 3 of 5 planned" in text
    assert "training.augmentation.dihedral" in text


def block(*rows):
    scenario = Scenario(name="a->*", source="a", targets=("b",))
    columns = (Column("in_domain", "a"), Column("mean_target", "mean of targets"))
    return Block(columns, rows, scenario=scenario)


def row(method, mean, **marks):
    return Row((Cell(90.0), Cell(mean, **marks)), method, 1, 1)


def test_a_sentence_says_which_methods_are_not_shown_to_be_worse():
    best, good, bad = row("x", 50.0, best=True), row("y", 49.0, as_good=True), row("z", 9.0)
    constant = Row((Cell(20.0), Cell(10.0)), "majority")
    start = "Trained on a (a->*): on the mean of targets, x has the highest macro-F1, 50.0 %"
    assert sentence(block(best)) == f"{start}."
    assert sentence(block(best, good)) == f"{start}; the other method is not shown to be worse."
    assert sentence(block(best, bad)) == f"{start}; the other method is shown to be worse."
    assert sentence(block(best, good, bad, constant)) == (
        f"{start}; of the other 2, 1 are not shown to be worse (y). "
        "The majority constant has 10.0 %; 1 of 3 methods lie below it."
    )
    assert sentence(block(Row((Cell(float("nan")),) * 2, "x", 0, 2))) == ""


def test_letters_that_latex_would_choke_on_are_escaped():
    assert tex("a_b & 5 % #") == "a\\_\\allowbreak{}b \\& 5\\,\\% \\#"
    digest = "0123456789abcdef" * 4
    assert tex(digest).split("\\allowbreak{}") == [digest[:16]] * 4
    with pytest.raises(ValueError, match="Lead1"):
        macros({"Lead1": "x"})


def test_settings_are_told_in_words():
    assert flat({"a": {"b": 1e-3, "c": [1, 2]}, "d": None}) == {
        "a.b": "0.001",
        "a.c": "1, 2",
        "d": "as the profile",
    }
    assert inline({}) == "no parameter"
    assert inline({"renorm": False, "gamma": 2.0}) == "renorm no, gamma 2"
    assert "\\item[{a}] b" in description({"a": "b"})


def test_seeds_are_counted_per_method(generated):
    experiments = load_experiments(generated.parents[1] / "results" / "toy")
    norms = [experiment for experiment in experiments if experiment.experiment == "norms"]
    only = norms[0].model_copy(update={"runs": norms[0].runs[:4]})
    assert seeds_of([only]) == "2 seeds"


@pytest.mark.skipif(shutil.which("latexmk") is None, reason="latexmk is not installed")
def test_the_pdf_builds_without_a_reference_that_leads_nowhere(generated):
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error"]
    command += ["supplement.tex", "main.tex"]
    built = subprocess.run(command, cwd=generated.parent, capture_output=True, timeout=240)
    logs = (generated.parent / f"{name}.log" for name in ("supplement", "main"))
    log = "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    assert built.returncode == 0, log[-3000:]
    assert not re.findall(r"(?:Citation|Reference) .* undefined|multiply defined", log)
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log
