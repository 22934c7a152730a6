"""The same cell photographed twice: what changes, what would by chance, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.results import write_results

from benchmark.evaluation.evaluate import evaluate
from benchmark.evaluation.exact import exact_limits
from benchmark.evaluation.same_cells import changes
from benchmark.report import questions
from benchmark.report.results import Results


def test_changes_by_hand() -> None:
    """Ten cells of class 0, of which 2 are called 1; five of class 1, of which none is."""
    labels = np.array([0] * 10 + [1] * 5)
    predicted = np.array([0] * 8 + [1] * 2 + [0] * 5)
    # Both right, one right, both wrong and alike, twice.
    both = np.array([[0, 7, 8, 10], [1, 8, 9, 11]])
    found = changes(labels, predicted, both, 2)
    assert found["pairs"] == 4
    assert found["changed"] == 1
    assert found["both_right"] == 1
    assert found["one_right"] == 1
    # Two answers of class 0 differ in 2 · 0.8 · 0.2, those of class 1 never.
    assert found["expected"] == pytest.approx(3 * 0.32)


def test_pairs_are_told_by_name_and_the_table_counts_them(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "results" / "toy"
    folder.mkdir(parents=True)
    runs = write_results(folder)
    datasets = tmp_path / "datasets"
    datasets.mkdir()
    rows = ["dataset,path,other,similarity,finder"]
    # The first is of bccd, whose numbers of images jtsc has too; the last two are not both there.
    rows += [f"toy,shifted/{i:04d}.jpg,shifted/{i + 1:04d}.jpg,0.9,us" for i in range(0, 60, 2)]
    rows += ["toy,shifted/0000.jpg,elsewhere.jpg,0.9,us", "toy,far.jpg,away.jpg,0.9,us"]
    (datasets / "same_cells.csv").write_text("\n".join(rows) + "\n")
    evaluate(folder)
    assert "photographed twice" not in capsys.readouterr().out
    table = pd.read_parquet(folder / "same_cells.parquet")
    assert set(zip(table["domain"], table["pairs"], strict=True)) == {("bccd", 30), ("jtsc", 30)}
    run_id = runs[0]["run_id"]
    stored = pd.read_parquet(folder / "runs" / run_id / "predictions.parquet")
    stored = stored[stored["domain"] == "bccd"].set_index("image")
    answers = stored.filter(like="logit_").to_numpy(np.float32).argmax(1)
    named = dict(zip(stored.index, answers, strict=True))
    changed = sum(
        named[f"shifted/{i:04d}.jpg"] != named[f"shifted/{i + 1:04d}.jpg"] for i in range(0, 60, 2)
    )
    row = table.set_index(["run_id", "domain"]).loc[(run_id, "bccd")]
    assert row["changed"] == changed

    sheet = questions.same_cells_sheet(Results.of(folder))
    place = [column.title for column in sheet.blocks[0].columns].index("changed")
    line = next(row.cells for row in sheet.blocks[0].rows if row.cells[2] == "bccd")
    own = table[table["domain"] == "bccd"]
    ids = [r["run_id"] for r in runs if r["run_id"].startswith(line[1])]
    mean = own[own["run_id"].isin(ids)]["changed"].mean()
    low, high = exact_limits(mean, 30)
    assert line[place][:3] == pytest.approx((100 * mean / 30, 100 * low, 100 * high))


def test_without_the_list_it_is_said_and_no_table_is_made(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "results" / "toy"
    folder.mkdir(parents=True)
    write_results(folder)
    evaluate(folder)
    assert "nothing of cells photographed twice" in capsys.readouterr().out
    assert len(pd.read_parquet(folder / "same_cells.parquet")) == 0
    assert questions.same_cells_sheet(Results.of(folder)) is None
