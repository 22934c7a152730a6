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
from benchmark.laboratory.model_card import recommended
from benchmark.laboratory.shipped import all_shipped
from benchmark.report.facts import environment
from benchmark.report.paper.readings import Readings
from benchmark.report.results import Results, run_records

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


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
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"wbc-shift ([a-z]+(?:-[a-z]+)*)", pages)) <= known
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)(?:\S+=\S+ +)?make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "core"} <= named <= targets


INTERVALS = pd.read_parquet(REPOSITORY / "results/core/intervals.parquet")
EFFECTS = pd.read_parquet(REPOSITORY / "results/core/effects.parquet")
METRICS = pd.read_parquet(REPOSITORY / "results/core/metrics.parquet")
REJECTION = pd.read_parquet(REPOSITORY / "results/core/rejection.parquet")
FINDINGS = re.sub(r"\s+", " ", README.split("## What it found")[1].split("\n## ")[0])


def score(
    method: str, column: str, scenario: str = "pbc-main->*", metric: str = "macro_f1"
) -> list[float]:
    """Mean and interval in per cent, as the tables have them."""
    rows = INTERVALS[INTERVALS["class_name"] == ""].set_index(
        ["scenario", "method", "metric", "column"]
    )
    row = rows.loc[(scenario, method, metric, column)]
    return [100 * row[part] for part in ("mean", "low", "high")]


def majority(metric: str, domains: list[str], scenario: str = "pbc-main->*") -> float:
    """Mean over domains of what one constant answer reaches there, in per cent."""
    rows = METRICS[
        (METRICS["method"] == "majority")
        & (METRICS["scenario"] == scenario)
        & (METRICS["metric"] == metric)
        & (METRICS["class_name"] == "")
    ].set_index("domain")
    return 100 * float(rows.loc[domains, "value"].mean())


def told(pattern: str, text: str = FINDINGS) -> list[float]:
    """The numbers in the first place that reads like this."""
    found = re.search(pattern, text)
    assert found, pattern
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", found[0])]


def test_a8_the_first_sentence_is_what_one_network_reaches() -> None:
    """It set an accuracy of PBC beside a macro-F1 of Raabin."""
    stated = re.search(
        r"A classifier [^.]* (\d+) times in 100 [^.]*\(PBC\)[^.]* (\d+) times in 100 "
        r"[^.]*\(pbc-366\)[^.]* (\d+) times in 100 [^.]*\(BCCD\)[^.]* right (\d+) times",
        re.sub(r"\s+", " ", README),
    )
    wanted = [
        score("resnet18-bn-ce", column, metric="accuracy")[0]
        for column in ("in_domain", "pbc-366", "bccd")
    ]
    wanted.append(majority("accuracy", ["bccd"]))
    assert [int(found) for found in stated.groups()] == [round(value) for value in wanted]


TRIPLE = r"[\d.]+ \[[\d.]+, [\d.]+\]"


def test_a8_the_scores_at_home_and_elsewhere_are_those_of_the_intervals() -> None:
    for opening, method, scenario in (
        ("A plain ResNet-18", "resnet18-bn-ce", "pbc-main->*"),
        ("Trained on Raabin:", "resnet18-bn-ce", "raabin->*"),
        ("A histogram of colours", "colour-histogram", "pbc-main->*"),
    ):
        part = FINDINGS[FINDINGS.index(opening) + len(opening) :]
        numbers = [
            float(number)
            for triple in re.findall(TRIPLE, part)[:2]
            for number in re.findall(r"[\d.]+", triple)
        ]
        home, away = score(method, "in_domain", scenario), score(method, "mean_target", scenario)
        assert numbers == pytest.approx(home + away, abs=0.051), opening
    others = ["raabin", "pbc-366", "bccd", "jtsc", "cellavision"]
    assert told(r"one constant answer has [\d.]+\d") == [round(majority("macro_f1", others), 1)]


def test_a8_what_helps_is_told_with_its_paired_difference() -> None:
    effects = EFFECTS[
        (EFFECTS["column"] == "mean_target") & (EFFECTS["reference"] == "resnet18-bn-ce")
    ]
    effects = effects[effects["scenario"] == "pbc-main->*"].set_index("choice")
    for words, choice in (
        ("unlabelled cells", "adabn"),
        ("stain augmentation", "stain"),
        ("instance normalisation", "in"),
    ):
        numbers = told(words + r" \+[\d.]+(?: points)? \[[\d.]+, [\d.]+\]")
        row = effects.loc[choice]
        wanted = [100 * row[part] for part in ("mean", "low", "high")]
        assert numbers == pytest.approx(wanted, abs=0.051), choice


def test_what_helps_from_the_other_source_is_told_too() -> None:
    own = EFFECTS[EFFECTS["column"] == "mean_target"]
    own = own[(own["reference"] == "resnet18-bn-ce") & (own["scenario"] == "raabin->*")]
    own = own.set_index("choice")
    assert (own["p_holm"] < 0.05)[["adabn", "stain", "in"]].tolist() == [True, False, False]
    wanted = [100 * own.loc["adabn", part] for part in ("mean", "low", "high")]
    assert told(r"only the first of these is shown to help \(\+" + TRIPLE) == pytest.approx(
        wanted, abs=0.051
    )


def test_the_basophils_of_raabins_test_part_are_of_one_group() -> None:
    assert "all basophils of its test part come from one group" in FINDINGS
    split = pd.read_csv(REPOSITORY / "datasets/splits/raabin.csv", dtype=str)
    own = split[(split["part"] == "id_test") & (split["label"] == "Basophil")]
    assert own["group"].nunique() == 1


def test_a8_what_never_helped_is_counted_over_all_single_changes() -> None:
    changes = EFFECTS[EFFECTS["column"] == "mean_target"]
    shown = changes[(changes["p_holm"] < 0.05) & (changes["mean"] > 0)]
    assert told(r"Of \d+ single changes, \d+ are") == [len(changes), len(shown)]
    in_print = Readings(Results.of(REPOSITORY / "results/core")).tally("*")
    assert told(r"The paper counts \d+") == [in_print["all"]]
    assert in_print["helped"] == len(shown)
    counted = told(r"None of \d+ changes of the loss, \d+ of the readout and \d+ of the recipe")
    parts = changes["part"].value_counts()
    assert counted == [parts["loss"], parts["readout"], parts["recipe"]]
    assert {(row.part, row.choice) for row in shown.itertuples()} == {
        ("augmentation", "stain"),
        ("normalisation", "in"),
        ("inference", "adabn"),
        ("inference", "bn_mix"),
        ("inference", "tent"),
    }


def test_a8_the_network_does_not_notice_what_it_gets_wrong() -> None:
    """Scaled softmax at the threshold of the source's calibration part, mean over seeds."""
    rows = REJECTION[
        REJECTION["run_id"].str.startswith("resnet18-bn-ce/pbc-main_to_others/")
        & (REJECTION["rejector"] == "scaled_msp")
        & (REJECTION["fit"] == "plain")
    ]
    means = rows.groupby("domain")[["rejected", "accuracy"]].mean() * 100
    numbers = told(
        r"where \d+ in 100 of PBC's accepted cells are right, it accepts \d+ in 100 cells of BCCD, "
        r"and \d+ in 100"
    )
    numbers = [number for number in numbers if number != 100]
    home, away = means.loc["pbc-main", "accuracy"], means.loc["bccd"]
    wanted = [home, 100 - away["rejected"], away["accuracy"]]
    assert numbers == [round(value) for value in wanted]


def test_the_best_network_in_the_box_is_told_with_the_numbers_of_its_card() -> None:
    folder = REPOSITORY / "results/networks"
    best = recommended(all_shipped(REPOSITORY))
    card = (folder / best.record.name / "README.md").read_text(encoding="utf-8")
    mean = told(r"\*\*[\d.]+ \[[\d.]+, [\d.]+\]\*\*; worst: \*\*[\d.]+", card)
    assert told("which looks once, has " + TRIPLE + r" and [\d.]+\d") == mean
    assert "Mean of the 7 targets" in card


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
    said = (REPOSITORY / "docs/commands.md").read_text(encoding="utf-8")
    assert ("no GPU is among them yet" in said) == (devices == {"cpu"})


def read_csv_device(path: Path) -> str:
    """The kind of device of a file of speeds."""
    return pd.read_csv(path)["device_type"].iloc[0]


def study_two() -> pd.DataFrame:
    """Macro-F1 of the methods of study two, by scenario, method and column."""
    rows = pd.read_parquet(REPOSITORY / "results/core2/intervals.parquet")
    rows = rows[(rows["metric"] == "macro_f1") & (rows["class_name"] == "")]
    return 100 * rows.set_index(["scenario", "method", "column"])[["mean", "low", "high"]]


def test_what_the_shift_is_made_of_is_what_the_decomposition_says() -> None:
    table = (REPOSITORY / "results/core2/tables/decomposition_shares.md").read_text("utf-8")
    cells = [
        [cell.strip().replace("−", "-") for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if "| mean of targets |" in line
    ]
    shares = {
        (source, method): [float(own) for own in numbers]
        for source, method, _, _, *numbers in cells
    }
    plain = [shares[source, "resnet18-bn-ce-small"] for source in ("pbc-main", "raabin")]
    (_, _, lost, colour, framing, _), (_, _, other_lost, other_colour, other_framing, _) = plain
    spread = re.sub(r"\s+", " ", FINDINGS.split("**What the shift is made of.**")[1])
    assert f"are {colour} of the {lost} points" in spread
    assert f"and {other_colour} of {other_lost} from Raabin" in spread
    assert f"is {framing} and {other_framing}.".replace("-", "−") in spread
    own = [shares[s, "resnet18-bn-ce-small-image\\_moments"] for s in ("pbc-main", "raabin")]
    won = [changed[1] - before[1] for changed, before in zip(own, plain, strict=True)]
    assert f"wins {won[0]:.1f} and {won[1]:.1f} elsewhere" in spread


def test_what_is_not_solved_is_what_the_best_of_study_two_reaches() -> None:
    """Of the methods of the ladder, none has more than the one that is named."""
    rows = study_two()
    places = (
        ("raabin", TRIPLE + r" as the mean of seven other domains and [\d.]+\d"),
        ("pbc-main", "trained on PBC " + TRIPLE + r" and [\d.]+\d"),
    )
    for source, place in places:
        means = rows.loc[f"{source}->*"]["mean"].unstack("column")
        assert means["mean_target"].idxmax() == "robust3"
        wanted = [*rows.loc[(f"{source}->*", "robust3", "mean_target")]]
        wanted.append(means.loc["robust3", "worst_target"])
        assert told(place) == pytest.approx(wanted, abs=0.051), source


@pytest.mark.parametrize(
    ("name", "which"), [("grid_levels", ""), ("decomposition_shares", "| mean of targets |")]
)
def test_the_tables_that_study_two_shows_are_those_of_the_report(name: str, which: str) -> None:
    page = (REPOSITORY / "docs/study-two.md").read_text(encoding="utf-8")
    shown = page.split(f"<!-- {name} -->")[1].split("<!-- end -->")[0].strip().splitlines()
    table = (REPOSITORY / f"results/core2/tables/{name}.md").read_text(encoding="utf-8")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert shown == lines[:2] + [line for line in lines[2:] if which in line]


def test_the_ladder_of_study_two_is_what_the_intervals_say() -> None:
    page = (REPOSITORY / "docs/study-two.md").read_text(encoding="utf-8")
    table = page.split("<!-- ladder -->")[1].split("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    found = study_two()
    assert len(rows) >= 12
    for source, method, *cells in rows[2:]:
        for column, cell in zip(("in_domain", "mean_target", "worst_target"), cells, strict=True):
            row = found.loc[(f"{source}->*", method, column)]
            assert told(TRIPLE, cell) == pytest.approx([*row], abs=0.051), (source, method, column)
