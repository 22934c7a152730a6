"""Imports go from a room to those below it and in no circle: the contracts of pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
DOWNWARDS, ACYCLIC = "A room imports only from the rooms below it", "No circle of imports"
WRONG = {
    "a late import of what is above": (
        {"errors.py": "def late(): from benchmark import cli"},
        DOWNWARDS,
    ),
    "a circle in a room": (
        {
            "data/one.py": "from benchmark.data import two",
            "data/two.py": "import benchmark.data.one",
        },
        ACYCLIC,
    ),
    "a module without a room": ({"attic.py": ""}, DOWNWARDS),
}


def lint(folder: Path) -> subprocess.CompletedProcess:
    """What import-linter says of the package in a folder."""
    return subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_no_room_imports_what_is_above_it_and_no_imports_go_in_a_circle() -> None:
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("added", "broken"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found(tmp_path: Path, added: dict[str, str], broken: str) -> None:
    shutil.copytree(REPOSITORY / "benchmark", tmp_path / "benchmark")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for module, text in added.items():
        with (tmp_path / "benchmark" / module).open("a") as file:
            file.write(f"\n\n{text}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"{broken} BROKEN" in done.stdout
