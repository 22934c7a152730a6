"""A record holds the answers of one network: in two clones, after tampering, as committed."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import REPOSITORY, edit, working_copy
from safetensors.torch import load_file, save_file

from benchmark.errors import ChangedInput
from benchmark.execution import runner
from benchmark.files import read_json, sha256_file, write_json
from benchmark.metrics import confusion_matrix, macro_f1_present
from benchmark.models.build import build_model
from benchmark.models.predict import log_mean_probability
from benchmark.settings import load_params
from benchmark.study.plan import plan_profile, read_plan
from benchmark.study.records import network_sha256, read_checkpoint, read_outcome, write_run
from benchmark.study.runs import Run

RUNS = Path("results/tiny/runs")
CHECKPOINTS = Path("results/tiny/checkpoints")
SHARED = """\
      shared:
        title: One training, many answers
        scenarios: ["toy-a->*"]
        backbones: [resnet10t]
        readouts: [head, linear_probe]
        methods: [adapted, colours, pair]
        seeds: 1
"""
BLOCKS = """\
readouts: {linear_probe: {}}
inferences: {adabn: {}}
methods:
  adapted: {backbone: resnet10t, inference: adabn}
  colours: {backbone: colour_histogram, normalisation: none, readout: linear_probe,
    training: {epochs: 0}}
  pair: {members: [resnet10t-bn-ce, resnet10t-bn-ce-linear_probe]}
profiles:
"""
HEAD = RUNS / "resnet10t-bn-ce/toy-a_to_others/seed0"
ADAPTED = RUNS / "adapted/toy-a_to_others/seed0"


@pytest.fixture(scope="module")
def published(prepared_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with its runs done: what one laboratory made, checkpoints included."""
    folder = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(prepared_template, folder)
    with contextlib.chdir(folder):
        text = (
            Path("params.yaml")
            .read_text()
            .replace("normalisations: {", "normalisations: {none: {}, ")
        )
        text = text[: text.index("      first:")] + SHARED
        Path("params.yaml").write_text(text.replace("profiles:\n", BLOCKS))
        plan_profile(Path(), load_params(), "tiny")
        runner.train_experiment(Path(), "tiny", "shared")
    return folder


@pytest.fixture
def clone(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, checkpoints included; the current folder."""
    return working_copy(published, tmp_path, monkeypatch)


def without_hashes() -> None:
    """Records and predictions as they were before networks were hashed."""
    for path in sorted(RUNS.glob("*/*/*/run.json")):
        record = read_json(path)
        for key in ("network_sha256", "members", "answered_in"):
            record.pop(key, None)
        table = path.with_name("predictions.parquet")
        pd.read_parquet(table).to_parquet(table, index=False)
        write_json(path, record | {"predictions_sha256": sha256_file(table)})


def add_target() -> None:
    """A third domain, of which the runs have answered nothing yet."""
    edit(
        Path("datasets/toy.yaml"),
        "  toy-b:",
        "  toy-c: {title: C, crop: 0.8, select: {acquisition: b}}\n  toy-b:",
    )
    edit(Path("params.yaml"), "[toy-a, toy-b]", "[toy-a, toy-b, toy-c]")


def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another processor would: the same seed, other last bits, and so another network."""
    fit = runner.fit

    def elsewhere(model, *rest, **more):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1 + 1e-5)
        return fit(model, *rest, **more)

    monkeypatch.setattr(runner, "fit", elsewhere)
    monkeypatch.setattr("benchmark.device.processor", lambda: "Another processor")


def logits(run: Path) -> dict[tuple[str, str], np.ndarray]:
    """Stored answers by test set."""
    tables = pd.read_parquet(run / "predictions.parquet").groupby(["domain", "part"])
    return {name: t.filter(like="logit_").to_numpy() for name, t in tables}


def planned(name: str, experiment: str = "shared") -> Run:
    """The planned run of a method."""
    runs = read_plan(Path(f"results/tiny/plans/{experiment}.json")).runs
    return next(run for run in runs if run.method.name == name)


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_c1_two_clones_give_the_same_answers_or_say_that_they_trained(
    clone: Path, wbc_shift, monkeypatch, hashed: bool, checkpoints: bool
) -> None:
    """The same target is added in a clone with and in one without checkpoints: never a mixture."""
    if not hashed:
        without_hashes()
    before = {path.parent: logits(path.parent) for path in RUNS.glob("*/*/*/run.json")}
    records = {run: read_json(run / "run.json") for run in before}
    network = network_sha256(read_checkpoint(next(CHECKPOINTS.glob("*.safetensors"))).state)
    if not checkpoints:
        shutil.rmtree(CHECKPOINTS)
    another_machine(monkeypatch)
    add_target()
    for command in ("prepare", "plan"):
        assert wbc_shift(command, "-p", "tiny").status == 0
    outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    for run, stored in before.items():
        record, answers = read_json(run / "run.json"), logits(run)
        assert ("toy-c", "shifted") in answers
        same = {name: np.array_equal(answers[name], stored[name]) for name in stored}
        if record["settings"].get("members") or not record["history"]:
            continue  # what is averaged or not trained is checked below
        place = record["environment"]["device"]
        if checkpoints:
            assert all(same.values()), (run, same)
            assert record["network_sha256"] == network
            assert record["history"] == records[run]["history"]
            assert place == records[run]["environment"]["device"]
            assert record["answered_in"][-1]["device"] == "Another processor"
        else:
            assert not any(same.values()), (run, same)
            assert record["network_sha256"] != network
            assert place == "Another processor"
            assert "answered_in" not in record
    hashes = {read_json(r / "run.json").get("network_sha256") for r in before if "bn-ce" in str(r)}
    assert len(hashes) == 1, "head and readout of one training answer from one network"
    assert read_json(ADAPTED / "run.json")["network_sha256"] in hashes
    pair = read_json(RUNS / "pair/toy-a_to_others/seed0/run.json")
    assert {member["network_sha256"] for member in pair["members"]} == hashes
    mean = log_mean_probability(
        torch.stack([
            torch.from_numpy(np.concatenate(list(logits(RUNS / m["run_id"]).values())).astype("f4"))
            for m in pair["members"]
        ])
    )  # fmt: skip
    averaged = np.concatenate(list(logits(RUNS / pair["run_id"]).values()))
    np.testing.assert_allclose(averaged, mean, atol=2e-3)
    assert ("predicted anew" in outcome.out) == (not checkpoints or not hashed)


def test_c1_a_checkpoint_of_another_training_of_the_same_fingerprint_completes_no_record(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    """The record's own checkpoint was lost, and a network was trained again elsewhere."""
    before = logits(ADAPTED)
    shutil.rmtree(CHECKPOINTS)
    shutil.rmtree(HEAD)
    another_machine(monkeypatch)
    outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert "share a training and answer from two networks" in outcome.out
    assert (
        "share a training and answer from two networks" in wbc_shift("validate", "-p", "tiny").out
    )
    assert (
        "share a training and answer from two networks" in wbc_shift("evaluate", "-p", "tiny").out
    )
    add_target()
    for command in ("prepare", "plan", "train"):
        assert wbc_shift(command, "-p", "tiny").status == 0
    after = logits(ADAPTED)
    assert not any(np.array_equal(after[name], before[name]) for name in before)
    hashes = {read_json(run / "run.json")["network_sha256"] for run in (HEAD, ADAPTED)}
    assert len(hashes) == 1


def test_c1_predict_refuses_a_network_to_which_temperature_and_threshold_do_not_belong(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    Path("new").mkdir()
    shutil.copy("datasets/raw/toy/a/monocyte/slide0_0.jpg", "new")
    asked = ("predict", "new", "-p", "tiny", "--run", HEAD.relative_to(RUNS).as_posix())
    assert wbc_shift(*asked).status == 0
    without_hashes()
    assert wbc_shift(*asked).status == 0, "its history says whose it is"
    path = next(CHECKPOINTS.glob("*.safetensors"))
    record = read_json(HEAD / "run.json")
    path.unlink()
    kept = HEAD.rename(HEAD.with_name("kept"))
    another_machine(monkeypatch)
    assert wbc_shift("train", "-p", "tiny", "-e", "shared").status == 0
    shutil.rmtree(HEAD)
    kept.rename(HEAD)
    Path("predictions.csv").unlink()
    outcome = wbc_shift(*asked)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "is another network than the one that gave the predictions of" in outcome.err
    assert not Path("predictions.csv").exists()
    assert read_json(HEAD / "run.json") == record


def random_values(path: Path) -> None:
    state, about = load_file(path), metadata(path)
    save_file({n: torch.rand_like(v.float()).to(v.dtype) for n, v in state.items()}, path, about)


def not_a_number(path: Path) -> None:
    state, about = load_file(path), metadata(path)
    del about["network_sha256"]
    state["fc.bias"][0] = float("nan")
    save_file(state, path, about)


def another_architecture(path: Path) -> None:
    about = metadata(path)
    del about["network_sha256"]
    save_file({"fc.weight": torch.zeros(5, 7)}, path, about)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("spoil", [random_values, not_a_number, another_architecture, cut])
def test_d7_a_checkpoint_that_is_not_as_it_was_written_is_one_line(
    clone: Path, wbc_shift, spoil
) -> None:
    for path in CHECKPOINTS.glob("*.safetensors"):
        spoil(path)
    Path("new").mkdir()
    shutil.copy("datasets/raw/toy/a/monocyte/slide0_0.jpg", "new")
    before = {p: p.read_bytes() for p in RUNS.rglob("*") if p.is_file()}
    add_target()
    for command in ("prepare", "plan"):
        assert wbc_shift(command, "-p", "tiny").status == 0
    run = HEAD.relative_to(RUNS).as_posix()
    for asked in (("predict", "new", "--run", run), ("train",)):
        outcome = wbc_shift(*asked, "-p", "tiny")
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert ".safetensors is " in outcome.err
        assert "Traceback" not in outcome.err
    assert {p: p.read_bytes() for p in RUNS.rglob("*") if p.is_file()} == before


def test_d7_a_network_under_the_name_of_another_training_is_refused(clone: Path) -> None:
    """One of another seed, whole and as it was written, would answer in its place."""
    path = next(CHECKPOINTS.glob("*.safetensors"))
    state, about = load_file(path), metadata(path)
    assert about["training"] == path.stem
    other = path.with_name(f"{'0' * 16}.safetensors")
    path.rename(other)
    with pytest.raises(ChangedInput, match=f"the network of training {path.stem}"):
        read_checkpoint(other)
    del about["training"]  # as checkpoints were written before
    save_file(state, other, about)
    assert read_checkpoint(other) is not None


def test_d7_predict_refuses_a_record_under_the_name_of_another_run(clone: Path, wbc_shift) -> None:
    Path("new").mkdir()
    shutil.copy("datasets/raw/toy/a/monocyte/slide0_0.jpg", "new")
    shutil.copytree(HEAD, HEAD.with_name("seed7"))
    run = HEAD.with_name("seed7").relative_to(RUNS).as_posix()
    outcome = wbc_shift("predict", "new", "--run", run, "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert f"run.json is of {HEAD.relative_to(RUNS).as_posix()}" in outcome.err


def test_d13_an_experiment_without_a_run_is_one_line(clone: Path, wbc_shift) -> None:
    path = Path("results/tiny/experiments/shared.json")
    write_json(path, read_json(path) | {"runs": []})
    for command in ("evaluate", "report"):
        outcome = wbc_shift(command, "-p", "tiny")
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert "shared.json: runs" in outcome.err


def test_c3_evaluate_says_what_was_planned_since(clone: Path, wbc_shift) -> None:
    """A domain was added and planned, and `train` was left out."""
    told = "shared was planned anew since"
    assert told not in wbc_shift("evaluate", "-p", "tiny").out
    add_target()
    for command in ("prepare", "plan"):
        assert wbc_shift(command, "-p", "tiny").status == 0
    assert told in wbc_shift("evaluate", "-p", "tiny").out


def test_d7_features_are_those_of_the_network_that_answers(clone: Path, wbc_shift) -> None:
    """Features of another network, and features that were exchanged, are computed again."""
    probe = RUNS / "resnet10t-bn-ce-linear_probe/toy-a_to_others/seed0"
    before = logits(probe)
    cached = [path for path in CHECKPOINTS.glob("*/*.safetensors")]
    assert cached
    for path in cached:
        values = load_file(path)["features"]
        save_file({"features": torch.rand_like(values)}, path, metadata(path))
    shutil.rmtree(probe)
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert all(
        np.array_equal(a, b) for a, b in zip(logits(probe).values(), before.values(), strict=True)
    )


@pytest.mark.parametrize("what", ["pixels", "labels"])
def test_d7_prepared_images_and_labels_are_those_that_the_fingerprint_names(
    clone: Path, wbc_shift, what: str
) -> None:
    before = (HEAD / "run.json").read_bytes()
    (HEAD / "predictions.parquet").unlink()
    array, table = (
        Path("datasets/cache/tiny/toy-b.npy"),
        Path("datasets/cache/tiny/manifest.parquet"),
    )
    if what == "pixels":
        np.save(array, np.load(array)[::-1])
    else:
        rows = pd.read_parquet(table)
        rows.loc[rows["domain"] == "toy-b", "class_name"] = "basophil"
        rows.to_parquet(table, index=False)
    outcome = wbc_shift("train", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "toy-b.npy and its labels" in outcome.err
    assert "run `wbc-shift prepare -p tiny`" in outcome.err
    assert (HEAD / "run.json").read_bytes() == before


def test_d7_names_exchanged_in_an_index_are_refused(clone: Path, wbc_shift) -> None:
    path = Path("results/tiny/experiments/shared.json")
    index = read_json(path)
    rows = {row["method"]["name"]: row for row in index["runs"]}
    one, other = rows["resnet10t-bn-ce"], rows["resnet10t-bn-ce-linear_probe"]
    one["method"], other["method"] = other["method"], one["method"]
    write_json(path, index)
    outcome = wbc_shift("evaluate", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "in the experiment's index" in outcome.err


def test_d7_predictions_exchanged_with_their_hashes_are_refused(clone: Path, wbc_shift) -> None:
    files = [run / "predictions.parquet" for run in (HEAD, ADAPTED)]
    first, second = (file.read_bytes() for file in files)
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    path = Path("results/tiny/experiments/shared.json")
    index = read_json(path)
    for file in files:
        record = read_json(file.with_name("run.json"))
        changed = {"predictions_sha256": sha256_file(file)}
        write_json(file.with_name("run.json"), record | changed)
        for row in index["runs"]:
            if row["run_id"] == record["run_id"]:
                row |= changed
    write_json(path, index)
    outcome = wbc_shift("evaluate", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "is of another run (run_id: " in outcome.err
    assert read_outcome(Path(), "tiny", planned("resnet10t-bn-ce"))["outcome"] == "missing"


def test_d7_an_average_of_other_answers_than_its_members_have_is_made_again(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    assert read_outcome(Path(), "tiny", planned("pair"))["outcome"] == "done"
    shutil.rmtree(HEAD)
    shutil.rmtree(CHECKPOINTS)
    another_machine(monkeypatch)
    asked = ("--method", "resnet10t-bn-ce", "--scenario", "toy-a->*")
    assert wbc_shift("train", "-p", "tiny", *asked).status == 0
    assert read_outcome(Path(), "tiny", planned("pair"))["outcome"] == "missing"


def test_d7_a_weights_file_without_a_digest_is_refused_by_the_plan(
    prepared: Path, wbc_shift
) -> None:
    Path("mine.safetensors").write_bytes(b"tensors")
    edit(
        Path("params.yaml"),
        "profiles:\n",
        "weights: {mine: {file: mine.safetensors}}\n"
        "methods: {started: {backbone: resnet10t, weights: mine}}\nprofiles:\n",
    )
    edit(Path("params.yaml"), "[ce, focal]\n", "[ce, focal]\n        methods: [started]\n")
    outcome = wbc_shift("plan", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert f"add `sha256: {sha256_file(Path('mine.safetensors'))}`" in outcome.err


def test_a_checkpoint_predicts_where_its_initial_weights_are_gone(
    prepared: Path, wbc_shift
) -> None:
    file = Path("mine.safetensors")
    save_file(build_model("resnet10t", "bn", {}, 5, 48, seed=1).state_dict(), file)
    edit(
        Path("params.yaml"),
        "profiles:\n",
        f"weights: {{mine: {{file: {file}, sha256: {sha256_file(file)}}}}}\n"
        "methods: {started: {backbone: resnet10t, weights: mine}}\nprofiles:\n",
    )
    asked = ("train", "-p", "tiny", "--method", "started", "--scenario", "toy-a->*")
    assert wbc_shift(*asked).status == 0
    folder = RUNS / "started/toy-a_to_others/seed0"
    record, whole = read_json(folder / "run.json"), (folder / "predictions.parquet").read_bytes()
    file.unlink()
    shutil.rmtree(folder)
    outcome = wbc_shift(*asked)
    assert outcome.status == 0, outcome.err
    assert (folder / "predictions.parquet").read_bytes() == whole
    assert read_json(folder / "run.json")["weights"] == record["weights"]
    assert record["weights"]["sha256"] == record["settings"]["weights"]["sha256"]


def test_d7_edited_scores_are_refused_by_the_report(clone: Path, wbc_shift) -> None:
    assert wbc_shift("evaluate", "-p", "tiny").status == 0
    path = Path("results/tiny/metrics.parquet")
    table = pq.read_table(path)
    value = table["value"].to_numpy().copy()
    value[0] += 0.1
    place = table.schema.get_field_index("value")
    changed = table.set_column(place, table.schema.field("value"), [value])
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    outcome = wbc_shift("report", "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "metrics.parquet is not as `wbc-shift evaluate` wrote it" in outcome.err


def test_d8_a_run_killed_between_its_two_files_stays_where_it_was(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    """No folder of another name is left behind, and the same command makes it whole."""
    record, whole = read_json(HEAD / "run.json"), (HEAD / "predictions.parquet").read_bytes()
    table = pd.read_parquet(HEAD / "predictions.parquet")
    replaced = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).name == "predictions.parquet":
            raise KeyboardInterrupt  # as near to a kill as a test of one process comes
        return replaced(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_run(HEAD, record | {"seed": 1}, table.assign(group="other"))
    assert {path.name for path in HEAD.parent.iterdir()} == {"seed0"}
    assert (HEAD / "predictions.parquet").read_bytes() == whole
    assert read_outcome(Path(), "tiny", planned("resnet10t-bn-ce"))["outcome"] == "missing"
    assert wbc_shift("train", "-p", "tiny").status == 0
    assert (HEAD / "predictions.parquet").read_bytes() == whole


def test_c3_validate_and_plan_say_what_is_predicted_and_what_is_trained(
    clone: Path, wbc_shift
) -> None:
    add_target()
    wbc_shift("prepare", "-p", "tiny")
    assert (
        "5 runs planned, 0 done or skipped, 5 to predict\n" in wbc_shift("plan", "-p", "tiny").out
    )
    shutil.rmtree(CHECKPOINTS)
    outcome = wbc_shift("plan", "-p", "tiny")
    assert "0 done or skipped, 2 to predict, 3 to train (1 trainings)" in outcome.out
    outcome = wbc_shift("validate", "-p", "tiny")
    assert "3 runs need a network that is not here" in outcome.out
    assert "3 of them have recorded answers of networks that are not here" in outcome.out
    row = next(line for line in outcome.out.splitlines() if "shared" in line)
    assert [cell for cell in row.split() if cell.isdigit()] == ["5", "0", "0", "0", "2", "3"]


def test_c4_a_run_trained_alone_is_told_to_the_experiments_that_hold_it(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    shutil.rmtree(HEAD)
    shutil.rmtree(CHECKPOINTS)
    another_machine(monkeypatch)
    asked = ("--method", "resnet10t-bn-ce", "--scenario", "toy-a->*")
    assert wbc_shift("train", "-p", "tiny", *asked).status == 0
    index = {
        row["run_id"]: row
        for row in read_json(Path("results/tiny/experiments/shared.json"))["runs"]
    }
    row = index[HEAD.relative_to(RUNS).as_posix()]
    assert row["predictions_sha256"] == sha256_file(HEAD / "predictions.parquet")
    outcome = wbc_shift("evaluate", "-p", "tiny")
    assert outcome.status == 0, outcome.err


def test_c4_an_index_older_than_its_run_is_named_and_brought_up_to_date_without_training(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    path = Path("results/tiny/experiments/shared.json")
    index = read_json(path)
    index["runs"][0]["predictions_sha256"] = "0" * 64
    write_json(path, index)
    outcome = wbc_shift("evaluate", "-p", "tiny")
    assert "the experiment's index is older than the run" in outcome.err
    monkeypatch.setattr(runner, "fit", lambda *a, **k: pytest.fail("trained again"))
    asked = ("--method", "resnet10t-bn-ce", "--scenario", "toy-a->*")
    assert wbc_shift("train", "-p", "tiny", *asked).status == 0
    assert wbc_shift("evaluate", "-p", "tiny").status == 0


def test_c4_a_finished_run_without_its_network_says_so(clone: Path, wbc_shift) -> None:
    asked = ("train", "-p", "tiny", "--method", "resnet10t-bn-ce", "--scenario", "toy-a->*")
    assert "is not on this machine" not in wbc_shift(*asked).out
    shutil.rmtree(CHECKPOINTS)
    outcome = wbc_shift(*asked)
    assert outcome.status == 0
    assert "done before; its network is not on this machine" in outcome.out


def test_d11_an_ensemble_waits_for_a_member_that_another_process_holds(
    clone: Path, wbc_shift, monkeypatch
) -> None:
    """The lock is given back at the first wait; the ensemble must not have been tried before."""
    shutil.rmtree(HEAD)
    shutil.rmtree(RUNS / "pair")
    held = runner.run_lock(Path(), "tiny", planned("resnet10t-bn-ce"))
    held.acquire()
    monkeypatch.setattr(runner.time, "sleep", lambda _: held.release())
    outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert read_outcome(Path(), "tiny", planned("pair"))["outcome"] == "done"


def test_e11_a_checkout_is_dirty_by_code_and_settings_alone(tmp_path: Path, monkeypatch) -> None:
    import subprocess

    from benchmark import device

    for name in ("benchmark/device.py", "params.yaml", "results/table.md", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(device, "__file__", str(tmp_path / "benchmark/device.py"))
    for name in ("results/table.md", "README.md"):
        (tmp_path / name).write_text("2")
    assert device.git_state()["git_dirty"] is False
    (tmp_path / "params.yaml").write_text("2")
    assert device.git_state()["git_dirty"] is True


# The committed records, from before networks were hashed.

CORE = REPOSITORY / "results" / "core"
CLASSES = json.loads((CORE / "plans" / "norms.json").read_text())["classes"]
LOGITS = [f"logit_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def committed() -> dict[str, dict]:
    """Every record of `core`, by run id."""
    paths = sorted((CORE / "runs").glob("*/*/*/run.json"))
    return {
        p.parent.relative_to(CORE / "runs").as_posix(): json.loads(p.read_text()) for p in paths
    }


def stored(run_id: str) -> pd.DataFrame:
    return pd.read_parquet(CORE / "runs" / run_id / "predictions.parquet")


def test_c1_records_of_one_training_tell_of_one_network(committed: dict[str, dict]) -> None:
    """Every epoch's loss to the last bit: no two trainings under one fingerprint and hash.

    Records from before networks were hashed name none, and share one network each; those of TENT,
    predicted anew, name networks that were trained anew.
    """
    trainings: dict[tuple[str, str | None], set[str]] = {}
    for record in committed.values():
        told = json.dumps([record.get("history"), record.get("selection")])
        network = record["training_fingerprint"], record.get("network_sha256")
        trainings.setdefault(network, set()).add(told)
    assert {
        fingerprint: len(told) for fingerprint, told in trainings.items() if len(told) > 1
    } == {}


def test_c1_stored_answers_are_those_of_the_network_that_the_record_tells_of(
    committed: dict[str, dict],
) -> None:
    """Macro-F1 of the stored id_val answers is what training found at the chosen epoch.

    A record that was completed by another network keeps id_val of the first one beside the history
    of the second. Logits are stored in half precision: where the two highest became equal, either
    may have been the higher, and either answer is allowed. The test sees records whose own head
    answers, in one view; two networks of equal macro-F1 on id_val it cannot tell apart.
    """
    checked, apart = 0, []
    for run_id, record in committed.items():
        if not record.get("selection") or {"readout", "inference"} & record["method"].keys():
            continue
        table = stored(run_id).query("part == 'id_val'")
        values, labels = table[LOGITS].to_numpy(np.float32), table["label"].to_numpy(np.int64)
        highest = values == values.max(1, keepdims=True)
        tied = np.flatnonzero(highest.sum(1) > 1)
        scores = []
        for chosen in itertools.product(*(np.flatnonzero(highest[row]) for row in tied)):
            answers = values.argmax(1)
            answers[tied] = chosen
            scores.append(macro_f1_present(confusion_matrix(labels, answers, len(CLASSES))))
        if min(abs(score - record["selection"]["id_val_macro_f1"]) for score in scores) > 1e-9:
            apart.append((run_id, record["selection"], scores))
        checked += 1
    assert checked > 180
    assert apart == []


def test_c1_corrected_answers_are_those_of_the_same_network(committed: dict[str, dict]) -> None:
    """A correction of the prior adds one number per class to all logits of a test set: every test
    set, the shifted ones too, is that of the record whose network it corrects."""
    single = {
        record["training_fingerprint"]: run_id
        for run_id, record in committed.items()
        if "members" not in record["settings"]
        and {"readout", "inference"}.isdisjoint(record["method"])
    }
    corrected = [
        i for i, r in committed.items() if r["method"].get("inference") == "prior_correction"
    ]
    assert corrected
    for run_id in corrected:
        keys = ["domain", "part", "image"]
        plain = stored(single[committed[run_id]["training_fingerprint"]])
        both = stored(run_id).merge(plain, on=keys, suffixes=("", "_plain"))
        shift = both[LOGITS].to_numpy(np.float32)
        shift = shift - both[[f"{name}_plain" for name in LOGITS]].to_numpy(np.float32)
        for rows in both.groupby(keys[:2]).indices.values():
            spread = np.abs(shift[rows] - np.median(shift[rows], axis=0)).max()
            assert spread < 0.05, (run_id, spread)  # two roundings to half precision


def test_c1_committed_averages_are_those_of_their_members(committed: dict[str, dict]) -> None:
    for run_id, record in committed.items():
        if members := record["settings"].get("members"):
            tables = [stored(member["run_id"])[LOGITS].to_numpy(np.float32) for member in members]
            mean = log_mean_probability(torch.from_numpy(np.stack(tables))).numpy()
            np.testing.assert_allclose(
                stored(run_id)[LOGITS].astype("f4"), mean, atol=0.02, rtol=2e-3
            )
