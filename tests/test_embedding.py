"""Features in the plane: what a run's record holds, who gets none, and what the report draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import edit
from support.results import write_gaps

from benchmark.execution.embedding import neighbours_alike
from benchmark.report.figures.embedding import (
    by_chance,
    embedding_figure,
    embedding_pages,
    embedding_text,
    load_embeddings,
)
from benchmark.report.results import Results

RUN = "resnet10t-bn-ce/toy-a_to_others/seed0"
OTHER = "resnet10t-bn-focal/toy-a_to_others/seed0"


def test_records_of_two_runs_show_the_same_images_and_say_whose_they_are(
    prepared: Path, wbc_shift
) -> None:
    assert wbc_shift("train", "-p", "tiny").status == 0
    outcome = wbc_shift("embed", RUN, OTHER, "-p", "tiny")
    assert outcome.status == 0, outcome.err
    folder = Path("results/tiny/embeddings")
    one, other = (json.loads(p.read_text()) for p in sorted(folder.glob("*.json")))
    assert (one["run_id"], other["run_id"]) == (RUN, OTHER)
    own = json.loads((Path("results/tiny/runs") / RUN / "run.json").read_text())
    assert one["predictions_sha256"] == own["predictions_sha256"]
    assert one["test_sets"] == [["toy-a", "id_test"], ["toy-b", "shifted"]]
    for key in ("test_set", "class"):
        assert one["images"][key] == other["images"][key]
    assert one["images"]["x"] != other["images"]["x"]
    # 20 of each class in the target, 4 in the source's test part: all of them have room.
    assert np.bincount(one["images"]["class"]).tolist() == [24] * 5

    # Who gets no record, and why: one line each.
    run = Path("results/tiny/runs") / RUN / "run.json"
    assert "did you mean" in wbc_shift("embed", RUN[:-1], "-p", "tiny").err
    (checkpoint,) = Path("results/tiny/checkpoints").glob(f"{own['training_fingerprint']}.*")
    checkpoint.unlink()
    assert "not on this machine" in wbc_shift("embed", RUN, "-p", "tiny").err
    edit(run, '"loss": "ce"', '"loss": "ce", "readout": "linear_probe"')
    assert "a readout" in wbc_shift("embed", RUN, "-p", "tiny").err
    settings = json.loads(run.read_text())["settings"]
    settings["members"] = [{"run_id": OTHER, "fingerprint": "0"}]
    record = json.loads(run.read_text()) | {"settings": settings}
    run.write_text(json.dumps(record, indent=1))
    assert "an ensemble" in wbc_shift("embed", RUN, "-p", "tiny").err
    edit(run, '"outcome": "done"', '"outcome": "nan"')
    outcome = wbc_shift("embed", RUN, "-p", "tiny")
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "is not done (nan)" in outcome.err


def test_neighbours_are_counted_in_the_features_by_hand() -> None:
    """Two domains on a line, 0 1 2 and 10 11 12; in the second, one is of the other class."""
    features = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    places, kinds = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 0, 1])
    # All five others are counted, two of them of the own domain; elsewhere there are three.
    same_domain, same_class = neighbours_alike(features, places, kinds)
    assert same_domain == pytest.approx(2 / 5)
    assert same_class == pytest.approx((3 * 2 / 3 + 2 * 1 + 0) / 6, abs=1e-4)


def test_neighbours_tell_islands_of_domains_from_islands_of_classes() -> None:
    generator = np.random.default_rng(0)
    places, kinds = np.repeat([0, 1], 40), np.tile(np.repeat([0, 1], 20), 2)
    noise = generator.normal(0, 0.1, (80, 2))
    by_domain = neighbours_alike(noise + places[:, None] * 5, places, kinds)
    by_class = neighbours_alike(noise + kinds[:, None] * 5, places, kinds)
    assert by_domain[0] == 1
    assert by_domain[1] == pytest.approx(0.5, abs=0.1)
    assert by_class[0] == pytest.approx(0.5, abs=0.1)
    assert by_class[1] == 1


def write_embedding(folder: Path, run_id: str, digest: str) -> None:
    """A record of five images of two domains."""
    record = {
        "run_id": run_id, "predictions_sha256": digest, "perplexity": 3, "neighbours": 10,
        "same_domain": 0.75, "same_class_elsewhere": 0.25,
        "test_sets": [["raabin", "id_test"], ["bccd", "shifted"]],
        "images": {"test_set": [0, 0, 0, 1, 1], "class": [0, 0, 1, 0, 1],
                   "x": [0.0, 1.0, 2.0, 3.0, 4.0], "y": [0.0, 1.0, 0.0, 1.0, 0.0]},
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{run_id.replace('/', '__')}.json").write_text(json.dumps(record))


def test_a_record_of_other_predictions_is_named_and_not_drawn(tmp_path: Path, capsys) -> None:
    results = Results.of(write_gaps(tmp_path))
    done = results.done
    stale, *whole = sorted(done)
    for run_id in whole:
        write_embedding(tmp_path / "embeddings", run_id, done[run_id].predictions_sha256)
    write_embedding(tmp_path / "embeddings", stale, "0" * 64)
    found = load_embeddings(results)
    assert sorted(one.run.run_id for one in found) == whole
    said = capsys.readouterr().out
    assert said.count("stale") == 1
    assert stale.replace("/", "__") in "".join(said.split())

    # Others of an image's own domain: 2 2 2 1 1 of 4. Of its class elsewhere: all of them 1 of 2,
    # then 2 of 3 and 1 of 3.
    assert by_chance(found[0]) == pytest.approx((8 / 20, (3 / 2 + 1) / 5))
    assert "perplexity 3)" in embedding_text(found)
    ((name, page),) = embedding_pages(found)
    assert name == f"embedding_{found[0].run.scenario.file_name}"
    labels = [axes.get_xlabel() for axes in embedding_figure(page).axes]
    assert any("own domain 75 % (chance 40 %)" in label for label in labels)
