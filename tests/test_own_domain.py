"""A laboratory's own folder: it becomes a target with one command, or nothing is written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, REPOSITORY, edit
from PIL import Image, ImageOps
from support.laboratory import ADD, RAW, cell, deep_png, everything, lab, put

from benchmark.audit.images import Look
from benchmark.audit.near_duplicates import near_duplicates
from benchmark.audit.pairs import EQUAL
from benchmark.data.cards import Card, load_cards, read_label_spaces
from benchmark.data.manifests import published_images, read_manifest
from benchmark.data.prepare import decode_all
from benchmark.errors import UserError
from benchmark.files import read_json, read_yaml
from benchmark.laboratory.judge import crop_advice, judge, nuclei
from benchmark.laboratory.labels import likely_type
from benchmark.schema import parse
from benchmark.settings import load_params


def found() -> dict[str, str]:
    """Path → finding of the images that are not simply used."""
    table = pd.read_csv(RAW / "audit.csv").groupby("path")["finding"].first()
    return table.to_dict()


def manifest() -> pd.DataFrame:
    """What the harness uses of the domain, by path."""
    return read_manifest(Path("datasets"), load_cards(Path("datasets"))["our-lab"]).set_index(
        "path"
    )


def test_a_folder_becomes_a_scored_target_without_training(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "    subset: all\n", "    subset: all # a comment of mine\n")
    assert wbc_shift("train", "-p", "tiny").status == 0
    states = {f: f.stat().st_mtime_ns for f in Path("results/tiny/checkpoints").iterdir()}
    before = shutil.copy("results/tiny/plans/first.json", "before.json")
    lab()
    outcome = wbc_shift(*ADD, "--crop", "0.8")
    assert outcome.status == 0, outcome.err
    assert "our-lab: 10 images used (2 neutrophil, 2 lymphocyte" in outcome.out
    assert "# a comment of mine" in Path("params.yaml").read_text()
    assert wbc_shift("pipeline", "--check").status == 0
    assert "datasets/our-lab.yaml" in Path("dvc.yaml").read_text()
    for command in ("fetch", "prepare", "plan", "audit", "train"):
        outcome = wbc_shift(command, "-p", "tiny")
        assert outcome.status == 0, outcome.err
    assert {f: f.stat().st_mtime_ns for f in Path("results/tiny/checkpoints").iterdir()} == states
    run = Path("results/tiny/runs/resnet10t-bn-ce/toy-a_to_others/seed0")
    predicted = pd.read_parquet(run / "predictions.parquet").query("domain == 'our-lab'")
    assert predicted["label"].value_counts().to_dict() == dict.fromkeys(range(5), 2)
    assert read_json(Path("results/tiny/data.json"))["domains"]["our-lab"]["crop"] == 0.8
    assert wbc_shift("evaluate", "-p", "tiny").status == 0
    assert "our-lab" in set(pd.read_parquet("results/tiny/metrics.parquet")["domain"])
    # C.6: it has its own column, and the means over targets stay those of the published sets.
    scenario = read_json(Path("results/tiny/plans/first.json"))["runs"][0]["scenario"]
    assert scenario["targets"] == ["toy-b", "our-lab"]
    assert scenario["own"] == ["our-lab"]
    assert "own" not in read_json(before)["runs"][0]["scenario"]


def test_a_csv_names_images_labels_and_groups(project: Path, wbc_shift) -> None:
    for number in range(4):
        put(f"bilder/zelle {number} ä.png", cell("monocyte", number))
    rows = [f"bilder/zelle {n} ä.png;Mono;p{n // 2}" for n in range(4)]
    Path("labels.csv").write_text("path;label;group\n" + "\n".join(rows) + "\n", encoding="utf-8")
    outcome = wbc_shift(*ADD, "--labels", "labels.csv", "--map", "Mono = monocyte")
    assert outcome.status == 0, outcome.err
    assert sorted(manifest()["group"]) == ["p0", "p0", "p1", "p1"]
    assert load_params(Path("params.yaml")).profile("tiny").domains == ["toy-a", "toy-b", "our-lab"]
    # The manifest can be made again from the folder alone.
    first = published_images(Path("datasets"), load_cards(Path("datasets"))["our-lab"])
    Path("datasets/raw/.manifests/our-lab.csv").unlink()
    assert wbc_shift("fetch", "our-lab").status == 0
    again = published_images(Path("datasets"), load_cards(Path("datasets"))["our-lab"])
    pd.testing.assert_frame_equal(first, again)


def test_labels_of_unknown_type_are_listed_in_one_line_and_nothing_is_written(
    project: Path, wbc_shift
) -> None:
    lab()
    put("Neutro/1.png", cell("neutrophil", 90))
    put("dirt/1.png", cell("neutrophil", 91))
    before = everything()
    outcome = wbc_shift(*ADD)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "'Neutro' (1 images), 'dirt' (1 images)" in outcome.err
    assert "--map 'Neutro=neutrophil'" in outcome.err
    assert everything() == before
    assert wbc_shift(*ADD, "--map", "Neutro=neutrophil", "--map", "dirt=unusable").status == 0
    labels = load_cards(Path("datasets"))["our-lab"].labels
    assert labels["wbc5"]["Neutro"] == "neutrophil"
    assert labels["wbc5"]["dirt"] is None
    assert labels["wbc13"]["Basophils"] == "BA"


def test_a_failure_halfway_leaves_nothing(project: Path, wbc_shift, monkeypatch) -> None:
    lab()
    before = everything()

    def fails(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("benchmark.laboratory.transaction.write_pipelines", fails)
    with pytest.raises(OSError, match="gone"):
        wbc_shift(*ADD)
    assert everything() == before
    monkeypatch.undo()


@pytest.mark.parametrize("copied", [0, 3, 10])
def test_d9_a_killed_command_leaves_no_hidden_copy_beyond_the_next_one(
    project: Path, wbc_shift, copied: int
) -> None:
    lab()
    script = (
        "import os, shutil, signal, sys\n"
        "from pathlib import Path\n"
        "from benchmark import cli\n"
        "copied, whole = [], shutil.copyfile\n"
        "def die(*_):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def copy(*names):\n"
        "    copied.append(names)\n"
        f"    return whole(*names) if len(copied) <= {copied} else die()\n"
        "shutil.copyfile, Path.rename = copy, die\n"
        f"sys.argv = ['wbc-shift', *{ADD}]\n"
        "cli.main()\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    )
    assert process.returncode == -signal.SIGKILL
    raw = Path("datasets/raw")
    assert any(path.name.startswith(".our-lab") for path in raw.iterdir())
    assert wbc_shift(*ADD).status == 0
    left = {path.name for path in raw.iterdir() if path.suffix != ".lock"}
    assert left == {"our-lab", ".manifests"}


def test_what_shows_no_cell_is_left_out_and_told(project: Path, wbc_shift) -> None:
    lab()
    put("Monocytes/blank.png", Image.new("RGB", (64, 64), "white"))
    put("Monocytes/dot.png", Image.new("RGB", (1, 1), "red"))
    put("Monocytes/tiny.png", cell("monocyte", 50).resize((12, 12)))
    Path("lab/Monocytes/page.jpg").write_text("<html>not found</html>")
    whole = Path("lab/Monocytes/0.png").read_bytes()
    Path("lab/Monocytes/cut.png").write_bytes(whole[: len(whole) // 2])
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert "5 left out" in outcome.out
    names = ("blank.png", "cut.png", "dot.png", "page.jpg", "tiny.png")
    assert found() == {f"Monocytes/{name}": "left out" for name in names}
    assert len(manifest()) == 10
    assert not (RAW / "Monocytes" / "page.jpg").exists()


def test_b11_b18_d12_of_every_file_it_is_said_what_became_of_it(project: Path, wbc_shift) -> None:
    """Suffixes of every kind, pages of a TIFF, what is no image, what would wait for ever."""
    lab(1)
    suffixes = {"Monocytes": "jpe", "Eosinophils": "jfif", "Basophils": "JPG.jpg"}
    for number, (folder, suffix) in enumerate(suffixes.items(), start=60):
        put(f"{folder}/more.{suffix}", cell(folder.lower()[:-1], number), format="JPEG", quality=95)
    pages = [cell("neutrophil", number) for number in (70, 71, 72)]
    put("Neutrophils/stack.tif", pages[0], save_all=True, append_images=pages[1:])
    Path("lab/Monocytes/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    Path("lab/Monocytes/run.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo("lab/Monocytes/fifo.png")
    Path("lab/Monocytes/notes.txt").write_text("not an image, and no word is lost on it")
    put("loose.png", cell("monocyte", 80))
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert "our-lab: 9 images used (2 neutrophil, 1 lymphocyte, 2 monocyte, 2 eosin" in outcome.out
    assert "4 left out; 1 converted: see datasets/raw/our-lab/audit.csv" in outcome.out
    because = pd.read_csv(RAW / "audit.csv").set_index("path")["because"].to_dict()
    assert because.pop("Monocytes/photo.heic").startswith("is in no format that is read (PNG")
    assert because == {
        "Neutrophils/stack.tif": "first of 3 pages",
        "Monocytes/run.png": "is not an image",
        "Monocytes/fifo.png": "is no regular file",
        "loose.png": "lies in no folder of a cell type",
    }
    assert {image for image in manifest().index if "more" in image or "stack" in image} == {
        "Neutrophils/stack.tif",
        *(f"{folder}/more.{suffix}" for folder, suffix in suffixes.items()),
    }


def test_b02_b12_images_of_a_12_bit_camera_and_of_empty_alpha_are_used_as_they_look(
    project: Path, wbc_shift
) -> None:
    """And prepared with the pixels that the same cells have as plain images."""
    for place, name in enumerate(CLASSES):
        put(f"{name}/0.png", cell(name, place))
    shutil.copytree("lab", "plain")
    for place, name in enumerate(CLASSES):
        picture = np.asarray(cell(name, place))
        if place < 3:
            Path(f"lab/{name}/0.png").write_bytes(deep_png(picture.astype(np.uint16) << 4))
        else:
            empty = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
            put(f"{name}/0.png", Image.fromarray(empty))
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert "our-lab: 5 images used" in outcome.out
    assert "5 converted" in outcome.out
    because = pd.read_csv(RAW / "audit.csv")["because"].value_counts().to_dict()
    assert because == {
        "12-bit values in a 16-bit file": 3,
        "transparent throughout, so taken as opaque": 2,
    }
    files = [Path(f"{name}/0.png") for name in CLASSES]
    found = decode_all([RAW / file for file in files], 1.0, 48, "our-lab")
    expected = decode_all(["plain" / file for file in files], 1.0, 48, "plain")
    np.testing.assert_array_equal(found, expected)


def test_of_copies_one_stays_and_none_where_labels_disagree(project: Path, wbc_shift) -> None:
    lab()
    put("Monocytes/again.png", cell("monocyte", 20))
    put("Basophils/not.png", cell("eosinophil", 30))
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert found() == {
        "Monocytes/again.png": "not used",
        "Basophils/not.png": "not used",
        "Eosinophils/0.png": "not used",
    }
    assert len(manifest()) == 9


def test_one_cell_photographed_twice_is_one_group(prepared: Path, wbc_shift) -> None:
    lab()
    put("Monocytes/turned.jpg", ImageOps.mirror(cell("monocyte", 20).rotate(90)), quality=80)
    assert wbc_shift(*ADD).status == 0
    groups = manifest()["group"]
    assert groups["Monocytes/turned.jpg"] == groups["Monocytes/0.png"]
    assert groups.nunique() == 10
    assert wbc_shift("audit", "-p", "tiny").status == 0


def test_images_of_another_set_are_not_used(prepared: Path, wbc_shift) -> None:
    lab()
    theirs = Path("datasets/raw/toy/a/monocyte")
    put("Monocytes/jpeg.jpg", Image.open(theirs / "slide0_0.jpg").rotate(180), quality=70)
    Path("lab/Monocytes/same.jpg").write_bytes((theirs / "slide1_0.jpg").read_bytes())
    assert wbc_shift(*ADD).status == 0
    table = pd.read_csv(RAW / "audit.csv").set_index("path")["because"].to_dict()
    assert table == {
        "Monocytes/jpeg.jpg": "the same cell as toy/a/monocyte/slide0_0.jpg of toy-a",
        "Monocytes/same.jpg": "the same file as a/monocyte/slide1_0.jpg of toy",
    }


def test_a_folder_of_nothing_but_another_sets_files_is_refused_though_that_set_is_not_here(
    prepared: Path, wbc_shift
) -> None:
    (Path("lab") / "monocyte").mkdir(parents=True)
    copied = Path("lab/monocyte/mine.jpg")
    copied.write_bytes(Path("datasets/raw/toy/a/monocyte/slide0_0.jpg").read_bytes())
    shutil.rmtree("datasets/raw/toy")
    outcome = wbc_shift(*ADD)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "mine.jpg: the same file as a/monocyte/slide0_0.jpg of toy" in outcome.err
    assert not RAW.exists()


def test_images_of_every_kind_are_taken(project: Path, wbc_shift) -> None:
    lab()
    grey = np.asarray(cell("monocyte", 60).convert("L")).astype(np.uint16) * 257
    put("Monocytes/deep.png", Image.fromarray(grey))
    put("Monocytes/cmyk.tif", cell("monocyte", 61).convert("CMYK"))
    put("Monocytes/palette.gif", cell("monocyte", 62).convert("P"))
    put("Monocytes/clear.png", cell("monocyte", 63).convert("RGBA"))
    turned = Image.Exif()
    turned[0x0112] = 6
    put("Monocytes/turned.jpg", cell("monocyte", 64), exif=turned)
    assert wbc_shift(*ADD).status == 0
    assert len(manifest()) == 15


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        ("path,label\n../secret.png,monocyte\n", "leads out of its folder"),
        ("path,label\n/etc/passwd,monocyte\n", "leads out of its folder"),
        ("path,label\nnone.png,monocyte\n", "1 of 1 files are missing"),
        ("image,label\nnone.png,monocyte\n", "no column 'path'"),
        ("path,label,group\nMonocytes/0.png,monocyte,\n", "has no group"),
        ("", "not a CSV table"),
    ],
)
def test_a_csv_that_cannot_be_followed_is_one_line(
    project: Path, wbc_shift, csv: str, said: str
) -> None:
    lab()
    cell("monocyte", 1).save("secret.png")
    Path("labels.csv").write_text(csv)
    before = everything()
    outcome = wbc_shift(*ADD, "--labels", "labels.csv")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert said in outcome.err
    assert everything() == before


def test_a_link_out_of_the_folder_is_refused(project: Path, wbc_shift) -> None:
    lab()
    cell("monocyte", 1).save("secret.png")
    os.symlink(Path("secret.png").resolve(), "lab/Monocytes/link.png")
    outcome = wbc_shift(*ADD)
    assert outcome.status == 1
    assert "is a link that leaves lab" in outcome.err
    assert not RAW.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--name", "toy-a"), "has that name already"),
        (("--name", "../lab"), "use small letters"),
        (("--profile", "tony"), "did you mean 'tiny'"),
        (("--map", "Monocites=monocyte"), "did you mean 'Monocytes'"),
        (("--map", "Monocytes=monocite"), "did you mean 'monocyte'"),
        (("--labels", "none.csv"), "none.csv is missing"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(
    project: Path, wbc_shift, arguments: tuple[str, str], said: str
) -> None:
    lab()
    before = everything()
    outcome = wbc_shift(*ADD, *arguments)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert said in outcome.err
    assert everything() == before


@pytest.mark.parametrize("path", ["../secret", "/etc", "a/../../b", "a\\b"])
@pytest.mark.parametrize("place", ["folder", "manifest", "archive", "take"])
def test_a_card_cannot_lead_out_of_its_folders(project: Path, path: str, place: str) -> None:
    card = read_yaml(Path("datasets/toy.yaml"))
    archive = {"file": "toy.zip", "take": "toy", "folder": "toy"}
    if place == "archive":
        archive["folder"] = path
    elif place == "take":
        archive["take"] = path
    else:
        card[place] = path
    with pytest.raises(UserError, match="leads out of its folder"):
        parse(Card, card | {"archives": [archive]}, "toy.yaml")


def test_where_the_images_are_not_fetch_says_what_to_copy(project: Path, wbc_shift) -> None:
    lab()
    assert wbc_shift(*ADD).status == 0
    RAW.rename("elsewhere")
    Path("datasets/raw/.manifests/our-lab.csv").unlink()
    outcome = wbc_shift("fetch", "our-lab")
    assert outcome.status == 1
    assert "copy datasets/raw/our-lab from the machine that made" in outcome.err


# ------------------------------------------------------------------ tables and folders of people


def shelf(*names: str) -> None:
    """Images of three kinds in `lab/img`, and the table's rows of them are up to the test."""
    for number, name in enumerate(names):
        put(f"img/{name}", cell(CLASSES[number % 3], number))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("path,label\r\nimg\\a.png,neutrophil\r\n.\\img\\b.png,monocyte,\r\n", ""),
        ("sep=;\r\npath;label\r\nimg/a.png;neutrophil\r\nimg/b.png;monocyte\r\n", ""),
        ("Path , LABEL\nimg/a.png , neutrophil \nimg/b.png, Monocytes\n", ""),
        ("Slides of May,\npath,label\nimg/a.png,neutrophil\nimg/b.png,monocyte\n", "line 2"),
        ("path,label\nimg/a.png,neutrophil\nimg/b.png,monocyte\nimg/c.png,\n", "1 left out"),
        ("path,label\nimg/a.png,neutrophil\nimg/b.png,monocyte\n", "1 left out"),
    ],
)
def test_b16_tables_as_people_have_them_are_taken(
    project: Path, wbc_shift, table: str, said: str
) -> None:
    shelf("a.png", "b.png", "c.png")
    Path("labels.csv").write_bytes(table.encode())
    outcome = wbc_shift(*ADD, "--labels", "labels.csv")
    assert outcome.status == 0, outcome.err
    assert "our-lab: 2 images used (1 neutrophil, 0 lymphocyte, 1 monocyte" in outcome.out
    assert said in outcome.out
    labels = manifest()["label"].str.lower().to_dict()
    assert {path: label.rstrip("s") for path, label in labels.items()} == {
        "img/a.png": "neutrophil",
        "img/b.png": "monocyte",
    }


def test_b16_a_row_without_a_label_is_counted_and_named(project: Path, wbc_shift) -> None:
    shelf("a.png", "b.png")
    Path("labels.csv").write_text("path,label\nimg/a.png,\nimg/b.png,monocyte\n,basophil\n")
    outcome = wbc_shift(*ADD, "--labels", "labels.csv")
    assert outcome.status == 0, outcome.err
    assert "2 left out" in outcome.out
    because = pd.read_csv(RAW / "audit.csv", keep_default_na=False)["because"].tolist()
    assert because == [
        "has no label in line 2 of labels.csv",
        "line 4 of labels.csv names no image (label basophil)",
    ]


def test_b16_a_path_of_another_machine_is_told_as_such(project: Path, wbc_shift) -> None:
    shelf("a.png")
    Path("labels.csv").write_text("path,label\nC:\\slides\\img\\a.png,neutrophil\n")
    outcome = wbc_shift(*ADD, "--labels", "labels.csv")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "leads out of its folder: write the path below lab, as in img/a.png" in outcome.err
    path = (Path("lab") / "img" / "a.png").absolute()
    Path("labels.csv").write_text(f"path,label\n{path},neutrophil\n")
    assert wbc_shift(*ADD, "--labels", "labels.csv").status == 0


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_b15_accented_letters_are_the_same_however_they_are_encoded(
    project: Path, wbc_shift, on_disk: str, written: str
) -> None:
    names = {"Neutrófilo": "neutrophil", "Linfócito": "lymphocyte", "Monócito": "monocyte"}
    told = []
    for number, (label, cell_type) in enumerate(names.items()):
        put(f"{unicodedata.normalize(on_disk, label)}/é.png", cell(cell_type, number))
        told += ["--map", f"{unicodedata.normalize(written, label)}={cell_type}"]
    outcome = wbc_shift(*ADD, *told)
    assert outcome.status == 0, outcome.err
    assert "3 images used (1 neutrophil, 1 lymphocyte, 1 monocyte" in outcome.out
    rows = [f"{label}/é.png,{cell_type}\n" for label, cell_type in names.items()]
    table = unicodedata.normalize(written, "path,label\n" + "".join(rows))
    Path("labels.csv").write_text(table)
    outcome = wbc_shift(
        "domain", "update", "our-lab", "lab", "-p", "tiny", "--labels", "labels.csv"
    )
    assert outcome.status == 0, outcome.err
    assert "3 images used" in outcome.out


def test_b17_folders_below_the_cell_types_are_groups(project: Path, wbc_shift) -> None:
    for place, name in enumerate(CLASSES[:3]):
        for patient in ("P01", "P02"):
            for number in range(2):
                seed = 10 * place + number + 5 * (patient == "P02")
                put(f"{name}/{patient}/{number}.png", cell(name, seed))
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert "12 images used (4 neutrophil, 4 lymphocyte, 4 monocyte" in outcome.out
    assert "the folders P01, P02, below those of the cell types, are taken for" in outcome.out
    table = manifest()
    assert (table["label"] == table.index.str.split("/").str[0]).all()
    assert (table["group"] == table.index.str.split("/").str[1]).all()


@pytest.mark.parametrize("name", ["band", "unclear", "monocytes 2"])
def test_b17_a_folder_below_a_cell_type_that_may_be_another_is_asked_about(
    project: Path, wbc_shift, name: str
) -> None:
    put("neutrophil/0.png", cell("neutrophil", 1))
    put(f"neutrophil/{name}/0.png", cell("neutrophil", 2))
    outcome = wbc_shift(*ADD)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert f"the folder '{name}' lies below a folder of a cell type" in outcome.err
    assert f"--map '{name}=unusable'" in outcome.err


def test_b17_where_no_folder_is_a_cell_type_the_likely_one_is_proposed(
    project: Path, wbc_shift
) -> None:
    for patient in ("P01", "P02"):
        put(f"baso/{patient}/0.png", cell("basophil", len(patient)))
        put(f"mono/{patient}/0.png", cell("monocyte", 20 + int(patient[1:])))
    outcome = wbc_shift(*ADD)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "perhaps --map 'baso=basophil' --map 'mono=monocyte'" in outcome.err
    assert "'P01=" not in outcome.err


FIELD_CELLS = [
    (name, 40 + 150 * column, 30 + 140 * row)
    for row in range(2)
    for column, name in enumerate(CLASSES[:3])
]
"""Label, left and top of the cells of a field, 64 px each."""


def field_set(number: int = 2, annotated: bool = True) -> None:
    """Whole fields with six cells each, and as Pascal VOC has them, red cells and wrong boxes."""
    for field in range(number):
        picture = Image.new("RGB", (512, 320), (235, 215, 215))
        boxes = [("RBC", 0, 0, 20, 20), ("monocyte", 600, 10, 30, 30)]
        for place, (name, left, top) in enumerate(FIELD_CELLS):
            picture.paste(cell(name, 10 * field + place), (left, top))
            boxes.append((name, left + 12, top + 12, 40, 40))
        put(f"JPEGImages/{field}.png", picture)
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for name, x, y, w, h in boxes
        )
        if annotated:
            notes = Path("lab/Annotations")
            notes.mkdir(exist_ok=True)
            (notes / f"{field}.xml").write_text(f"<annotation>{objects}</annotation>")


def cells_are_those_of_the_fields(side: int) -> None:
    """Each copied cell is the square of its field around the box that labels.csv states."""
    labels = pd.read_csv(RAW / "labels.csv")
    assert len(labels) == 2 * len(FIELD_CELLS)
    for row in labels.itertuples():
        left, top = row.box_x + row.box_w / 2 - side / 2, row.box_y + row.box_h / 2 - side / 2
        field = Image.open(Path("lab") / row.field)
        expected = field.crop((left, top, left + side, top + side))
        np.testing.assert_array_equal(np.asarray(Image.open(RAW / row.path)), expected)


def test_cells_of_annotated_fields_become_a_domain_grouped_by_field(
    project: Path, wbc_shift
) -> None:
    field_set()
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert "our-lab: 12 images used (4 neutrophil, 4 lymphocyte, 4 monocyte" in outcome.out
    assert "12 cells were cut of 2 fields (Pascal VOC): squares of 80 px, 2 times" in outcome.out
    assert "3 left out" in outcome.out
    cells_are_those_of_the_fields(80)
    used = manifest()
    assert used["group"].nunique() == 2
    assert (used["group"] == used["field"]).all()
    first = used.loc["JPEGImages/1_1.png", ["field", "box_x", "box_w"]]
    assert first.tolist() == ["JPEGImages/1.png", "52.0", "40.0"]
    assert load_cards(Path("datasets"))["our-lab"].domains["our-lab"].crop == 0.7
    reasons = pd.read_csv(RAW / "audit.csv", keep_default_na=False)
    assert "2 boxes labelled RBC: no leucocytes" in set(reasons["because"])
    outside = reasons[reasons["because"].str.contains("lies outside the field")]
    assert sorted(outside["path"]) == ["JPEGImages/0.png", "JPEGImages/1.png"]
    assert not list(Path("datasets/cache").glob("cells-*"))


def test_a_table_of_boxes_gives_the_same_cells_as_annotations(project: Path, wbc_shift) -> None:
    field_set(annotated=False)
    rows = [
        f"JPEGImages/{field}.png,{name},{left + 12},{top + 12},{left + 52},{top + 52},s{field}"
        for field in range(2)
        for name, left, top in FIELD_CELLS
    ]
    header = "path,label,x_min,y_min,x_max,y_max,group\n"
    Path("labels.csv").write_text(header + "\n".join(rows) + "\n")
    outcome = wbc_shift(*ADD, "--labels", "labels.csv")
    assert outcome.status == 0, outcome.err
    assert "the table names patients or slides" in outcome.out
    cells_are_those_of_the_fields(80)
    assert set(manifest()["group"]) == {"s0", "s1"}


def test_the_crop_of_a_domain_follows_from_images_to_cells_and_back(
    project: Path, wbc_shift
) -> None:
    def crop() -> float:
        return load_cards(Path("datasets"))["our-lab"].domains["our-lab"].crop

    lab()
    assert wbc_shift(*ADD, "--crop", "0.9").status == 0
    shutil.rmtree("lab")
    field_set()
    update = ("domain", "update", "our-lab", "lab", "--profile", "tiny")
    outcome = wbc_shift(*update)
    assert (outcome.status, crop()) == (0, 0.7), outcome.err
    assert wbc_shift(*update, "--crop", "0.6").status == 0
    assert wbc_shift(*update).status == 0
    assert crop() == 0.6
    shutil.rmtree("lab")
    lab()
    assert wbc_shift(*update).status == 0
    assert crop() == 1.0
    assert "field" not in manifest()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            "path,label,xmin\nJPEGImages/0.png,neutrophil,3\n",
            "the columns xmin say where cells lie in fields, but not as is read here",
        ),
        (
            "path,label,x,y,width,height\nJPEGImages/0.png,neutrophil,600,3,9,9\n",
            "no box of a white cell can be used",
        ),
        (
            "path,label\nJPEGImages/0.png,neutrophil\nJPEGImages/0.png,monocyte\n",
            "JPEGImages/0.png stands in 2 rows (lines 2, 3), labelled neutrophil, monocyte: if it "
            "is a field of several cells",
        ),
        (
            "path,label\nJPEGImages/0.png,monocyte\nJPEGImages/0.png,monocyte\n",
            "JPEGImages/0.png stands in 2 rows (lines 2, 3): remove one of them",
        ),
    ],
)
def test_b17_tables_of_fields_without_usable_boxes_are_refused_by_that_reason(
    project: Path, wbc_shift, table: str, said: str
) -> None:
    field_set(annotated=False)
    Path("labels.csv").write_text(table)
    outcome = wbc_shift(*ADD, "--labels", "labels.csv")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert said in outcome.err


# ------------------------------------------------------------------ labels, copies, crops


@pytest.mark.parametrize(
    ("label", "likely"),
    [
        ("baso", "basophil"),
        ("SNE", "neutrophil_segmented"),
        ("Neutro", "neutrophil"),
        ("lympho", "lymphocyte"),
        ("neutrophill", "neutrophil"),
        ("promonocyte", None),
        ("dirt", None),
        ("1", None),
        ("BL", "blast"),
        ("myelo", None),
    ],
)
def test_c8_of_an_unknown_label_the_likely_cell_type_is_proposed_or_none(
    label: str, likely: str | None
) -> None:
    assert likely_type(label, read_label_spaces(REPOSITORY / "datasets")) == likely


def test_c8_a_hint_never_proposes_what_a_label_is_not(project: Path, wbc_shift) -> None:
    put("baso/0.png", cell("basophil", 1))
    put("dirt/0.png", cell("neutrophil", 2))
    outcome = wbc_shift(*ADD)
    assert "perhaps --map 'baso=basophil'" in outcome.err
    assert "neutrophil'" not in outcome.err
    shutil.rmtree("lab/baso")
    assert "as in --map 'dirt=CELL_TYPE'" in wbc_shift(*ADD).err


def test_c8_likeness_to_an_image_of_another_set_is_told_and_costs_no_image() -> None:
    """Only a copy does: 1 of 800 cells was dropped for a plainly different one."""
    grey = np.asarray(cell("monocyte", 1).convert("L"))
    noise = np.random.default_rng(0).normal(0, 14, grey.shape)
    alike = (grey + noise).clip(0, 255).astype(np.uint8)
    looks = [Look(str(n), 64, 64, g) for n, g in enumerate((grey, alike))]
    similarity = near_duplicates(np.stack([grey, alike]))["similarity"].iloc[0]
    assert similarity < EQUAL
    others = pd.DataFrame({"domain": ["jtsc"], "path": ["1.bmp"], "class_name": ["neutrophil"]})
    own = {"path": "a.png", "cell_type": "myeloblast", "class_name": "near", "group": "a"}
    judged, found = judge(pd.DataFrame([own]), looks[1:], others, looks[:1], {})
    assert judged["excluded"].tolist() == [""]
    ((path, finding, because),) = found.to_numpy().tolist()
    assert (path, finding) == ("a.png", "to be looked at")
    assert because.startswith("looks like the same cell as 1.bmp of jtsc (neutrophil), similarity")


def test_c8_the_size_of_nuclei_is_set_beside_the_sources_and_a_crop_proposed(
    tmp_path: Path,
) -> None:
    """Cells drawn on a wider field: the crop that shows them as large is found."""
    names, paths = [], []
    for place, name in enumerate(CLASSES):
        for number in range(4):
            picture = cell(name, 10 * place + number)
            wide = Image.new("RGB", (128, 128), picture.getpixel((0, 0)))
            wide.paste(picture, (32, 32))
            for folder, image in (("near", picture), ("far", wide)):
                (tmp_path / folder).mkdir(exist_ok=True)
                image.save(tmp_path / folder / f"{name}{number}.png")
            names.append(name)
            paths.append(f"{name}{number}.png")
    images = pd.DataFrame({"path": paths, "class_name": names})
    source = {"theirs": nuclei(tmp_path / "near", images, 1.0, "theirs")}
    (line,) = crop_advice(tmp_path / "far", images, 1.0, "ours", source)
    assert "those of the same classes in theirs" in line
    proposed = float(re.search(r": --crop (0\.\d+) would show them alike", line)[1])
    assert proposed == pytest.approx(0.5, abs=0.08)
    (line,) = crop_advice(tmp_path / "far", images, 0.5, "ours", source)
    assert line.endswith("much the same")
    (line,) = crop_advice(
        tmp_path / "near",
        images,
        1.0,
        "ours",
        {"wide": nuclei(tmp_path / "far", images, 1.0, "wide")},
    )
    assert "no crop of these images shows them alike" in line
