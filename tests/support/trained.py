"""Runs that are trained once, and their predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import CLASSES, draw_disc, working_copy
from PIL import Image

from benchmark.laboratory.label_images import Labelled, label_images
from benchmark.laboratory.networks import Network
from benchmark.metrics import probabilities

RUN = "resnet10t-bn-ce/toy-a_to_others/seed0"


@pytest.fixture(scope="session")
def trained_template(prepared_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy project with its runs done."""
    from benchmark import cli

    folder = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(prepared_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cli.train("tiny", None)
    return folder


@pytest.fixture
def trained(trained_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, the current folder, with a folder `new` of ten unlabelled images."""
    folder = working_copy(trained_template, tmp_path, monkeypatch)
    generator = np.random.default_rng(7)
    Path("new/more").mkdir(parents=True)
    for number in range(10):
        image = Image.fromarray(draw_disc(number % 5, 1.0, generator))
        image.save(f"new/{'more/' if number % 2 else ''}{number}.png")
    return folder


def labelled(folder: Path, run: str = RUN, **options: object) -> Labelled:
    """The images of a folder, labelled by a toy run."""
    return label_images(Path(), Network.of_run(Path(), "tiny", run, CLASSES), folder, **options)


def assert_answers_as_stored(run: str) -> None:
    """Label the in-domain test images of a toy run as if they were new, and compare."""
    stored = pd.read_parquet(Path("results/tiny/runs") / run / "predictions.parquet")
    stored = stored.query("part == 'id_test'").set_index("image")
    Path("known").mkdir()
    for path in stored.index:
        shutil.copy(Path("datasets/raw/toy") / path, Path("known") / path.replace("/", "_"))
    table, gauge, _ = labelled(Path("known"), run, crop=0.9)
    table = table.set_index("image").loc[[path.replace("/", "_") for path in stored.index]]
    logits = stored[[f"logit_{name}" for name in CLASSES]].to_numpy(float)
    expected = probabilities(logits, gauge.temperature)
    stated = table[[f"p_{name}" for name in CLASSES]].to_numpy(float)
    np.testing.assert_allclose(stated, expected, atol=2e-3)  # logits are stored in float16
    assert table["label"].tolist() == [CLASSES[k] for k in expected.argmax(1)]
