"""Methods that share a training (readouts, inferences, ensembles); several sources; poison."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import edit

from benchmark.data.arrays import PreparedImages
from benchmark.errors import UserError
from benchmark.execution import runner
from benchmark.files import read_json
from benchmark.scenarios import expand_scenario
from benchmark.settings import load_params
from benchmark.study.plan import plan_profile

RUNS = Path("results/tiny/runs")
SHARED = """\
      shared:
        title: One training, many answers
        scenarios: ["toy-a->*"]
        backbones: [resnet10t]
        readouts: [head, linear_probe, nearest_neighbours, decoupled, decoupled_drift]
        inferences: [single, tta]
        methods: [adapted, both, pair]
        seeds: 1
"""
BLOCKS = """\
readouts: {linear_probe: {}, nearest_neighbours: {}, decoupled: {hidden: 8, epochs: 3},
  decoupled_drift: {of: decoupled, hidden: 8, epochs: 3, stage2_bn: drift}}
inferences: {tta: {}, adabn: {}, tent: {}}
methods:
  adapted: {backbone: resnet10t, inference: adabn}
  both: {backbone: resnet10t, readout: linear_probe, inference: tent}
  pair: {members: [resnet10t-bn-ce, resnet10t-bn-ce-linear_probe]}
profiles:
"""
DOMAINS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def answered(prepared_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with every run of `shared` done; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("answered") / "project"
    shutil.copytree(prepared_template, folder)
    with contextlib.chdir(folder):
        with Path("params.yaml").open("a") as file:
            file.write(SHARED)
        edit(Path("params.yaml"), "profiles:\n", BLOCKS)
        plan_profile(Path(), load_params(), "tiny")
        runner.train_experiment(Path(), "tiny", "shared")
    return folder


@pytest.fixture
def shared(answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A copy of it as the current folder; its plan."""
    shutil.copytree(answered, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return read_json(Path("results/tiny/plans/shared.json"))["runs"]


def predictions(run: dict) -> pd.DataFrame:
    return pd.read_parquet(RUNS / run["run_id"] / "predictions.parquet")


def logits(run: dict) -> np.ndarray:
    return predictions(run).filter(like="logit_").to_numpy(np.float32, copy=True)


def named(runs: list[dict], name: str) -> dict:
    return next(run for run in runs if run["method"]["name"] == name)


def test_methods_that_differ_in_their_answer_alone_share_one_training(shared: list[dict]) -> None:
    assert {run["training_fingerprint"] for run in shared if run["settings"].get("loss") == {}} == {
        shared[0]["training_fingerprint"]
    }
    assert len(list(Path("results/tiny/checkpoints").glob("*.safetensors"))) == 1
    seconds = [read_json(RUNS / r["run_id"] / "run.json")["time"].get("train_s", 0) for r in shared]
    assert sum(s > 0 for s in seconds) == 1
    different = [logits(run).tobytes() for run in shared]
    assert len(set(different)) == len(shared)


def test_a_transductive_run_stands_on_a_track_of_its_own(shared: list[dict]) -> None:
    tracks = {run["method"]["name"]: run["track"] for run in shared}
    assert {name for name, track in tracks.items() if track == "transductive"} == {
        "adapted", "both",
    }  # fmt: skip


def test_an_ensemble_averages_the_stored_probabilities_of_its_members(shared: list[dict]) -> None:
    def probabilities(name: str) -> torch.Tensor:
        return torch.from_numpy(logits(named(shared, name))).softmax(1)

    members = ("resnet10t-bn-ce", "resnet10t-bn-ce-linear_probe")
    mean = sum(probabilities(name) for name in members) / 2
    torch.testing.assert_close(probabilities("pair"), mean, atol=2e-3, rtol=0)


def test_no_label_of_a_target_reaches_an_answer(shared: list[dict], monkeypatch) -> None:
    before = {run["run_id"]: logits(run) for run in shared}
    honest = PreparedImages.domain

    def poisoned(self: PreparedImages, name: str):
        images = honest(self, name)
        if name == "toy-b":
            images.labels[:] = 0
        return images

    monkeypatch.setattr(PreparedImages, "domain", poisoned)
    for run in shared:
        (RUNS / run["run_id"] / "run.json").unlink()
    for path in Path("results/tiny/checkpoints").iterdir():
        if path.suffix == ".safetensors":
            path.unlink()
    runner.train_experiment(Path(), "tiny", "shared")
    for run in shared:
        targets = predictions(run).query("part == 'shifted'")
        assert (targets["label"] == 0).all()
        np.testing.assert_array_equal(logits(run), before[run["run_id"]], err_msg=run["run_id"])


def test_a_run_asked_for_by_name_is_carried_out_alone(prepared: Path, wbc_shift) -> None:
    asked = ("--method", "resnet10t-bn-ce", "--scenario", "toy-a->toy-b", "--seed", "3")
    outcome = wbc_shift("train", "-p", "tiny", *asked)
    assert outcome.status == 0, outcome.err
    assert "toy-b (shifted, n = " in outcome.out
    assert (RUNS / "resnet10t-bn-ce/toy-a_to_toy-b/seed3/run.json").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("resnet10t-bn-cee", "toy-a->*"), "no method 'resnet10t-bn-cee'; did you mean"),
        (("resnet10t-bn-ce", "toy-b->*"), "toy-b has no split"),
        (("resnet10t-bn-ce", "toy-a->toy-x"), "no domain 'toy-x'"),
    ],
)
def test_what_cannot_be_trained_alone_is_one_line(prepared, wbc_shift, asked, told) -> None:
    outcome = wbc_shift("train", "-p", "tiny", "--method", asked[0], "--scenario", asked[1])
    assert outcome.status == 1
    assert told in outcome.err


def test_an_ensemble_of_methods_elsewhere_is_refused(prepared: Path) -> None:
    with Path("params.yaml").open("a") as file:
        file.write(SHARED.replace("adapted, both, pair", "pair").replace("linear_probe, ", ""))
    edit(Path("params.yaml"), "profiles:\n", BLOCKS)
    with pytest.raises(UserError, match="linear_probe', which is no network"):
        plan_profile(Path(), load_params(), "tiny")


@pytest.mark.parametrize(
    ("scenario", "expanded"),
    [
        ("a->*", ("a", ["b", "c"])),
        ("*->b", ("a+c", ["b"])),
        ("a+b->c", ("a+b", ["c"])),
        ("a+b->*", ("a+b", ["c"])),
        ("*->b,c", ("a", ["b", "c"])),
    ],
)
def test_a_scenario_has_sources_and_targets(scenario, expanded) -> None:
    assert expand_scenario(scenario, DOMAINS) == expanded


@pytest.mark.parametrize(
    ("scenario", "told"),
    [
        ("*->*", "name the source or the target"),
        ("a+d->c", "no domain 'd'"),
        ("a+c->c", "'c' is both trained and tested on"),
        ("a+a->c", "names 'a' twice"),
        ("a+b+c->*", "leaves no target"),
        ("a+b->corruptions", "of one source"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_one_line(scenario, told) -> None:
    with pytest.raises(UserError, match=told):
        expand_scenario(scenario, DOMAINS)
