"""Shared fixtures: no sockets beyond this machine, the command line, and a tiny project."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

pytest_plugins = ["support.trained"]
REPOSITORY = Path(__file__).parents[1]
LONGEST = ("test_every_entry.py", "test_pipeline.py", "test_launch.py", "test_training.py")
"""Files that take longest: `make test` begins with them."""
CLASSES = ["neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil"]
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60], [160, 60, 200]])

PARAMS = """\
split:
  seed: 0
  fractions: {train: 0.5, id_val: 0.2, calibration: 0.1, id_test: 0.2}
normalisations: {bn: {}, gn: {groups: 8}, in: {}, ibn_a: {}}
losses: {ce: {}, weighted_ce: {}, focal: {gamma: 2.0}, balanced_softmax: {}}
profiles:
  tiny:
    subset: all
    image_size: 48
    label_space: wbc5
    domains: [toy-a, toy-b]
    training:
      epochs: 2
      batch_size: 16
      learning_rate: 1e-3
      weight_decay: 0.05
      warmup_epochs: 0
      patience: 2
      precision: fp32
      augmentation: {dihedral: true, scale: 0.1, brightness: 0.1}
    experiments:
      first:
        title: A first question
        scenarios: ["toy-a->*"]
        backbones: [resnet10t]
        normalisations: [bn]
        losses: [ce, focal]
        seeds: 1
"""

CARD = """\
name: toy
title: Toy discs
homepage: https://example.org/toy
citation: {key: toy2020, bibtex: "@misc{toy2020, title={Toy discs}}"}
licence: {name: Apache-2.0, redistribution: allowed}
addresses: []
folder: toy
by_hand: draw the discs yourself
manifest: manifests/toy.csv
groups: slide
domains:
  toy-a: {title: Toy A, crop: 0.9, select: {acquisition: a}}
  toy-b: {title: Toy B, crop: 0.9, select: {acquisition: b}}
labels:
  wbc5: {neutrophil: neutrophil, lymphocyte: lymphocyte, monocyte: monocyte,
         eosinophil: eosinophil, basophil: basophil, artefact: null}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--benchmark` runs the speed tests and nothing else."""
    parser.addoption("--benchmark", action="store_true", help="run tests/speed, and only those")
    parser.addoption("--renew", action="store_true", help="keep the goals in results/speed/goals")


def pytest_configure(config: pytest.Config) -> None:
    """The speed tests end with a table of goals."""
    if config.getoption("--benchmark"):
        config.pluginmanager.import_plugin("goals")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Speed tests are collected with `--benchmark` alone, and nothing else is then."""
    timed = collection_path.is_relative_to(REPOSITORY / "tests" / "speed")
    ours = collection_path.suffix == ".py"
    return True if ours and timed != config.getoption("--benchmark") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: what one process begins last, the others wait for."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test that draws from torch without a generator draws the same in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_sockets_beyond_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection to another machine fails the test; the network settings start empty."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host not in ("127.0.0.1", "::1", "localhost"):
                raise AssertionError(f"a test tried to reach {host}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    for name in ("WBC_OFFLINE", "WBC_DEVICE"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Outcome:
    """What a command left: exit status and the two streams."""

    status: int
    out: str
    err: str


@pytest.fixture
def wbc_shift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `wbc-shift` in this process, in the current folder."""
    from benchmark.cli import main

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["wbc-shift", *arguments])
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        streams = capsys.readouterr()
        return Outcome(status, streams.out, streams.err)

    return run


def draw_disc(label: int, shade: float, generator: np.random.Generator) -> np.ndarray:
    """A disc in its class's colour on grey, 56 px: learnable in two epochs."""
    y, x = np.mgrid[:56, :56]
    centre = 28 + generator.normal(0, 3, 2)
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (10 + 2 * label) ** 2
    picture = np.full((56, 56, 3), 180.0) + generator.normal(0, 12, (56, 56, 3))
    picture[inside] = COLOURS[label] + generator.normal(0, 12, (int(inside.sum()), 3))
    return np.clip(picture * shade, 0, 255).astype(np.uint8)


def make_project(root: Path, per_class: int = 8, slides: int = 10) -> Path:
    """A project with one toy set of two domains; its images lie in `mirror/` beside the project."""
    project, mirror = root / "project", root / "mirror"
    (project / "datasets" / "manifests").mkdir(parents=True)
    (project / "params.yaml").write_text(PARAMS)
    (project / "datasets" / "toy.yaml").write_text(CARD)
    for file in ("label_spaces.yaml", "exclusions.csv", "same_cells.csv"):
        shutil.copy(REPOSITORY / "datasets" / file, project / "datasets")
    shutil.copytree(REPOSITORY / "datasets" / "haematology", project / "datasets" / "haematology")
    generator = np.random.default_rng(0)
    rows = []
    for domain, shade in (("a", 1.0), ("b", 0.7)):
        for slide in range(slides):
            for label, name in enumerate(CLASSES):
                for index in range(max(1, per_class // 4)):
                    path = f"{domain}/{name}/slide{slide}_{index}.jpg"
                    file = mirror / "toy" / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(draw_disc(label, shade, generator)).save(file, quality=95)
                    content = file.read_bytes()
                    rows.append(
                        {
                            "path": path,
                            "sha256": hashlib.sha256(content).hexdigest(),
                            "bytes": len(content),
                            "width": 56,
                            "height": 56,
                            "label": name,
                            "group": f"{domain}{slide}",
                            "acquisition": domain,
                        }
                    )
    table = pd.DataFrame(rows)
    table.to_csv(project / "datasets" / "manifests" / "toy.csv", index=False)
    return project


@pytest.fixture(scope="session")
def empty_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an empty toy project and its mirror, drawn once; tests work on copies of it."""
    root = tmp_path_factory.mktemp("empty")
    make_project(root)
    return root


@pytest.fixture
def project(empty_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty toy project, the current folder; `WBC_MIRROR` names its images."""
    shutil.copytree(empty_template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("WBC_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "project"


@pytest.fixture(scope="session")
def prepared_template(empty_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project fetched, split and prepared once; tests work on copies of it."""
    root = tmp_path_factory.mktemp("template")
    shutil.copytree(empty_template, root, dirs_exist_ok=True)
    folder = root / "project"
    here, mirror = Path.cwd(), os.environ.get("WBC_MIRROR")
    try:
        os.chdir(folder)
        os.environ["WBC_MIRROR"] = str(root / "mirror")
        from benchmark import cli

        cli.fetch("tiny")
        cli.split()
        cli.prepare("tiny")
        cli.plan("tiny")
    finally:
        os.chdir(here)
        os.environ.pop("WBC_MIRROR")
        if mirror is not None:
            os.environ["WBC_MIRROR"] = mirror
    return folder


def working_copy(template: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a project, the current folder: what a test changes there no other one sees."""
    folder = place / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def prepared(prepared_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy project with prepared images and a plan, ready to train; the current folder."""
    monkeypatch.setenv("WBC_MIRROR", str(prepared_template.parent / "mirror"))
    return working_copy(prepared_template, tmp_path, monkeypatch)


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that must occur exactly once in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path}"
    path.write_text(text.replace(old, new))
