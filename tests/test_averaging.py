"""Averaged weights: by hand, step by step; their batch statistics; what is kept, and the end."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.data.arrays import Images
from benchmark.errors import UserError
from benchmark.models.build import build_model
from benchmark.models.normalisation import hold_in_evaluation
from benchmark.schema import parse
from benchmark.settings import Training
from benchmark.training import averaging
from benchmark.training.averaging import Ema, Swad, loss_valley, renew_statistics
from benchmark.training.fit import Fit, fit

CPU = torch.device("cpu")


def settings(**changes: object) -> Training:
    values = {
        "epochs": 3, "batch_size": 6, "learning_rate": 1e-3, "weight_decay": 0.0,
        "warmup_epochs": 0, "patience": 5, "precision": "fp32",
    }  # fmt: skip
    return parse(Training, values | changes, "training")


def images(n: int, seed: int) -> Images:
    labels = np.arange(n) % 3
    pixels = np.random.default_rng(seed).integers(0, 60, (n, 32, 32, 3))
    pixels += 60 * labels[:, None, None, None]
    return Images(pixels.astype(np.uint8), labels.astype(np.int64), pd.DataFrame(index=range(n)))


TRAIN, ID_VAL = images(12, seed=0), images(9, seed=1)


def train(model: nn.Module, **changes: object) -> Fit:
    return fit(model, F.cross_entropy, TRAIN, ID_VAL, settings(**changes), 0, CPU)


def network() -> nn.Module:
    return build_model("resnet10t", "bn", {}, 3, 32, seed=0)


class Number(nn.Module):
    """A network that is one number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.value.fill_(value)


def test_ema_by_hand_with_its_slow_start() -> None:
    model = Number(1.0)
    ema = Ema(model, settings(averaging="ema", averaging_decay=0.25))
    expected = 1.0
    # decays (1 + t) / (10 + t): 2/11, then 3/12 = 0.25, then the limit
    for value, decay in ((3.0, 2 / 11), (7.0, 0.25), (5.0, 0.25)):
        model.set(value)
        ema.step()
        expected = decay * expected + (1 - decay) * value
        assert ema.network.value.item() == pytest.approx(expected, rel=1e-6)
    assert model.value.item() == 5.0


@pytest.mark.parametrize(
    ("losses", "window"),
    [
        ([3, 2], (None, None)),
        ([3, 2, 1, 0.9, 0.8], (None, None)),  # falls to the end
        ([3, 2, 1, 1.1, 1.2], (2, None)),
        # threshold 1.3 · (1 + 1.1 + 1.2) / 3 = 1.43; six losses above it end the average
        ([3, 2, 1, 1.1, 1.2, 2, 2, 2, 2, 2], (2, None)),
        ([3, 2, 1, 1.1, 1.2, 2, 2, 2, 2, 2, 2], (2, 4)),
        ([3, 2, 1, 1.1, 1.2, 2, 2, 1.4, 2, 2, 2, 2, 2], (2, None)),
        ([3, 2, 1, 1.1, 1.2, 2, 2, 1.4, 2, 2, 2, 2, 2, 2, 0], (2, 7)),
        ([1, 1, 1], (0, None)),
    ],
)
def test_the_loss_valley_by_hand(losses: list[float], window: tuple) -> None:
    assert loss_valley(losses) == window


@pytest.mark.parametrize(
    ("losses", "first", "last"),
    [
        ([3, 2, 1, 0.9], 3, 3),
        ([3, 2, 1, 1.1, 1.2, 1.3, 1.4, 1.4, 1.4, 1.4, 1.4], 2, 10),
        ([3, 2, 1, 1.1, 1.2, 2, 2, 2, 2, 2, 2], 2, 4),
        ([3, 2, 1, 1.1, 1.2, 2, 2, 1.4, 2, 2, 2, 2, 2, 2], 2, 7),
    ],
)
def test_swad_is_the_mean_of_all_weights_in_the_window(
    losses: list[float], first: int, last: int
) -> None:
    model = Number()
    swad = Swad(model, settings(averaging="swad"))
    steps = 4
    for epoch, loss in enumerate(losses):
        for step in range(steps):
            model.set((epoch * steps + step) ** 2)
            swad.step()
        ended = swad.end_epoch(loss)
        assert ended == (epoch == len(losses) - 1 and last < epoch - 5)
        assert len(swad.waiting) <= averaging.OVERFITTED
    assert swad.window() == (first, last)
    expected = np.mean([i**2 for i in range(first * steps, (last + 1) * steps)])
    assert swad.averaged().value.item() == pytest.approx(expected, rel=1e-5)
    assert model.value.item() == (len(losses) * steps - 1) ** 2


def test_statistics_are_those_of_one_pass_over_the_batches() -> None:
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(3)
    net = nn.Sequential(frozen, nn.Dropout(0.5), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    frozen.running_mean.fill_(0.5)
    hold_in_evaluation(frozen)
    net[2].running_mean.fill_(7.0)
    batches = [torch.randn(n, 3, 4, 4) + n for n in (8, 4)]
    renew_statistics(net, batches, "fp32")
    inputs = [(b.double() - 0.5) / math.sqrt(1 + 1e-5) for b in batches]
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
    assert torch.allclose(net[2].running_mean.double(), means, rtol=1e-4)
    assert torch.allclose(net[2].running_var.double(), variances, rtol=1e-4)
    assert torch.equal(frozen.running_mean, torch.full((3,), 0.5))
    assert torch.allclose(net[3].running_mean, torch.zeros(3), atol=1e-5)  # sees normalised input
    assert not any(m.training for m in net.modules())
    assert net[2].momentum == 0.1


def test_the_average_of_a_network_has_the_statistics_of_its_own_weights() -> None:
    result = train(network(), averaging="ema", epochs=2)
    model = network()
    model.load_state_dict(result.state)
    pixels = torch.from_numpy(TRAIN.pixels).permute(0, 3, 1, 2) / 255
    # The order of the first epoch decides which images share a batch; no augmentation here.
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    batches = [(pixels[chosen] - mean) / std for chosen in order.split(6)]
    renew_statistics(model, batches, "fp32")
    for name, value in model.state_dict().items():
        assert torch.allclose(value, result.state[name], atol=1e-5), name


@pytest.mark.parametrize("name", ["ema", "swad"])
def test_averaging_moves_neither_the_training_nor_its_bits(name: str) -> None:
    plain, averaged = network(), network()
    train(plain)
    first = train(averaged, averaging=name)
    assert all(
        torch.equal(a, b)
        for a, b in zip(plain.state_dict().values(), averaged.state_dict().values(), strict=True)
    )
    again = train(network(), averaging=name)
    assert all(torch.equal(first.state[k], again.state[k]) for k in first.state)
    assert not torch.equal(first.state["conv1.0.weight"], plain.state_dict()["conv1.0.weight"])


def test_swad_records_its_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        averaging, "loss_valley", lambda losses: (1, 1 if len(losses) > 2 else None)
    )
    result = train(network(), averaging="swad", epochs=9)
    assert [row["averaged"] for row in result.history] == [0.0, 1.0, 0.0]
    assert all(math.isfinite(row["id_val_loss"]) for row in result.history)
    assert result.best_epoch == 1


class Constant(nn.Module):
    """Answers class 0 whatever it sees: no epoch is better than the first."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor([9.0, 0.0, 0.0]).expand(len(batch), 3) * (1 + self.bias**2)


@pytest.mark.parametrize("name", ["none", "ema"])
def test_the_last_epoch_is_kept_where_asked_for_and_patience_does_not_count(name: str) -> None:
    best = train(Constant(), epochs=5, patience=2, averaging=name)
    assert (best.best_epoch, len(best.history)) == (0, 3)
    last = train(Constant(), epochs=5, patience=2, averaging=name, selection="last")
    assert (last.best_epoch, len(last.history)) == (4, 5)


def test_swad_and_the_last_epoch_exclude_each_other() -> None:
    with pytest.raises(UserError, match="swad chooses its epochs"):
        settings(averaging="swad", selection="last")
