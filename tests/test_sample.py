"""The images in the repository: which they are, under which licence, and that the demo runs on them
where nothing else is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

from benchmark.data.cards import Card, card_of, load_cards
from benchmark.data.manifests import domain_images, open_set_images, read_manifest
from benchmark.files import read_json, sha256_file
from benchmark.parts import PLAIN
from benchmark.settings import load_params

DATASETS = REPOSITORY / "datasets"
IMAGES = DATASETS / "images"
MOST_BYTES = 30_000_000
WORDS = ("README.md", "LICENSE", "ATTRIBUTION.md")
LICENCES = {"pbc": "CC BY 4.0", "bccd_fields": "MIT", "chula": "MIT"}
"""Folder → the licence under which its images may be passed on."""
PARAMS = load_params(REPOSITORY / "params.yaml")
DEMO = PARAMS.profile("demo")


def files() -> list[Path]:
    return sorted(path for path in IMAGES.rglob("*") if path.is_file())


def pictures_of(folder: str) -> set[str]:
    """Paths below datasets/images of what is no text about them."""
    own = (path for path in (IMAGES / folder).rglob("*") if path.is_file())
    return {p.relative_to(IMAGES).as_posix() for p in own if p.name not in WORDS}


def shipped_cards() -> dict[str, Card]:
    """Top folder → the card whose images it holds."""
    cards = load_cards(DATASETS).values()
    return {c.folder.split("/")[0]: c for c in cards if (IMAGES / c.folder).is_dir()}


def test_the_images_take_no_more_than_a_clone_should_carry() -> None:
    assert sum(path.stat().st_size for path in files()) <= MOST_BYTES


def test_every_folder_holds_images_that_may_be_passed_on_and_says_whose_they_are() -> None:
    cards = shipped_cards()
    folders = {path.relative_to(IMAGES).parts[0] for path in files() if path.parent != IMAGES}
    assert folders == set(cards) == set(LICENCES)
    page = (IMAGES / "README.md").read_text(encoding="utf-8")
    for folder, card in cards.items():
        assert card.licence.redistribution == "allowed"
        assert card.licence.name == LICENCES[folder]
        assert f"| `{folder}` |" in page
        if card.licence.name == "MIT":
            assert "Copyright (c)" in (IMAGES / folder / "LICENSE").read_text()
        else:  # author, title, source, licence, and what was changed
            text = (IMAGES / folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
            for needed in (
                "Acevedo, Andrea",
                "**A dataset",
                "doi.org",
                card.licence.url,
                "unchanged",
            ):
                assert needed in text


@pytest.mark.parametrize("folder", LICENCES)
def test_every_image_is_the_published_one(folder: str) -> None:
    """Of a picture without a line in the manifest, nobody could say where it is from."""
    card = shipped_cards()[folder]
    manifest = pd.read_csv(DATASETS / card.manifest, dtype=str, keep_default_na=False)
    known = {
        f"{card.folder}/{p}": s for p, s in zip(manifest["path"], manifest["sha256"], strict=True)
    }
    found = pictures_of(folder)
    assert found <= set(known)
    assert [path for path in found if sha256_file(IMAGES / path) != known[path]] == []


@pytest.mark.parametrize("folder", LICENCES)
def test_the_sample_is_what_is_here(folder: str) -> None:
    card = shipped_cards()[folder]
    wanted = {f"{card.folder}/{p}" for p in read_manifest(DATASETS, card, "sample")["path"]}
    manifest = pd.read_csv(DATASETS / card.manifest, dtype=str, keep_default_na=False)
    unused = {f"{card.folder}/{p}" for p in manifest["path"]} - {
        f"{card.folder}/{p}" for p in read_manifest(DATASETS, card)["path"]
    }
    assert wanted <= pictures_of(folder)
    assert pictures_of(folder) - wanted <= unused  # of a set that is here whole


def test_the_sample_of_pbc_follows_its_rule() -> None:
    """As datasets/images/README.md states it: of each kind and part the smallest hashes."""
    manifest = pd.read_csv(DATASETS / "manifests/pbc.csv", dtype=str, keep_default_na=False)
    split = pd.read_csv(DATASETS / "splits/pbc-main.csv", dtype=str)
    table = manifest.merge(split[["path", "part"]], on="path", how="left")
    core = table[(table["core"] == "1") & (table["excluded"] == "")]
    chosen = set(core.loc[core["acquisition"] == "366", "path"])
    numbers = dict.fromkeys(("BA", "EO", "LY", "MO"), 100) | {"SNE": 70, "BNE": 30}
    numbers |= dict.fromkeys(("MY", "MMY", "PMY", "ERB", "PLATELET"), 20)
    shares = {"train": 6, "id_val": 1, "calibration": 1, "id_test": 2}
    for (label, part), rows in core.groupby(["fine_label", "part"]):
        count = numbers[label] * shares[part] // 10
        assert len(rows) >= count
        chosen |= set(rows.sort_values("sha256")["path"][:count])
    assert set(table.loc[table["sample"] == "1", "path"]) == chosen


def test_the_sample_of_fields_follows_its_rule() -> None:
    table = pd.read_csv(DATASETS / "manifests/bccd-wide.csv", dtype=str, keep_default_na=False)
    most = {"Eosinophil": 50, "Neutrophil": 60}
    chosen = {
        path
        for label, rows in table.groupby("label")
        for path in rows.sort_values("sha256")["path"][: most.get(label, len(rows))]
    }
    assert set(table.loc[table["sample"] == "1", "path"]) == chosen


def test_a_subset_is_the_rows_of_its_column_or_all() -> None:
    cards = load_cards(DATASETS)
    numbers = {
        subset: len(domain_images(DATASETS, cards["pbc"], "pbc-main", "wbc5", subset))
        for subset in ("sample", "core", "all")
    }
    assert numbers["sample"] == 500
    assert numbers["core"] == 2500
    assert numbers["all"] > 10_000
    assert len(open_set_images(DATASETS, cards["pbc"], "pbc-main", "wbc5", "sample")) == 100
    whole = [len(read_manifest(DATASETS, cards["chula"], subset)) for subset in ("sample", "all")]
    assert whole[0] == whole[1]


def test_the_data_of_the_demo_come_with_the_repository(
    tmp_path: Path, wbc_shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No mirror, no network: images are taken from the repository, prepared, and pass the audit."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    shutil.copytree(DATASETS, tmp_path / "datasets", ignore=shutil.ignore_patterns("raw", "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WBC_MIRROR", raising=False)
    monkeypatch.setenv("WBC_OFFLINE", "1")
    said = {}
    for command in ("fetch", "prepare", "audit", "plan"):
        outcome = wbc_shift(command, "-p", "demo")
        assert outcome.status == 0, outcome.err
        said[command] = outcome.out
    assert "audit of profile demo passed: 0 new findings" in said["audit"]
    assert re.search(r"demo/shift: (\d+) runs planned, 0 done or skipped", said["plan"])
    data = read_json(tmp_path / "results/demo/data.json")
    assert data["subset"] == "sample"
    cards = load_cards(DATASETS)
    for domain in DEMO.domains:
        images = domain_images(DATASETS, card_of(cards, domain), domain, "wbc5", "sample")
        assert data["domains"][domain]["images"] == len(images)
        # A class that no image stands for, or almost none, would make the demo's mean a lottery.
        assert images["class_name"].nunique() >= 4


def test_the_demo_changes_one_part_of_a_plain_network_at_a_time() -> None:
    """So that what it finds, in one sentence, has one cause each."""
    (experiment,) = DEMO.experiments.values()
    networks = {
        method.canonical_name: method.chosen()
        for method in PARAMS.methods_of(experiment).values()
        if method.readout == PLAIN["readout"]
    }
    plain = networks.pop("resnet10t-bn-ce")
    changed = [
        {part for part in parts if parts[part] != plain.get(part)} for parts in networks.values()
    ]
    assert sorted(changed, key=str) == [{"augmentation"}, {"inference"}, {"normalisation"}]
