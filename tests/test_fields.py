"""Fields with boxes: the same cells of Pascal VOC, YOLO and COCO; what is no use is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmark.data.fields import MARGIN, cut_cells, groups_of, read_fields
from benchmark.errors import UserError

SIZE = (320, 240)
NAMES = ["neutrophil", "lymphocyte", "RBC"]
Box = tuple[str, int, int, int, int]
BOXES: dict[str, list[Box]] = {
    "a": [
        ("neutrophil", 40, 50, 60, 48),
        ("RBC", 200, 20, 30, 30),
        ("lymphocyte", 250, 180, 40, 44),
    ],
    "b": [("lymphocyte", 0, 0, 50, 40)],
    "c": [],
}
"""Field → label, left, top, width and height of its boxes."""


def draw(folder: Path, fields: dict[str, list[Box]], images: str = "images") -> None:
    """Noise, and a plain ellipse in every box."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(fields):
        noise = np.random.default_rng(number).integers(150, 250, (SIZE[1], SIZE[0], 3), np.uint8)
        Image.fromarray(noise).save(folder / images / f"{name}.png")


def voc(folder: Path, fields: dict[str, list[Box]]) -> None:
    draw(folder, fields, "JPEGImages")
    (folder / "Annotations").mkdir()
    for name, boxes in fields.items():
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for label, x, y, w, h in boxes
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.png</filename>{size}{objects}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)


def yolo(folder: Path, fields: dict[str, list[Box]]) -> None:
    draw(folder, fields)
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(f"nc: {len(NAMES)}\nnames: {NAMES}\n")
    for name, boxes in fields.items():
        lines = [
            f"{NAMES.index(label)} {(x + w / 2) / SIZE[0]:.8f} {(y + h / 2) / SIZE[1]:.8f} "
            f"{w / SIZE[0]:.8f} {h / SIZE[1]:.8f}"
            for label, x, y, w, h in boxes
        ]
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines))


def coco(folder: Path, fields: dict[str, list[Box]]) -> None:
    draw(folder, fields)
    names = list(fields)
    marks = [(names.index(name), box) for name, boxes in fields.items() for box in boxes]
    content = {
        "images": [
            {"id": n, "file_name": f"{name}.png", "width": SIZE[0], "height": SIZE[1]}
            for n, name in enumerate(names)
        ],
        "categories": [{"id": 10 + n, "name": name} for n, name in enumerate(NAMES)],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 10 + NAMES.index(label), "bbox": box}
            for n, (image, (label, *box)) in enumerate(marks)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


FORMS = {"voc": voc, "yolo": yolo, "coco": coco}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_boxes_are_read_from_every_form(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path, BOXES)
    found = read_fields(tmp_path)
    rows = [
        (Path(row.path).name, row.label, row.x, row.y, row.width, row.height)
        for row in found.table.itertuples()
    ]
    wanted = [(f"{n}.png", *box) for n, boxes in BOXES.items() for box in boxes if box[0] != "RBC"]
    assert [row[:2] for row in rows] == [row[:2] for row in wanted]
    np.testing.assert_allclose([row[2:] for row in rows], [row[2:] for row in wanted], atol=1e-4)
    assert all((tmp_path / path).is_file() for path in found.table["path"])
    assert found.form == form
    assert found.left_out == [("", "left out", "1 box labelled RBC: no leucocytes")]
    assert found.notes == ["1 of 3 annotated fields have no box of a white cell that is used"]


def test_what_is_no_leucocyte_is_used_if_it_is_asked_for(tmp_path: Path) -> None:
    voc(tmp_path, BOXES)
    found = read_fields(tmp_path, keep=["rbc"])
    assert found.table["label"].tolist() == ["neutrophil", "RBC", "lymphocyte", "lymphocyte"]
    assert found.left_out == []


WRONG: dict[str, tuple[list[Box], str]] = {
    "outside": ([("neutrophil", 330, 50, 60, 48)], "(neutrophil) lies outside the field"),
    "no area": ([("neutrophil", 30, 50, 0, 48)], "(neutrophil) has no area"),
    "turned round": ([("neutrophil", 30, 50, 40, -48)], "(neutrophil) has no area"),
    "larger": ([("neutrophil", 0, 0, 400, 100)], "(neutrophil) is larger than the field"),
    "not finite": ([("neutrophil", 30, 50, float("nan"), 4)], "(neutrophil) is not four numbers"),
    "double": (
        [("neutrophil", 30, 50, 60, 60), ("neutrophil", 31, 50, 60, 60)],
        "marks the same cell as",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_box_that_is_no_use_is_named_with_its_field(
    tmp_path: Path, form: str, wrong: str
) -> None:
    boxes, because = WRONG[wrong]
    FORMS[form](tmp_path, BOXES | {"w": boxes})
    found = read_fields(tmp_path)
    (row,) = [row for row in found.left_out if row[0]]
    assert Path(row[0]).name == "w.png"
    assert row[1] == "left out"
    assert because in row[2]
    assert len(found.table) == 3 + len(boxes) - 1


def test_of_two_boxes_of_one_cell_with_two_labels_neither_is_used(tmp_path: Path) -> None:
    twice = [("neutrophil", 30, 50, 60, 60), ("lymphocyte", 31, 50, 60, 60)]
    voc(tmp_path, BOXES | {"w": twice})
    found = read_fields(tmp_path)
    assert "w.png" not in {Path(path).name for path in found.table["path"]}
    reasons = [because for path, _, because in found.left_out if path]
    assert reasons == [
        "box 1 of Annotations/w.xml marks the same cell as box 2 of Annotations/w.xml, labelled "
        "neutrophil here and lymphocyte there",
        "box 2 of Annotations/w.xml marks the same cell as box 1 of Annotations/w.xml, labelled "
        "lymphocyte here and neutrophil there",
    ]


@pytest.mark.parametrize("form", FORMS)
def test_an_annotation_without_its_field_and_a_field_without_annotation_are_named(
    tmp_path: Path, form: str
) -> None:
    FORMS[form](tmp_path, BOXES | {"gone": [("neutrophil", 30, 50, 60, 60)]})
    next(tmp_path.rglob("gone.png")).unlink()
    draw(tmp_path, {"new": []}, "more")
    found = read_fields(tmp_path)
    told = " ".join(f"{path} {because}" for path, _, because in found.left_out)
    assert "is missing" in told
    assert "gone" in told
    assert "more/new.png has no annotation" in told


@pytest.mark.parametrize("form", FORMS)
def test_a_field_that_is_no_image_costs_its_boxes_only(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path, BOXES | {"bad": [("neutrophil", 30, 50, 60, 60)]})
    next(tmp_path.rglob("bad.png")).write_bytes(b"no image")
    found = read_fields(tmp_path)
    assert len(found.table) == 3
    assert [because for path, _, because in found.left_out if "bad" in path] == [
        "the field is not an image (1 box)"
    ]


def test_class_numbers_without_a_name_are_named_and_without_any_names_are_labels(
    tmp_path: Path,
) -> None:
    yolo(tmp_path, BOXES)
    with (tmp_path / "labels" / "a.txt").open("a") as file:
        file.write("\n7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n")
    found = read_fields(tmp_path)
    assert [because for path, _, because in found.left_out if path] == [
        "line 4 of labels/a.txt: class number 7 is not in data.yaml",
        "line 5 of labels/a.txt has 4 numbers, a box has 5",
    ]
    (tmp_path / "data.yaml").unlink()
    found = read_fields(tmp_path)
    assert set(found.table["label"]) == {"0", "1", "2", "7"}
    assert "no names of classes" in found.notes[0]
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    assert set(read_fields(tmp_path).table["label"]) == {"neutrophil", "lymphocyte"}
    (tmp_path / "obj.names").write_text("lymphocyte\nneutrophil\nRBC\n")
    with pytest.raises(UserError, match=r"classes\.txt and obj\.names name the classes differ"):
        read_fields(tmp_path)


def test_a_size_that_the_annotation_states_and_the_field_has_not_costs_its_boxes(
    tmp_path: Path,
) -> None:
    voc(tmp_path, BOXES)
    note = tmp_path / "Annotations" / "a.xml"
    note.write_text(note.read_text().replace(f"<width>{SIZE[0]}<", "<width>640<"))
    (row,) = [row for row in read_fields(tmp_path).left_out if row[0]]
    assert row[2] == "the annotation is of a field of 640 x 240 px, this has 320 x 240 px (2 boxes)"


def test_a_box_far_smaller_than_the_rest_is_used_and_spoken_of(tmp_path: Path) -> None:
    voc(tmp_path, BOXES | {"s": [("neutrophil", 100, 100, 8, 8)]})
    found = read_fields(tmp_path)
    assert len(found.table) == 4
    assert "1 box more than 3 times smaller than the median" in " ".join(found.notes)
    assert "8 x 8 px, neutrophil in JPEGImages/s.png" in " ".join(found.notes)


LAUGHS = (
    "<!DOCTYPE annotation [<!ENTITY a0 'ha'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 20}'>" for n in range(1, 12))
    + "]><annotation><filename>a.png</filename><object><name>&a11;</name></object></annotation>"
)
FILE = (
    "<!DOCTYPE annotation [<!ENTITY secret SYSTEM 'file:///etc/passwd'>]>"
    "<annotation><filename>a.png</filename><object><name>&secret;</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object></annotation>"
)


@pytest.mark.parametrize("hostile", [LAUGHS, FILE, LAUGHS.encode("utf-16"), "<annotation><object>"])
def test_a_hostile_or_broken_xml_costs_its_field_and_is_never_expanded(
    tmp_path: Path, hostile: str | bytes
) -> None:
    voc(tmp_path, BOXES)
    content = hostile if isinstance(hostile, bytes) else hostile.encode()
    (tmp_path / "Annotations" / "a.xml").write_bytes(content)
    found = read_fields(tmp_path)
    assert found.table["path"].tolist() == ["JPEGImages/b.png"]
    (row,) = [row for row in found.left_out if row[0]]
    assert row[0] == "JPEGImages/a.png"
    assert row[2].startswith("Annotations/a.xml is not read: it ")
    assert "root:" not in str(found)


@pytest.mark.parametrize(
    "content",
    [
        '{"images": [{"id": [1], "file_name": "a.png"}], "annotations": [{"image_id": [1]}]}',
        "[" * 100_000 + '"images" "annotations"',
        '{"images": [], "annotations": [}',
        '{"images": [{"id": 1}], "annotations": [3, {"a": 1}]}',
    ],
)
def test_a_broken_json_is_one_line(tmp_path: Path, content: str) -> None:
    coco(tmp_path, BOXES)
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(UserError) as refused:
        read_fields(tmp_path)
    assert "\n" not in str(refused.value)


def test_annotations_of_two_forms_are_refused_unless_one_is_told(tmp_path: Path) -> None:
    voc(tmp_path, BOXES)
    yolo(tmp_path, BOXES)
    with pytest.raises(UserError, match="in the form of Pascal VOC and YOLO: keep"):
        read_fields(tmp_path)
    assert len(read_fields(tmp_path, "voc").table) == 3


def test_a_folder_without_annotations_is_refused(tmp_path: Path) -> None:
    draw(tmp_path, {"a": []})
    (tmp_path / "images" / "a.txt").write_text("a note of 3 words")
    (tmp_path / "settings.json").write_text('{"images": 3}')
    with pytest.raises(UserError, match="no boxes of cells: Pascal VOC, YOLO, COCO are read"):
        read_fields(tmp_path)


def test_an_annotation_of_a_name_that_several_fields_have_is_of_the_nearest(tmp_path: Path) -> None:
    for part, label in (("train", "neutrophil"), ("valid", "lymphocyte")):
        yolo(tmp_path / part, {"a": [(label, 40, 50, 60, 48)]})
    table = read_fields(tmp_path).table
    assert dict(zip(table["path"], table["label"], strict=True)) == {
        "train/images/a.png": "neutrophil",
        "valid/images/a.png": "lymphocyte",
    }


# ------------------------------------------------------------------ cutting


def test_cells_are_squares_of_one_size_around_their_boxes(tmp_path: Path) -> None:
    voc(tmp_path / "lab", BOXES)
    fields = read_fields(tmp_path / "lab")
    found = cut_cells(tmp_path / "lab", fields.table, tmp_path / "cells")
    longer = [60, 44, 50]
    assert found.side == round(MARGIN * np.median(longer)) == 100
    assert found.table["path"].tolist() == [f"JPEGImages/{n}.png" for n in ("a_1", "a_2", "b_1")]
    assert found.table["label"].tolist() == ["neutrophil", "lymphocyte", "lymphocyte"]
    assert found.table["mirrored"].tolist() == [False, True, True]
    field = np.asarray(Image.open(tmp_path / "lab/JPEGImages/a.png"))
    first = np.asarray(Image.open(tmp_path / "cells/JPEGImages/a_1.png"))
    np.testing.assert_array_equal(first, field[24:124, 20:120])  # around (70, 74)
    # Around (270, 202): right and below the field its pixels stand mirrored.
    second = np.asarray(Image.open(tmp_path / "cells/JPEGImages/a_2.png"))
    np.testing.assert_array_equal(second[:88, :100], field[152:240, 220:320])
    np.testing.assert_array_equal(second[88:], second[86:74:-1])


def test_a_field_that_breaks_off_is_left_out_with_its_boxes(tmp_path: Path) -> None:
    voc(tmp_path / "lab", BOXES)
    fields = read_fields(tmp_path / "lab")
    path = tmp_path / "lab/JPEGImages/a.png"
    path.write_bytes(path.read_bytes()[:5000])
    found = cut_cells(tmp_path / "lab", fields.table, tmp_path / "cells")
    assert found.table["field"].tolist() == ["JPEGImages/b.png"]
    ((name, _, because),) = found.left_out
    assert name == "JPEGImages/a.png"
    assert because.startswith("the field cannot be decoded")
    assert because.endswith("(2 boxes)")


@pytest.mark.parametrize(
    ("paths", "groups"),
    [
        (["images/1.png", "images/2.png"], ["images/1.png", "images/2.png"]),
        (["P01/images/1.png", "P02/images/1.png"], ["P01", "P02"]),
        (["train2017/1.png", "val2017/1.png"], ["train2017/1.png", "val2017/1.png"]),
        (["VOC2007/JPEGImages/1.png"] * 2, ["VOC2007/JPEGImages/1.png"] * 2),
        (["slide 3/1.png", "other/2.png"], ["slide 3", "other/2.png"]),
    ],
)
def test_a_field_is_a_group_unless_a_folder_is_of_a_patient(paths, groups) -> None:
    assert groups_of(pd.Series(paths))[0].tolist() == groups


# ------------------------------------------------------------------ real fields


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="WBC_MIRROR is not set")
def test_the_fields_of_bccd_are_read_as_they_were_counted() -> None:
    """364 fields; counted by grep in the publisher's XML: 372 WBC, 4,155 RBC, 361 platelets."""
    folder = Path(os.environ["WBC_MIRROR"]) / "bccd_fields"
    if not folder.is_dir():
        pytest.skip("the mirror has no fields of BCCD")
    found = read_fields(folder)
    assert (found.form, len(found.table)) == ("voc", 372)
    assert [because for _, _, because in found.left_out] == [
        "4155 boxes labelled RBC: no leucocytes",
        "361 boxes labelled Platelets: no leucocytes",
    ]
    assert "of 364 annotated fields" in found.notes[0 if "annotated" in found.notes[0] else -1]
    known = pd.read_csv(Path(__file__).parents[1] / "datasets/manifests/bccd-wide.csv")
    known = known[known["box_from"] == "annotation"].set_index("path")
    own = found.table[found.table["path"].isin(known.index)].set_index("path")
    edges = ["x", "y", "width", "height"]
    expected = known.loc[own.index, ["box_x", "box_y", "box_w", "box_h"]]
    np.testing.assert_array_equal(own[edges], expected)
