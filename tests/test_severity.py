"""Severity of errors: the tree as reviewed, and counts by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from benchmark.data.cards import load_label_spaces
from benchmark.data.haematology import LINEAGE, Lineage, NotInTree, distances, read_distances
from benchmark.errors import UserError
from benchmark.evaluation.severity import severities
from benchmark.files import read_yaml
from benchmark.report.questions import BRANCHES
from benchmark.schema import parse

DATASETS = REPOSITORY / "datasets"
SPACES = load_label_spaces(DATASETS)


def apart(space: str, one: str, other: str) -> tuple[int, int]:
    """Height and stages between two classes."""
    classes = tuple(SPACES[space])
    found = read_distances(DATASETS, space, classes)
    pair = classes.index(one), classes.index(other)
    return int(found.lineage[pair]), int(found.maturity[pair])


@pytest.mark.parametrize(
    ("space", "one", "other", "height", "stages"),
    [
        ("wbc5", "neutrophil", "eosinophil", 1, 0),
        ("wbc5", "neutrophil", "monocyte", 2, 0),
        ("wbc5", "lymphocyte", "monocyte", 4, 0),
        ("cyto11", "myeloblast", "neutrophil_segmented", 0, 5),
        ("cyto11", "metamyelocyte", "neutrophil_band", 0, 1),
        ("cyto11", "erythroblast", "neutrophil_segmented", 3, 0),
        ("pbc11", "erythroblast", "platelet", 2, 0),
        ("wbc13", "BL", "LY", 4, 5),
        ("wbc13", "VLY", "LY", 0, 0),
        ("wbc13", "PC", "LY", 1, 0),
    ],
)
def test_cells_are_as_far_apart_as_their_lineages_and_stages(space, one, other, height, stages):
    assert apart(space, one, other) == apart(space, other, one) == (height, stages)


@pytest.mark.parametrize("space", SPACES)
def test_heights_are_an_ultrametric_as_of_every_tree(space) -> None:
    heights = read_distances(DATASETS, space, tuple(SPACES[space])).lineage
    through = np.maximum(heights[:, :, None], heights[None])  # (one, between, other)
    assert (heights[:, None] <= through).all()
    assert not heights.diagonal().any()


def test_every_height_of_the_tree_is_called_in_words() -> None:
    known = parse(Lineage, read_yaml(DATASETS / LINEAGE), LINEAGE)
    types = [*known.cell_types]
    heights = distances(known, types).lineage
    assert {*BRANCHES} == {*heights.ravel()}
    for one, other, words in (
        ("neutrophil", "basophil", "granulocytes"),
        ("lymphocyte", "plasma_cell", "lymphoid"),
        ("eosinophil", "monocyte", "monocyte"),
        ("erythroblast", "platelet", "platelet"),
        ("monocyte", "erythroblast", "granulocyte or monocyte and erythroblast"),
        ("lymphocyte", "monocyte", "myeloid and lymphoid"),
    ):
        assert words in BRANCHES[heights[types.index(one), types.index(other)]]


def test_errors_count_at_the_height_where_lineages_part() -> None:
    classes = ("neutrophil", "lymphocyte", "monocyte", "eosinophil")
    confusion = np.array([[5, 1, 2, 3], [0, 4, 0, 0], [0, 0, 4, 0], [2, 0, 0, 1]])
    rows = severities(confusion, read_distances(DATASETS, "wbc4", classes))
    assert {row["height"]: row["errors"] for row in rows} == {0: 0, 1: 5, 2: 2, 4: 1}
    # Six errors of neutrophils and two of eosinophils, each spread over three other classes.
    expected = {row["height"]: row["expected"] for row in rows}
    assert expected == pytest.approx({0: 0, 1: 1 / 3, 2: 1 / 3, 4: 1 / 3})
    assert rows[0]["lineage"] == pytest.approx((5 * 1 + 2 * 2 + 1 * 4) / 8)
    assert {row["n"] for row in rows} == {22}
    assert rows[0]["immature"] == rows[0]["missed"] == rows[0]["alarms"] == 0


def test_immature_cells_called_mature_and_false_blasts_are_counted() -> None:
    classes = tuple(SPACES["cyto11"])
    confusion = np.zeros((11, 11), int)
    for true, answer, cells in (
        ("myeloblast", "lymphocyte", 2),  # missed
        ("myelocyte", "neutrophil_band", 3),  # missed
        ("myeloblast", "promyelocyte", 4),  # wrong, but immature all the same
        ("monocyte", "myeloblast", 5),  # a false alarm
        ("monocyte", "promyelocyte", 6),  # immature, and no blast
        ("monocyte", "monocyte", 7),
    ):
        confusion[classes.index(true), classes.index(answer)] = cells
    row = severities(confusion, read_distances(DATASETS, "cyto11", classes))[0]
    assert (row["immature"], row["missed"]) == (9, 5)
    assert (row["mature"], row["alarms"]) == (18, 5)


def test_without_an_error_there_is_no_mean() -> None:
    rows = severities(np.eye(5, dtype=int), read_distances(DATASETS, "wbc5", (*SPACES["wbc5"],)))
    assert rows[0]["lineage"] is None
    assert sum(row["errors"] for row in rows) == 0


def test_a_class_outside_the_tree_is_named() -> None:
    with pytest.raises(NotInTree, match="'smudge' of own is no cell type of the tree"):
        read_distances(DATASETS, "own", ("neutrophil", "smudge"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("stage: band", "stage: bend", "no stage 'bend'"),
        ("[lymphoid, lymphoid, lymphoid, plasma cell]", "[lymphoid]", "as many branches"),
    ],
)
def test_a_fault_of_the_tree_is_one_line(tmp_path: Path, old, new, expected) -> None:
    (tmp_path / "haematology").mkdir()
    (tmp_path / "label_spaces.yaml").symlink_to(DATASETS / "label_spaces.yaml")
    text = (DATASETS / LINEAGE).read_text()
    (tmp_path / LINEAGE).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=expected) as error:
        read_distances(tmp_path, "wbc5", tuple(SPACES["wbc5"]))
    assert "\n" not in str(error.value)
