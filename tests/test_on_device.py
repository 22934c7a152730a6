"""The script for a GPU works on the processor too, so that it works when a GPU is at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from benchmark.speed.measure import PRECISIONS
from benchmark.speed.records import read_speed

CPU = torch.device("cpu")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "speed"))
    sys.modules.pop("on_device", None)
    import on_device

    return on_device


def test_the_same_device_differs_by_the_rounding_of_bfloat16_alone(script) -> None:
    apart = script.compare("resnet10t", "bn", 32, CPU)
    assert apart["fp32"] == 0
    assert 0 < apart["bf16"] < script.TOLERANCE["bf16"]


def test_every_named_setting_is_trained_in_every_precision(script) -> None:
    assert script.train_and_answer("resnet10t", "bn", 32, CPU, batch=4) >= 2 * 9


def test_speeds_are_written_for_every_precision_and_stage(script, tmp_path: Path) -> None:
    written = script.measure(tmp_path, [("resnet10t", "bn", 32)], CPU, batch=4, steps=1, rounds=1)
    assert all(path.is_file() for path in written)
    table = read_speed(tmp_path)
    assert set(table["precision"]) == set(PRECISIONS)
    assert set(table["stage"]) == {"batch", "train_floor", "train", "inference"}
    assert (table["outcome"] == "done").all()
