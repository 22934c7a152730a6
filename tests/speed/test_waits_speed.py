"""What a person waits for: commands on a copy of this repository, in seconds.

`pytest --benchmark tests/speed/test_waits_speed.py -k plan` measures one. A command is timed the
second time: the first fills the user's cache of what is known of the code. Of the results, `core`
is evaluated and reported as it is committed, and written in the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY
from goals import row
from PIL import Image
from test_scale_speed import measured

PER_CLASS = 48
"""Of five classes: 240 images of a laboratory."""
COMMAND = [sys.executable, "-m", "benchmark"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository, elsewhere."""
    root = tmp_path_factory.mktemp("waits")
    listing = ["git", "ls-files", "-z"]
    names = subprocess.check_output(listing, cwd=REPOSITORY, text=True).split("\0")
    for name in filter(None, names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    return root


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of Raabin by class, in files of their own: the published ones would be refused."""
    mirror = os.environ.get("WBC_MIRROR")
    if not mirror:
        pytest.skip("WBC_MIRROR names no folder of real images")
    folder = tmp_path_factory.mktemp("laboratory")
    for kind in (Path(mirror) / "raabin" / "Train").iterdir():
        (folder / kind.name).mkdir()
        files = sorted(kind.glob("*.jpg"))
        for path in files[:: len(files) // PER_CLASS][:PER_CLASS]:
            Image.open(path).save(folder / kind.name / path.name, quality=92)
    return folder


def keep(
    record_property: Callable, what: str, goal: str, root: Path, *commands: list[str], again: bool
) -> None:
    """A row of the seconds that commands take together."""
    for _ in range(1 + again):
        costs = [measured([*COMMAND, *one], root)[0] for one in commands]
    spent = [sum(cost[kind] for cost in costs) for kind in ("processor_s", "wall_s")]
    record_property("reached", row(what, "s", goal, *spent))


@pytest.mark.parametrize(
    ("command", "goal"),
    [("--help", "≤ 0.5"), ("plan -p core", "≤ 3"), ("validate -p core", "≤ 3")],
)
def test_a_look(record_property: Callable, copied: Path, command: str, goal: str) -> None:
    keep(record_property, command, goal, copied, command.split(), again=True)


def test_evaluate_and_report(record_property: Callable, copied: Path) -> None:
    both = [[name, "-p", "core"] for name in ("evaluate", "report")]
    what = "evaluate and report -p core"
    keep(record_property, what, "≤ 45 of wall-clock", copied, *both, again=False)


def test_a_laboratory_of_240_images(
    record_property: Callable, copied: Path, laboratory: Path
) -> None:
    measured([*COMMAND, "fetch", "-p", "demo"], copied)
    add = ["domain", "add", str(laboratory), "--name", "lab"]
    keep(record_property, "domain add, 240 images", "≤ 15", copied, add, again=False)
    predict = ["predict", str(laboratory), "--out", str(copied / "predicted.csv")]
    keep(record_property, "predict, 240 images", "≤ 15", copied, predict, again=False)
