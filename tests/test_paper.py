"""The paper: its prose types no number, and what is generated says what the tables say."""

from __future__ import annotations

import re
import shutil
import subprocess

import pandas as pd
import pytest
from conftest import REPOSITORY
from support.results import write_gaps

from benchmark.errors import UserError
from benchmark.evaluation.experiments import Scenario, load_experiments
from benchmark.report.blocks import LEGEND, build_table
from benchmark.report.paper.latex import description, flat, inline, macros, tex
from benchmark.report.paper.numbers import seeds_of
from benchmark.report.paper.paper import MOST_ROWS, floats_text, sentence, write_paper
from benchmark.report.paper.paper import printed as as_printed
from benchmark.report.paper.prose import experiments_shown, fillings, prose
from benchmark.report.results import Results, load_scores
from benchmark.report.table import Block, Cell, Column, Row, Table, sheet
from benchmark.report.tables import Tables, tables_of
from benchmark.report.write import label, to_latex

PAPER = REPOSITORY / "paper"
OWN_WORDS = [PAPER / "core" / "results.tex", PAPER / "core" / "discussion.tex"]
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
    return write_paper(root, "toy")


def defined(generated):
    text = (generated / "numbers.tex").read_text(encoding="utf-8")
    return dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\\xspace\}", text))


def test_the_prose_types_no_number():
    keys = r"\\(?:cite[a-z]*|ref|label|input|bibliography|bibliographystyle)\{[^}]*\}"
    keys += r"|\\(?:entry|difference|isshown|compared|experiment)(?:\{[^}]*\})+|ResNet-\d+"
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
    lead = defined(generated)
    line = next(
        line
        for line in (generated / "tables" / "norms_macro_f1.tex").read_text().splitlines()
        if line.startswith(lead["LeadMethod"].replace("\\allowbreak{}", ""))
    )
    mean = lead["LeadInDomain"].split()[0]
    assert mean in line
    assert f"{mean} [" in (generated / "findings.tex").read_text()


@pytest.fixture
def results(tmp_path):
    """A table of scores, a sheet and a difference, with a dash and an empty interval."""
    a = {"bn": Cell(12.34, 10.06, 20.0, best=True), "gn": Cell(7.0, as_good=True)}
    norms = scores_of(**{"a->*": a, "b->*": {"bn": Cell(1, 2, 3)}})
    rows = [("loss, all", 3, Cell(-1.5))]
    counts = sheet("counts", "Caption.", ("part", "pairs", "least"), rows)
    keys = ("scenario", "method", "reference", "column", "seeds", "mean", "low", "high", "p_holm")
    rows = [("a->*", "gn", "bn", "bccd", 5, -0.053, -0.1, 0.02, 0.412)]
    rows += [("a->*", "in", "bn", "bccd", 5, 0.2, 0.1, 0.3, 0.012)]
    effects = pd.DataFrame(rows, columns=keys)
    return tmp_path, {"": Tables([], [counts]), "norms": norms}, effects


def scores_of(**scenarios):
    """A table `norms` of methods on bccd, by scenario."""
    blocks = tuple(
        Block(
            (Column("bccd", "bccd"),),
            tuple(Row((cell,), method, 1, 1) for method, cell in methods.items()),
            scenario=Scenario(name=name, source=name[0], targets=("bccd",)),
        )
        for name, methods in scenarios.items()
    )
    return Tables([Table("norms", "Caption.", blocks, metric="macro_f1")], [])


def filled(results, named):
    """A text of two lines, the second of which names a number."""
    folder, *facts = results
    path = folder / "toy.tex"
    path.write_text(f"first line\n{named}\\,\\%")
    return prose(path, fillings(*facts, {"norms": "a table"}))


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        (r"\entry{norms}{a->* | bn}{bccd}", "12.3 [10.1, 20.0]"),
        (r"\entry{norms}{gn}{bccd}", "7.0"),
        (r"\entry{counts}{loss, all}{least}", "−1.5"),
        (r"\difference{a->*}{gn}{bn}{bccd}", "−5.3 [−10.0, 2.0]"),
        (r"\compared{norms}{b->* | bn}{gn}{bccd}", "lies below"),
        (r"\compared{norms}{a->* | bn}{gn}{bccd}", "lies above"),
        (r"\isshown{a->*}{gn}{bn}{bccd}", "not shown, p = 0.41"),
        (r"\isshown{a->*}{in}{bn}{bccd}", "shown, p = 0.012"),
    ],
)
def test_a_text_is_filled_with_the_numbers_that_it_names(results, named, shown):
    assert filled(results, f"before {named}") == f"first line\nbefore {tex(shown)}\\,\\%"
    assert prose(results[0] / "of another profile.tex", fillings(*results[1:], {})) == ""


@pytest.mark.parametrize(
    ("named", "fault"),
    [
        (r"\entry{norm}{bn}{bccd}", "there is no table norm; did you mean 'norms'?"),
        (r"\entry{norms}{gn}{bcd}", "norms has no column bcd; did you mean 'bccd'"),
        (r"\entry{norms}{bn}{bccd}", "2 rows of norms hold bn"),
        (r"\entry{norms}{c->* | bn}{bccd}", "0 rows of norms hold bn and c->*"),
        (r"\difference{a->*}{ibn}{bn}{bccd}", "no difference with method ibn"),
        (r"\difference{a->*}{gn}", "missing 2 required positional arguments"),
        (r"\compared{norms}{gn}{b->* | bn}{bccd}", "gn needs an interval"),
        (r"\compared{norms}{b->* | bn}{a->* | bn}{bccd}", "a->* | bn must have none"),
        (r"\experiment{norm}", "there is no experiment norm; did you mean 'norms'?"),
    ],
)
def test_a_number_that_the_results_do_not_hold_is_refused(results, named, fault):
    with pytest.raises(UserError, match=r"toy.tex, line 2: \\") as refused:
        filled(results, named)
    assert fault in str(refused.value)


def test_a_text_holds_the_experiments_that_it_names(results, tmp_path):
    assert filled(results, r"\experiment{norms}") == "first line\na table\\,\\%"
    assert experiments_shown(tmp_path / "toy.tex") == ["norms"]
    assert experiments_shown(tmp_path / "of another profile.tex") == []


@pytest.fixture(scope="module")
def core():
    results = Results.of(REPOSITORY / "results" / "core")
    return results, tables_of(results)


@pytest.mark.parametrize("path", OWN_WORDS, ids=lambda path: path.stem)
def test_the_results_hold_every_number_of_the_text(path, core):
    results, tables = core
    text = prose(path, fillings(tables, results.effects, dict.fromkeys(tables, "")))
    assert len(text) > 1000
    assert not re.search(r"\\(?:entry|difference|isshown|compared|experiment)\b", text)


def test_a8_what_an_interval_holds_is_not_said_to_lie_below_it(results):
    """2.2 [1.9, 16.9] was said to lie below 14.8; over four classes 2.7 [2.0, 6.8] does."""
    a = {"bn": Cell(2.2, 1.9, 16.9), "majority": Cell(14.8)}
    b = {"bn": Cell(2.7, 2.0, 6.8), "majority": Cell(18.6)}
    results = (results[0], {"norms": scores_of(**{"a->*": a, "b->*": b})}, results[2])
    for scenario, said in (("a->*", "does not differ significantly from"), ("b->*", "lies below")):
        named = rf"\compared{{norms}}{{{scenario} | bn}}{{{scenario} | majority}}{{bccd}}"
        assert filled(results, named) == f"first line\n{said}\\,\\%"


def test_a8_no_sentence_of_the_prose_says_what_a_table_may_refute():
    """Directions and verdicts are filled in; what is typed holds whatever the numbers are."""
    text = re.sub(r"\s+", " ", BODY)
    for refuted in (
        "\\% lies below the",
        "no choice studied here makes up for. ",
        "A stronger augmentation is not a better one: with",
        "is shown to help",
        "are not shown to help",
        "none of them changes what the features see",
        "as far as the best method that never sees",
        "has the highest mean of targets of all",
    ):
        assert refuted not in text
    for told in (
        "stain}{pbc-366}",
        "adabn}{pbc-366}",
        "squeezenet-imagenet-stain | mean of targets",
    ):
        assert told in text


def test_a_reference_of_the_prose_leads_to_a_table_or_figure_of_core(core):
    results, tables = core
    labels = set(re.findall(r"\\label\{([^}]*)\}", BODY))
    labels |= {f"tab:{label(table.name)}" for own in tables.values() for table in own.printed}
    labels |= {f"fig:{label(path.stem)}" for path in (results.folder / "figures").glob("*.png")}
    assert set(re.findall(r"\\ref\{([^}]*)\}", BODY)) <= labels | {"tab:data"}


def test_the_claims_are_shown_and_referred_to(generated):
    text = (generated / "claims.tex").read_text()
    assert "Table~\\ref{tab:claims}" in text
    assert "\\input{generated/tables/claims}" in text


def test_a_table_longer_than_a_page_is_named_and_not_printed():
    tables = [
        sheet(name, "Caption.", ("a", "b"), [("c", 1)] * rows)
        for name, rows in (("long_one", MOST_ROWS), ("short_one", MOST_ROWS - 1))
    ]
    assert [to_latex(table).count(" \\\\\n") for table in tables] == [MOST_ROWS + 1, MOST_ROWS]
    text = floats_text(tables, [])
    assert "long\\_\\allowbreak{}one.md." in text
    assert re.findall(r"\\input\{(.*)\}", text) == ["generated/tables/short_one"]


def test_each_table_is_printed_once_in_the_paper_or_in_the_supplement(generated):
    texts = [
        (generated / f"{part}.tex").read_text(encoding="utf-8")
        for part in ("overview", "results", "claims", "more")
    ]
    printed = re.findall(r"\\input\{generated/tables/(\w+)\}", "".join(texts))
    assert sorted(printed) == sorted(path.stem for path in (generated / "tables").glob("*.tex"))
    figures = re.findall(r"\\fitted\{generated/figures/(\w+)\.pdf\}", "".join(texts))
    assert sorted(figures) == sorted(path.stem for path in (generated / "figures").glob("*.pdf"))


def test_a_heading_wider_than_its_column_stands_in_two_lines_and_no_number_is_touched():
    rows = (("a rather long method", Cell(12.3), "7"), ("b", "–", "8 %"))
    table = sheet("s", "Caption.", ("of", "cov@99 in-domain (%)", "runs"), rows)
    whole, text = to_latex(table), to_latex(table, narrow=True)
    assert "\nof & \\shortstack{cov@99\\\\in-domain (\\%)} & runs \\\\\n" in text
    assert text.partition("\\midrule")[2] == whole.partition("\\midrule")[2]
    assert "\\setlength{\\tabcolsep}{2.5pt}" in text
    scores = Table("t", "Caption.", (block(row("a rather long method", 50.0)),), (), "accuracy")
    assert to_latex(scores, narrow=True) == to_latex(scores).replace("{3pt}", "{2.5pt}")


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
