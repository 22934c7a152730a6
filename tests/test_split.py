"""Splits: groups whole, classes in every part where groups allow, core and full agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from benchmark.config import PARTS, load_params
from benchmark.data.cards import card_of, load_cards
from benchmark.data.split import (
    read_split,
    split_digest,
    split_domain,
    stratified,
    stratified_groups,
)
from benchmark.errors import UserError

FRACTIONS = {"train": 0.6, "id_val": 0.1, "calibration": 0.1, "id_test": 0.2}


def test_strata_are_cut_in_the_given_fractions() -> None:
    strata = pd.Series(["a"] * 100 + ["b"] * 50)
    part = stratified(strata, FRACTIONS, np.random.default_rng(0))
    counts = pd.crosstab(strata, part)
    assert counts.loc["a", list(PARTS)].tolist() == [60, 10, 10, 20]
    assert counts.loc["b", list(PARTS)].tolist() == [30, 5, 5, 10]


def test_every_image_gets_a_part_even_in_tiny_strata() -> None:
    part = stratified(pd.Series(["a", "b", "b"]), FRACTIONS, np.random.default_rng(0))
    assert part.isin(PARTS).all()


def test_groups_are_never_cut_and_a_class_in_four_groups_reaches_all_four_parts() -> None:
    generator = np.random.default_rng(1)
    groups = pd.Series(np.repeat([f"g{i}" for i in range(40)], 25))
    labels = pd.Series(generator.choice(["a", "b"], len(groups)))
    labels[groups.isin(["g3", "g11", "g20", "g33"])] = "rare"
    part = stratified_groups(groups, [labels], FRACTIONS, np.random.default_rng(0))
    assert part.groupby(groups).nunique().max() == 1
    assert set(part[labels == "rare"]) == set(PARTS)
    shares = pd.crosstab(labels, part, normalize="index")
    assert (shares.loc["a", "train"], shares.loc["b", "train"]) == pytest.approx(
        (0.6, 0.6), abs=0.1
    )


@pytest.mark.parametrize("domain", ["raabin", "pbc-main", "phantom-a"])
def test_the_committed_splits_are_what_the_command_writes(domain: str, tmp_path: Path) -> None:
    params = load_params(REPOSITORY / "params.yaml")
    card = card_of(load_cards(REPOSITORY / "datasets"), domain)
    for name in ("manifests", "exclusions.csv", "same_cells.csv"):
        (tmp_path / name).symlink_to(REPOSITORY / "datasets" / name)
    split_domain(tmp_path, card, domain, params.split)
    fresh = (tmp_path / "splits" / f"{domain}.csv").read_text()
    assert fresh == (REPOSITORY / "datasets" / "splits" / f"{domain}.csv").read_text()


def test_raabin_is_split_by_slide_with_every_class_where_the_slides_suffice() -> None:
    split = read_split(REPOSITORY / "datasets", "raabin")
    smear = split["path"].str.split("/").str[-1].str.split("_").str[0]
    # 58 smear names are 53 slides: five pairs of names share cells (datasets/same_cells.csv).
    assert smear.nunique() == 58
    assert split["group"].nunique() == 53
    assert split.groupby(smear)["group"].nunique().max() == 1
    assert split.groupby("group")["part"].nunique().max() == 1
    counts = pd.crosstab(split["label"], split["part"])[list(PARTS)]
    # Basophils come from three slides; calibration, whose loss costs least, goes without.
    empty = [(label, part) for label in counts.index for part in PARTS if not counts[part][label]]
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
