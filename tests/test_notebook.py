"""Notebooks: what `import benchmark` gives is what the commands compute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from support.results import CLASSES, scores, write_results

import benchmark
from benchmark.errors import UserError
from benchmark.evaluation.evaluate import evaluate


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two methods with two seeds each, in the profile `toy`."""
    results = tmp_path / "results" / "toy"
    for run in write_results(results):
        path = results / "runs" / run["run_id"] / "run.json"
        planned = {"training_fingerprint": "0", "answering": "0", "tested": {}, "settings": {}}
        path.write_text(json.dumps(run | planned))
    return tmp_path


def test_predictions_are_those_of_every_finished_run_by_name(project: Path) -> None:
    table = benchmark.predictions("toy", root=project)
    assert table.groupby(["method", "seed"]).size().nunique() == 1
    assert set(table["method"]) == {"resnet18-bn-ce", "resnet18-gn-ce"}
    assert set(table["label"]) == set(CLASSES)
    shares = table[[f"p_{name}" for name in CLASSES]]
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-3)
    assert (shares.idxmax(axis=1).str.removeprefix("p_") == table["predicted"]).all()
    only = benchmark.predictions("toy", "norms", project)
    pd.testing.assert_frame_equal(only, table)


def test_scores_are_those_of_evaluate(project: Path) -> None:
    results = project / "results" / "toy"
    evaluate(results)
    found = benchmark.score(benchmark.predictions("toy", root=project))
    known = scores(results).xs("", level="class_name").reset_index()
    known = known[known["method"] != "majority"].set_index([*found.index.names, "metric"])["value"]
    assert len(found) == 4 * 4
    for name in set(found.columns) - {"images"}:
        expected = known.xs(name, level="metric").reindex(found.index)
        pd.testing.assert_series_equal(found[name], expected, check_names=False)


def test_predictions_of_ones_own_are_scored_in_groups_of_ones_own() -> None:
    own = pd.DataFrame({"label": list("aabb"), "predicted": list("abbb"), "model": list("xxyy")})
    assert benchmark.score(own, ["model"])["accuracy"].tolist() == [0.5, 1.0]
    with pytest.raises(UserError, match="is none of a"):
        benchmark.score(own.assign(p_a=1.0), ["model"])


def test_a_comparison_is_that_of_the_command(project: Path, monkeypatch, wbc_shift) -> None:
    for name in ("params.yaml", "datasets"):
        (project / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(project)
    methods = ("resnet18-gn-ce", "resnet18-bn-ce")
    assert (
        wbc_shift("compare", *methods, "-p", "toy").out == benchmark.compare(*methods, "toy") + "\n"
    )


def test_an_unknown_experiment_names_the_nearest(project: Path) -> None:
    with pytest.raises(UserError, match="no experiment 'norm'; did you mean 'norms'"):
        benchmark.predictions("toy", "norm", project)


def test_help_and_completion_start_without_tables_and_networks() -> None:
    code = "import sys, benchmark.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not {"pandas", "torch", "scipy", "matplotlib"} & set(done.stdout.split())
