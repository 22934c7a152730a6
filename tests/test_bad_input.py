"""Bad input from the command line: one line on standard error, exit status 1, nothing lost."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import edit, working_copy

from benchmark.cli import main  # noqa: F401  (imported once, outside the timed part of a test)
from benchmark.data.arrays import data_digest
from benchmark.errors import UserError
from benchmark.files import read_json, sha256_file, write_json


def one_line(outcome, *parts: str) -> None:
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for part in parts:
        assert part in outcome.err


def test_unknown_key(project: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "image_size: 48", "imagesize: 48")
    one_line(
        wbc_shift("validate", "-p", "tiny"), "profiles.tiny.imagesize", "did you mean 'image_size'?"
    )


def test_unknown_profile_and_experiment(prepared: Path, wbc_shift) -> None:
    one_line(wbc_shift("plan", "-p", "tinny"), "no profile 'tinny'; did you mean 'tiny'?")
    one_line(wbc_shift("train", "-p", "tiny", "-e", "frist"), "did you mean 'first'?")


def test_unknown_backbone(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "[resnet10t]", "[resnet10]")
    one_line(wbc_shift("validate", "-p", "tiny"), "unknown backbone 'resnet10'", "'resnet10t'")


def test_a_device_or_thread_count_that_is_none(prepared: Path, wbc_shift, monkeypatch) -> None:
    monkeypatch.setenv("WBC_DEVICE", "gpu")
    one_line(wbc_shift("train", "-p", "tiny"), "WBC_DEVICE=gpu", "use cpu or cuda")
    monkeypatch.setenv("WBC_DEVICE", "cpu")
    monkeypatch.setenv("WBC_THREADS", "many")
    one_line(wbc_shift("train", "-p", "tiny"), "WBC_THREADS=many")


def test_unknown_loss_parameter(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "gamma: 2.0", "gama: 2.0")
    one_line(wbc_shift("plan", "-p", "tiny"), "losses.focal", "did you mean 'gamma'?")


def test_no_project_here(tmp_path: Path, wbc_shift, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    one_line(wbc_shift("validate"), "params.yaml is not here: run in the project's root folder")


def test_no_mirror_and_no_network(project: Path, wbc_shift, monkeypatch) -> None:
    monkeypatch.delenv("WBC_MIRROR")
    monkeypatch.setenv("WBC_OFFLINE", "1")
    one_line(
        wbc_shift("fetch", "-p", "tiny"),
        "toy",
        "200 of 200",
        "WBC_MIRROR",
        "draw the discs yourself",
    )


def test_wrong_hash_in_the_mirror(project: Path, wbc_shift, monkeypatch, tmp_path: Path) -> None:
    damaged = tmp_path / "mirror/toy/a/basophil/slide0_0.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    monkeypatch.setenv("WBC_OFFLINE", "1")
    outcome = wbc_shift("fetch", "-p", "tiny")
    one_line(outcome, "1 of 200", "slide0_0.jpg")
    assert not Path("datasets/raw/toy/a/basophil/slide0_0.jpg").exists()
    assert Path("datasets/raw/toy/a/basophil/slide1_0.jpg").exists()


def test_commands_before_their_input_exists(project: Path, wbc_shift) -> None:
    one_line(wbc_shift("prepare", "-p", "tiny"), "is missing", "run `wbc-shift fetch -p tiny`")
    one_line(wbc_shift("plan", "-p", "tiny"), "run `wbc-shift prepare -p tiny`")
    one_line(wbc_shift("train", "-p", "tiny"), "first.json is missing: run `wbc-shift plan")
    one_line(wbc_shift("evaluate", "-p", "tiny"), "results/tiny has no results: run `wbc-shift tra")
    one_line(wbc_shift("evaluate", "-p", "tyni"), "no profile 'tyni'; known: tiny")
    one_line(wbc_shift("report", "-p", "tiny"), "run `wbc-shift train -p tiny`")


def test_a_class_absent_from_the_training_part(prepared: Path, wbc_shift) -> None:
    path = Path("datasets/splits/toy-a.csv")
    table = pd.read_csv(path, dtype=str)
    rare = (table["label"] == "basophil") & (table["part"] == "train")
    # Only whole groups may move, so the rows leave the split, the manifest and the data.
    table[~rare].to_csv(path, index=False)
    manifest = pd.read_csv("datasets/manifests/toy.csv", dtype=str)
    left = manifest[~manifest["path"].isin(table.loc[rare, "path"])]
    left.to_csv("datasets/manifests/toy.csv", index=False)
    images = pd.read_parquet("datasets/cache/tiny/manifest.parquet")
    gone = images["image"].isin(table.loc[rare, "path"])
    import numpy as np

    array = Path("datasets/cache/tiny/toy-a.npy")
    kept = ~gone[images["domain"] == "toy-a"].to_numpy()
    np.save(array, np.load(array)[kept])
    images = images[~gone]
    images.to_parquet("datasets/cache/tiny/manifest.parquet", index=False)
    facts = read_json(Path("results/tiny/data.json"))
    rows = images[images["domain"] == "toy-a"]
    facts["domains"]["toy-a"]["digest"] = data_digest(sha256_file(array), rows)
    write_json(Path("results/tiny/data.json"), facts)
    wbc_shift("plan", "-p", "tiny")
    one_line(wbc_shift("train", "-p", "tiny"), "toy-a: no training image of basophil")


def test_a_plan_older_than_the_settings_is_not_carried_out(prepared: Path, wbc_shift) -> None:
    edit(Path("params.yaml"), "gamma: 2.0", "gamma: 3.0")
    one_line(wbc_shift("train", "-p", "tiny"), "first.json is older than the settings")


def test_an_image_the_split_does_not_know(prepared: Path, wbc_shift) -> None:
    path = Path("datasets/splits/toy-a.csv")
    pd.read_csv(path, dtype=str).iloc[1:].to_csv(path, index=False)
    one_line(wbc_shift("plan", "-p", "tiny"), "is in no part: run `wbc-shift split --anew toy-a`")


def test_validate_shows_what_would_run_and_what_is_missing(project: Path, wbc_shift) -> None:
    outcome = wbc_shift("validate", "-p", "tiny")
    assert outcome.status == 1
    assert "missing: toy-a: 100 of 100 images" in outcome.out
    assert "missing: split of toy-a: run `wbc-shift split`" in outcome.out
    wbc_shift("fetch", "-p", "tiny")
    wbc_shift("split")
    edit(Path("params.yaml"), "[resnet10t]", "[resnet10t, vit_tiny_patch16_224]")
    outcome = wbc_shift("validate", "-p", "tiny")
    assert "no batch normalisation to exchange" in outcome.out
    wbc_shift("prepare", "-p", "tiny")
    outcome = wbc_shift("validate", "-p", "tiny")
    assert outcome.status == 0
    row = next(line for line in outcome.out.splitlines() if "first" in line)
    assert [cell for cell in row.split() if cell.isdigit()] == ["4", "0", "2", "0", "0", "2"]


@pytest.mark.parametrize("name", ["run.json"])
def test_a_broken_record_is_trained_again_not_believed(
    prepared: Path, wbc_shift, name: str
) -> None:
    wbc_shift("train", "-p", "tiny")
    path = Path("results/tiny/runs/resnet10t-bn-ce/toy-a_to_others/seed0") / name
    path.write_text(path.read_text()[:100])
    assert "1 done" in wbc_shift("train", "-p", "tiny").out
    assert path.read_text().rstrip().endswith("}")


RECORDS = {
    "results/tiny/data.json": ("plan", "wbc-shift prepare -p tiny"),
    "results/tiny/plans/first.json": ("train", "wbc-shift plan -p tiny"),
    "results/tiny/experiments/first.json": ("evaluate", "wbc-shift train -p tiny"),
    "results/tiny/audit.json": ("report", "wbc-shift audit -p tiny"),
}


@pytest.fixture(scope="module")
def reported_template(trained_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project, done to its report."""
    from benchmark import cli

    with pytest.MonkeyPatch.context() as patch:
        folder = working_copy(trained_template, tmp_path_factory.mktemp("reported"), patch)
        cli.audit("tiny", None)
        cli.evaluate("tiny")
    return folder


@pytest.mark.parametrize("content", ["[]", "{}", "null", '{"runs": 1}', "", "{", "[1e999]"])
@pytest.mark.parametrize("path", RECORDS)
def test_d13_a_record_of_another_shape_is_one_line_that_says_how_to_make_it_anew(
    reported_template: Path, tmp_path: Path, wbc_shift, monkeypatch, path: str, content: str
) -> None:
    working_copy(reported_template, tmp_path, monkeypatch)
    Path(path).write_text(content)
    command, again = RECORDS[path]
    one_line(wbc_shift(command, "-p", "tiny"), path, again)


def test_d13_a_record_that_lacks_a_key_is_one_line(
    reported_template: Path, tmp_path: Path, wbc_shift, monkeypatch
) -> None:
    """Generated: 200 seeded damages to what commands leave for each other."""
    working_copy(reported_template, tmp_path, monkeypatch)
    generator = random.Random(3)
    whole = {path: Path(path).read_text() for path in RECORDS}
    for _ in range(200):
        path = generator.choice(list(RECORDS))
        record = json.loads(whole[path])
        damage(record, generator)
        Path(path).write_text(json.dumps(record))
        try:
            read(path)
        except UserError as error:
            line = str(error)
            assert Path(path).name in line
            assert "wbc-shift" in line
        Path(path).write_text(whole[path])


def read(path: str) -> None:
    """Read a record as the commands do."""
    from benchmark.data.arrays import read_prepared
    from benchmark.evaluation.experiments import load_experiments
    from benchmark.report.facts import audit_summary
    from benchmark.study.plan import read_plan

    readers = {"data": read_prepared, "first": read_plan, "audit": read_prepared}
    if "experiments" in path:
        load_experiments(Path("results/tiny"))
    elif "audit" in path:
        audit_summary(Path("results/tiny"))
    else:
        readers[Path(path).stem](Path(path))


def damage(record: object, generator: random.Random) -> None:
    """Take away a key or value somewhere, or put something else in its place."""
    places = [record]
    for place in places:
        inside = place.values() if isinstance(place, dict) else place
        places += [value for value in inside if isinstance(value, dict | list) and value]
    place = generator.choice(places)
    key = generator.choice(list(place) if isinstance(place, dict) else range(len(place)))
    if generator.random() < 0.5:
        del place[key]
    else:
        place[key] = generator.choice([None, [], {}, "", "../../x", -1, [1], {"a": 1}, 1e300, True])


@pytest.mark.parametrize("name", ["predictions.parquet", "metrics.parquet", "manifest.parquet"])
@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_d13_a_truncated_table_is_one_line(
    reported_template: Path, tmp_path: Path, wbc_shift, monkeypatch, name: str, kept: int
) -> None:
    working_copy(reported_template, tmp_path, monkeypatch)
    places = {
        "predictions.parquet": (Path("results/tiny/runs"), "evaluate", "wbc-shift train -p tiny"),
        "metrics.parquet": (Path("results/tiny"), "report", "wbc-shift evaluate -p tiny"),
        "manifest.parquet": (Path("datasets/cache/tiny"), "train", "wbc-shift prepare"),
    }
    folder, command, again = places[name]
    path = next(iter(sorted(folder.rglob(name))))
    path.write_bytes(path.read_bytes()[:kept])
    if command == "train":
        shutil.rmtree("results/tiny/runs")
    one_line(wbc_shift(command, "-p", "tiny"), again)


def test_d13_an_empty_split_is_one_line(prepared: Path, wbc_shift) -> None:
    path = Path("datasets/splits/toy-a.csv")
    for content in ("", path.read_text().splitlines()[0] + "\n", "\0\0"):
        path.write_text(content)
        one_line(wbc_shift("plan", "-p", "tiny"), "toy-a.csv", "wbc-shift split")
