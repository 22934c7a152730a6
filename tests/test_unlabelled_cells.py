"""What unlabelled cells buy: which cells a draw takes, what a file holds, what is told of it."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import UserError
from benchmark.evaluation.unlabelled_cells import (
    METHODS,
    UNLABELLED_CELLS_SCHEMA,
    enough_from,
    read_unlabelled_cells,
    scored,
)
from benchmark.laboratory.unlabelled_cells import INFERENCES, arrival, draw_cells
from benchmark.report.results import Results
from benchmark.report.unlabelled_cells import adapted_scores, unlabelled_cells_sheet
from benchmark.report.write import to_markdown

RUN = "resnet10t-bn-ce/toy-a_to_others/seed0"
FILE = Path("results/tiny/unlabelled_cells") / f"{RUN.replace('/', '__')}.parquet"
COMMAND = ("unlabelled-cells", "-p", "tiny", "--run", RUN)

# Which cells


def cells(shares=(0.5, 0.3, 0.2), number=600, group_size=1):
    """Labels, groups and file names of a target, its classes mixed within groups."""
    generator = np.random.default_rng(0)
    labels = generator.choice(len(shares), number, p=shares)
    groups = [f"slide{row // group_size}" for row in range(number)]
    names = [f"{'abc'[label]}/{'abc'[label]}_{row:04d}.jpg" for row, label in enumerate(labels)]
    return labels, groups, names


def test_a_draw_is_a_function_of_its_seed() -> None:
    prevalence = np.array([0.6, 0.3, 0.1])
    one, again, other = (draw_cells(*cells(), prevalence, seed) for seed in (1, 1, 2))
    assert one.tested.tolist() == again.tested.tolist()
    assert one.tested.tolist() != other.tested.tolist()
    for order, rows in one.orders.items():
        assert rows.tolist() == again.orders[order].tolist()
        assert rows.tolist() != other.orders[order].tolist()


@pytest.mark.parametrize("group_size", [1, 2, 20])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_adapted_to_and_tested(group_size: int, seed: int) -> None:
    labels, groups, names = cells(group_size=group_size)
    draw = draw_cells(labels, groups, names, np.array([0.6, 0.3, 0.1]), seed)
    tested = {groups[row] for row in draw.tested}
    for rows in draw.orders.values():
        assert len(set(rows.tolist())) == len(rows)
        assert not tested & {groups[row] for row in rows}


def test_a_target_of_one_smear_a_class_has_no_cell_to_adapt_to() -> None:
    labels, _, names = cells()
    draw = draw_cells(labels, [f"smear{label}" for label in labels], names, None, 0)
    assert len(draw.tested) > 90
    assert {order: len(rows) for order, rows in draw.orders.items()} == {
        "random": 0, "slides": 0, "arrival": 0}  # fmt: skip


def test_a_hundred_cells_are_tested_with_the_target_s_shares_of_classes() -> None:
    labels, groups, names = cells()
    draw = draw_cells(labels, groups, names, None, 0)
    expected = 100 * np.bincount(labels) / len(labels)
    np.testing.assert_allclose(np.bincount(labels[draw.tested]), expected, atol=0.5)
    assert sorted(draw.orders) == ["arrival", "random"]
    # Half of a small target.
    labels, groups, names = cells(number=40)
    assert len(draw_cells(labels, groups, names, None, 0).tested) == pytest.approx(20, abs=1)


def test_slide_by_slide_ends_one_before_it_begins_another() -> None:
    labels, groups, names = cells(group_size=20)
    rows = draw_cells(labels, groups, names, None, 3).orders["slides"]
    seen = [groups[row] for row in rows]
    assert len(set(seen)) == 10
    changes = sum(one != other for one, other in pairwise(seen))
    assert changes == 9


def test_clinical_prevalence_is_drawn_and_ends_where_a_class_ends() -> None:
    labels, groups, names = cells(number=4000)
    prevalence = np.array([0.1, 0.2, 0.7])
    found = np.concatenate([
        labels[draw_cells(labels, groups, names, prevalence, seed).orders["clinical"]]
        for seed in range(20)
    ])  # fmt: skip
    assert len(found) == 20 * 200
    # Three standard errors of a share of 4,000 cells.
    np.testing.assert_allclose(np.bincount(found) / 4000, prevalence, atol=0.022)
    labels, groups, names = cells(number=300)
    draw = draw_cells(labels, groups, names, prevalence, 0)
    rows = draw.orders["clinical"]
    pool = draw.orders["random"]
    assert len(rows) < 200
    assert (labels[rows] == 2).sum() == (labels[pool] == 2).sum()


def test_cells_arrive_by_the_numbers_of_their_files_and_not_by_class() -> None:
    assert arrival("basophil/BA_00012_3.jpg") == (12, 3)
    labels, groups, names = cells()
    rows = draw_cells(labels, groups, names, None, 1).orders["arrival"]
    steps = np.diff([arrival(names[row])[0] for row in rows])
    # From a random place on: at most one step leads back, to the beginning.
    assert (steps < 0).sum() <= 1
    assert len(set(labels[rows[:20]])) == 3


def test_every_method_has_an_inference_and_a_name() -> None:
    assert list(INFERENCES) == list(METHODS)


# What is told


def row(method: str, number: int, draw: int, confusion: list[list[int]], **more: object) -> dict:
    values = {
        "profile": "tiny", "source": "toy-a", "network": "n", "network_sha256": "0",
        "target": "toy-b", "cells": "0", "method": method, "order": "random", "number": number,
        "draw": draw, "support": [40, 20, 3], "confusion": np.ravel(confusion).tolist(),
    }  # fmt: skip
    return values | more


def test_gain_and_collapse_by_hand() -> None:
    """Three classes, of which the third has three cells in the whole target and is not averaged."""
    plain = [[8, 2, 0], [2, 3, 0], [0, 0, 1]]
    worse = [[10, 0, 0], [5, 0, 0], [1, 0, 0]]
    table = pd.DataFrame([
        row("none", 0, 0, plain, order="none"),
        row("adabn", 5, 0, worse),
        row("adabn", 10, 0, [[9, 1, 0], [3, 2, 0], [0, 0, 1]]),
    ])  # fmt: skip
    found = scored(table).set_index("number")
    before = (2 * 8 / 20 + 2 * 3 / 10) / 2
    assert found.loc[5, "macro_f1"] == pytest.approx((2 * 10 / 26 + 0) / 2)
    assert found.loc[5, "gain"] == pytest.approx(10 / 26 - before)
    # One class of three is named: fewer than half.
    assert found.loc[5, ["collapsed", "few_named"]].tolist() == [True, True]
    assert found.loc[10, "gain"] == pytest.approx((18 / 22 + 4 / 8) / 2 - before)
    # Four points below, and five are the margin.
    assert found.loc[10, ["collapsed", "few_named"]].tolist() == [False, False]


def test_enough_is_nine_draws_of_ten_at_a_number_and_at_all_larger_ones() -> None:
    numbers = np.repeat([5, 20, 50, 100], 10)
    wins = [10, 8, 9, 10]
    gains = np.concatenate([np.where(np.arange(10) < win, 0.1, -0.1) for win in wins])
    assert enough_from(numbers, gains) == 50
    gains[-2:] = 0  # no better is not better
    assert enough_from(numbers, gains) is None


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=UNLABELLED_CELLS_SCHEMA), path)


def test_a_broken_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "n.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"n\.parquet cannot be read .* again"):
        read_unlabelled_cells(path)
    pq.write_table(pa.table({"network": ["n"]}), path)
    with pytest.raises(UserError, match="cannot be read"):
        read_unlabelled_cells(path)
    own = row("none", 0, 0, np.eye(3, dtype=int).tolist())
    write_rows(path, [own, own])
    with pytest.raises(UserError, match="holds a draw twice"):
        read_unlabelled_cells(path)
    write_rows(path, [own | {"confusion": [1, 2]}])
    with pytest.raises(UserError, match="of other classes"):
        read_unlabelled_cells(path)


# The command


def test_the_command_adds_what_is_missing_and_the_report_needs_no_image(
    prepared: Path, wbc_shift
) -> None:
    assert wbc_shift("train", "-p", "tiny").status == 0
    some = ("--method", "adabn", "--method", "tent", "--order", "random", "--order", "slides")
    outcome = wbc_shift(*COMMAND, "--draws", "1", *some, "--number", "10")
    assert outcome.status == 0, outcome.err
    first = read_unlabelled_cells(FILE)
    # One row without adaptation; two methods in two orders.
    assert first[["method", "order", "number", "draw"]].to_numpy().tolist() == [
        ["none", "none", 0, 0],
        ["adabn", "random", 10, 0],
        ["adabn", "slides", 10, 0],
        ["tent", "random", 10, 0],
        ["tent", "slides", 10, 0],
    ]
    assert {sum(counts) for counts in first["confusion"]} == {50}
    assert first["support"].map(list).tolist() == 5 * [5 * [20]]
    whole = FILE.read_bytes()
    assert "5 rows kept, 0 to be added" in wbc_shift(*COMMAND, "--draws", "1", *some,
                                                     "--number", "10").out  # fmt: skip
    assert FILE.read_bytes() == whole

    # What is made later is the same as what is made at once.
    assert "5 rows kept" in wbc_shift(*COMMAND, "--draws", "2", *some, "--number", "10",
                                      "--number", "20").out  # fmt: skip
    later = FILE.read_bytes()
    FILE.unlink()
    wbc_shift(*COMMAND, "--draws", "2", *some, "--number", "10", "--number", "20")
    assert FILE.read_bytes() == later
    rows = read_unlabelled_cells(FILE)
    pd.testing.assert_frame_equal(rows.loc[rows["number"].isin([0, 10]) & (rows["draw"] == 0)]
                                  .reset_index(drop=True), first)  # fmt: skip

    # Read, scored and told in a clone without images and checkpoints.
    shutil.rmtree("datasets/cache")
    shutil.rmtree("results/tiny/checkpoints")
    results = Results.of(Path("results/tiny"))
    scores = adapted_scores(results)
    assert len(scores) == 2 * 2 * 2 * 2
    text = to_markdown(unlabelled_cells_sheet(results))
    assert "AdaBN" in text
    assert "1 × 2" in text

    # Rows of another network are neither shown nor kept.
    table = pq.read_table(FILE)
    place = table.schema.get_field_index("network_sha256")
    other = pa.array(["f" * 64] * len(table), pa.string())
    pq.write_table(table.set_column(place, table.schema.field(place), other), FILE)
    assert adapted_scores(results) is None


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--method", "adabm"), "--method adabm: use one of adabn, "),
        (("--method", "none"), "--method none: use one of adabn, "),
        (("--order", "alphabet"), "--order alphabet: use one of random, "),
        (("--number", "7"), "--number 7: use one of 5, 10, "),
        ((), "no run"),
    ],
)
def test_what_the_command_does_not_know_is_one_line(
    options: tuple[str, ...], told: str, project: Path, wbc_shift
) -> None:
    outcome = wbc_shift(*COMMAND, *options)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert told in outcome.err
