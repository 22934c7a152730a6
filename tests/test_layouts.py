"""Layouts: every reader on the published form of its sets, and what it refuses, in one line."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image
from pydantic import TypeAdapter

from benchmark.acquire.manifest import build_manifest, write_manifest
from benchmark.data.cards import Card, load_cards
from benchmark.data.layouts import Layout, path_pattern, read_layout
from benchmark.data.manifests import published_images, read_manifest
from benchmark.errors import UserError
from benchmark.files import sha256_file

DATASETS = REPOSITORY / "datasets"


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return load_cards(DATASETS)


def draw(folder: Path, *paths: str, size: tuple[int, int] = (24, 20)) -> None:
    """Write an image of its own at every path."""
    for path in paths:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.rglob("*.*")))
        Image.new("RGB", size, (number % 256, number // 256, 90)).save(file)


def layout(**settings: object) -> Layout:
    return TypeAdapter(Layout).validate_python(settings)


def labels(folder: Path, card: Card) -> dict[str, str]:
    """Path → label of a folder read by a card's layout."""
    table = read_layout(folder, card.layout)
    return dict(zip(table["path"], table["label"], strict=True))


def refusal(folder: Path, given: Layout) -> str:
    with pytest.raises(UserError) as caught:
        build_manifest(folder, given)
    return str(caught.value)


# ------------------------------------------------------------------ the published forms


def test_raabin_is_read_with_its_smears(tmp_path, cards):
    draw(tmp_path, "Train/Basophil/20190526_162951_0.jpg", "Train/Neutrophil/95-8-27-1_12_3.jpg")
    table = read_layout(tmp_path, cards["raabin"].layout)
    assert table["label"].tolist() == ["Basophil", "Neutrophil"]
    assert table["group"].tolist() == ["20190526", "95-8-27-1"]


def test_the_two_test_parts_of_raabin_are_told_apart(tmp_path, cards):
    draw(tmp_path, "TestA/Monocyte/95-1_1_0.jpg", "TestB/Neutrophil/96-2_1_0.jpg")
    table = read_layout(tmp_path, cards["raabin-test"].layout)
    assert table["part"].tolist() == ["TestA", "TestB"]
    assert table["group"].tolist() == ["95-1", "96-2"]


def test_pbc_has_a_class_by_folder_and_a_finer_one_by_prefix(tmp_path, cards):
    draw(tmp_path, "ig/MMY_12345.jpg", "neutrophil/NEUTROPHIL_1.jpg", "platelet/PLATELET_9.jpg")
    table = read_layout(tmp_path, cards["pbc"].layout)
    assert table["label"].tolist() == ["ig", "neutrophil", "platelet"]
    assert table["fine_label"].tolist() == ["MMY", "NEUTROPHIL", "PLATELET"]


def test_the_kaggle_set_has_three_parts_and_shouted_labels(tmp_path, cards):
    draw(tmp_path, "TRAIN/MONOCYTE/_0_1.jpeg", "TEST_SIMPLE/EOSINOPHIL/_1_2.jpeg")
    table = read_layout(tmp_path, cards["bccd-kaggle"].layout)
    assert table["split"].tolist() == ["TEST_SIMPLE", "TRAIN"]
    assert table["label"].tolist() == ["Eosinophil", "Monocyte"]


@pytest.mark.parametrize(
    ("name", "number", "column"), [("jtsc", 1, "class label"), ("cellavision", 2, "class")]
)
def test_images_with_masks_and_a_table_of_numbers(tmp_path, cards, name, number, column):
    draw(
        tmp_path,
        *(f"Dataset {number}/{i:03d}.{kind}" for i in (1, 2, 30) for kind in ("bmp", "png")),
    )
    table = f"image ID,{column}\n1,2\n2,1\n30,5\n"
    (tmp_path / f"Class Labels of Dataset {number}.csv").write_text(table)
    table = read_layout(tmp_path, cards[name].layout).set_index("path")
    assert table["label"].to_dict() == {
        f"Dataset {number}/001.bmp": "Lymphocyte",
        f"Dataset {number}/002.bmp": "Neutrophil",
        f"Dataset {number}/030.bmp": "Basophil",
    }
    assert table["mask"].tolist() == [f"Dataset {number}/{i}.png" for i in ("001", "002", "030")]


def lisc(folder: Path, size: tuple[int, int] = (720, 576)) -> None:
    """Fields and masks of LISC, one of each class, and one field of mixed classes."""
    for name in ("Baso", "eosi", "lymp", "mono", "neut", "mixt"):
        draw(folder, f"Main Dataset/{name}/1.bmp", size=size)
        masks = f"Ground Truth Segmentation/{name}/areaforexpert1"
        draw(folder, f"{masks}/1_expert.bmp", size=(712, 568))


def test_lisc_is_read_without_its_mixed_fields_and_with_its_masks(tmp_path, cards):
    lisc(tmp_path)
    table = build_manifest(tmp_path, cards["lisc"].layout)
    assert table["label"].tolist() == ["baso", "eosi", "lymp", "mono", "neut"]
    assert table["mask"].tolist()[0] == "Ground Truth Segmentation/Baso/areaforexpert1/1_expert.bmp"
    assert set(table["width"]) == {720}


def test_the_impostor_of_lisc_is_refused_however_its_folders_are_named(tmp_path, cards):
    lisc(tmp_path / "a", size=(224, 224))
    line = refusal(tmp_path / "a", cards["lisc"].layout)
    assert "5 of 5 images are 224 x 224 px, published as 720 x 576: another set" in line
    draw(tmp_path / "b", *(f"EOSINOPHIL/_{i}_1.jpeg" for i in range(4)), size=(224, 224))
    line = refusal(tmp_path / "b", cards["lisc"].layout)
    assert "no image of the form Main Dataset/{label}/*.bmp, 4 others" in line


def test_the_crops_of_lisc_are_named_in_two_json_files(tmp_path, cards):
    draw(tmp_path, "Train/a.bmp", "Train/b.bmp", "Test/a.bmp")
    (tmp_path / "Train.json").write_text(json.dumps({"a.bmp": 1, "b.bmp": 5}))
    (tmp_path / "Test.json").write_text(json.dumps({"a.bmp": 3}))
    assert labels(tmp_path, cards["lisc-crops"]) == {
        "Train/a.bmp": "Neutrophil",
        "Train/b.bmp": "Basophil",
        "Test/a.bmp": "Monocyte",
    }


def test_matek_and_mll23_are_class_folders_of_tiff(tmp_path, cards):
    draw(tmp_path / "a", "MMZ/MMZ_0001.tiff", "metymyelocyte/x.tiff", size=(400, 400))
    assert set(labels(tmp_path / "a", cards["matek19"]).values()) == {"MMZ"}
    draw(tmp_path / "b", "normoblast/1.TIF", "hairy_cell/2.tiff", size=(288, 288))
    table = build_manifest(tmp_path / "b", cards["mll23"].layout)
    assert table["label"].tolist() == ["hairy_cell", "normoblast"]


CHULA = """\
Order.jpg,Original name(label machine),Summary by 5 experts,,
000001.jpg,SNE_1.jpg,"SNE\t",,Abbreviation
000002.jpg,EO_2.jpg,Eosinophill,,"LQI: Low Quality Image, unsuitable"
000003.jpg,MO_3.jpg,Monocyte ,,
000004.jpg,BL_4.jpg,Myeolblast,,
000005.jpg,BNE_5.jpg,BNE,,
000006.jpg,?,,,
"""


def test_the_typing_errors_of_chula_are_repaired(tmp_path, cards):
    draw(tmp_path, *(f"images/00000{i}.jpg" for i in range(1, 7)))
    (tmp_path / "labels.csv").write_text(CHULA)
    found = labels(tmp_path, cards["chula8"])
    assert list(found.values()) == ["SNE", "Eosinophil", "Monocyte", "Myeloblast", "BNE"]
    assert set(found.values()) <= set(cards["chula8"].labels["wbc5"])


def test_wbcbench_is_three_tables_and_the_table_is_the_part(tmp_path, cards):
    for table, folder in (
        ("phase1_label", "phase1"),
        ("phase2_train", "phase2/train"),
        ("phase2_eval", "phase2/eval"),
    ):
        draw(tmp_path, f"{folder}/1.jpg", size=(368, 368))
        (tmp_path / f"{table}.csv").write_text("ID,labels\n1.jpg,PLY\n")
    table = build_manifest(tmp_path, cards["wbcbench2026"].layout)
    assert table["part"].tolist() == ["phase1_label", "phase2_eval", "phase2_train"]
    domains = cards["wbcbench2026"].domains.values()
    assert {d.select["part"] for d in domains} == set(table["part"])


def npz(path: Path, size: int = 224, dtype: type = np.uint8) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {}
    for part, number in (("train", 3), ("val", 1), ("test", 2)):
        arrays[f"{part}_images"] = generator.integers(0, 256, (number, size, size, 3)).astype(dtype)
        arrays[f"{part}_labels"] = np.arange(number, dtype=np.uint8)[:, None]
    np.savez(path, **arrays)
    return arrays


def test_bloodmnist_is_unpacked_without_loss(tmp_path, cards):
    arrays = npz(tmp_path / "bloodmnist_224.npz")
    table = build_manifest(tmp_path, cards["bloodmnist"].layout)
    assert table["path"].tolist() == [
        "test/00000.png", "test/00001.png",
        "train/00000.png", "train/00001.png", "train/00002.png", "val/00000.png",
    ]  # fmt: skip
    assert table["label"].tolist()[2:5] == ["basophil", "eosinophil", "erythroblast"]
    pixels = np.asarray(Image.open(tmp_path / "test/00001.png"))
    assert (pixels == arrays["test_images"][1]).all()


def test_an_image_unpacked_before_is_kept_and_one_lost_is_made_again(tmp_path, cards):
    npz(tmp_path / "bloodmnist_224.npz")
    first = build_manifest(tmp_path, cards["bloodmnist"].layout)
    (tmp_path / "val/00000.png").unlink()
    before = (tmp_path / "test/00000.png").stat().st_mtime_ns
    assert build_manifest(tmp_path, cards["bloodmnist"].layout).equals(first)
    assert (tmp_path / "test/00000.png").stat().st_mtime_ns == before


def test_b04_of_another_archive_all_images_are_unpacked_anew(tmp_path, cards):
    """Else the labels of the second would stand over the images of the first."""
    layout = cards["bloodmnist"].layout
    npz(tmp_path / "bloodmnist_224.npz", size=28)
    refusal(tmp_path, layout)
    arrays = npz(tmp_path / "bloodmnist_224.npz")
    build_manifest(tmp_path, layout)
    exchanged = arrays | {"train_images": arrays["train_images"][::-1]}
    np.savez(tmp_path / "bloodmnist_224.npz", **exchanged)
    (tmp_path / "train/notes.txt").write_text("mine")
    (tmp_path / "train/00007.png").write_bytes(b"left of a larger archive")
    build_manifest(tmp_path, layout)
    for number, pixels in enumerate(exchanged["train_images"]):
        found = np.asarray(Image.open(tmp_path / f"train/{number:05d}.png"))
        assert (found == pixels).all()
    names = {path.name for path in (tmp_path / "train").iterdir()}
    assert names == {"00000.png", "00001.png", "00002.png", "notes.txt"}


# ------------------------------------------------------------------ forms of paths


@pytest.mark.parametrize(
    ("form", "path", "expected"),
    [
        ("**/{label}/*", "a/b/mono/x.png", {"label": "mono"}),
        ("**/{label}/*", "mono/x.png", {"label": "mono"}),
        ("**/{label}/*", "x.png", None),
        ("**/{label}_*", "deep/in/EO_1_2.png", {"label": "EO"}),
        ("{label}/{group}_*", "mono/12-3_4_5.png", {"label": "mono", "group": "12-3"}),
        ("a+(b)/{label}.*", "a+(b)/mono.png", {"label": "mono"}),
        ("a+(b)/{label}.*", "aab/mono.png", None),
        ("{label}/*.jpg", "mono/x.JPG", {"label": "mono"}),
        ("{label}/*.jpg", "mono/y/x.jpg", None),
    ],
)
def test_a_form_of_paths(form, path, expected):
    match = path_pattern(form).fullmatch(path)
    assert (match and match.groupdict()) == expected


def test_without_a_form_the_folder_or_the_prefix_is_the_label(tmp_path):
    draw(tmp_path, "Größe Ä/мono_1.png", "Größe Ä/мono_2.png")
    by_folder = read_layout(tmp_path, layout(reader="class_folders"))
    assert by_folder["label"].tolist() == ["Größe Ä"] * 2
    by_prefix = read_layout(tmp_path, layout(reader="file_prefix"))
    assert by_prefix["label"].tolist() == ["мono"] * 2


def test_files_that_are_no_images_and_hidden_ones_are_passed_over(tmp_path):
    draw(tmp_path, "mono/1.png", "mono/._1.png", ".trash/2.png", "__MACOSX/mono/1.png")
    (tmp_path / "mono/notes.txt").write_text("x")
    table = read_layout(tmp_path, layout(reader="class_folders"))
    assert table["path"].tolist() == ["mono/1.png"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_may_be_separated_otherwise_and_begin_with_a_byte_order_mark(tmp_path, separator):
    draw(tmp_path, "Zelle ä.png")
    text = separator.join(["file", "cell", "patient"]) + "\n"
    text += separator.join(["Zelle ä.png", '"a, b; c"', "p1"]) + "\n"
    (tmp_path / "t.csv").write_text("\ufeff" + text, encoding="utf-8")
    given = layout(
        reader="csv_labels", tables={"t.csv": "{image}"}, image="file", label="cell",
        columns={"group": "patient"},
    )  # fmt: skip
    table = read_layout(tmp_path, given)
    assert table.to_dict("records") == [{"path": "Zelle ä.png", "label": "a, b; c", "group": "p1"}]


# ------------------------------------------------------------------ manifests


def test_a_manifest_states_what_the_file_is(tmp_path):
    draw(tmp_path, "mono/1.png", size=(30, 40))
    (row,) = build_manifest(tmp_path, layout(reader="class_folders")).to_dict("records")
    assert row == {
        "path": "mono/1.png",
        "sha256": sha256_file(tmp_path / "mono/1.png"),
        "bytes": (tmp_path / "mono/1.png").stat().st_size,
        "width": 30,
        "height": 40,
        "label": "mono",
    }


def own_copy(root: Path, cards: dict[str, Card], **changes: object) -> tuple[Path, Card]:
    """A `datasets/` folder with a whole copy of LISC's published crops in it, three images."""
    folder = root / "raw" / "lisc_crops"
    draw(folder, "Train/a.bmp", "Train/b.bmp", "Test/a.bmp")
    (folder / "Train.json").write_text(json.dumps({"a.bmp": 1, "b.bmp": 5}))
    (folder / "Test.json").write_text(json.dumps({"a.bmp": 3}))
    return root, cards["lisc-crops"].model_copy(update=changes)


def test_the_manifest_made_of_an_own_copy_is_read_as_any_other(tmp_path, cards):
    datasets, card = own_copy(tmp_path, cards)
    assert write_manifest(datasets, card) == tmp_path / "raw/.manifests/lisc-crops.csv"
    table = read_manifest(datasets, card)
    assert table["label"].tolist() == ["Monocyte", "Neutrophil", "Basophil"]
    assert table["part"].tolist() == ["Test", "Train", "Train"]


def test_other_numbers_than_counted_are_refused_and_those_of_the_literature_are_not(
    tmp_path, cards
):
    counts = {"Neutrophil": 1, "Basophil": 2, "Monocyte": 1}
    datasets, card = own_copy(tmp_path, cards, counts=counts, counts_source="counted")
    with pytest.raises(
        UserError, match="not the published set: lisc-crops Basophil: 1 images, 2 pub"
    ):
        write_manifest(datasets, card)
    assert not (datasets / card.manifest).exists()
    write_manifest(datasets, card.model_copy(update={"counts_source": "literature"}))
    assert (datasets / card.manifest).exists()


def test_a_label_that_nobody_knows_is_refused(tmp_path, cards):
    datasets, card = own_copy(tmp_path, cards)
    (datasets / "raw/lisc_crops/Test.json").write_text(json.dumps({"a.bmp": 6}))
    with pytest.raises(UserError, match=r"unknown label '6': repair it in layout\.labels"):
        write_manifest(datasets, card)


@pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="needs images: set WBC_MIRROR")
@pytest.mark.parametrize("name", ["raabin", "pbc", "bccd", "bccd-kaggle", "jtsc", "cellavision"])
def test_the_mirror_read_by_its_layout_is_the_core_of_the_shipped_manifest(cards, name):
    card = cards[name]
    built = build_manifest(Path(os.environ["WBC_MIRROR"]) / card.folder, card.layout)
    shipped = published_images(DATASETS, card)
    shipped = shipped[shipped["core"] == "1"] if "core" in shipped else shipped
    columns = [column for column in built if column in shipped]
    assert {"label", "sha256", "width"} <= set(columns)
    shipped = shipped[columns].sort_values("path", ignore_index=True)
    pd.testing.assert_frame_equal(
        built[columns].astype(str), shipped.astype(str), check_dtype=False
    )


# ------------------------------------------------------------------ what is refused


def csv_set(folder: Path, names: list[str]) -> Layout:
    """A set of one image `1.png` and a table that names others."""
    draw(folder, "1.png")
    (folder / "t.csv").write_text("file,cell\n" + "".join(f"{name},mono\n" for name in names))
    return layout(reader="csv_labels", tables={"t.csv": "{image}"}, image="file", label="cell")


def test_a_table_that_names_missing_files_is_refused(tmp_path):
    line = refusal(tmp_path, csv_set(tmp_path, ["1.png", "2.png", "3.png"]))
    assert "2 of 3 files are missing (named in t.csv), first 2.png" in line


@pytest.mark.parametrize("name", ["../1.png", "/etc/passwd", "a/../../1.png", "..\\1.png"])
def test_a_table_that_names_files_elsewhere_is_refused(tmp_path, name):
    line = refusal(tmp_path / "set", csv_set(tmp_path / "set", [name]))
    assert f"{name} (named in t.csv): leads out of its folder" in line


def test_an_image_labelled_twice_is_refused(tmp_path):
    line = refusal(tmp_path, csv_set(tmp_path, ["1.png", "1.png"]))
    assert "1.png is labelled twice" in line


def test_a_table_without_the_column_names_the_nearest(tmp_path):
    given = csv_set(tmp_path, ["1.png"])
    (tmp_path / "t.csv").write_text("file,cells\n1.png,mono\n")
    assert "no column 'cell'; did you mean 'cells'?" in refusal(tmp_path, given)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is not a CSV table"), (b"\xff\xfe\x00", "is not a CSV table"), (None, "is missing")],
)
def test_a_table_that_is_none_is_refused(tmp_path, content, expected):
    given = csv_set(tmp_path, ["1.png"])
    (tmp_path / "t.csv").unlink() if content is None else (tmp_path / "t.csv").write_bytes(content)
    assert expected in refusal(tmp_path, given)


@pytest.mark.parametrize("text", ["<html>", "[1, 2]", None])
def test_an_index_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "Train").mkdir()
    if text is not None:
        (tmp_path / "Train.json").write_text(text)
    line = refusal(tmp_path, layout(reader="json_index", files={"Train.json": "Train"}))
    assert "Train.json" in line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_b16_an_index_in_any_unicode_is_read_and_two_labels_of_one_file_are_refused(
    tmp_path, encoding
):
    draw(tmp_path, "Train/ä.bmp")
    given = layout(reader="json_index", files={"Train.json": "Train"})
    (tmp_path / "Train.json").write_bytes('{"ä.bmp": 1}'.encode(encoding))
    assert read_layout(tmp_path, given)["label"].tolist() == ["1"]
    (tmp_path / "Train.json").write_bytes('{"ä.bmp": 1, "ä.bmp": 2}'.encode(encoding))
    assert "'ä.bmp' stands there 2 times" in refusal(tmp_path, given)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    draw(tmp_path, "secret/1.png", "set/mono/2.png")
    (tmp_path / "set/mono/1.png").symlink_to(tmp_path / "secret/1.png")
    given = layout(reader="class_folders")
    assert "mono/1.png is a link that leaves" in refusal(tmp_path / "set", given)
    (tmp_path / "set/mono/1.png").unlink()
    (tmp_path / "set/eosi").symlink_to(tmp_path / "secret")
    assert "eosi is a link that leaves" in refusal(tmp_path / "set", given)


def test_a_folder_that_is_itself_a_link_is_read(tmp_path):
    draw(tmp_path, "disk/mono/1.png")
    (tmp_path / "set").symlink_to(tmp_path / "disk")
    assert len(build_manifest(tmp_path / "set", layout(reader="class_folders"))) == 1


def test_c7_masks_that_nothing_reads_are_not_demanded(tmp_path):
    draw(tmp_path, "mono/1.png")
    draw(tmp_path, "mono/2.png")
    (tmp_path / "mono/2.txt").write_text("as good as a mask")
    masked = layout(reader="class_folders", mask="{parent}/{stem}.txt")
    assert build_manifest(tmp_path, masked)["mask"].tolist() == ["", "mono/2.txt"]


def test_a_page_saved_as_image_is_refused(tmp_path):
    draw(tmp_path, "mono/1.png")
    (tmp_path / "mono/2.png").write_text("<html>not found</html>")
    line = refusal(tmp_path, layout(reader="class_folders"))
    assert "2.png is not an image" in line


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    given = layout(reader="class_folders")
    assert "no image at all" in refusal(tmp_path, given)
    assert "is no folder" in refusal(tmp_path / "nowhere", given)


NPZ = {"reader": "npz", "file": "a.npz"}


def test_an_archive_that_is_cut_or_a_page_or_missing_is_refused(tmp_path):
    assert "is missing" in refusal(tmp_path, layout(**NPZ))
    (tmp_path / "a.npz").write_text("<html>")
    assert "is damaged or no .npz" in refusal(tmp_path, layout(**NPZ))
    npz(tmp_path / "a.npz", size=32)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    assert "is damaged or no .npz" in refusal(tmp_path, layout(**NPZ))


def test_an_archive_of_something_else_is_refused_before_it_is_loaded(tmp_path):
    npz(tmp_path / "a.npz", size=32, dtype=np.float64)
    assert "an array (3, 32, 32, 3) of float64" in refusal(tmp_path, layout(**NPZ))
    np.savez(tmp_path / "a.npz", images=np.zeros(3, np.uint8))
    assert "train_labels.npy" in refusal(tmp_path, layout(**NPZ))


def test_an_archive_that_promises_more_than_it_holds_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (900_000, 1)}
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train_labels.npy", header.getvalue() + b"\x00" * 10)
    assert "it ends too early" in refusal(tmp_path, layout(**NPZ))
    assert not (tmp_path / "train").exists()
