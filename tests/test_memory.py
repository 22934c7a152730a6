"""What is known of the code is kept between commands, and nothing out of date is ever told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from benchmark import memory

PLAN = """\
import sys
from benchmark import cli
sys.argv = ["wbc-shift", "plan", "-p", "tiny"]
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code
print("torch" in sys.modules)
"""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable]:
    """Starts what stands for a new command: what the last one kept is written, and read anew."""
    written = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(memory.atexit, "register", lambda *call: written.append(call))

    def start(torch: bool = False) -> None:
        for function, *arguments in written:
            function(*arguments)
        written.clear()
        memory.answers.cache_clear()
        if not torch:
            with monkeypatch.context() as without:
                without.delitem(sys.modules, "torch")
                memory.answers()

    yield start
    memory.answers.cache_clear()


def counting(calls: list) -> Callable:
    """A function that is asked and says how often."""

    def asked(name: str, block: dict) -> str | None:
        calls.append(name)
        if name == "wrong":
            raise ValueError(name)
        return None if name == "nothing" else f"{name} {sorted(block.items())}"

    return memory.remembered(asked)


def test_an_answer_is_found_once_for_all_commands_and_none_is_an_answer(commands) -> None:
    asked = counting(calls := [])
    for _ in range(2):
        commands()
        assert asked("loss", {"gamma": 2.0}) == "loss [('gamma', 2.0)]"
        assert asked("nothing", {}) is None
    assert calls == ["loss", "nothing"]
    assert asked("loss", {"gamma": 3.0}) == "loss [('gamma', 3.0)]"


def test_an_exception_is_no_answer(commands) -> None:
    asked = counting(calls := [])
    commands()
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            asked("wrong", {})
    assert calls == ["wrong", "wrong"]


def test_beside_pytorch_the_code_itself_is_asked(commands) -> None:
    asked = counting(calls := [])
    for _ in range(2):
        commands(torch=True)
        asked("loss", {})
    assert calls == ["loss", "loss"]


@pytest.mark.parametrize("text", ['{"a": ', "[]", ""])
def test_a_damaged_memory_is_asked_again(commands, tmp_path: Path, text: str) -> None:
    asked = counting(calls := [])
    commands()
    asked("loss", {})
    commands()
    (file,) = (tmp_path / "wbc-shift").iterdir()
    file.write_text(text)
    commands()
    assert asked("loss", {}) == "loss []"
    assert calls == ["loss", "loss"]


def test_without_a_home_the_code_is_asked_and_nothing_lies_about(
    commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")  # relative, which the standard wants ignored
    monkeypatch.setattr(memory.Path, "home", nobody)
    asked = counting(calls := [])
    for _ in range(2):
        commands()
        assert asked("loss", {}) == "loss []"
    assert calls == ["loss", "loss"]
    assert list(tmp_path.iterdir()) == []


def test_other_code_and_other_libraries_have_answers_of_their_own(
    commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = memory.code_digest()
    monkeypatch.setattr(memory, "installed", lambda library: "another")
    assert memory.code_digest() != before
    monkeypatch.undo()
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(memory, "__file__", str(package / "memory.py"))
    found = set()
    for text in ("a = 1", "a = 2"):
        (package / "losses.py").write_text(text)
        found.add(memory.code_digest())
    assert len(found) == 2


def test_a_second_plan_is_the_first_and_loads_no_pytorch(prepared: Path, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PLAN],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        plan = (prepared / "results" / "tiny" / "plans" / "first.json").read_bytes()
        found.append((plan, done.stdout.splitlines()[-1]))
    (first, loaded), (second, again) = found
    assert first == second
    assert (loaded, again) == ("True", "False")
