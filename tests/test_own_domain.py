"""A laboratory's own folder: it becomes a target with one command, or nothing is written."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, REPOSITORY, edit
from PIL import Image, ImageOps
from test_image_files import deep_png

from benchmark.config import load_params
from benchmark.data.cards import Card, load_cards, published_images, read_manifest
from benchmark.data.phantom import Acquisition, draw
from benchmark.data.prepare import decode_all
from benchmark.errors import UserError
from benchmark.files import read_json, read_yaml
from benchmark.schema import parse

RAW = Path("datasets/raw/our-lab")
ADD = ("domain", "add", "lab", "--name", "our-lab", "--profile", "tiny")


def cell(name: str, number: int) -> Image.Image:
    """A drawn cell, the same for the same number."""
    return Image.fromarray(draw(name, Acquisition(), 1000 + number, 64))


def put(path: str, image: Image.Image, **options: object) -> None:
    """Save an image in the laboratory's folder."""
    file = Path("lab") / path
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)


def lab(per_class: int = 2) -> None:
    """A folder of drawn cells, a folder per class, named in plural."""
    for place, name in enumerate(CLASSES):
        for number in range(per_class):
            put(f"{name.capitalize()}s/{number}.png", cell(name, 10 * place + number))


def everything() -> dict[str, bytes]:
    """Every file of the project but the cache of the audit."""
    files = [f for f in Path().rglob("*") if f.is_file() and "cache" not in f.parts]
    return {str(f): f.read_bytes() for f in files}


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

    def fails(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("benchmark.data.own_domain.load_cards", fails)
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
    assert {path.name for path in raw.iterdir()} == {"our-lab", ".manifests"}


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
        "loose.png": "has no label",
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
        "Monocytes/jpeg.jpg": "the same cell as a/monocyte/slide0_0.jpg of toy-a",
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
        (("--labels", "none.csv"), "no such file"),
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
