"""The sentence about what was found: right whatever the numbers turn out to be."""

from __future__ import annotations

import math

import pytest

from benchmark.report.in_words import NAMED, Change, Outcome
from benchmark.report.table import Cell

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
        "single changes, 1 shown to help (stain augmentation +12.3 points [5.0, 20.0]), 1 to harm "
        "(group normalisation −8.0 points [−12.0, −4.0]), 1 neither (dropout "
        "+0.0 points [−6.0, 6.0])."
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
    assert (
        "; of 2 single changes, none shown to help, 1 to harm ("
        in outcome(FALL, HARM, NEITHER).sentence
    )
    assert (
        "; of 2 single changes, none shown to help, 2 neither (one seed +30.0 points; "
        in outcome(FALL, NEITHER, UNKNOWN).sentence
    )


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
    assert "of 9 single changes, 9 shown to help (change 9 " in text
    assert f"; and {9 - NAMED} more)" in text
    assert text.count("change ") == NAMED


def test_one_other_domain_is_named_and_has_no_lowest() -> None:
    text = outcome(FALL, HELP, targets={"b": Cell(30.0)}).sentence
    assert " at home to 30.0 % on b (one constant answer: 10.0 %);" in text
