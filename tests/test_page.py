"""The page: one file that holds every number it shows, and says what is missing."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from support.results import (
    CLASSES,
    predictions,
    run_record,
    show,
    write_experiment,
    write_gaps,
    write_results,
    write_run,
)

from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.experiments import load_experiments
from benchmark.report import facts
from benchmark.report import page as page_module
from benchmark.report.confident_errors import confident_errors
from benchmark.report.facts import audit_summary, bibliography, data_cards, environment, listed
from benchmark.report.leaderboard import Finding
from benchmark.report.table import Cell


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_gaps(tmp_path_factory.mktemp("project") / "results" / "toy")


@pytest.fixture(scope="module")
def page(results):
    return (results / "report.html").read_text()


def board_data(page):
    return json.loads(re.search(r'id="board-data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_needs_nothing_but_itself(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    allowed = ("data:image/png;base64,", "data:,", "#", "figures/", "audit.json")
    assert all(source.startswith(allowed) for source in sources)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_can_be_heard_and_scrolled(page):
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 5
    assert all(re.search(r'alt="[^"]{40,}"', image) for image in images)
    tables = len(re.findall(r"<table[ >]", page))
    assert tables == page.count("<caption>")
    assert tables + len(images) == page.count('role="region"')
    identifiers = re.findall(r'id="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers)


def test_the_leaderboard_holds_each_method_once_with_the_numbers_of_the_tables(results, page):
    board = next(b for b in board_data(page)["boards"] if b["metric"] == "macro_f1")
    rows = {row["method"]: row for row in board["rows"]}
    assert list(rows) == ["resnet18-bn-ce", "resnet18-gn-ce", "resnet18-in-ce"]
    assert rows["resnet18-bn-ce"]["experiments"] == ["losses", "norms"]
    assert (rows["resnet18-bn-ce"]["found"], rows["resnet18-bn-ce"]["planned"]) == (2, 2)
    assert rows["resnet18-in-ce"]["cells"] == [None] * 9
    keys = [column["key"] for column in board["columns"]]
    beside = {
        "mean_target_macro_f1_present": ("macro_f1_present", "mean_target"),
        "in_domain_accuracy": ("accuracy", "in_domain"),
        "mean_target_accuracy": ("accuracy", "mean_target"),
    }
    assert keys[:4] == ["in_domain", "mean_target", "worst_target", "shift_drop"]
    assert keys[4:] == [*beside, "bccd", "jtsc"]
    intervals = pd.read_parquet(results / "intervals.parquet").query("class_name == ''")
    intervals = intervals[intervals["method"] == "resnet18-bn-ce"]
    intervals = 100 * intervals.set_index(["metric", "column"])[["mean", "low", "high"]]
    for key, cell in zip(keys, rows["resnet18-bn-ce"]["cells"], strict=True):
        if key in beside:
            own = intervals.loc[beside[key], "mean"]
            assert cell == [pytest.approx(own, abs=0.0501), None, None]
        else:
            own = intervals.loc[("macro_f1", key)].tolist()
            assert cell == pytest.approx(own, abs=0.0501)
    assert board["majority"][keys.index("shift_drop")] is None


def test_the_headline_is_made_of_the_leaderboards_numbers(page):
    board = next(b for b in board_data(page)["boards"] if b["metric"] == "macro_f1")
    found = [row for row in board["rows"] if row["cells"][0]]
    home = max(found, key=lambda row: row["cells"][0][0])
    shown = re.search(r'class="home">([\d.]+) %.*?class="away">([\d.]+) %', page, re.DOTALL)
    assert [float(text) for text in shown.groups()] == [home["cells"][0][0], home["cells"][1][0]]
    assert "resnet18-gn-ce" in re.search(r'class="say">(.*?)</p>', page, re.DOTALL)[1]


def test_a_finding_names_two_methods_only_where_two_lead():
    one = Finding("a->*", "a", "inductive", 1, False, *("x", Cell(90.0), Cell(40.0)),
                  *("x", Cell(40.0), Cell(10.0)))  # fmt: skip
    assert one.text == (
        "Trained on a, the best method in-domain (x) reaches a macro-F1 of 90.0 % in-domain and of "
        "40.0 % on one other domain. The majority constant, which predicts the most frequent class "
        "of each test set, scores 10.0 % there."
    )
    two = Finding("a->corruptions", "a", "inductive", 40, True, *("x", Cell(90.0), Cell(40.0)),
                  *("y", Cell(45.0, 40.0, 50.0), None))  # fmt: skip
    assert two.text.endswith("Best on average over them is y with 45.0 [40.0, 50.0] %.")
    assert "40 corrupted copies" in two.text


def test_missing_runs_are_named_and_text_is_escaped(page):
    assert "Found 3 of 5 planned runs." in page
    assert "resnet18-gn-ce/raabin_to_others/seed1 (missing)" in page
    assert "(nan: loss is &lt;NaN&gt; in epoch 3)" in page
    assert "<NaN>" not in page


def test_reporting_again_gives_the_same_bytes(results, page):
    show(results)
    assert (results / "report.html").read_text() == page


def test_figures_beyond_the_budget_are_linked_and_not_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "PICTURE_BYTES", 150)
    page = (write_gaps(tmp_path) / "report.html").read_text()
    embedded = set(re.findall(r'aria-label="Figure (\w+)"', page))
    assert embedded == {"heat_map", "shift_losses"}  # the first of each come first
    for name in ("confusion_losses", "shift_norms"):
        assert f'href="figures/{name}.png"' in page
    assert page.count("Not embedded") == 3


def test_confident_errors_are_those_of_the_mean_probability(tmp_path):
    """Two runs, three images of bccd, two of them got wrong: softmax by hand."""
    counts = {("raabin", "id_test"): [3] * 5, ("bccd", "shifted"): [3, 0, 0, 0, 0]}
    records = []
    for seed, logits in enumerate(([4.0, 0.0, 0.0], [2.0, 1.0, -1.0])):
        table = predictions(seed, counts=counts)
        names = [f"logit_{name}" for name in CLASSES]
        rows = (table["domain"] == "bccd").to_numpy()
        table.loc[rows, names] = np.float16(0)
        table.loc[rows, "logit_monocyte"] = np.array(logits, np.float16)
        record = run_record("resnet18-bn-ce", seed, None, targets=["bccd"])
        record["predictions_sha256"] = write_run(tmp_path, record["run_id"], table)
        records.append(record)
    write_experiment(tmp_path, records)
    shifted = confident_errors(tmp_path, load_experiments(tmp_path))[-1]
    assert (shifted.domain, shifted.runs, shifted.images, shifted.wrong) == ("bccd", 2, 3, 2)
    first, second = shifted.shown
    e = np.exp
    assert first[:3] == ("shifted/0000.jpg", "neutrophil", "monocyte")
    assert first.confidence == pytest.approx(
        50 * (e(4) / (e(4) + 4) + e(2) / (e(2) + 4)), abs=0.051
    )
    assert second.confidence == pytest.approx(50 * (1 / 5 + e(1) / (e(1) + 4)), abs=0.051)
    assert (first.runs_wrong, second.runs_wrong) == (2, 1)


def test_sheets_stand_with_their_experiment_and_claims_with_all(page):
    overview = page[page.index('<h2 id="overview">') : page.index('<h2 id="experiment-losses">')]
    assert "A claim that is long enough" in overview
    assert "A note." in overview
    assert "<summary>Levels</summary>" in page[page.index('<h2 id="experiment-losses">') :]


def test_the_environment_counts_runs_where_they_differ():
    place = {"device": "cpu", "torch": "2.12.0", "git_commit": "0123456789abcdef"}
    records = [
        {"environment": place, "time": {"train_s": 3600.0}},
        {"environment": place | {"device": "gpu", "git_dirty": True}, "time": {"train_s": 1800.0}},
        {"environment": place | {"device": "gpu"}},
    ]
    shown = environment(dict(zip("abc", records, strict=True)))
    assert dict(shown.facts) == {
        "Device": "gpu (2 runs), cpu (1 run)",
        "torch": "2.12.0",
        "Commit": "0123456789",
        "Made with uncommitted changes": "1 of 3 runs",
    }
    assert shown.hours == 1.5
    assert listed([(str(k), 9 - k) for k in range(8)]).endswith("5 (4 runs) and 2 more")


def test_e1_where_runs_of_several_processors_meet_their_seeds_vary_by_these_too():
    place = {"device": "cpu", "threads": 1}
    records = {"a": {"environment": place}, "b": {"environment": place | {"threads": 2}}}
    assert environment({"a": records["a"], "b": records["a"]}).note == ""
    assert (
        "the variance between seeds includes that between processors" in environment(records).note
    )


def test_the_audit_is_counted_by_check(tmp_path):
    def find(check):
        return {"check": check, "text": f"{check}!", "images": []}

    record = {"verdict": "passed", "domains": {"a": {"images": 3}, "b": {"images": 4}}}
    record |= {"pairs_kept_together_by_their_group": 5, "failures": [find("leak")]}
    record |= {"warnings": [find("same cell")], "known": [find("same cell"), find("same cell")]}
    (tmp_path / "audit.json").write_text(json.dumps(record))
    summary = audit_summary(tmp_path)
    assert summary.counts == (("leak", 1, 0, 0), ("same cell", 0, 1, 2))
    assert (summary.images, summary.kept_together) == (7, 5)
    assert summary.texts == ("leak!", "same cell!")
    assert audit_summary(tmp_path / "elsewhere") is None


def test_c9_names_of_a_laboratorys_own_images_are_not_on_the_page(tmp_path, monkeypatch):
    """The page of a committed profile may be passed on; file names may tell of patients."""
    folder = tmp_path / "results" / "toy"
    runs = write_results(folder)
    for run in runs:
        run["scenario"]["own"] = ["bccd"]
    write_experiment(folder, runs)
    evaluate(folder)
    named = {found.domain: found for found in confident_errors(folder, load_experiments(folder))}
    assert named["bccd"].own
    assert named["bccd"].shown
    page = (show(folder) / "report.html").read_text()
    assert page.count("whose names stand in its gallery") == 1
    errors = page[page.index('id="errors"') : page.index("</section>", page.index('id="errors"'))]
    for domain, found in named.items():
        assert all((f"<td>{domain}</td>" in errors) != found.own for _ in found.shown)

    find = {"check": "same cell", "text": "patient-7.png", "images": [["our-lab", "patient-7.png"]]}
    record = {"verdict": "passed", "domains": {"our-lab": {"images": 3}}, "known": []}
    record |= {"pairs_kept_together_by_their_group": 0, "failures": [], "warnings": [find]}
    (folder / "audit.json").write_text(json.dumps(record))
    assert audit_summary(folder).texts == ("patient-7.png",)
    card = SimpleNamespace(name="our-lab", own=True)
    monkeypatch.setattr(facts, "data_cards", lambda results: [facts.DataCard(card, ("our-lab",))])
    assert "patient-7" not in audit_summary(folder).texts[0]


def test_every_set_of_the_published_results_has_its_card_and_its_citation():
    cards = data_cards(REPOSITORY / "results" / "core")
    assert {"raabin", "pbc", "bccd"} <= {used.card.name for used in cards}
    assert [used.domains for used in cards if used.card.name == "pbc"] == [("pbc-main", "pbc-366")]
    entries = re.findall(
        r"^@\w+\{([^,]+),",
        bibliography([used.card.citation.bibtex for used in cards]),
        re.MULTILINE,
    )
    assert len(entries) == len(set(entries))
    assert {used.card.citation.key for used in cards} <= set(entries)
