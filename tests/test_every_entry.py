"""Every entry of params.yaml is carried from phantoms to predictions by the runner itself.

The entries are the named methods, the members of ensembles and the grids of he2023, and a method
for each loss, recipe, readout and inference that none of these uses. Two things are smaller than
life: one epoch on a few phantoms, and networks of fewer channels or layers where timm lets one ask
for them (`NARROW`), since a VGG-16 or a ResNet-152 would take minutes. Pre-trained weights are
random ones of that narrow network in a file, by the names of timm's hub, loaded strictly. At their
real size all networks are built too, with the head of their loss, without memory.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CLASSES, REPOSITORY
from safetensors.torch import save_file
from support.entries import (  # noqa: F401  a fixture
    ENTRIES,
    WHOLE,
    fewer_channels,
    narrow_networks,
    scratch_settings,
)

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.execution import runner
from benchmark.execution.runner import train_one
from benchmark.files import read_json, sha256_file
from benchmark.metrics import confusion_matrix, macro_f1_present
from benchmark.models import build
from benchmark.models.heads import features_and_logits
from benchmark.models.predict import predict
from benchmark.parts import build as build_part
from benchmark.settings import Method, Params, load_params
from benchmark.study.expansion import check_blocks
from benchmark.study.plan import plan_one
from benchmark.study.records import checkpoint_path, read_checkpoint
from benchmark.training.contracts import join

SINGLE, SEVERAL = "phantom-a->phantom-c", "phantom-a+phantom-b->phantom-c"
SIZES = {"small": 32, "large": 80}
"""Profile → pixels. Inception needs 75, and InstanceNorm a last feature map of several pixels."""


CARDS = functools.cache(load_cards)


def needs_large(method: Method) -> bool:
    members = [ENTRIES[name] for name in method.members] or [method]
    return any(m.normalisation == "in" or m.backbone.startswith("inception") for m in members)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A project of 25 phantoms in each of two sources and 10 in a target, at two sizes."""
    from benchmark import cli

    root = tmp_path_factory.mktemp("phantoms")
    (root / "datasets" / "manifests").mkdir(parents=True)
    for name in ("phantom.yaml", "label_spaces.yaml", "exclusions.csv", "same_cells.csv"):
        shutil.copy(REPOSITORY / "datasets" / name, root / "datasets")
    manifest = pd.read_csv(REPOSITORY / "datasets/manifests/phantom.csv", dtype=str)
    one = manifest.groupby(["acquisition", "group", "label"], sort=False).head(1)
    wanted = {"phantom-a": 5, "phantom-b": 5, "phantom-c": 2}
    groups = one.groupby("acquisition")["group"].unique()
    few = [one[one["group"].isin(groups[name][:count])] for name, count in wanted.items()]
    pd.concat(few).to_csv(root / "datasets" / "manifests" / "phantom.csv", index=False)
    settings = scratch_settings(list(wanted), [SINGLE, SEVERAL], SIZES)
    for name, block in settings["weights"].items():
        of = [m.backbone for m in ENTRIES.values() if m.weights == name]
        if of and ("file" in block or "package" in block):  # which are not here
            backbone = of[0]
            block["file"] = str(root / f"{name}.safetensors")
            for key in ("package", "names"):
                block.pop(key, None)
            with pytest.MonkeyPatch.context() as patch:
                fewer_channels(patch)
                save_file(build.create(backbone, 32).state_dict(), block["file"])
            block["sha256"] = sha256_file(Path(block["file"]))
    (root / "params.yaml").write_text(json.dumps(settings))
    here = Path.cwd()
    try:
        os.chdir(root)
        cli.fetch("small")
        cli.split()
        for profile in SIZES:
            cli.prepare(profile)
        return root, load_params(root / "params.yaml")
    finally:
        os.chdir(here)


@pytest.fixture(autouse=True)
def cards_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To plan a hundred entries takes no longer than to train them."""
    monkeypatch.setattr("benchmark.study.expansion.load_cards", CARDS)


@pytest.mark.usefixtures("narrow_networks")
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_goes_from_phantoms_to_predictions(
    phantoms: tuple[Path, Params], name: str
) -> None:
    root, params = phantoms
    profile = "large" if needs_large(ENTRIES[name]) else "small"
    several = "domain_balanced" in ENTRIES[name].training.values() or name.startswith("recipe-")
    runs = plan_one(root, params, profile, name, SEVERAL if several else SINGLE, 0)
    train_one(root, profile, CLASSES, runs)  # tells of any other outcome than `done`
    folder = root / "results" / profile / "runs" / runs[-1].run_id
    table = pd.read_parquet(folder / "predictions.parquet")
    # 40 in training of 2 × 25 and of 1 × 25, the other parts and the target are answered.
    answered = {"id_val": 5, "calibration": 5, "id_test": 5}
    answered = {part: n * (1 + several) for part, n in answered.items()} | {"shifted": 10}
    assert table["part"].value_counts().to_dict() == answered
    assert np.isfinite(table[[f"logit_{c}" for c in CLASSES]].to_numpy()).all()
    record = read_json(folder / "run.json")
    trained = ENTRIES[name].backbone not in ("", "colour_histogram")
    assert len(record.get("history") or []) == trained


@pytest.mark.usefixtures("narrow_networks")
def test_the_second_stage_leaves_every_tensor_of_the_network_as_the_first_left_it(
    phantoms: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, params = phantoms
    predict_parts, seen = runner.predict_parts, []

    def spy(context, run, model, *images):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = predict_parts(context, run, model, *images)
        seen.append((before, model.state_dict()))
        return found

    monkeypatch.setattr(runner, "predict_parts", spy)
    (run,) = plan_one(root, params, "small", "le-resnet50", SINGLE, 1)
    assert run.method.readout == "decoupled"
    train_one(root, "small", CLASSES, [run])
    ((before, after),) = seen
    kept = read_checkpoint(checkpoint_path(root, "small", run.training_fingerprint)).state
    assert any("running_var" in name for name in before)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
        assert torch.equal(value, kept[name]), name


def test_what_answers_is_the_epoch_that_is_best_on_the_source_s_validation(
    phantoms: tuple[Path, Params],
) -> None:
    root, params = phantoms
    training = {"epochs": 40, "patience": 2, "learning_rate": 0.01}  # stops after the best
    longer = params.methods | {"longer": Method(backbone="resnet10t", training=training)}
    params = params.model_copy(update={"methods": longer})
    (run,) = plan_one(root, params, "small", "longer", SINGLE, 0)
    train_one(root, "small", CLASSES, [run])
    folder = root / "results" / "small" / "runs" / run.run_id
    record, table = read_json(folder / "run.json"), pd.read_parquet(folder / "predictions.parquet")
    scores = [epoch["id_val_macro_f1"] for epoch in record["history"]]
    assert record["selection"]["best_epoch"] == int(np.argmax(scores))
    assert record["selection"]["best_epoch"] < len(scores) - 1
    logits = {part: rows.filter(like="logit_").to_numpy() for part, rows in table.groupby("part")}
    labels = table.loc[table["part"] == "id_val", "label"].to_numpy()
    confusion = confusion_matrix(labels, logits["id_val"].argmax(1), len(CLASSES))
    assert macro_f1_present(confusion) == pytest.approx(max(scores))
    # The kept state, in a network of its own, gives what was recorded of images never validated on.
    model = build.build_model("resnet10t", "bn", {}, len(CLASSES), 32, seed=5)
    kept = read_checkpoint(checkpoint_path(root, "small", run.training_fingerprint))
    model.load_state_dict(kept.state)
    tested = PreparedImages(root, "small", CLASSES).part("phantom-a", "id_test")
    again = predict(model, tested.pixels, "fp32", torch.device("cpu"))
    np.testing.assert_allclose(again, logits["id_test"], rtol=2e-3, atol=2e-3)


def real_networks() -> list[Method]:
    """One method of each network at its real size that some entry trains."""
    parts = ("backbone", "normalisation", "weights", "head", "freezing", "loss")
    found = {tuple(getattr(m, p) for p in parts): m for m in ENTRIES.values() if m.backbone}
    return list(found.values())


@pytest.mark.parametrize("method", real_networks(), ids=lambda method: method.canonical_name)
def test_a_network_of_real_size_has_logits_and_features_for_its_loss(method: Method) -> None:
    block = WHOLE.losses[method.loss]
    loss = build_part("loss", method.loss, block)(torch.ones(len(CLASSES)))
    with torch.device("meta"):
        model = build.build_model(
            method.backbone, method.normalisation, WHOLE.normalisations[method.normalisation],
            len(CLASSES), 224, seed=0, weights=WHOLE.weights_of(method), head=method.head,
            freezing=method.freezing,
        )  # fmt: skip
        features, logits = features_and_logits(model.eval(), torch.empty(2, 3, 224, 224))
        join(loss, model, seed=0)
    assert logits.shape == (2, len(CLASSES))
    assert features.shape == (2, model.num_features) or method.backbone.startswith("vgg")


@pytest.mark.parametrize("loss", ["ldam", "supcon", "ccl", "focal_ccl"])
def test_a_head_beside_a_loss_that_brings_one_is_refused_before_training(loss: str) -> None:
    with pytest.raises(UserError, match=f"head addfc.*loss {loss} brings its own") as error:
        check_blocks(WHOLE, Method(backbone="resnet18", head="addfc", loss=loss))
    assert "\n" not in str(error.value)
