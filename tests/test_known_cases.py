"""Known cases: excluded images are gone, and images of one cell are one group."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

from benchmark.data.cards import load_cards
from benchmark.data.manifests import EXCLUSIONS, SAME_CELLS, read_known_cases, read_manifest
from benchmark.errors import UserError


def images(project: Path) -> pd.DataFrame:
    """The toy manifest as the harness reads it, by path."""
    datasets = project / "datasets"
    return read_manifest(datasets, load_cards(datasets)["toy"]).set_index("path")


def write(project: Path, file: str, *rows: str) -> None:
    header = "dataset,path,reason,finder" if file == EXCLUSIONS else ""
    header = header or "dataset,path,other,similarity,finder"
    (project / "datasets" / file).write_text("\n".join([header, *rows]) + "\n")


def test_an_excluded_image_is_not_used(project: Path) -> None:
    everything = images(project)
    write(project, EXCLUSIONS, "toy,a/neutrophil/slide0_0.jpg,blurred,test", "other,x.jpg,a,b")
    assert set(everything.index) - set(images(project).index) == {"a/neutrophil/slide0_0.jpg"}


def test_groups_that_share_a_cell_become_one(project: Path) -> None:
    first, second, third = (f"a/neutrophil/slide{k}_0.jpg" for k in (3, 1, 7))
    write(project, SAME_CELLS, f"toy,{first},{second},0.97,x", f"toy,{third},{first},0.95,x")
    group = images(project)["group"]
    assert group[first] == group[second] == group[third] == "a1"
    # Every image of the three slides is joined, not only the pairs named.
    assert (group == "a1").sum() == 3 * (group == "a2").sum()
    assert not {"a3", "a7"} & set(group)


def test_two_images_without_a_group_become_one(project: Path) -> None:
    path = project / "datasets" / "manifests" / "toy.csv"
    pd.read_csv(path).drop(columns="group").to_csv(path, index=False)
    pair = "a/neutrophil/slide1_0.jpg", "a/neutrophil/slide4_0.jpg"
    write(project, SAME_CELLS, f"toy,{pair[1]},{pair[0]},0.99,x")
    group = images(project)["group"]
    assert group[pair[0]] == group[pair[1]] == pair[0]
    assert group.nunique() == len(group) - 1


@pytest.mark.parametrize("file", [EXCLUSIONS, SAME_CELLS])
def test_a_row_for_an_image_that_does_not_exist_is_one_line(project: Path, file: str) -> None:
    row = "toy,a/none.jpg,x,y" if file == EXCLUSIONS else "toy,a/none.jpg,a/none.jpg,0.9,y"
    write(project, file, row)
    with pytest.raises(UserError, match=rf"{file}: toy has no image a/none\.jpg"):
        images(project)


def test_wrong_columns_are_one_line(project: Path) -> None:
    (project / "datasets" / EXCLUSIONS).write_text("dataset,image\n")
    with pytest.raises(UserError, match="columns must be dataset,path,reason,finder"):
        images(project)


def test_no_reviewed_pair_of_a_source_lies_on_two_sides_of_its_split() -> None:
    datasets = REPOSITORY / "datasets"
    checked = 0
    for name, domain in (("raabin", "raabin"), ("pbc", "pbc-main")):
        part = pd.read_csv(datasets / "splits" / f"{domain}.csv").set_index("path")["part"]
        pairs = read_known_cases(datasets, SAME_CELLS, name)
        inside = pairs[pairs["path"].isin(part.index) & pairs["other"].isin(part.index)]
        assert (inside["path"].map(part) == inside["other"].map(part)).all()
        checked += len(inside)
    assert checked > 20
