"""The sentence about what was found: right whatever the numbers turn out to be."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from conftest import REPOSITORY
from support.tables import cells_of

from benchmark.report.blocks import build_table
from benchmark.report.in_words import NAMED, Change, Outcome, outcome_of, scenarios
from benchmark.report.results import Results
from benchmark.report.table import Cell, Table

NOTHING = math.nan


def outcome(drop: Cell, *changes: Change, targets: dict[str, Cell] | None = None) -> Outcome:
    targets = {"b": Cell(40.0), "c": Cell(20.0)} if targets is None else targets
    return Outcome(
        "a", "net", Cell(90.0, 80.0, 95.0), Cell(30.0), drop, targets, 10.0, list(changes)
    )


FALL = Cell(60.0, 50.0, 65.0)
HELP = Change("stain augmentation", Cell(12.34, 5.0, 20.0), 0.01)
HARM = Change("group normalisation", Cell(-8.0, -12.0, -4.0), 0.02)
NEITHER = Change("dropout", Cell(0.04, -6.0, 6.0), 0.7)
UNKNOWN = Change("one seed", Cell(30.0), NOTHING)


def test_a_fall_and_what_helps() -> None:
    assert outcome(FALL, HELP, HARM, NEITHER).sentence == (
        "Trained on a, net falls from a macro-F1 of 90.0 % [80.0, 95.0] at home to 30.0 % on "
        "average over 2 other domains (lowest: 20.0 %, c; one constant answer: 10.0 %); of 3 "
        "single changes, 1 shown to help after Holm's correction (stain augmentation +12.3 points "
        "[5.0, 20.0]), 1 to harm (group normalisation −8.0 points [−12.0, −4.0]), 1 neither "
        "(dropout 0.0 points [−6.0, 6.0])."
    )


@pytest.mark.parametrize(
    ("drop", "word"),
    [
        (FALL, "falls from"),
        (Cell(-5.0, -9.0, -1.0), "rises from"),
        (Cell(5.0, -1.0, 9.0), "not shown to differ"),
        (Cell(60.0), "not shown to differ"),  # however large: without an interval nothing is shown
    ],
)
def test_a_fall_is_called_one_where_its_interval_excludes_none(drop: Cell, word: str) -> None:
    text = outcome(drop, HELP).sentence
    assert [w for w in ("falls from", "rises from", "not shown to differ") if w in text] == [word]


def test_where_nothing_helps_it_says_so() -> None:
    nothing = "; of 2 single changes, none shown to help after Holm's correction, "
    assert f"{nothing}1 to harm (group" in outcome(FALL, HARM, NEITHER).sentence
    # Without a p-value nothing is shown, however large the difference.
    unknown = outcome(FALL, NEITHER, UNKNOWN).sentence
    assert f"{nothing}1 neither (dropout 0.0 points" in unknown
    assert ", 1 untested, with one seed (one seed +30.0 points)" in unknown
    untested = outcome(FALL, UNKNOWN, UNKNOWN).sentence
    assert "; none of 2 single changes can be tested with one seed (one seed +30.0" in untested


def test_a_single_change_and_none_at_all() -> None:
    tried = "the one single change that was tried, "
    for change, verdict in ((HELP, "help"), (HARM, "harm"), (NEITHER, "matter")):
        text = outcome(FALL, change).sentence
        assert f"; {tried}{change.name} " in text
        assert f" shown to {verdict}." in text
        assert ("is not shown" in text) == (change is NEITHER)
    assert outcome(FALL).sentence.endswith(
        "; no method that differs from it in one part was run beside it."
    )


def test_of_many_changes_the_largest_are_named_and_the_others_counted() -> None:
    many = [Change(f"change {k}", Cell(float(k), 0.5, 9.0), 0.001) for k in range(1, 10)]
    text = outcome(FALL, *many).sentence
    assert "of 9 single changes, 9 shown to help after Holm's correction (change 9 " in text
    assert f"; and {9 - NAMED} more)" in text
    assert text.count("change ") == NAMED


def test_one_other_domain_is_named_and_has_no_lowest() -> None:
    text = outcome(FALL, HELP, targets={"b": Cell(30.0)}).sentence
    assert " at home to 30.0 % on b (one constant answer: 10.0 %);" in text
    unknown = outcome(FALL, HELP, targets={"b": Cell(30.0)})._replace(constant=NOTHING).sentence
    assert " at home to 30.0 % on b; " in unknown


def test_the_numbers_are_those_of_the_tables() -> None:
    """Of the committed core: the sentence, and what stands in the table and effects.parquet."""
    folder = REPOSITORY / "results/core"
    results = Results.of(folder)
    (norms,) = (e for e in results.experiments if e.experiment == "norms")
    blocks = {
        block.scenario.name: block
        for block in build_table(norms, results.scores, "macro_f1").blocks
    }
    effects = pd.read_parquet(folder / "effects.parquet")
    checked = 0
    for scenario, methods in scenarios(results).items():
        if scenario.name not in blocks:
            continue
        found = outcome_of(results, scenario, methods)
        table = Table("norms", "", (blocks[scenario.name],))
        own, constant = (cells_of(table, name) for name in ("resnet18-bn-ce", "majority"))
        assert found.method == "resnet18-bn-ce"
        for cell, column in ((found.home, "in_domain"), (found.away, "mean_target")):
            assert (cell.mean, cell.low) == (own[column].mean, own[column].low)
        assert found.constant == constant["mean_target"].mean
        assert {d: c.mean for d, c in found.targets.items()} == {
            domain: own[domain].mean for domain in scenario.targets
        }
        changes = effects[
            (effects["scenario"] == scenario.name)
            & (effects["column"] == "mean_target")
            & (effects["reference"] == "resnet18-bn-ce")
        ]
        told = changes["p_holm"] < 0.05
        assert sum(c.verdict == 1 for c in found.changes) == sum(told & (changes["mean"] > 0))
        assert sum(c.verdict == -1 for c in found.changes) == sum(told & (changes["mean"] < 0))
        assert len(found.changes) == len(changes) > 0
        checked += 1
    assert checked == 2
