"""`domain add`, `update`, `remove`: alone at their work, done or not done, whatever kills them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.laboratory import ADD, RAW, cell, everything, lab, put

from benchmark.data.cards import load_cards
from benchmark.errors import UserError
from benchmark.settings import load_params

KILLED = """
import os, signal, sys
from benchmark.cli import main
from benchmark.laboratory import transaction

point, _, number = sys.argv.pop(1).partition(":")
whole, calls = getattr(transaction, point), []

def dies(*arguments, **settings):
    calls.append(point)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **settings)

setattr(transaction, point, dies)
main()
"""
POINTS = {
    "write_text:1": "while images are copied",
    "write_json:1": "before the task is written down",
    "carry_out:1": "after that",
    "write_text:3": "after the images are in their place, before the card",
    "write_manifest:1": "before the manifest",
    "write_text:4": "before the settings",
    "write_pipelines:1": "before the pipelines",
}


def killed_at(point: str, *arguments: str) -> None:
    """Run a command in a process of its own that is killed at a call of a function."""
    command = [sys.executable, "-c", KILLED, point, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def second_lab(folder: str, number: int = 80) -> None:
    """Another folder, with one cell of its own."""
    (Path(folder) / "monocyte").mkdir(parents=True)
    cell("monocyte", number).save(f"{folder}/monocyte/0.png")


@pytest.mark.parametrize("point", POINTS, ids=POINTS.get)
def test_d8_domain_add_killed_anywhere_is_repeated_as_if_nothing_had_been(
    project: Path, wbc_shift, point: str
) -> None:
    lab(1)
    assert wbc_shift(*ADD).status == 0
    done = everything()
    assert wbc_shift("domain", "remove", "our-lab").status == 0
    killed_at(point, *ADD)
    outcome = wbc_shift(*ADD)
    assert outcome.status == 0, outcome.err
    assert everything() == done


def test_d8_what_a_killed_domain_add_left_is_finished_by_the_next_domain_command(
    project: Path, wbc_shift
) -> None:
    lab(1)
    killed_at("write_text:4", *ADD)
    assert "our-lab" not in load_params(Path("params.yaml")).profile("tiny").domains
    second_lab("lab2")
    outcome = wbc_shift("domain", "add", "lab2", "--name", "other", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert "finished what was interrupted: domain our-lab" in outcome.out
    domains = load_params(Path("params.yaml")).profile("tiny").domains
    assert domains == ["toy-a", "toy-b", "our-lab", "other"]
    assert wbc_shift("pipeline", "--check").status == 0


@pytest.mark.parametrize("point", ["write_json:1", "write_text:3", "write_manifest:1"])
def test_d8_domain_update_killed_anywhere_is_repeated(project: Path, wbc_shift, point: str) -> None:
    lab(1)
    assert wbc_shift(*ADD).status == 0
    put("Monocytes/new.png", cell("monocyte", 77))
    update = ("domain", "update", "our-lab", "lab", "-p", "tiny", "--crop", "0.9")
    killed_at(point, *update)
    outcome = wbc_shift(*update)
    assert outcome.status == 0, outcome.err
    card = load_cards(Path("datasets"))["our-lab"]
    assert card.domains["our-lab"].crop == 0.9
    assert card.counts["Monocytes"] == 2
    assert sorted(f.name for f in Path("datasets/raw").iterdir() if "our-lab" in f.name) == [
        "our-lab"
    ]


def test_d8_two_domain_adds_at_once_both_end_in_the_settings(project: Path) -> None:
    names = ("one", "two")
    for number, name in enumerate(names):
        second_lab(name, 80 + number)
    code = "from benchmark.cli import main; main()"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, "domain", "add", name, "--name", name, "-p", "tiny"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    for process in running:
        _, error = process.communicate()
        assert process.returncode == 0, error
    domains = load_params(Path("params.yaml")).profile("tiny").domains
    assert sorted(domains) == ["one", "toy-a", "toy-b", "two"]
    assert "datasets/one.yaml" in Path("dvc.yaml").read_text()
    assert "datasets/two.yaml" in Path("dvc.yaml").read_text()


def test_c8_domain_remove_leaves_nothing_but_what_was_there(project: Path, wbc_shift) -> None:
    assert wbc_shift("pipeline").status == 0
    lab(1)
    before = everything()
    assert wbc_shift(*ADD).status == 0
    assert wbc_shift("domain", "remove", "our-lab").status == 0
    assert everything() == before
    outcome = wbc_shift("domain", "remove", "toy-a")
    assert outcome.status == 1
    assert "toy-a is no domain that `wbc-shift domain add` made here" in outcome.err
    assert everything() == before


def test_c8_domain_update_takes_other_images_labels_and_crop(project: Path, wbc_shift) -> None:
    lab(1)
    assert wbc_shift("domain", "update", "our-lab", "lab", "-p", "tiny").status == 1
    assert wbc_shift(*ADD, "--crop", "0.8").status == 0
    settings = Path("params.yaml").read_bytes()
    Path("lab/Monocytes/0.png").unlink()
    put("Monocytes/other.png", cell("monocyte", 70))
    put("Monocytes/more.png", cell("monocyte", 71))
    outcome = wbc_shift("domain", "update", "our-lab", "lab", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert "our-lab: 6 images used" in outcome.out
    assert "same file" not in outcome.out
    assert Path("params.yaml").read_bytes() == settings
    card = load_cards(Path("datasets"))["our-lab"]
    assert card.domains["our-lab"].crop == 0.8
    names = sorted(f.name for f in (RAW / "Monocytes").iterdir())
    assert names == ["more.png", "other.png"]
    outcome = wbc_shift(*ADD)
    assert outcome.status == 1
    assert "or `wbc-shift domain update our-lab DIR`" in outcome.err


def test_d8_a_failing_update_leaves_the_domain_as_it_was(
    project: Path, wbc_shift, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab(1)
    assert wbc_shift(*ADD).status == 0
    put("Monocytes/new.png", cell("monocyte", 77))
    before = everything()

    def fails(*_: object, **__: object) -> None:
        raise UserError("the disk is gone")

    monkeypatch.setattr("benchmark.laboratory.transaction.write_pipelines", fails)
    assert wbc_shift("domain", "update", "our-lab", "lab", "-p", "tiny").status == 1
    assert everything() == before
