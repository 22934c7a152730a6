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
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CLASSES, REPOSITORY
from safetensors.torch import save_file

from benchmark.data.arrays import PreparedImages
from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.execution import runner
from benchmark.execution.runner import train_one
from benchmark.files import read_json, read_yaml, sha256_file
from benchmark.metrics import confusion_matrix, macro_f1_present
from benchmark.models import build
from benchmark.models.heads import features_and_logits
from benchmark.models.predict import predict
from benchmark.settings import Method, Params, grid, load_params
from benchmark.study.plan import plan_one
from benchmark.study.records import checkpoint_path, read_checkpoint
from benchmark.study.runs import check_blocks
from benchmark.training.contracts import join
from benchmark.training.losses import LOSSES

WHOLE = load_params(REPOSITORY / "params.yaml")
NARROW: dict[str, dict[str, Any]] = {
    "resnet18": {"channels": (32, 32, 64, 64)},
    "resnet34": {"channels": (8, 16, 32, 64)},
    "resnet50": {"channels": (8, 16, 32, 64)},
    "resnet50+lstm": {"channels": (8, 16, 32, 64)},
    "resnet50_gn": {"channels": (32, 32, 64, 64)},
    "resnet152": {"channels": (8, 8, 16, 16)},
    "resnext50_32x4d": {"channels": (16, 16, 32, 32)},
    "resnetv2_50d_gn": {"channels": (128, 128, 256, 256)},
    "resnetv2_50d_evos": {"channels": (128, 128, 256, 256)},
    "regnety_040": {"w0": 16, "wa": 24.0, "depth": 6, "group_size": 8},
    "vgg16": {"mlp_ratio": 0.01},
    "vgg16_bn": {"mlp_ratio": 0.01},
    "vit_base_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "vit_tiny_patch16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24, "depths": (2, 2, 2, 2)},
    "crossformer_tiny": {"embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)},
}
"""Backbone → what timm makes it smaller by; one that is not here has its real size."""
SINGLE, SEVERAL = "phantom-a->phantom-c", "phantom-a+phantom-b->phantom-c"
SIZES = {"small": 32, "large": 80}
"""Profile → pixels. Inception needs 75, and InstanceNorm a last feature map of several pixels."""


def entries() -> dict[str, Method]:
    """The methods to carry out, by name."""
    methods = dict(WHOLE.methods)
    members = {name for method in WHOLE.methods.values() for name in method.members}
    for profile in WHOLE.profiles.values():
        for question, experiment in profile.experiments.items():
            for method in grid(experiment):
                if question.startswith("he2023") or method.canonical_name in members:
                    methods[method.canonical_name] = method
    for part, kind in (
        ("loss", "losses"), ("recipe", "recipes"), ("readout", "readouts"),
        ("inference", "inferences"),
    ):  # fmt: skip
        used = {getattr(method, part) for method in methods.values()}
        unused = [name for name in getattr(WHOLE, kind) if name not in used]
        methods |= {f"{part}-{n}": Method(backbone="resnet18", **{part: n}) for n in unused}
    return methods


ENTRIES = entries()
CARDS = functools.cache(load_cards)


def needs_large(method: Method) -> bool:
    members = [ENTRIES[name] for name in method.members] or [method]
    return any(m.normalisation == "in" or m.backbone.startswith("inception") for m in members)


def scratch_settings(
    domains: list[str], scenarios: list[str], sizes: dict[str, int]
) -> dict[str, Any]:
    """The settings of the repository with one epoch, and a profile for each size of image."""
    settings = read_yaml(REPOSITORY / "params.yaml")
    settings["split"]["fractions"] = dict(train=0.4, id_val=0.2, calibration=0.2, id_test=0.2)
    settings["methods"] = {
        name: method.model_dump(exclude_defaults=True) for name, method in ENTRIES.items()
    }
    for method in settings["methods"].values():
        if method.get("training", {}).get("epochs"):
            method["training"]["epochs"] = 1
    training = WHOLE.profiles["full"].training.model_dump(mode="json", exclude_defaults=True)
    training |= {"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "precision": "fp32"}
    every = {"title": "Every entry", "scenarios": scenarios, "methods": list(ENTRIES)}
    settings["profiles"] = {
        name: {
            "subset": "all",
            "image_size": size,
            "label_space": "wbc5",
            "domains": domains,
            "training": training,
            "experiments": {"every": every | {"seeds": 1}},
        }
        for name, size in sizes.items()
    }
    return settings


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
        if "file" in block:  # which the project does not contain
            backbone = next(m.backbone for m in ENTRIES.values() if m.weights == name)
            block["file"] = str(root / Path(block["file"]).name)
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
    monkeypatch.setattr("benchmark.study.runs.load_cards", CARDS)


@pytest.fixture
def narrow_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Networks by `NARROW`; the hub has a file of random weights for each of its names."""
    whole = build.create

    def create(name: str, image_size: int, **options: object) -> torch.nn.Module:
        return whole(name, image_size, **NARROW.get(name.partition(".")[0], {}), **options)

    def download(repository: str, *_: object, **__: object) -> str:
        path = tmp_path / "weights.safetensors"
        backbone = repository.removeprefix("timm/").partition(".")[0]
        save_file(create(backbone, 32).state_dict(), path)
        return str(path)

    monkeypatch.setattr(build, "create", create)
    monkeypatch.setattr("benchmark.models.build.hf_hub_download", download)


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
    folder = root / "results" / profile / "runs" / runs[-1]["run_id"]
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
    assert run["method"]["readout"] == "decoupled"
    train_one(root, "small", CLASSES, [run])
    ((before, after),) = seen
    kept = read_checkpoint(checkpoint_path(root, "small", run["training_fingerprint"])).state
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
    folder = root / "results" / "small" / "runs" / run["run_id"]
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
    kept = read_checkpoint(checkpoint_path(root, "small", run["training_fingerprint"]))
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
    loss = LOSSES[method.loss](torch.ones(len(CLASSES)), **WHOLE.losses[method.loss])
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
