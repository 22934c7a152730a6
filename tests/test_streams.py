"""What leaves the program by its streams and signals: Ctrl-C, a full disk, a reader that has gone,
an encoding that lacks a letter, and codes that a terminal would obey."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import edit

from benchmark import cli
from benchmark.progress import say

COMMAND = [sys.executable, "-m", "benchmark"]

SLEEPS = """
import time
from benchmark import cli

def work():
    print("at work", flush=True)
    time.sleep(600)

cli.settings = work
cli.main()
"""
COMPUTES = """
import hashlib
from benchmark import cli

def work():
    print("at work", flush=True)
    hashlib.pbkdf2_hmac("sha1", b"", b"", 2**31 - 1)  # does not look at signals for minutes

cli.settings = work
cli.main()
"""
WAITS_FOR_WORKERS = """
import os, time
from benchmark import cli
from benchmark.parallel import in_processes

def job():
    os.write(1, b"at work\\n")  # whole, beside the other worker; the forks are over then
    time.sleep(600)

cli.settings = lambda: in_processes([job] * 8, "sleeping")
cli.main()
"""


@pytest.mark.parametrize(
    ("program", "command"),
    [(SLEEPS, "train"), (SLEEPS, "audit"), (COMPUTES, "plan"), (WAITS_FOR_WORKERS, "plan")],
)
def test_d14_ctrl_c_is_told_in_one_line_and_ends_with_130(
    project: Path, program: str, command: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", program, command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background would hand on that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGINT)
    _, heard = process.communicate(timeout=120)
    assert process.returncode == 130
    assert len(heard.splitlines()) == 1
    assert heard.startswith("interrupted: ")
    assert "kept" in heard


def run(*arguments: str, **options) -> subprocess.CompletedProcess:
    """A command in a process of its own, with what it says on standard error."""
    return subprocess.run([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_d13_a_full_disk_under_standard_output_is_one_line(prepared: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run("plan", "-p", "tiny", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: standard output cannot be written (No space left on device): "
        "what was finished is kept"
    ]
    assert Path("results/tiny/plans/first.json").exists()


def test_d13_a_reader_that_has_gone_is_one_line(prepared: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("plan", "-p", "tiny", stdout=write)
    os.close(write)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Broken pipe" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_d13_a_terminal_of_another_encoding_gets_every_line(prepared: Path, encoding: str) -> None:
    edit(Path("params.yaml"), "A first question", "Zellen − α 中 😀")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    code = "from benchmark.progress import say; say('− α 中 \\udce9')"
    done = subprocess.run(
        [sys.executable, "-c", f"import benchmark.cli as c, sys; sys.argv[1:] = ['--version']\n"
         f"try: c.main()\nexcept SystemExit: pass\n{code}"],
        env=environment, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\\u4e2d" in done.stdout
    assert b"\\xe9" in done.stdout


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jb", "a\x9b2Jb", "[red]a[/]", "a :smile: b", "[/x]", "\a"]
)
def test_d4_a_terminal_shows_codes_and_markup_as_text(capsys, text: str) -> None:
    say(text)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\a" not in shown
    if text.isprintable():
        assert shown == f"{text}\n"


def test_d4_an_error_shows_codes_as_text(project: Path, wbc_shift) -> None:
    outcome = wbc_shift("plan", "-p", "a\x1b]0;title\x07")
    assert outcome.status == 1
    assert "\x1b" not in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ("fetch",), ("doctor",), ("split",), ("audit",), ("prepare",), ("domain", "cards"),
        ("domain", "add", "x", "--name", "y"), ("domain", "remove", "x"), ("plan",),
        ("validate",), ("models",), ("train",),
        ("speed",), ("launch",), ("predict", "x", "--run", "a/b/seed0"), ("embed", "a/b/seed0"),
        ("embed-all", "resnet18", "--out", "f.parquet"),
        ("gallery",), ("evaluate",), ("report",), ("compare", "a", "b"),
        ("score", "x.csv", "--scenario", "a->*"), ("paper",), ("pipeline",),
    ],
)  # fmt: skip
def test_e6_every_command_knows_when_it_stands_outside_the_project(
    tmp_path: Path, wbc_shift, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = wbc_shift(*command)
    assert outcome.status == 1
    assert outcome.err == "error: params.yaml is not here: run in the project's root folder\n"
    assert not list(tmp_path.iterdir())


def every_command() -> dict[str, object]:
    """Name → what typer knows of each command, those of groups included."""
    groups = [("", cli.app), *((f"{g.name} ", g.typer_instance) for g in cli.app.registered_groups)]
    return {
        prefix + (command.name or command.callback.__name__): command
        for prefix, group in groups
        for command in group.registered_commands
    }


def test_e12_the_help_of_every_command_says_what_it_reads_and_writes() -> None:
    for name, command in every_command().items():
        text = command.callback.__doc__
        assert "Read" in text, name
        assert "rites" in text or "writes" in text, name


def test_e12_c9_the_default_profile_is_the_same_in_every_command() -> None:
    import inspect

    defaults = {
        name: inspect.signature(command.callback).parameters["profile"].default
        for name, command in every_command().items()
        if "profile" in inspect.signature(command.callback).parameters
    }
    assert len(defaults) >= 16
    assert set(defaults.values()) == {"demo"}


def test_every_command_stands_in_a_group_of_the_help() -> None:
    groups = {cli.DATA, cli.STUDY, cli.RESULTS, cli.LABORATORY}
    assert {command.rich_help_panel for command in cli.app.registered_commands} == groups


def test_profiles_experiments_cards_and_runs_are_completed(project: Path) -> None:
    record = project / "results" / "tiny" / "runs" / "a-bn-ce" / "toy-a_to_others" / "seed0"
    record.mkdir(parents=True)
    (record / "run.json").write_text("{}")
    tiny = SimpleNamespace(params={"profile": "tiny"})
    assert cli.complete_profile("t") == ["tiny"]
    assert cli.complete_experiment(tiny, "fi") == ["first"]
    assert cli.complete_card("") == ["toy"]
    assert cli.complete_run(tiny, "a") == ["a-bn-ce/toy-a_to_others/seed0"]
    (project / "params.yaml").write_text("profiles: [")
    assert cli.complete_profile("") == []


def test_e12_version_and_completion(tmp_path: Path, wbc_shift, monkeypatch) -> None:
    from benchmark import __version__

    monkeypatch.chdir(tmp_path)
    assert wbc_shift("--version").out == f"wbc-shift {__version__}\n"
    shown = wbc_shift("--help").out
    assert "--install-completion" in shown
