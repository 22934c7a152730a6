"""The audit: what it lets pass, and the leaks that it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image, ImageOps

from benchmark.files import read_json

MANIFEST = Path("datasets/manifests/toy.csv")


def plant(project: Path, source: str, target: str, change) -> None:
    """Put a changed copy of one image in the place of another, and state its hash."""
    raw = project / "datasets" / "raw" / "toy"
    with Image.open(raw / source) as image:
        change(image).save(raw / target, quality=80)
    content = (raw / target).read_bytes()
    table = pd.read_csv(MANIFEST, dtype=str)
    row = table["path"] == target
    table.loc[row, "sha256"] = hashlib.sha256(content).hexdigest()
    table.loc[row, "bytes"] = str(len(content))
    table.to_csv(MANIFEST, index=False)


def two_sides(label: str) -> tuple[str, str]:
    """A training image and a test image of the same class, by path."""
    split = pd.read_csv("datasets/splits/toy-a.csv")
    chosen = split[split["label"] == label].groupby("part")["path"].first()
    return chosen["train"], chosen["id_test"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image, id="compressed again"),
        pytest.param(ImageOps.mirror, id="mirrored"),
        pytest.param(lambda image: image.rotate(90), id="turned"),
    ],
)
def test_a_copy_of_a_training_image_in_the_test_part_is_refused(
    prepared: Path, wbc_shift, change
) -> None:
    train, test = two_sides("eosinophil")
    plant(prepared, train, test, change)
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 1
    assert "audit of profile tiny failed" in outcome.err
    record = read_json(Path("results/tiny/audit.json"))
    assert record["verdict"] == "failed"
    assert any(train in f["text"] and test in f["text"] for f in record["failures"])


def test_a_group_on_two_sides_is_refused(prepared: Path, wbc_shift) -> None:
    path = Path("datasets/splits/toy-a.csv")
    split = pd.read_csv(path)
    split.loc[split.index[0], "part"] = "id_test" if split["part"][0] == "train" else "train"
    split.to_csv(path, index=False)
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 1
    assert split["group"][0] in outcome.err


def test_a_blank_image_is_refused(prepared: Path, wbc_shift) -> None:
    train, test = two_sides("monocyte")
    plant(prepared, train, test, lambda image: Image.new("RGB", image.size, (200, 200, 200)))
    outcome = wbc_shift("audit", "-p", "tiny")
    assert outcome.status == 1
    assert test in "".join(
        f["text"] for f in read_json(Path("results/tiny/audit.json"))["failures"]
    )


def test_the_full_pbc_manifest_names_its_equal_files_the_conflicting_pair_first(
    wbc_shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    outcome = wbc_shift("audit", "--manifest", "datasets/manifests/pbc.csv")
    assert outcome.status == 0
    head, first, *others = outcome.out.strip().splitlines()
    assert "17 pairs of equal files" in head
    assert "conflicting labels: eosinophil/EO_225902.jpg" in first
    assert "neutrophil/BNE_191112.jpg" in first
    assert len(others) == 16
