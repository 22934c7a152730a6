"""Splits: groups whole, classes in every part where groups allow, core and full agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from support.splits import split_anew

from benchmark.data.split import (
    read_split,
    split_digest,
    split_path,
    stratified,
    stratified_groups,
)
from benchmark.errors import UserError
from benchmark.settings import SPLIT_PARTS

FRACTIONS = {"train": 0.6, "id_val": 0.1, "calibration": 0.1, "id_test": 0.2}


def test_strata_are_cut_in_the_given_fractions() -> None:
    strata = pd.Series(["a"] * 100 + ["b"] * 50)
    part = stratified(strata, FRACTIONS, np.random.default_rng(0))
    counts = pd.crosstab(strata, part)
    assert counts.loc["a", list(SPLIT_PARTS)].tolist() == [60, 10, 10, 20]
    assert counts.loc["b", list(SPLIT_PARTS)].tolist() == [30, 5, 5, 10]


def test_every_image_gets_a_part_even_in_tiny_strata() -> None:
    part = stratified(pd.Series(["a", "b", "b"]), FRACTIONS, np.random.default_rng(0))
    assert part.isin(SPLIT_PARTS).all()


def test_groups_are_never_cut_and_a_class_in_four_groups_reaches_all_four_parts() -> None:
    generator = np.random.default_rng(1)
    groups = pd.Series(np.repeat([f"g{i}" for i in range(40)], 25))
    labels = pd.Series(generator.choice(["a", "b"], len(groups)))
    labels[groups.isin(["g3", "g11", "g20", "g33"])] = "rare"
    part = stratified_groups(groups, [labels], FRACTIONS, np.random.default_rng(0))
    assert part.groupby(groups).nunique().max() == 1
    assert set(part[labels == "rare"]) == set(SPLIT_PARTS)
    shares = pd.crosstab(labels, part, normalize="index")
    assert (shares.loc["a", "train"], shares.loc["b", "train"]) == pytest.approx(
        (0.6, 0.6), abs=0.1
    )


# raabin's is of the earlier rule: finished runs rest on it.
@pytest.mark.parametrize("domain", ["pbc-main", "phantom-a", "pbc-366", "cellavision"])
def test_the_committed_splits_are_what_the_command_writes(domain: str, tmp_path: Path) -> None:
    fresh = split_anew(domain, tmp_path).read_text()
    assert fresh == split_path(REPOSITORY / "datasets", domain).read_text()


@pytest.mark.parametrize(
    ("domain", "within"), [("bccd", 0.01), ("jtsc", 0.01), ("pbc-366", 0), ("phantom-a", 0.04)]
)
def test_a10_images_are_shared_out_as_asked_for_by_the_committed_splits(
    domain: str, within: float
) -> None:
    part = read_split(REPOSITORY / "datasets", domain)["part"]
    for name, share in part.value_counts(normalize=True).items():
        assert share == pytest.approx(FRACTIONS[name], abs=within + 1e-9), name


def deviation(split: pd.DataFrame) -> float:
    """Σ over classes and parts of (share of the class's images - asked)² / asked."""
    shares = pd.crosstab(split["part"], split["label"], normalize="columns")
    asked = pd.Series(FRACTIONS)
    return float(((shares.sub(asked, axis=0) ** 2).div(asked, axis=0)).to_numpy().sum())


def test_a10_slides_of_raabin_would_be_shared_out_better_by_the_rule_of_today(
    tmp_path: Path,
) -> None:
    assert deviation(read_split(REPOSITORY / "datasets", "raabin")) == pytest.approx(
        0.185, abs=1e-3
    )
    fresh = pd.read_csv(split_anew("raabin", tmp_path), dtype=str)
    assert deviation(fresh) < 0.15
    assert 0.58 < (fresh["part"] == "train").mean() < 0.62


def test_a10_a_group_of_one_image_goes_where_it_is_missed() -> None:
    """Beside one large slide of each class, a hundred single images make up the rest exactly."""
    groups = ["large-a"] * 40 + ["large-b"] * 40 + [f"single{i}" for i in range(120)]
    labels = pd.Series(["a"] * 40 + ["b"] * 40 + ["a", "b"] * 60)
    part = stratified_groups(pd.Series(groups), [labels], FRACTIONS, np.random.default_rng(0))
    counts = pd.crosstab(labels, part)[list(SPLIT_PARTS)]
    assert counts.to_numpy().tolist() == [[60, 10, 10, 20]] * 2


def test_a10_a_split_that_is_there_is_kept_until_it_is_asked_for_anew(
    project: Path, wbc_shift
) -> None:
    assert wbc_shift("split").status == 0
    path = Path("datasets/splits/toy-a.csv")
    written = path.read_text()
    table = pd.read_csv(path, dtype=str)
    first = table["group"] == table["group"].iloc[0]
    table["part"] = table["part"].mask(first, "id_test")
    table.to_csv(path, index=False)
    reviewed = path.read_text()
    assert reviewed != written
    outcome = wbc_shift("split")
    assert (outcome.status, outcome.out.strip()) == (0, f"kept {path}")
    assert path.read_text() == reviewed
    outcome = wbc_shift("split", "--anew", "toy-a")
    assert (outcome.status, outcome.out.strip()) == (0, f"wrote {path}")
    assert path.read_text() == written


@pytest.mark.parametrize(
    "command", [("split",), ("plan", "-p", "tiny"), ("validate", "-p", "tiny")]
)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.iloc[1:], "a/neutrophil/slide0_0.jpg is in no part"),
        (lambda t: t.iloc[3:], "is in no part (3 in all)"),
        (lambda t: pd.concat([t, t.tail(1).assign(path="a/new.jpg")]), "is no image of toy-a"),
        (
            lambda t: t.assign(group=t["path"], part=["train", "id_test"] * (len(t) // 2)),
            "of the manifest is cut by the split",
        ),
    ],
)
def test_a10_a_split_of_other_images_is_refused_and_told_how_to_make_it_anew(
    prepared: Path, wbc_shift, command: tuple[str, ...], change: Callable, told: str
) -> None:
    path = Path("datasets/splits/toy-a.csv")
    table = pd.read_csv(path, dtype=str).sort_values(["group", "label", "path"])
    order = table["path"].eq("a/neutrophil/slide0_0.jpg").sort_values(ascending=False).index
    change(table.loc[order]).to_csv(path, index=False)
    before = path.read_text()
    outcome = wbc_shift(*command)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert told in outcome.err
    assert "run `wbc-shift split --anew toy-a`" in outcome.err
    assert path.read_text() == before


def test_an_unknown_domain_to_split_anew_names_the_nearest(project: Path, wbc_shift) -> None:
    outcome = wbc_shift("split", "--anew", "toy")
    assert outcome.status == 1
    assert "--anew toy: no such source domain; did you mean 'toy-a'?" in outcome.err
    assert not Path("datasets/splits").exists()


@pytest.mark.parametrize("command", ["split", "plan", "validate", "audit"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not a CSV table"),
        ("path,group\n1,2,3,4\n5\n6,7,8,9,10\n", "no column 'label'"),
        ("path,group,label,part\n", "no rows"),
        ("path,group,label\n", "no column 'part'"),
    ],
)
def test_d13_a_damaged_split_is_one_line(
    prepared: Path, wbc_shift, command: str, text: str, told: str
) -> None:
    Path("datasets/splits/toy-a.csv").write_text(text)
    outcome = wbc_shift(command, *(() if command == "split" else ("-p", "tiny")))
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert told in outcome.err


@pytest.mark.parametrize("command", ["split", "plan", "validate", "audit"])
def test_d14_a_doubled_row_is_told_when_the_split_is_read(
    prepared: Path, wbc_shift, command: str
) -> None:
    path = Path("datasets/splits/toy-a.csv")
    table = pd.read_csv(path, dtype=str)
    pd.concat([table, table.head(1)]).to_csv(path, index=False)
    outcome = wbc_shift(command, *(() if command == "split" else ("-p", "tiny")))
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert f"{table['path'].iloc[0]} is listed twice" in outcome.err


def test_raabin_is_split_by_slide_with_every_class_where_the_slides_suffice() -> None:
    split = read_split(REPOSITORY / "datasets", "raabin")
    smear = split["path"].str.split("/").str[-1].str.split("_").str[0]
    # 58 smear names are 53 slides: five pairs of names share cells (datasets/same_cells.csv).
    assert smear.nunique() == 58
    assert split["group"].nunique() == 53
    assert split.groupby(smear)["group"].nunique().max() == 1
    assert split.groupby("group")["part"].nunique().max() == 1
    counts = pd.crosstab(split["label"], split["part"])[list(SPLIT_PARTS)]
    # Basophils come from three slides; calibration, whose loss costs least, goes without.
    empty = [
        (label, part) for label in counts.index for part in SPLIT_PARTS if not counts[part][label]
    ]
    assert empty == [("Basophil", "calibration")]


def test_the_second_acquisition_of_pbc_is_in_no_part_of_pbc_main() -> None:
    manifest = pd.read_csv(REPOSITORY / "datasets" / "manifests" / "pbc.csv", dtype=str)
    other = set(manifest.loc[manifest["acquisition"] != "main", "path"])
    assert len(other) == 453
    assert not other & set(read_split(REPOSITORY / "datasets", "pbc-main")["path"])


def test_the_digest_follows_the_assignment_and_not_the_order_of_rows(
    project: Path, wbc_shift
) -> None:
    assert wbc_shift("split").status == 0
    path = Path("datasets/splits/toy-a.csv")
    before = split_digest(Path("datasets"), "toy-a")
    table = pd.read_csv(path, dtype=str)
    table.iloc[::-1].to_csv(path, index=False)
    assert split_digest(Path("datasets"), "toy-a") == before
    group = table["group"] == table["group"].iloc[0]
    swapped = "id_val" if table["part"].iloc[0] == "train" else "train"
    table.assign(part=table["part"].mask(group, swapped)).to_csv(path, index=False)
    assert split_digest(Path("datasets"), "toy-a") != before


def test_a_split_that_cuts_a_group_is_refused(project: Path, wbc_shift) -> None:
    wbc_shift("split")
    path = Path("datasets/splits/toy-a.csv")
    table = pd.read_csv(path, dtype=str)
    table.loc[0, "part"] = "id_test" if table["part"].iloc[0] == "train" else "train"
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"group 'a\d' is cut by the split"):
        read_split(Path("datasets"), "toy-a")


def test_a_class_in_one_group_only_is_told(project: Path, wbc_shift) -> None:
    manifest = Path("datasets/manifests/toy.csv")
    table = pd.read_csv(manifest, dtype=str)
    drop = (table["label"] == "basophil") & (table["group"] != "a0") & (table["acquisition"] == "a")
    table[~drop].to_csv(manifest, index=False)
    outcome = wbc_shift("split")
    assert outcome.status == 0
    assert outcome.out.count("no basophil in") == 3
    assert "its 1 groups do not suffice" in outcome.out


def test_an_empty_group_is_one_line(project: Path, wbc_shift) -> None:
    path = Path("datasets/manifests/toy.csv")
    table = pd.read_csv(path, dtype=str)
    table.loc[0, "group"] = ""
    table.to_csv(path, index=False)
    outcome = wbc_shift("split")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "has an empty group: name its slide" in outcome.err
