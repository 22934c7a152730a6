"""A disk that is full or read-only, a process killed at its worst: one line, no torn file.

Real file systems where this user may mount them (root does, whom permission bits do not bind), and
errors put in their place where he may not.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import REPOSITORY

from benchmark.execution import runner
from benchmark.files import read_json, write_json
from benchmark.study.plan import read_plan

RESULTS = Path("results/tiny")
FIRST = RESULTS / "runs/resnet10t-bn-ce/toy-a_to_others/seed0"


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[None]:
    """A file system mounted for the time of a test."""
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, *arguments, str(at)], capture_output=True).returncode:
        pytest.skip("this user may not mount file systems")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder, in place but read-only, for root too."""
    with mounted("--bind", str(folder), at=folder):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and what it holds; locks are empty and hold nothing."""
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def fill_up(ballast: Path) -> None:
    """Write a file until the disk takes no more."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.fixture(scope="module")
def half_done_template(prepared_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the first of its two runs done."""
    folder = tmp_path_factory.mktemp("half") / "project"
    shutil.copytree(prepared_template, folder)
    plan = read_plan(folder / RESULTS / "plans" / "first.json")
    runner.train_one(folder, "tiny", list(plan.classes), list(plan.runs[:1]))
    return folder


@pytest.fixture
def half_done(
    half_done_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A copy of it, the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(half_done_template, folder)
    monkeypatch.chdir(folder)
    return folder


def test_a_full_disk_keeps_what_was_finished_and_the_same_command_goes_on(
    half_done: Path, wbc_shift
) -> None:
    kept = half_done.parent / "kept"
    shutil.move(RESULTS, kept)
    RESULTS.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", at=RESULTS):
        shutil.copytree(kept, RESULTS, dirs_exist_ok=True)
        before = files(RESULTS)
        ballast = RESULTS / "ballast"
        fill_up(ballast)
        outcome = wbc_shift("train", "-p", "tiny")
        assert outcome.status == 1
        assert len(outcome.err.splitlines()) == 1
        assert "disk full while writing" in outcome.err
        ballast.unlink()
        assert files(RESULTS) == before

        assert wbc_shift("train", "-p", "tiny").status == 0
        after = files(RESULTS)
        assert before.items() <= after.items()
        assert sum(name.endswith("run.json") for name in after) == 2


@pytest.mark.parametrize("command", ["plan", "train", "evaluate"])
def test_a_read_only_results_folder_is_one_line_and_stays_as_it_is(
    half_done: Path, wbc_shift, command: str
) -> None:
    if command == "evaluate":
        runner.write_index(half_done, "tiny", "first")
    before = files(RESULTS)
    with read_only(RESULTS):
        outcome = wbc_shift(command, "-p", "tiny")
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == 1
    assert "cannot be written (Read-only file system)" in outcome.err
    assert files(RESULTS) == before


def test_a_run_whose_last_bytes_do_not_reach_the_disk_leaves_no_part_of_itself(
    half_done: Path, wbc_shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Disks that allocate late say only now that they are full.
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = files(RESULTS)
    with monkeypatch.context() as late:
        late.setattr(os, "fsync", full)
        outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == 1
    assert "disk full while writing" in outcome.err
    assert files(RESULTS) == before


def test_a_file_in_a_folders_place_is_told_before_anything_is_trained(
    half_done: Path, wbc_shift
) -> None:
    # Holds for root too, whom permission bits do not bind, and where nothing can be mounted.
    shutil.rmtree(RESULTS / "locks")
    (RESULTS / "locks").write_text("in the way")
    before = files(RESULTS)
    outcome = wbc_shift("train", "-p", "tiny")
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == 1
    assert "results/tiny/locks" in outcome.err
    assert files(RESULTS) == before


def test_a_process_killed_while_it_writes_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_json(path, {"runs": 1})
    killed = (
        "import os, signal, sys; from pathlib import Path; from benchmark.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('{\"runs\": ')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", killed, str(path)]
    died = subprocess.run(command, cwd=REPOSITORY, check=False)
    assert died.returncode == -signal.SIGKILL
    assert read_json(path) == {"runs": 1}
    write_json(path, {"runs": 2})
    assert read_json(path) == {"runs": 2}
