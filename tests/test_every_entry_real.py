"""The five systems' own paths on real images of the mirror: `wbc-shift train --method …` itself.

A few dozen images of a laboratory, one epoch and the narrow networks of `test_every_entry`; the
CrossFormer and the convolutional part of a CNN-RNN at 64 pixels. Scores mean nothing here.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, REPOSITORY
from support.entries import narrow_networks, scratch_settings  # noqa: F401  a fixture

from benchmark.data.cards import card_of, load_cards
from benchmark.data.manifests import domain_images
from benchmark.files import read_json

pytestmark = pytest.mark.skipif("WBC_MIRROR" not in os.environ, reason="WBC_MIRROR is not set")
DOMAINS = ["raabin", "pbc-main", "jtsc", "bccd"]
COUNTS = {"train": 4, "id_val": 1, "calibration": 1, "id_test": 2}
"""Part → images of a class at most."""
SINGLE, SEVERAL = "raabin->bccd,jtsc", "*->bccd"
SYSTEMS = {
    # tsutsui2023: pre-trained weights, frozen statistics and layers, last epoch; Mixup; a new head
    "tsutsui-resnet50-freezebn-last16": SINGLE,
    "tsutsui-resnet50-gn-mixup": SINGLE,
    "tsutsui-resnet50-fc": SINGLE,
    # le2026: a stain normalised, two stages, eight views, two networks averaged
    "le-resnet50-macenko": SINGLE,
    "le-resnet50-tta": SINGLE,
    "le-resnet50-swin_t": SINGLE,
    # umer2023 and rivals: batches balanced over three laboratories, the fourth left out
    "lodo-mixup": SEVERAL,
    "lodo-coral-swad": SEVERAL,
    "lodo-groupdro": SEVERAL,
    "lodo-idg_boda": SEVERAL,
    # he2023
    "crossformer_tiny-ln-ccl": SINGLE,
    "crossformer_tiny-ln-focal_ccl": SINGLE,
    # ma2020
    "ma-resnet34-ibn": SINGLE,
    "ma-resnet50-lstm": SINGLE,
    "colour-histogram": SINGLE,
}


@pytest.fixture(scope="module")
def laboratories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a few real images a class, part and laboratory, in the committed splits."""
    from benchmark import cli

    root, datasets = tmp_path_factory.mktemp("laboratories"), REPOSITORY / "datasets"
    (root / "datasets" / "manifests").mkdir(parents=True)
    (root / "datasets" / "splits").mkdir()
    shutil.copy(datasets / "label_spaces.yaml", root / "datasets")
    for name in ("exclusions.csv", "same_cells.csv"):  # they name images that are not among these
        header = (datasets / name).read_text().splitlines()[0]
        (root / "datasets" / name).write_text(f"{header}\n")
    cards, kept = load_cards(datasets), {}
    for domain in DOMAINS:
        card = card_of(cards, domain)
        shutil.copy(datasets / f"{card.name}.yaml", root / "datasets")
        split = pd.read_csv(datasets / "splits" / f"{domain}.csv", dtype=str)
        images = domain_images(datasets, card, domain, "wbc5", "core")[["path", "class_name"]]
        named = split.merge(images, on="path").groupby(["part", "class_name"], sort=False)
        few = pd.concat(rows.head(COUNTS[part]) for (part, _), rows in named)
        split[split["path"].isin(few["path"])].to_csv(
            root / "datasets" / "splits" / f"{domain}.csv", index=False, lineterminator="\n"
        )
        kept.setdefault(card.manifest, set()).update(few["path"])
    for manifest, paths in kept.items():
        table = pd.read_csv(datasets / manifest, dtype=str)
        table[table["path"].isin(paths)].to_csv(root / "datasets" / manifest, index=False)
    settings = scratch_settings(DOMAINS, [SINGLE, SEVERAL], {"real": 64})
    settings["profiles"]["real"]["subset"] = "core"
    (root / "params.yaml").write_text(json.dumps(settings))
    here = Path.cwd()
    try:
        os.chdir(root)
        cli.fetch("real")
        cli.prepare("real")
    finally:
        os.chdir(here)
    return root


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize(("method", "scenario"), SYSTEMS.items())
def test_a_system_is_trained_and_answers_on_real_images(
    laboratories: Path, monkeypatch, wbc_shift, method: str, scenario: str
) -> None:
    monkeypatch.chdir(laboratories)
    asked = ("--method", method, "--scenario", scenario, "--seed", "0")
    outcome = wbc_shift("train", "-p", "real", *asked)
    assert outcome.status == 0, outcome.err
    (folder,) = (laboratories / "results/real/runs" / method).glob("*/seed0")
    table = pd.read_parquet(folder / "predictions.parquet")
    source, targets = ("raabin", {"bccd", "jtsc"}), ("raabin+pbc-main+jtsc", {"bccd"})
    home, away = source if scenario == SINGLE else targets
    assert set(table.loc[table["part"] == "shifted", "domain"]) == away
    assert set(table.loc[table["part"] != "shifted", "domain"]) == {home}
    assert np.isfinite(table[[f"logit_{c}" for c in CLASSES]].to_numpy()).all()
    assert read_json(folder / "run.json")["outcome"] == "done"
