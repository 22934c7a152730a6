"""Temporary files: what a killed process left goes, what another one is making stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from benchmark.files import TEMPORARY, sweep, temporary_beside, write_text

MAKING = """\
import os, signal, sys
from pathlib import Path
from benchmark.files import temporary_beside
place = Path(sys.argv[1])
with temporary_beside(place / "a.png") as file, temporary_beside(place / "b", folder=True) as b:
    file.write_text("a laboratory's image")
    (b / "c.png").write_text("another")
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    print("making", flush=True)
    sys.stdin.read()
"""


def making(folder: Path, fate: str) -> subprocess.Popen:
    """A process that makes a file and a folder of files in a folder."""
    return subprocess.Popen(
        [sys.executable, "-c", MAKING, str(folder), fate],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> None:
    sweep.cache_clear()


def test_d9_what_killed_processes_left_is_removed_by_the_next_write_there(tmp_path: Path) -> None:
    for _ in range(2):  # the second removes what the first left, and leaves as much
        assert making(tmp_path, "dies").wait() == -signal.SIGKILL
        assert len(names(tmp_path)) == 2
    write_text(tmp_path / "note.txt", "x")
    assert names(tmp_path) == {"note.txt"}


def test_d9_what_a_living_process_is_making_is_left_alone(tmp_path: Path) -> None:
    process = making(tmp_path, "lives")
    assert process.stdout.readline() == b"making\n"
    before = names(tmp_path)
    assert len(before) == 2
    write_text(tmp_path / "note.txt", "x")
    assert names(tmp_path) == before | {"note.txt"}
    process.communicate()
    assert process.returncode == 0
    assert names(tmp_path) == {"note.txt"}


def test_d9_files_of_others_are_left_alone(tmp_path: Path) -> None:
    others = {".a.png.abcdefgh.tmp", f"a.abcdefgh{TEMPORARY}", f".a{TEMPORARY}", "b.tmp", ".c.work"}
    for name in others:
        (tmp_path / name).write_text("mine")
    os.mkfifo(tmp_path / f".fifo.abcdefgh{TEMPORARY}")  # must not be waited for
    write_text(tmp_path / "note.txt", "x")
    assert names(tmp_path) >= others


def test_d9_git_ignores_what_is_being_made() -> None:
    assert "*.tmp" in (REPOSITORY / ".gitignore").read_text().splitlines()
    assert TEMPORARY.endswith(".tmp")


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("نمونه_" * 22 + ".png")
    write_text(path, "x")
    assert names(tmp_path) == {path.name}


def test_what_bears_the_temporary_name_in_the_end_is_removed(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "deep" / "a", folder=True) as work:
        (work / "b").write_text("x")
    assert names(tmp_path / "deep") == set()
