"""The training loop's contract with a loss, and a short training with every loss there is."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.arrays import Images
from benchmark.models.build import build_model
from benchmark.models.predict import predict
from benchmark.models.weights import Preprocessing
from benchmark.settings import Training
from benchmark.training import fit as module
from benchmark.training.contracts import Loss, join
from benchmark.training.fit import Fit, NotFinite, fit
from benchmark.training.losses import LOSSES

COUNTS = torch.tensor([6, 5, 4, 3, 2])
CPU = torch.device("cpu")


def settings(**changes: object) -> Training:
    values = {
        "epochs": 1, "batch_size": 10, "learning_rate": 1e-3, "weight_decay": 0.05,
        "warmup_epochs": 0, "patience": 2, "precision": "fp32",
    }  # fmt: skip
    return Training.model_validate(values | changes)


def images(n: int, seed: int) -> Images:
    """Noise whose brightness tells the class, uint8 [n, 32, 32, 3]."""
    labels = np.repeat(np.arange(5), COUNTS.numpy())[np.arange(n) % 20]
    pixels = np.random.default_rng(seed).integers(0, 60, (n, 32, 32, 3))
    pixels += 40 * labels[:, None, None, None]
    return Images(pixels.astype(np.uint8), labels.astype(np.int64), pd.DataFrame(index=range(n)))


TRAIN, ID_VAL = images(20, seed=0), images(20, seed=1)


def network(seed: int = 0) -> torch.nn.Module:
    return build_model("resnet10t", "bn", {}, 5, 32, seed)


def train(model: torch.nn.Module, loss: Loss, **changes: object) -> Fit:
    return fit(model, loss, TRAIN, ID_VAL, settings(**changes), 0, CPU)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_and_its_state_predicts_again(name: str) -> None:
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = train(model, join(LOSSES[name](COUNTS), model, seed=0))
    assert all(math.isfinite(v) for epoch in result.history for v in epoch.values())
    assert not torch.equal(result.state["conv1.0.weight"], before["conv1.0.weight"])
    twin = network(seed=1)
    join(LOSSES[name](COUNTS), twin, seed=1)
    twin.load_state_dict(result.state)
    logits = predict(twin, ID_VAL.pixels, "fp32", CPU)
    assert logits.shape == (20, 5)
    assert np.isfinite(logits).all()
    json.dumps(result.history, allow_nan=False)


@pytest.mark.parametrize("name", ["triplet_centre_hard", "ccl"])
def test_the_same_seeds_give_the_same_bits(name: str) -> None:
    states = []
    for _ in range(2):
        model = network()
        states.append(train(model, join(LOSSES[name](COUNTS), model, seed=0)).state)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


class Recorder(Loss):
    """Cross-entropy that writes down in which order it is called and with what."""

    needs_features = True

    def __init__(self, model: torch.nn.Module, recomputes: bool) -> None:
        super().__init__()
        self.model, self.recomputes_features = [model], recomputes
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.calls: list[str] = []
        self.seen: list[Tensor] = []

    def weights(self) -> Tensor:
        return self.model[0].fc.weight.detach().clone()

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        assert logits.dtype == features.dtype == torch.float32
        assert features.shape == (len(labels), 512)
        self.calls.append("forward")
        self.seen, self.before = [features.detach()], self.weights()
        return self.scale * F.cross_entropy(logits, labels)

    def own_optimiser(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], 0.01)

    def update(self, features: Tensor | None, labels: Tensor) -> None:
        assert not torch.is_grad_enabled()
        assert self.model[0].training
        assert not torch.equal(self.weights(), self.before)  # after the step
        self.calls.append("update")
        self.seen.append(features)

    def facts(self) -> dict[str, float]:
        return {"scale": self.scale.item()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_loss_gets_what_it_declares_in_float32(recomputes: bool, precision: str) -> None:
    model = network()
    loss = join(Recorder(model, recomputes), model, seed=0)
    result = train(model, loss, precision=precision)
    assert loss.calls == ["forward", "update"] * 2
    assert torch.equal(*loss.seen) is not recomputes
    assert result.history[0]["scale"] == loss.scale.item() < 1


def test_features_are_computed_only_for_a_loss_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "features_and_logits", lambda *_: pytest.fail("features computed"))
    model = network()
    train(model, join(LOSSES["focal"](COUNTS), model, seed=0))


def test_a_function_of_logits_trains_as_the_loss_made_of_it() -> None:
    first, second = network(), network()
    result = train(first, F.cross_entropy)
    again = train(second, join(LOSSES["ce"](COUNTS), second, seed=9))
    assert all(torch.equal(result.state[k], again.state[k]) for k in result.state)


def test_training_and_validation_see_the_input_that_the_weights_expect() -> None:
    class Watched(torch.nn.Linear):
        def forward(self, batch: Tensor) -> Tensor:
            means[self.training].append(batch.mean(dim=(0, 2, 3)))
            return super().forward(batch.mean(dim=(2, 3)))

    means: dict[bool, list[Tensor]] = {True: [], False: []}
    preprocessing = Preprocessing(mean=(0.0, 0.5, 0.0), std=(1.0, 1.0, 0.1))
    fit(
        Watched(3, 5), F.cross_entropy, TRAIN, TRAIN, settings(batch_size=20), 0, CPU,
        preprocessing=preprocessing,
    )  # fmt: skip
    plain = torch.from_numpy(TRAIN.pixels / 255).float().mean(dim=(0, 1, 2))
    expected = plain * torch.tensor([1.0, 1.0, 10.0]) - torch.tensor([0.0, 0.5, 0.0])
    for seen in means.values():
        assert torch.allclose(torch.stack(seen), expected.expand(1, 3), atol=1e-4)


def test_diverging_centroids_end_the_run_with_a_reason() -> None:
    model = network()
    loss = join(LOSSES["ccl"](COUNTS, beta=1e30), model, seed=0)
    with pytest.raises(
        NotFinite, match=r"centroid_norm_mean (inf|nan) in epoch 0: .*set beta: 0 or renorm: true"
    ):
        train(model, loss)


def test_centroid_norms_are_recorded_epoch_by_epoch() -> None:
    model = network()
    history = train(model, join(LOSSES["ccl"](COUNTS), model, seed=0), epochs=2).history
    assert [set(h) >= {"centroid_norm_mean", "centroid_norm_max"} for h in history] == [True, True]
    assert history[0]["centroid_norm_mean"] != history[1]["centroid_norm_mean"]
    # about 0.05·√512 at the start, and moved by ten-thousandths
    assert history[0]["centroid_norm_mean"] == pytest.approx(0.05 * math.sqrt(512), rel=0.1)
