"""Which images an epoch shows, and the schedules and optimisers that the settings name."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from benchmark.data.arrays import Images
from benchmark.models.weights import IMAGENET
from benchmark.settings import Training
from benchmark.training.averaging import AVERAGINGS
from benchmark.training.batches import SAMPLERS, Batches
from benchmark.training.fit import OPTIMISERS, SCHEDULES

CPU = torch.device("cpu")


def settings(**changes: object) -> Training:
    values = {
        "epochs": 100, "batch_size": 12, "learning_rate": 0.1, "weight_decay": 0.01,
        "warmup_epochs": 10, "patience": 5, "precision": "fp32",
    }  # fmt: skip
    return Training.model_validate(values | changes)


def images(labels: list[int], domains: list[int]) -> Images:
    """One pixel each, whose value is the image's position."""
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    return Images(
        pixels, np.array(labels), pd.DataFrame(index=range(len(labels))), np.array(domains)
    )


def drawn(sampler: str, labels: torch.Tensor, domains: torch.Tensor, size: int) -> torch.Tensor:
    return SAMPLERS[sampler](labels, domains, size, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("setting", "registry"),
    [
        ("sampler", SAMPLERS),
        ("schedule", SCHEDULES),
        ("optimiser", OPTIMISERS),
        ("averaging", AVERAGINGS),
    ],
)
def test_settings_take_the_names_that_have_an_implementation(setting: str, registry: dict) -> None:
    for name in registry:
        assert getattr(settings(**{setting: name}), setting) == name
    with pytest.raises(ValueError, match=f"no {setting} 'other'"):
        settings(**{setting: "other"})


def test_instance_shows_every_image_once() -> None:
    labels = torch.zeros(50, dtype=torch.int64)
    order = drawn("instance", labels, labels, 8)
    assert sorted(order.tolist()) == list(range(50))


def test_class_balanced_draws_every_class_as_often_and_every_image_of_it() -> None:
    labels = torch.tensor([0] * 3000 + [1] * 900 + [2] * 100)
    order = drawn("class_balanced", labels, torch.zeros_like(labels), 8)
    assert len(order) == 4000
    expected, error = 4000 / 3, math.sqrt(4000 * 1 / 3 * 2 / 3)
    for count in torch.bincount(labels[order]).tolist():
        assert abs(count - expected) < 4 * error
    # within the rarest class, each of its images is as likely: 13.3 ± 3.7 draws
    rare = torch.bincount(order, minlength=4000)[-100:]
    assert abs(rare.float().std().item() - math.sqrt(expected / 100)) < 1.0


def test_domain_balanced_shows_as_many_of_each_domain_in_every_batch() -> None:
    domains = torch.tensor([0] * 40 + [1] * 7 + [2] * 13)
    order = drawn("domain_balanced", torch.zeros_like(domains), domains, 13)
    batches = order.tensor_split(math.ceil(60 / 13))
    assert [torch.bincount(domains[batch]).tolist() for batch in batches] == [[4, 4, 4]] * 5
    shown = torch.bincount(order, minlength=60)
    assert shown[:40].max() == 1  # 20 of 40: none twice
    assert sorted(shown[40:47].tolist()) == [2] + [3] * 6  # 20 of 7: all twice before any thrice
    assert sorted(shown[47:].tolist()) == [1] * 6 + [2] * 7
    first = domains[batches[0]].tolist()
    assert first != sorted(first)  # mixed, not by domain


def test_a_batch_knows_where_the_images_of_each_domain_are() -> None:
    labels, domains = [0, 1, 2] * 10, [0] * 10 + [1] * 15 + [2] * 5
    feed = Batches(images(labels, domains), settings(), CPU, IMAGENET)
    assert feed.counts.tolist() == [[4, 3, 3], [5, 5, 5], [1, 2, 2]]
    sizes, positions = [], []
    for pixels, shown, groups in feed.epoch(torch.Generator().manual_seed(0)):
        red = pixels[:, 0, 0, 0] * IMAGENET.std[0] + IMAGENET.mean[0]
        own = (red * 255).round().long()
        assert shown.tolist() == [labels[i] for i in own]
        for domain, group in enumerate(groups):
            assert [domains[i] for i in own[group]] == [domain] * len(group)
        assert sum(map(len, groups)) == len(shown)
        sizes.append(len(shown))
        positions += own.tolist()
    assert sizes == [10, 10, 10]
    assert sorted(positions) == list(range(30))


def test_steps_fall_by_ten_at_30_and_60_of_100_epochs() -> None:
    factor = SCHEDULES["steps"](settings(warmup_epochs=0), steps_per_epoch=7)
    at = [factor(epoch * 7 + 6) for epoch in (0, 29, 30, 59, 60, 99)]
    assert at == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factor(30 * 7 - 1) == 1
    assert factor(30 * 7) == pytest.approx(0.1)
    other = SCHEDULES["steps"](settings(milestones=[0.5]), steps_per_epoch=1)
    assert [other(0), other(9), other(49), other(50)] == pytest.approx([0.1, 1, 1, 0.1])


def test_the_released_schedule_starts_with_its_last_value() -> None:
    # the factors as tsutsui2023's code makes them, by torch's own scheduler
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 90)
    released = torch.linspace(0, 1, 12)[1:-1].tolist()
    for _ in range(90):
        released += falling.get_last_lr()
        optimiser.step()
        falling.step()
    factor = SCHEDULES["as_released"](settings(), steps_per_epoch=3)
    ours = [factor(epoch * 3 + step) for epoch in range(100) for step in range(3)]
    expected = [released[epoch - 1] for epoch in range(100) for _ in range(3)]
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert factor(0) * 1e-4 == pytest.approx(3e-8, rel=0.02)


def test_sgd_has_momentum_and_the_decay_of_the_settings() -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        weight.weight.fill_(1.0)
    optimiser = OPTIMISERS["sgd"](weight, settings())
    value, speed = 1.0, 0.0
    for _ in range(3):
        weight.weight.grad = torch.tensor([[2.0]])
        optimiser.step()
        speed = 0.9 * speed + 2.0 + 0.01 * value
        value -= 0.1 * speed
        assert weight.weight.item() == pytest.approx(value, rel=1e-6)


def test_settings_at_their_defaults_leave_the_fingerprint_alone() -> None:
    described = settings().model_dump(mode="json", exclude_defaults=True)
    assert described.keys() == {
        "epochs", "batch_size", "learning_rate", "weight_decay", "warmup_epochs", "patience",
        "precision",
    }  # fmt: skip
