"""Training: outcomes as data, resume by fingerprint, the same bits from the same seed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import edit
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.data.arrays import Images, PreparedImages
from benchmark.execution import runner
from benchmark.files import read_json
from benchmark.models.build import build_model
from benchmark.models.predict import FastOnProcessors, attention, autocast, predict
from benchmark.settings import Augmentation, Training
from benchmark.study import records
from benchmark.study.plan import read_plan
from benchmark.training.fit import SCHEDULES, NotFinite, fit
from benchmark.training.losses import LOSSES

RUNS = Path("results/tiny/runs")
CE = RUNS / "resnet10t-bn-ce/toy-a_to_others/seed0"
FOCAL = RUNS / "resnet10t-bn-focal/toy-a_to_others/seed0"


def settings(**changes: object) -> Training:
    values = {
        "epochs": 3, "batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.0,
        "warmup_epochs": 1, "patience": 5, "precision": "fp32", "augmentation": Augmentation(),
    }  # fmt: skip
    return Training.model_validate(values | changes)


def toy_images(n: int, part: str, seed: int = 0, size: int = 8) -> Images:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = generator.integers(0, 60, (n, size, size, 3)) + 150 * labels[:, None, None, None]
    return Images(
        pixels.astype(np.uint8), labels.astype(np.int64), pd.DataFrame({"part": [part] * n})
    )


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))


def started(run: Path) -> int:
    return (run / "run.json").stat().st_mtime_ns


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    factor = SCHEDULES["cosine"](settings(epochs=3, warmup_epochs=1), steps_per_epoch=4)
    assert [factor(i) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == 1.0
    assert factor(8) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0.0)


def test_the_best_epoch_by_source_validation_is_kept() -> None:
    # One validation image whose label changes between epochs would need oracle knowledge; instead a
    # learning rate that wrecks the network late: the best state must not be the last one.
    class Wreck(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_network()
            self.epoch = 0

        def train(self, mode: bool = True) -> torch.nn.Module:
            if mode:
                self.epoch += 1
                if self.epoch == 3:
                    with torch.no_grad():
                        for p in self.net.parameters():
                            p.neg_()
            return super().train(mode)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    result = fit(
        Wreck(), torch.nn.functional.cross_entropy, toy_images(16, "train"),
        toy_images(8, "id_val", 1),
        settings(epochs=3, warmup_epochs=0, learning_rate=1e-3), 0, torch.device("cpu"),
    )  # fmt: skip
    scores = [h["id_val_macro_f1"] for h in result.history]
    assert result.id_val_macro_f1 == max(scores) > scores[-1]
    assert result.best_epoch == scores.index(max(scores))


def test_early_stopping_waits_for_the_patience() -> None:
    result = fit(
        small_network(), torch.nn.functional.cross_entropy, toy_images(16, "train"),
        toy_images(8, "id_val", 1), settings(epochs=40, patience=2), 0, torch.device("cpu"),
    )  # fmt: skip
    assert len(result.history) == result.best_epoch + 1 + 2


def test_bf16_trains_and_predicts_near_fp32() -> None:
    logits = {}
    for precision in ("fp32", "bf16"):
        model = build_model("resnet10t", "gn", {}, 2, 40, seed=0)
        train, test = toy_images(16, "train", size=40), toy_images(8, "id_val", 1, size=40)
        loss, chosen = torch.nn.functional.cross_entropy, settings(precision=precision, epochs=1)
        fit(model, loss, train, test, chosen, 0, torch.device("cpu"))
        logits[precision] = predict(model, test.pixels, precision, torch.device("cpu"))
    assert logits["bf16"].dtype == np.float32
    assert not np.array_equal(logits["bf16"], logits["fp32"])
    assert np.abs(logits["bf16"] - logits["fp32"]).max() < 0.2 * np.abs(logits["fp32"]).max()


DEPTHWISE = ("efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto")
"""Depthwise layers between batch norms; with squeeze and excitation; between layer norms."""


@pytest.mark.parametrize("backbone", DEPTHWISE)
def test_depthwise_convolutions_alone_compute_in_float32(backbone: str) -> None:
    normalisation = "ln" if backbone.startswith("convnext") else "bn"
    model = build_model(backbone, normalisation, {}, 2, 64, seed=0).eval()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    depthwise = [m for m in layers if m.groups == m.in_channels > 1]
    assert 0 < len(depthwise) < len(layers)
    given: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in layers:
        # Copies: an activation that follows may work in place.
        layer.register_forward_hook(
            lambda layer, given_to, result: given.update(
                {layer: (given_to[0].clone(), result.clone())}
            )
        )
    with torch.no_grad(), autocast(torch.device("cpu"), "bf16_cpu"):
        model(torch.rand(2, 3, 64, 64))
    assert set(given) == set(layers)
    for layer in layers:
        image, result = given[layer]
        assert result.dtype == torch.bfloat16
        with torch.no_grad(), autocast(torch.device("cpu"), "bf16"):
            rounded = layer(image)
        with torch.no_grad():
            exact = layer(image.float()).to(torch.bfloat16)
        assert torch.equal(result, exact if layer in depthwise else rounded)
        assert layer not in depthwise or not torch.equal(result, rounded)


class Kernels(TorchDispatchMode):
    """Notes which kernels PyTorch computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))

    @property
    def fused(self) -> bool:
        return any("scaled_dot_product" in name for name in self.names)


@pytest.mark.parametrize(
    ("named", "fused"),
    [
        ({}, False),
        ({"scale": 0.3}, False),
        ({"attn_mask": None, "dropout_p": 0.0, "is_causal": False}, False),  # as timm's networks
        ({"attn_mask": torch.eye(5).bool()}, True),
        ({"is_causal": True}, True),
    ],
)
def test_attention_is_that_of_torch_and_of_masks_torchs_own(named: dict, fused: bool) -> None:
    query, key, value = torch.randn(3, 2, 4, 5, 8).unbind()
    attend = torch.nn.functional.scaled_dot_product_attention
    with FastOnProcessors(), Kernels() as kernels:
        found = attend(query, key, value, **named)
    torch.testing.assert_close(found, attend(query, key, value, **named))
    assert kernels.fused == fused


@pytest.mark.parametrize(("precision", "fused"), [("bf16", True), ("bf16_cpu", False)])
def test_a_transformer_attends_by_products_of_matrices_in_bf16_cpu(
    precision: str, fused: bool
) -> None:
    model = build_model("vit_tiny_patch16_224", "ln", {}, 2, 64, seed=0).eval()
    with torch.no_grad(), autocast(torch.device("cpu"), precision), Kernels() as kernels:
        model(torch.rand(1, 3, 64, 64))
    assert kernels.fused == fused


def test_shares_of_attention_are_dropped_and_the_others_grow() -> None:
    query, key = torch.randn(2, 2, 4, 5, 8).unbind()
    left = attention(query, key, torch.ones(2, 4, 5, 1), dropout_p=0.5)
    torch.testing.assert_close(left.mean(), torch.tensor(1.0), atol=0.2, rtol=0)
    assert not torch.allclose(left, torch.ones_like(left))


@pytest.mark.parametrize("backbone", [*DEPTHWISE, "vit_tiny_patch16_224", "resnet10t"])
def test_bf16_as_processors_are_fast_at_it_is_near_fp32_and_trains(backbone: str) -> None:
    normalisation = "ln" if backbone.startswith(("convnext", "vit")) else "bn"
    logits, gradients = {}, {}
    device, images = torch.device("cpu"), torch.rand(4, 3, 64, 64)
    for precision in ("fp32", "bf16", "bf16_cpu"):
        model = build_model(backbone, normalisation, {}, 2, 64, seed=0).eval()
        with autocast(device, precision):
            logits[precision] = model(images).float()
        logits[precision].square().sum().backward()
        gradients[precision] = torch.cat([p.grad.flatten() for p in model.parameters()])
    for found in (logits, gradients):
        apart = (found["bf16_cpu"] - found["fp32"]).norm() / found["fp32"].norm()
        assert 0 < apart < 0.1
        if backbone == "resnet10t":  # which has neither depthwise layers nor attention
            assert torch.equal(found["bf16_cpu"], found["bf16"])
    train = toy_images(16, "train", size=64)
    chosen = settings(precision="bf16_cpu", epochs=3, learning_rate=1e-3)
    model = build_model(backbone, normalisation, {}, 2, 64, seed=0)
    loss = torch.nn.functional.cross_entropy
    history = fit(model, loss, train, train, chosen, 0, device).history
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_a_nan_loss_ends_the_run_with_its_epoch() -> None:
    with pytest.raises(NotFinite, match="loss nan in epoch 0: lower the learning rate"):
        fit(
            small_network(), lambda z, y: z.sum() * float("nan"), toy_images(8, "train"),
            toy_images(4, "id_val"), settings(), 0, torch.device("cpu"),
        )  # fmt: skip


def test_a_last_batch_of_one_image_cannot_happen() -> None:
    seen = []

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(len(labels))
        return torch.nn.functional.cross_entropy(logits, labels)

    fit(
        small_network(), loss, toy_images(9, "train"), toy_images(4, "id_val"),
        settings(epochs=1, batch_size=4), 0, torch.device("cpu"),
    )  # fmt: skip
    assert seen == [3, 3, 3]


def test_a_run_leaves_one_record_and_every_held_out_image_once(trained: Path) -> None:
    record = read_json(CE / "run.json")
    assert record["outcome"] == "done"
    assert record["schema_version"] == 1
    assert {"train_s", "load_s", "evaluate_s"} <= record["time"].keys()
    assert record["environment"]["torch"] == torch.__version__.split("+")[0]
    predictions = pd.read_parquet(CE / "predictions.parquet")
    assert not predictions["image"].duplicated().any()
    split = pd.read_csv("datasets/splits/toy-a.csv")
    source = predictions[predictions["domain"] == "toy-a"].set_index("image")["part"]
    expected = split[split["part"] != "train"].set_index("path")["part"]
    assert source.sort_index().to_dict() == expected.sort_index().to_dict()
    shifted = predictions[predictions["domain"] == "toy-b"]
    assert set(shifted["part"]) == {"shifted"}
    assert len(shifted) == 100
    assert predictions.filter(like="logit_").dtypes.unique().tolist() == [np.dtype("float16")]


def test_finished_runs_are_not_trained_again(trained: Path, wbc_shift) -> None:
    before = started(CE), started(FOCAL)
    outcome = wbc_shift("train", "-p", "tiny")
    assert "2 done or skipped" in outcome.out
    assert (started(CE), started(FOCAL)) == before


def test_finished_runs_are_valid_without_their_images(trained: Path, wbc_shift) -> None:
    for folder in ("raw", "cache"):
        shutil.rmtree(Path("datasets") / folder)
    outcome = wbc_shift("validate", "-p", "tiny")
    assert outcome.status == 0, outcome.out
    assert "missing:" not in outcome.out


def test_a_changed_loss_parameter_retrains_only_its_runs(trained: Path, wbc_shift) -> None:
    before = started(CE), started(FOCAL)
    edit(Path("params.yaml"), "focal: {gamma: 2.0}", "focal: {gamma: 1.0}")
    wbc_shift("plan", "-p", "tiny")
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert started(CE) == before[0]
    assert started(FOCAL) > before[1]


def test_an_added_seed_trains_only_the_new_runs(trained: Path, wbc_shift) -> None:
    before = started(CE), started(FOCAL)
    edit(Path("params.yaml"), "seeds: 1", "seeds: 2")
    wbc_shift("plan", "-p", "tiny")
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert (started(CE), started(FOCAL)) == before
    assert (CE.parent / "seed1" / "predictions.parquet").exists()


def test_an_added_target_is_predicted_from_the_checkpoint(
    trained: Path, wbc_shift, monkeypatch
) -> None:
    edit(
        Path("datasets/toy.yaml"),
        "  toy-b:",
        "  toy-c: {title: C, crop: 0.8, select: {acquisition: b}}\n  toy-b:",
    )
    edit(Path("params.yaml"), "[toy-a, toy-b]", "[toy-a, toy-b, toy-c]")
    for command in ("prepare", "plan"):
        assert wbc_shift(command, "-p", "tiny").status == 0
    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert set(pd.read_parquet(CE / "predictions.parquet")["domain"]) == {"toy-a", "toy-b", "toy-c"}


def test_the_same_seed_gives_bit_identical_predictions(trained: Path, wbc_shift) -> None:
    before = (CE / "predictions.parquet").read_bytes()
    shutil.rmtree(CE)
    shutil.rmtree("results/tiny/checkpoints")
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert (CE / "predictions.parquet").read_bytes() == before


def test_tampered_predictions_count_as_missing_and_are_made_again(trained: Path, wbc_shift) -> None:
    path = CE / "predictions.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    run = read_plan(Path("results/tiny/plans/first.json")).runs[0]
    assert records.read_outcome(Path(), "tiny", run)["outcome"] == "missing"
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert path.read_bytes() == whole


def test_a_diverging_method_is_an_outcome_and_the_others_are_kept(
    prepared: Path, wbc_shift, monkeypatch
) -> None:
    monkeypatch.setitem(LOSSES, "focal", lambda counts, gamma: lambda z, y: z.sum() * float("inf"))
    outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "1 of 2 runs failed, the others are kept" in outcome.err
    assert "resnet10t-bn-focal/toy-a_to_others/seed0: nan: loss" in outcome.err
    index = read_json(Path("results/tiny/experiments/first.json"))["runs"]
    assert [r["outcome"] for r in index] == ["done", "nan"]
    assert not (FOCAL / "predictions.parquet").exists()
    monkeypatch.undo()
    monkeypatch.chdir(prepared)
    assert wbc_shift("train", "-p", "tiny").status == 0  # a failure is never taken for a result


def test_the_index_tells_methods_that_are_trained_otherwise_apart() -> None:
    def told(**training: object) -> str:
        settings = {"training": {"epochs": 10, "augmentation": {"scale": 0.1}} | training}
        return records.training_digest(SimpleNamespace(record=lambda: {"settings": settings}))

    assert told() == told(augmentation={"scale": 0.2})  # a part of the method, under its name
    assert len({told(), told(epochs=20), told(averaging="ema")}) == 3


@pytest.mark.parametrize(
    ("error", "outcome"), [(MemoryError("x"), "oom"), (RuntimeError("boom"), "error")]
)
def test_out_of_memory_and_faults_are_told_apart(
    prepared: Path, wbc_shift, monkeypatch, error, outcome
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(runner, "fit", broken)
    assert wbc_shift("train", "-p", "tiny").status == 1
    assert read_json(CE / "run.json")["outcome"] == outcome


def test_a_full_disk_is_one_line_and_leaves_no_torn_file(
    prepared: Path, wbc_shift, monkeypatch
) -> None:
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.pq, "write_table", full)
    outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 1
    assert "disk full while writing" in outcome.err
    assert "what was finished is kept" in outcome.err
    assert not [p for p in RUNS.rglob("*") if p.is_file()]


def test_kill_9_while_training_loses_the_run_in_flight_only(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "seeds: 1", "seeds: 3")
    wbc_shift("plan", "-p", "tiny")
    command = [sys.executable, "-m", "benchmark", "train", "-p", "tiny"]
    environment = os.environ | {"PYTHONPATH": str(Path(records.__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 600
    while len(list(RUNS.rglob("run.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {p: p.read_bytes() for p in RUNS.rglob("run.json") if ".work" not in str(p)}
    assert 2 <= len(done) < 6
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert all(path.read_bytes() == content for path, content in done.items())
    assert len(list(RUNS.rglob("run.json"))) == 6


def test_two_processes_share_a_plan_without_doing_a_run_twice(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "seeds: 1", "seeds: 2")
    edit(Path("params.yaml"), "epochs: 2", "epochs: 1")
    wbc_shift("plan", "-p", "tiny")
    command = [sys.executable, "-m", "benchmark", "train", "-p", "tiny"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(records.__file__).parents[2]),
        "WBC_THREADS": "1",
    }
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    output = "".join(process.communicate(timeout=600)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert output.count(": done, id_val") == 4


def test_no_image_of_a_target_reaches_training(prepared: Path, wbc_shift, monkeypatch) -> None:
    seen = []
    true_fit = runner.fit

    def spy(model, loss, train, id_val, *rest, **more):
        seen.append(set(train.table["domain"]) | set(id_val.table["domain"]))
        return true_fit(model, loss, train, id_val, *rest, **more)

    monkeypatch.setattr(runner, "fit", spy)
    wbc_shift("train", "-p", "tiny")
    assert seen == [{"toy-a"}, {"toy-a"}]


def test_poisoned_target_labels_move_no_logit(trained: Path, wbc_shift, monkeypatch) -> None:
    # Labels that are not as prepared are refused: here they are let through.
    monkeypatch.setattr(PreparedImages, "_verify", lambda *_: None)
    before = pd.read_parquet(CE / "predictions.parquet")
    table = pd.read_parquet("datasets/cache/tiny/manifest.parquet")
    target = table["domain"] == "toy-b"
    table.loc[target, "class_name"] = "basophil"
    table.to_parquet("datasets/cache/tiny/manifest.parquet", index=False)
    for folder in ("runs", "checkpoints"):
        shutil.rmtree(Path("results/tiny") / folder)
    wbc_shift("train", "-p", "tiny")
    after = pd.read_parquet(CE / "predictions.parquet")
    logits = [c for c in before if c.startswith("logit_")]
    pd.testing.assert_frame_equal(before[logits], after[logits])
    assert (after["label"] != before["label"]).any()


def test_the_record_is_json_without_nan(trained: Path) -> None:
    text = (CE / "run.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["history"][0].keys() == {
        "epoch", "train_loss", "id_val_macro_f1", "learning_rate",
    }  # fmt: skip
