"""The pages: what was found at a glance, all tables behind it, and what is missing."""

from __future__ import annotations

import json
import re
from html import escape
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
    show_large,
    write_experiment,
    write_gaps,
    write_results,
    write_run,
)

from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.experiments import load_experiments
from benchmark.parts import registry
from benchmark.report import facts
from benchmark.report.cards import cards_of, helping, without_help
from benchmark.report.confident_errors import confident_errors
from benchmark.report.explained import differing, parameters
from benchmark.report.facts import audit_summary, bibliography, data_cards, environment, listed
from benchmark.report.page import MOST_BYTES
from benchmark.report.results import Results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return write_gaps(tmp_path_factory.mktemp("project") / "results" / "toy")


@pytest.fixture(scope="module")
def page(results):
    return (results / "report.html").read_text()


def board_data(page):
    return json.loads(re.search(r'id="board-data">(.*?)</script>', page, re.DOTALL)[1])


def headline(page):
    """The first list of the leaderboard, with its scores."""
    data = board_data(page)
    return data["boards"][0] | data["scores"][0]


def per_cent(cell):
    """A cell of the leaderboard, of which the page holds tenths of a per cent."""
    return [value / 10 for value in cell]


@pytest.fixture(scope="module")
def pages(results):
    """Every page by its address from the results folder."""
    paths = [results / "report.html", *sorted((results / "pages").glob("*.html"))]
    return {path.relative_to(results).as_posix(): path.read_text() for path in paths}


def test_the_pages_ask_for_nothing_but_pictures_beside_them(results, pages):
    for name, page in pages.items():
        sources = re.findall(r'(?:src|href)="([^"]*)"', page)
        files = [s.split("#")[0] for s in sources if s != "data:," and not s.startswith("#")]
        assert files
        assert all(((results / name).parent / file).is_file() for file in files), name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
        assert "@import" not in page
        assert "url(" not in page


def test_every_page_can_be_reached_from_the_first(pages):
    linked = set(re.findall(r'href="(pages/[^"#]*)', pages["report.html"]))
    assert linked == set(pages) - {"report.html"}


def test_the_pages_can_be_heard_and_scrolled(pages):
    shown = 0
    for name, page in pages.items():
        images = re.findall(r"<img [^>]*>", page)
        shown += len(images)
        assert all(re.search(r'alt="[^"]{40,}"', image) for image in images)
        assert all('loading="lazy"' in image for image in images)
        tables = len(re.findall(r"<table[ >]", page))
        assert tables == page.count("<caption>")
        assert tables + len(images) == page.count('role="region"')
        identifiers = re.findall(r'id="([^"]+)"', page)
        assert len(identifiers) == len(set(identifiers)), name
        assert set(re.findall(r'href="#([^"]+)"', page)) <= set(identifiers), name
    assert shown == 5


def test_no_page_of_the_committed_results_is_heavy():
    """Bytes, not seconds: what a page weighs does not depend on the machine."""
    folders = {path.parent.parent for path in REPOSITORY.glob("results/*/pages/*.html")}
    for folder in folders:
        for path in (folder / "report.html", *(folder / "pages").glob("*")):
            assert path.stat().st_size <= MOST_BYTES, path


@pytest.mark.parametrize("seeds", [1, 2])
def test_no_page_of_a_large_study_is_heavy(tmp_path, seeds):
    """800 runs on eight other domains: of 200 methods with two seeds, or of 400 with one."""
    folder = show_large(tmp_path / "results" / "large", seeds)
    paths = [folder / "report.html", *(folder / "pages").glob("*")]
    assert len(paths) == 1 + 3 + 4 + 4  # pages of all, of experiments, and scores in other metrics
    assert [path for path in paths if path.stat().st_size > MOST_BYTES] == []
    data = board_data((folder / "report.html").read_text())
    assert sum(len(board["rows"]) for board in data["boards"]) == 800 / seeds
    assert all(len(cells) == 8 + 7 for own in data["scores"] for cells in own["cells"])


def test_the_leaderboard_holds_each_method_once_with_the_numbers_of_the_tables(results, page):
    board = headline(page)
    rows = {
        row["method"]: row | {"cells": cells}
        for row, cells in zip(board["rows"], board["cells"], strict=True)
    }
    assert list(rows) == ["resnet18-bn-ce", "resnet18-gn-ce", "resnet18-in-ce"]
    assert rows["resnet18-bn-ce"]["experiments"] == ["losses", "norms"]
    assert (rows["resnet18-bn-ce"]["found"], rows["resnet18-bn-ce"]["planned"]) == (2, 2)
    assert rows["resnet18-in-ce"]["cells"] == []  # planned, and not run
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
            assert per_cent(cell) == [pytest.approx(own, abs=0.0501)]
        else:
            own = intervals.loc[("macro_f1", key)].tolist()
            assert per_cent(cell) == pytest.approx(own, abs=0.0501)
    assert board["majority"][keys.index("shift_drop")] == 0  # no value


def test_further_metrics_are_files_that_hold_what_the_tables_say(results, page):
    """As a browser reads them: an assignment, of the lists in the order of the page's."""
    data = board_data(page)
    intervals = pd.read_parquet(results / "intervals.parquet").query("class_name == ''")
    intervals = 100 * intervals.set_index(["method", "metric", "column"])["mean"]
    further = data["boards"][0]["metrics"][1:]
    assert {"accuracy", "balanced_accuracy", "macro_f1_wbc4"} <= set(further)
    assert set((results / "pages").glob("*.js")) == {
        results / "pages" / f"scores-{metric}.js" for metric in further
    }
    for metric in further:
        text = (results / "pages" / f"scores-{metric}.js").read_text()
        file = json.loads(text.removeprefix(f"wbcShiftScores.{metric} = ").rstrip(";\n"))
        assert file["edition"] == data["edition"]
        (board,) = file["lists"]
        keys = [column["key"] for column in board["columns"]]
        for row, cells in zip(data["boards"][0]["rows"][:2], board["cells"], strict=False):
            shown = dict(zip(keys, cells, strict=True))
            own = intervals[row["method"], metric]
            assert per_cent(shown["mean_target"])[0] == pytest.approx(own["mean_target"], abs=0.051)
            assert per_cent(shown["bccd"])[0] == pytest.approx(own["bccd"], abs=0.051)


def test_the_first_card_is_made_of_the_leaderboards_numbers(page):
    board = headline(page)
    place = [row["method"] for row in board["rows"]].index("resnet18-bn-ce")
    shown = re.search(r'class="home">([\d.]+) %.*?class="away">([\d.]+) %', page, re.DOTALL)
    assert [float(text) for text in shown.groups()] == [
        cell[0] / 10 for cell in board["cells"][place][:2]
    ]


def test_ranks_are_of_all_methods_of_a_track_and_ties_are_with_the_first(results, page):
    for board in board_data(page)["boards"]:
        ranks = {row["method"]: row["rank"] for row in board["rows"]}
        assert ranks["resnet18-in-ce"] is None  # it has no run
        assert ranks["resnet18-gn-ce"][0] == 1
        assert ranks["resnet18-bn-ce"][0] == 2
    standings = pd.read_parquet(results / "standings.parquet").query("experiment == ''")
    assert set(standings["method"]) == {"resnet18-bn-ce", "resnet18-gn-ce"}
    assert set(standings["column"]) == {"mean_target"}
    second = standings.set_index("method").loc["resnet18-bn-ce"]
    assert ranks["resnet18-bn-ce"] == [
        2,
        second["rank_low"],
        second["rank_high"],
        second["as_good"],
    ]


def test_an_experiment_is_outlined_by_its_runs_and_its_best_method(page):
    best = "3 of 5 runs; highest mean of targets, trained on raabin: resnet18-gn-ce, "
    assert best in page


def test_without_a_plain_network_the_best_at_home_says_how_far_scores_fall(tmp_path):
    folder = tmp_path / "results" / "toy"
    write_results(folder, methods=("resnet18-bn-focal", "resnet18-gn-focal"))
    evaluate(folder)
    intervals = pd.read_parquet(folder / "intervals.parquet")
    found = intervals.query("metric == 'macro_f1' and class_name == '' and column == 'in_domain'")
    best = found.loc[found["mean"].idxmax()]
    (fall,) = cards_of(Results.of(folder)).falls
    assert fall.method == best["method"]
    assert fall.home.mean == pytest.approx(100 * best["mean"])


EFFECTS = pd.DataFrame(
    [
        ("a->*", "inductive", "augmentation", "stain", 0.20, 0.15, 0.25, 0.01),
        ("b->*", "inductive", "augmentation", "stain", 0.30, 0.20, 0.40, 0.20),
        ("a->*", "transductive", "inference", "adabn", 0.25, 0.20, 0.30, 0.01),
        ("a->*", "inductive", "loss", "focal", -0.10, -0.15, -0.05, 0.01),
        ("b->*", "inductive", "loss", "focal", 0.01, -0.03, 0.05, 1.00),
        ("a->*", "inductive", "weights", "imagenet", 0.12, 0.06, 0.18, 0.30),
    ],
    columns=["scenario", "track", "part", "choice", "mean", "low", "high", "p_holm"],
).assign(method="m", reference="r")


def test_what_helps_is_what_holds_after_correction_the_largest_first():
    """A larger difference that is not significant is no help, whatever its interval says."""
    found = helping(EFFECTS, {"a->*": "a", "b->*": "b"})
    assert [one.name for one in found] == [
        "batch statistics of the target's unlabelled images",
        "stain augmentation",
    ]
    assert found[1].difference[:3] == pytest.approx((20, 15, 25))
    assert (found[1].source, found[1].shown, found[1].compared) == ("a", 1, 2)


def test_never_helped_is_said_only_where_no_interval_speaks_for_it():
    never, undecided = without_help(EFFECTS)
    assert [(one.part, one.choices, one.compared) for one in never] == [("loss", ("focal",), 2)]
    assert never[0].best[:3] == pytest.approx((1, -3, 5))
    assert undecided == ("weights",)


def test_a_name_is_explained_by_what_its_parts_say_of_themselves(page, pages):
    data = board_data(page)
    own = data["methods"]["resnet18-gn-ce"]
    assert own["parts"] == ["backbone resnet18", "normalisation gn", "loss ce"]
    says = registry("normalisation")["gn"].__doc__.split("\n")[0]
    assert data["blocks"]["normalisation gn"] == [says, ""]
    assert escape(says) in pages["pages/methods.html"]


def test_parameters_are_those_of_the_network():
    """SqueezeNet 1.1 by hand: 1,235,496 with the 513,000 of a classifier of 1000 classes."""
    expected = 1_235_496 - 1000 * 513 + 5 * 513
    assert parameters("squeezenet1_1", "none", "linear", "{}", "{}", 64, 5) == expected
    assert parameters("resnet18", "ln", "linear", "{}", "{}", 64, 5) is None  # refused: it has none


def test_a_training_without_weight_decay_says_so():
    block = {"epochs": 12, "weight_decay": 0.0, "averaging": "ema", "augmentation": {"jpeg": 1}}
    usual = {"epochs": "12", "weight_decay": "0.05", "averaging": "None", "augmentation": "{}"}
    assert differing(block, usual) == "weight decay 0.0, averaging ema"


def test_missing_runs_are_named_and_text_is_escaped(page, pages):
    assert "Found 3 of 5 planned runs." in page
    page = pages["pages/runs.html"]
    assert "resnet18-gn-ce/raabin_to_others/seed1 (missing)" in page
    assert "(nan: loss is &lt;NaN&gt; in epoch 3)" in page
    assert "<NaN>" not in page


def test_reporting_again_gives_the_same_bytes_and_leaves_no_page_behind(results, pages):
    (results / "pages" / "experiment-gone.html").write_text("of an experiment that is no more")
    show(results)
    paths = [results / "report.html", *(results / "pages").glob("*.html")]
    assert {p.relative_to(results).as_posix(): p.read_text() for p in paths} == pages


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


def test_sheets_stand_with_their_experiment_and_claims_with_all(pages):
    assert "A claim that is long enough" in pages["pages/overview.html"]
    assert "A note." in pages["pages/overview.html"]
    assert "<summary>Levels</summary>" in pages["pages/experiment-losses.html"]


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
    errors = (show(folder) / "pages" / "errors.html").read_text()
    assert errors.count("whose names stand in its gallery") == 1
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
