"""What 3,000 finished runs cost: to see that nothing is left to do, and to aggregate them.

`pytest --benchmark tests/speed/test_scale_speed.py` tells it; `WBC_RUNS` scales the number. A run
answers 4,700 images in 6 test sets and 2 held-out parts; of a scenario 25 files of predictions are
drawn and taken in turn. The peak of memory is that of the largest process. On a machine that does
other things at once, processor time is the number to believe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from finished import EXPERIMENTS, GRID, PROFILE, commit_pipeline, finished_project
from goals import row

from benchmark.execution.launch import missing_tasks
from benchmark.speed.measure import in_turn
from benchmark.study.records import write_index

RUNS = int(os.environ.get("WBC_RUNS", "3000"))
EACH = len(GRID["scenarios"]) * len(GRID["normalisations"]) * len(GRID["losses"]) * GRID["seeds"]
NUMBER = min(len(EXPERIMENTS), max(1, RUNS // EACH))
"""Of experiments."""
WHOLE = "from pathlib import Path; import benchmark.evaluation.evaluate as stage; {}"
WHOLE += f"stage.evaluate(Path('results/{PROFILE}'))"
SCORES = "stage.evidence_jobs = lambda *_: []; "
"""Leaves out what resamples: intervals, comparisons and effects."""

METER = """
import json, resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
cost = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([cost.ru_utime + cost.ru_stime, cost.ru_maxrss / 2**20]))
sys.exit(status)
"""
"""Runs a command from a small process: a child's peak of memory begins with its parent's."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose planned runs are all done."""
    root = tmp_path_factory.mktemp("scale")
    finished_project(root, NUMBER)
    return root


def measured(command: list[str], root: Path) -> tuple[dict[str, float], str]:
    """What a command costs, with the processes it waited for, and what it printed."""
    started = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", METER, *command],
        cwd=root, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    *output, cost = done.stdout.splitlines()
    seconds = {"wall_s": time.perf_counter() - started}
    own = dict(zip(("processor_s", "peak_gib"), json.loads(cost), strict=True))
    return seconds | own, "\n".join(output)


def keep(record_property: Callable, what: str, goal: str, cost: dict[str, float]) -> None:
    """Rows of a command: seconds, and its peak of memory."""
    what = f"{NUMBER * EACH} runs {what}"
    record_property("reached", row(what, "s", goal, cost["processor_s"], cost["wall_s"]))
    record_property("reached", row(what, "GiB", "≤ 3", cost["peak_gib"], cost["peak_gib"]))


def test_seeing_that_no_run_is_left_to_do(record_property: Callable, finished: Path) -> None:
    names = [f"e{place}" for place in range(NUMBER)]

    def check() -> None:
        assert missing_tasks(finished, PROFILE, names) == []
        for name in names:
            write_index(finished, PROFILE, name)

    time_of = in_turn({"check": check}, 1, torch.device("cpu"))["check"]
    what = f"{NUMBER * EACH} runs looked through twice and indexed"
    record_property("reached", row(what, "s", "–", time_of.processor_s, time_of.wall_s))


def test_dvc_with_nothing_to_do(record_property: Callable, finished: Path) -> None:
    commit_pipeline(finished)
    cost, output = measured(["dvc", "repro"], finished)
    assert "Data and pipelines are up to date." in output
    keep(record_property, "`dvc repro` with nothing to do", "≤ 5", cost)


@pytest.mark.parametrize(
    ("part", "what", "goal"), [(SCORES, "read and scored", "≤ 45"), ("", "evaluated whole", "–")]
)
def test_aggregating(
    record_property: Callable, finished: Path, part: str, what: str, goal: str
) -> None:
    command = [sys.executable, "-c", WHOLE.format(part)]
    cost, _ = measured(command, finished)
    keep(record_property, what, goal, cost)
