"""Records of speed: a failure is a row, too little memory halves the batch, a CPU says CPU."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import REPOSITORY

from benchmark.files import write_json
from benchmark.settings import Training, load_params
from benchmark.speed import measure
from benchmark.speed.forecast import Speed, forecast, known_speeds
from benchmark.speed.measure import Timing, in_turn, measure_network, networks, rates
from benchmark.speed.records import COLUMNS, read_speed, throughput, write_rows, write_throughput
from benchmark.study.runs import Run

CPU = torch.device("cpu")
SETTINGS = Training(
    epochs=1, batch_size=4, learning_rate=1e-3, weight_decay=0, warmup_epochs=0, patience=1,
    precision="fp32",
)  # fmt: skip
HERE = {"device": "Xeon (R) 2.50GHz", "device_type": "cpu", "threads": 2, "torch": "2.12.0"}
HERE |= {"timm": "1.0.31"}


def row(stage: str, images_per_s: float, **more: object) -> dict:
    return (
        HERE
        | {"stage": stage, "backbone": "resnet18", "normalisation": "bn", "image_size": 64}
        | {"batch_size": 32, "outcome": "done", "images_per_s": images_per_s}
        | {"peak_memory_mib": 100.0, "rounds": 3}
        | more
    )


def measured(monkeypatch: pytest.MonkeyPatch, memory_for: int, layout: str = "channels_last"):
    """Rows of a small network on a machine with memory for a batch of so many."""

    def timed(functions: dict, rounds: int, device: torch.device) -> dict[str, Timing]:
        batch = functions["train_floor"].__self__.settings.batch_size
        if batch > memory_for:
            raise torch.OutOfMemoryError("no memory")
        return {name: Timing(0.5, 0.25, 2**20) for name in functions}

    monkeypatch.setattr(measure, "in_turn", timed)
    what = ("resnet10t", "bn", {}, SETTINGS, 32, layout, CPU)
    return list(measure_network(*what, steps=2, rounds=1))


def test_a_network_is_really_measured() -> None:
    rows = list(measure_network("resnet10t", "bn", {}, SETTINGS, 32, "channels_last", CPU, 1, 1))
    assert [r["stage"] for r in rows] == ["batch", "train_floor", "train", "inference"]
    assert {r["outcome"] for r in rows} == {"done"}
    assert all(r["images_per_s"] > 0 for r in rows)


def test_too_little_memory_halves_the_batch_and_says_so(monkeypatch) -> None:
    rows = measured(monkeypatch, memory_for=2)
    assert {r["batch_size"] for r in rows} == {2}
    assert {r["reason"] for r in rows} == {"out of memory at a batch of 4"}
    assert {r["outcome"] for r in rows} == {"done"}


def test_no_memory_at_all_and_a_network_that_cannot_be_built_are_rows(monkeypatch) -> None:
    assert {r["outcome"] for r in measured(monkeypatch, memory_for=0)} == {"oom"}
    what = ("resnet81", "bn", {}, SETTINGS, 32, "channels_last", CPU)
    rows = list(measure_network(*what, steps=1, rounds=1))
    assert len(rows) == 4
    assert {r["outcome"] for r in rows} == {"error"}
    assert all(r["reason"] for r in rows)


def test_runs_train_in_channels_last_so_another_layout_has_only_a_floor(monkeypatch) -> None:
    rows = measured(monkeypatch, memory_for=4, layout="contiguous")
    assert "train" not in [r["stage"] for r in rows]


def test_rates_by_hand() -> None:
    # 64 images in 2 s of wall-clock and 3.2 s of processor time, in 4 steps.
    assert rates(Timing(2.0, 3.2, 3 * 2**20), 64, 4) == {
        "outcome": "done", "images_per_s": 32.0, "ms_per_step": 500.0,
        "processor_ms_per_image": 50.0, "peak_memory_mib": 3.0,
    }  # fmt: skip


def test_functions_are_timed_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    two = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = in_turn(two, rounds=2, device=CPU)
    assert "".join(calls) == "ab" * 3
    assert all(t.wall_s >= 0 for t in timings.values())


def test_the_setting_is_the_files_name_and_a_second_measurement_replaces_its_own_rows(
    tmp_path: Path,
) -> None:
    first = [row("train", 10.0), row("train_floor", 12.5), row("train", 7.0, backbone="vit")]
    path = write_rows(tmp_path, first, "fp32", "channels_last")
    assert path.name == "cpu-xeon-r-2-50ghz-torch2.12.0-fp32-channels_last.csv"
    write_rows(tmp_path, [row("train", 11.0)], "fp32", "channels_last")
    table = pd.read_csv(path)
    assert list(table.columns) == list(COLUMNS)
    assert sorted(table["images_per_s"]) == [7.0, 11.0, 12.5]


def test_the_throughput_table_says_cpu_and_the_share_of_the_floor(tmp_path: Path) -> None:
    failed = {"outcome": "error", "reason": "no such network", "images_per_s": None}
    rows = [row("train_floor", 20.0), row("train", 19.0), row("inference", 60.0)]
    rows += [row("train", 0, backbone="vit", peak_memory_mib=None) | failed]
    write_rows(tmp_path, rows, "fp32", "channels_last")
    good, bad = throughput(read_speed(tmp_path))
    assert good[0] == "CPU: Xeon (R) 2.50GHz"
    assert good[2:4] == ["fp32", "channels_last"]
    assert good[8:] == ["19", "95%", "60", "100", ""]
    assert bad[8:] == ["", "", "", "", "no such network"]
    assert "| 95% |" in write_throughput(tmp_path).read_text()


def test_a_profiles_networks_are_its_own_and_a_named_one_keeps_its_normalisation() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert ("resnet10t", "gn", 48) in networks(params, "phantom", [])
    assert {n for n, *_ in networks(params, "phantom", ["resnet10t"])} == {"resnet10t"}
    assert ("resnet18", "in", 112) in networks(params, "core", [])  # a framing's size
    tiny = networks(params, "full", ["vit_tiny_patch16_224"])
    assert tiny == [("vit_tiny_patch16_224", "ln", 224)]


TRAINING = {
    "epochs": 10, "batch_size": 64, "learning_rate": 1e-3, "weight_decay": 0.0,
    "warmup_epochs": 0, "patience": 1, "precision": "fp32",
}  # fmt: skip


def to_do(seed: int, training: str, backbone: str = "resnet18", **settings: object) -> Run:
    settings = settings or {"image_size": 64, "training": TRAINING}
    return Run.model_validate({
        "run_id": f"m/s/seed{seed}", "fingerprint": "", "training_fingerprint": training,
        "method": {"name": "m", "backbone": backbone}, "track": "inductive", "seed": seed,
        "scenario": {"name": "raabin->*", "source": "raabin", "targets": ["bccd"]},
        "settings": settings, "answering": "", "tested": {},
    })  # fmt: skip


def test_a_shared_training_is_paid_for_once_and_an_untimed_network_is_told() -> None:
    speeds = {("resnet18", 64, "fp32"): Speed(32.0, 20.0, "6 finished runs of resnet18 at 64 px")}
    runs = [to_do(0, "1"), to_do(1, "1"), to_do(2, "2", "resnet50")]
    ensemble = to_do(3, "3", members=[])
    found = forecast(speeds, [*runs, ensemble], {"raabin": 320}.__getitem__, lambda run: True)
    # 10 epochs x 320 images / 32 a second, once, and 20 s for each of the two runs: 140 s.
    assert found.hours == pytest.approx(140 / 3600)
    assert found.lines("a Xeon", "core") == [
        "forecast: at most 2 min for 2 runs, one after the other on a Xeon, from 6 finished runs "
        "of resnet18 at 64 px",
        "forecast: 1 runs of resnet50 at 64 px were never timed on a Xeon: run "
        "`wbc-shift speed -p core`",
    ]


def test_e8_predicting_from_a_checkpoint_is_not_forecast_as_training() -> None:
    speeds = {("resnet18", 64, "fp32"): Speed(32.0, 20.0, "6 finished runs of resnet18 at 64 px")}
    runs = [to_do(0, "1"), to_do(1, "2")]
    images = {"raabin": 320}.__getitem__
    found = forecast(speeds, runs, images, lambda run: run.seed == 0)
    # 100 s of training for the one whose network is not here, and 20 s for either's answers.
    assert found.hours == pytest.approx(140 / 3600)


def test_finished_runs_are_believed_before_the_record_of_speed(tmp_path: Path) -> None:
    device = HERE["device"]
    vit = row("train", 5.0, backbone="vit")
    write_rows(tmp_path, [row("train", 99.0), vit], "fp32", "channels_last")
    for seed, speed, where in ((0, 30.0, device), (1, 40.0, device), (2, 900.0, "a GPU")):
        record = to_do(0, "1").record() | {"outcome": "done", "train_images_per_s": speed}
        record |= {"time": {"train_s": 9, "load_s": 1.0, "evaluate_s": 2.0}}
        record |= {"environment": {"device": where}}
        write_json(tmp_path / f"results/tiny/runs/m/s/seed{seed}/run.json", record)
    speeds = known_speeds(tmp_path, device)
    assert speeds["resnet18", 64, "fp32"] == Speed(
        35.0, 3.0, "2 finished runs of resnet18 at 64 px"
    )
    assert speeds["vit", 64, "fp32"].images_per_s == 5.0


def test_e8_a_network_never_timed_here_is_forecast_from_another_device(tmp_path: Path) -> None:
    write_rows(tmp_path, [row("train", 5.0, backbone="vit")], "fp32", "channels_last")
    speed = known_speeds(tmp_path, "a new machine")["vit", 64, "fp32"]
    assert speed == Speed(5.0, 0.0, f"results/speed of vit at 64 px on {HERE['device']}")
