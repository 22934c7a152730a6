"""The cost of a network, against counts by hand and published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from torch import nn

from benchmark.models.build import build_model
from benchmark.models.summary import summarise


def test_a_small_network_costs_what_one_counts_by_hand() -> None:
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 8 * 8, 5),
        )
    cost = summarise(model, 8)
    assert cost.parameters == cost.trainable == 4 * 27 + 8 + 256 * 5 + 5
    assert cost.multiply_adds == 64 * 4 * 27 + 256 * 5
    # Kept for the backward pass: the image, the convolution's output (BatchNorm's input), the
    # ReLU's output (also the linear layer's input), and mean and spread of 4 channels for a batch
    # of two.
    assert cost.activation_bytes == 4 * (3 * 64 + 4 * 64 + 4 * 64) + 2 * 4 * 4 // 2
    assert cost.norms == {"batch": 1}


@pytest.mark.parametrize(
    ("backbone", "normalisation", "parameters", "multiply_adds"),
    [
        # millions and thousand millions at 224 px, as the papers and timm's tables print them
        ("resnet50", "bn", 25.6, 4.1),
        ("vit_small_patch16_224", "ln", 22.1, 4.6),
        ("swin_tiny_patch4_window7_224", "ln", 28.3, 4.5),
    ],
)
def test_known_networks_cost_what_is_published(
    backbone: str, normalisation: str, parameters: float, multiply_adds: float
) -> None:
    with torch.device("meta"):
        model = build_model(backbone, normalisation, {}, 1000, 224, seed=0)
    cost = summarise(model, 224)
    assert round(cost.parameters / 1e6, 1) == parameters
    assert round(cost.multiply_adds / 1e9, 1) == multiply_adds


def test_a_linear_probe_keeps_nothing_of_its_backbone() -> None:
    with torch.device("meta"):
        model = build_model("resnet10t", "bn", {}, 5, 48, seed=0, freezing="linear")
    cost = summarise(model, 48)
    assert cost.trainable == 512 * 5 + 5
    assert cost.activation_bytes == 512 * 4  # the features


def test_the_command_shows_each_network_of_a_profile_once(
    project: Path, wbc_shift: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.progress.console.width", 200)
    params = project / "params.yaml"
    text = params.read_text().replace("normalisations: [bn]", "normalisations: [bn, gn]")
    text = text.replace("losses: [ce, focal]", "losses: [ce, focal]\n        methods: [both]")
    both = "methods: {both: {members: [resnet10t-bn-ce, resnet10t-gn-ce]}}\nprofiles:\n"
    params.write_text(text.replace("profiles:\n", both))
    result = wbc_shift("models", "--profile", "tiny")
    assert result.status == 0, result.err
    rows = [line.split() for line in result.out.splitlines() if "resnet10t" in line]
    assert [row[2] for row in rows] == ["bn", "gn"]  # two losses, one network each
    assert "14 batch" in result.out
    assert "14 group" in result.out
