"""Workers: as many results as jobs, in order; and none outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from conftest import REPOSITORY

from benchmark import parallel

SCRIPT = """\
import os, sys, time
from benchmark import parallel
parallel.processors = lambda: 2

def job():
    os.write(1, f"worker {os.getpid()}\\n".encode())  # whole, beside other workers
    time.sleep(600)

parallel.in_processes([job] * 8, "sleeping")
"""


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent's question does not."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return os.path.isdir("/proc")  # the process is gone, or there is no such folder to ask
    except ProcessLookupError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which processes run")
def test_d10_workers_end_with_a_killed_parent_and_let_go_of_its_pipe(tmp_path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    workers = [int(parent.stdout.readline().split()[1]) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    # Ends only when no process holds the pipe any more.
    parent.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


def test_results_come_in_the_order_of_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processors", lambda: 2)
    assert parallel.in_processes([partial(pow, k, 2) for k in range(50)], "squares") == [
        k**2 for k in range(50)
    ]
