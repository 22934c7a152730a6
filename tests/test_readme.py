"""The README and the pages of docs/ say what is there: table, picture, links and commands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

from benchmark.evaluation.experiments import load_experiments
from benchmark.files import read_json
from benchmark.report.facts import environment
from benchmark.report.results import run_records

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_table_on_real_data_is_the_generated_one() -> None:
    block = re.search(r"<!-- (results/\S+\.md) -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert block is not None
    assert block[2].strip() == (REPOSITORY / block[1]).read_text(encoding="utf-8").strip()


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in set(re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_picture_of_the_data_flow_is_of_todays_pipeline() -> None:
    """Where it fails: `python docs/pictures/data_flow.py`."""
    script = runpy.run_path(str(REPOSITORY / "docs/pictures/data_flow.py"))
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    pipeline = REPOSITORY / "dvc.yaml"
    assert script["with_picture"](page, pipeline) == page
    edges = script["edges"](pipeline)
    assert ("plan", "results/PROFILE/plans/EXPERIMENT.json", "train") in edges
    assert ("evaluate", "results/PROFILE/*.parquet", "report") in edges


def test_the_course_core_is_short_and_named() -> None:
    """What the page of the architecture names stays what a lecture can show."""
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.split("## The course core")[1].split("\n## ")[0]
    files = re.findall(r"\]\(\.\./(benchmark/\S+\.py)\)", section)
    lines = sum(len((REPOSITORY / file).read_text().splitlines()) for file in files)
    assert len(files) >= 10
    assert lines < 3000


def test_commands_and_make_targets_exist() -> None:
    from benchmark.cli import app

    known = {one.name or one.callback.__name__ for one in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"wbc-shift ([a-z]+)", README)) <= known
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)(?:\S+=\S+ +)?make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "core"} <= named <= targets


def number_in(table: str, method: str, column: str, scenario: str = "pbc-main->*") -> float:
    """A cell of a generated table."""
    cells = pd.read_csv(REPOSITORY / "results/core/tables" / f"{table}.csv")
    own = cells[(cells["scenario"] == scenario) & (cells["method"] == method)]
    return float(own[column].iloc[0])


def test_a8_the_first_sentence_is_what_one_table_says() -> None:
    """It set an accuracy of PBC beside a macro-F1 of Raabin."""
    stated = re.match(
        r"# WBC-Shift\s+A classifier [^.]* (\d+) times in 100 [^.]*\(PBC\)[^.]* (\d+) times in 100 "
        r"[^.]*\(pbc-366\)[^.]* (\d+) times in 100 [^.]*\(BCCD\)[^.]* right (\d+) times",
        re.sub(r"\s+", " ", README).replace("# WBC-Shift ", "# WBC-Shift\n", 1),
    )
    wanted = [
        number_in("norms_accuracy", "resnet18-bn-ce", column)
        for column in ("in_domain", "pbc-366", "bccd")
    ]
    wanted.append(number_in("norms_accuracy", "majority", "bccd"))
    assert [int(found) for found in stated.groups()] == [round(value) for value in wanted]


def test_a8_what_wins_a_shift_back_is_told_with_what_the_tables_hold() -> None:
    """27.9 (25.5 of three seeds), 83.5, 90.7 and 94.4 from PBC to pbc-366: "no choice made up"."""
    methods = [
        ("norms_macro_f1", "resnet18-bn-ce"),
        ("augmentation_pbc_macro_f1", "resnet18-bn-ce-stain"),
        ("augmentation_pbc_macro_f1", "resnet18-in-ce-stain"),
        ("adaptation_macro_f1", "resnet18-bn-ce-adabn"),
    ]
    wanted = [number_in(table, method, "pbc-366") for table, method in methods]
    told = README[README.index("From PBC to pbc-366") : README.index("On BCCD none of them")]
    assert [float(x) for x in re.findall(r"\d+\.\d", told)] == pytest.approx(wanted, abs=0.06)


def test_a8_runs_are_counted_with_the_trainings_that_they_answer_from() -> None:
    results = REPOSITORY / "results" / "core"
    experiments = load_experiments(results)
    records = run_records(results, experiments)
    shared = environment(records)
    said = re.search(r"(\d+) runs from (\d+) trainings", README)
    assert [int(found) for found in said.groups()] == [len(records), shared.trainings]


def test_a8_the_nuclei_of_the_data_page_are_those_that_were_measured() -> None:
    text = (REPOSITORY / "datasets" / "README.md").read_text(encoding="utf-8")
    measured = read_json(REPOSITORY / "results/core/domains/domains.json")["domains"]
    sentence = re.search(r"nucleus of a lymphocyte is (.*?) of the crop's side", text, re.DOTALL)
    found = {name: float(size) for size, name in re.findall(r"(0\.\d+) \((\S+)\)", sentence[1])}
    assert found == {
        name: round(own["nucleus diameter, quartiles"]["lymphocyte"]["of the crop's side"][1], 2)
        for name, own in measured.items()
    }


def test_a8_domains_are_not_called_laboratories_and_bccd_has_fields() -> None:
    """pbc-main and pbc-366 are acquisitions of one set; BCCD's fields are published."""
    texts = README + (REPOSITORY / "datasets" / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"five\s+other\s+laboratories", texts)
    assert "nothing wider" not in texts


def test_e1_the_processor_is_said_to_move_a_score_as_a_seed_does() -> None:
    for name in ("README.md", "docs/scaling.md", "paper/main.tex"):
        text = re.sub(r"\s+", " ", (REPOSITORY / name).read_text(encoding="utf-8"))
        assert re.search(r"same seed on another processor|On another processor", text), name
        assert "by as much as" in text, name


def test_e13_the_grid_and_the_speeds_are_not_claimed_beyond_what_is_there() -> None:
    assert "every backbone × normalisation × loss" not in README
    devices = {read_csv_device(path) for path in (REPOSITORY / "results" / "speed").glob("*.csv")}
    assert ("no GPU is among them yet" in README) == (devices == {"cpu"})


def read_csv_device(path: Path) -> str:
    """The kind of device of a file of speeds."""
    return pd.read_csv(path)["device_type"].iloc[0]
