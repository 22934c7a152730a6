"""Launch: workers and machines may be lost, two launches may meet, and no bit of a run changes."""

from __future__ import annotations

import _socket
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import edit

from benchmark import cli
from benchmark.errors import UserError
from benchmark.execution import runner
from benchmark.execution.launch import carry_out_together, missing_tasks, outcomes, waves
from benchmark.files import read_json
from benchmark.study.plan import plan_path, read_plan
from benchmark.study.records import locks_folder, run_lock
from benchmark.study.runs import Member, Run, RunSettings

RUNS = int(os.environ.get("WBC_RUNS", "4"))
"""How many meet the killed worker and the lost machine: an even number."""
COMMAND = [sys.executable, "-m", "benchmark"]
SETTINGS = os.environ | {"WBC_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def grid(prepared: Path) -> Path:
    """A toy project with four planned runs: two losses, two seeds, one epoch."""
    edit(Path("params.yaml"), "      seeds: 1", "      seeds: 2")
    edit(Path("params.yaml"), "      epochs: 2", "      epochs: 1")
    cli.plan("tiny")
    return prepared


def planned(root: Path) -> list[Run]:
    return read_plan(plan_path(root, "tiny", "first")).runs


def predictions(root: Path) -> dict[str, bytes]:
    """Bytes of every run's predictions."""
    runs = root / "results" / "tiny" / "runs"
    return {str(p.parent.relative_to(runs)): p.read_bytes() for p in runs.rglob("*.parquet")}


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> object:
    """What `condition` says once it is true; None if the launch ends before."""
    while process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.1)
    return None


def at_work(root: Path) -> dict[int, int]:
    """Processes that hold the lock of a run now, and their parents (Ray's node processes)."""
    held = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            opened = [os.readlink(link) for link in (folder / "fd").iterdir()]
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if any(f.startswith(str(locks_folder(root, "tiny"))) for f in opened):
            held[int(folder.name)] = parent
    return held


def records_written(root: Path, process: subprocess.Popen) -> Iterator[tuple[str, int]]:
    """Every run and the time of its record, again and again until the launch ends."""
    while True:
        ended = process.poll() is not None
        for path in (root / "results" / "tiny" / "runs").glob("*/*/seed*/run.json"):
            try:
                yield str(path.parent), path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
        if ended:
            return
        time.sleep(0.02)


def test_runs_of_one_training_go_together_and_finished_ones_nowhere(grid: Path) -> None:
    runs = planned(grid)
    plan = plan_path(grid, "tiny", "first")
    text = plan.read_text().replace(runs[1].training_fingerprint, runs[0].training_fingerprint)
    plan.write_text(text)
    tasks = missing_tasks(grid, "tiny", ["first", "first"])
    assert [len(task) for task in tasks] == [2, 1, 1]
    assert [run.run_id for run in tasks[0]] == [runs[0].run_id, runs[1].run_id]


def test_ensembles_wait_for_their_members() -> None:
    member = Member(run_id="a/b/seed0", fingerprint="1")
    network, ensemble = (
        Run.model_construct(settings=RunSettings(members=members)) for members in ((), (member,))
    )
    assert waves([[ensemble], [network]]) == [[[network]], [[ensemble]]]


def test_a_run_that_another_process_holds_is_left_with_those_after_it(grid: Path) -> None:
    runs = planned(grid)[:2]
    with run_lock(grid, "tiny", runs[0]):
        lines, left = carry_out_together(grid, "tiny", ["neutrophil"], runs, {})
    assert lines == []
    assert left == runs


def test_results_that_cannot_be_written_are_told_before_anything_starts(
    grid: Path, wbc_shift
) -> None:
    pytest.importorskip("ray")
    locks_folder(grid, "tiny").parent.mkdir(exist_ok=True)
    locks_folder(grid, "tiny").write_text(
        "a file in the folder's place: not writable, even by root"
    )
    outcome = wbc_shift("launch", "-p", "tiny")
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == 1
    assert "results/tiny/locks" in outcome.err


def test_without_ray_the_extra_is_named(grid: Path, wbc_shift, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = wbc_shift("launch", "-p", "tiny")
    assert outcome.status == 1
    assert "pip install 'wbc-shift[cluster]'" in outcome.err


LOOK = """
import psutil
from benchmark.execution import launch
from benchmark.cli import main

def looked_at(*arguments):
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        for one in process.net_connections(kind="inet"):
            if one.status == psutil.CONN_LISTEN:
                print("listens", one.laddr.ip.removeprefix("::ffff:"), process.name(), flush=True)
    return outcomes(*arguments)

outcomes, launch.outcomes = launch.outcomes, looked_at
main()
"""


def test_d3_a_launch_of_this_machine_listens_to_it_alone_and_joins_no_other_ray(
    grid: Path,
) -> None:
    """Also the case of a Ray that is there already: RAY_ADDRESS, and the file of a `ray start`."""
    pytest.importorskip("ray")
    pytest.importorskip("psutil")
    with tempfile.TemporaryDirectory(prefix="rt") as short:  # the name of a socket is short
        left = Path(short) / "ray"
        left.mkdir()
        (left / "ray_current_cluster").write_text("127.0.0.1:6399")
        more = {"RAY_ADDRESS": "127.0.0.1:6399", "RAY_TMPDIR": short}
        command = [sys.executable, "-c", LOOK, "launch", "-p", "tiny", "--workers", "1"]
        done = subprocess.run(command, env=SETTINGS | more, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    addresses = {line.split()[1] for line in done.stdout.splitlines() if "listens" in line}
    assert addresses == {"127.0.0.1"}
    assert len(predictions(grid)) == 4


class WorkerCrashed(Exception):
    """Stands for ray.exceptions.RayError."""


class DyingRay:
    """A Ray whose workers are lost, every time, at one run; the others they carry out."""

    exceptions = SimpleNamespace(RayError=WorkerCrashed, RayTaskError=ZeroDivisionError)

    def __init__(self, root: Path, deadly: Run) -> None:
        self.root, self.deadly = root, deadly
        self.tasks: list[list[Run]] = []

    def submit(self, runs: list[Run]) -> int:
        self.tasks.append(runs)
        return len(self.tasks) - 1

    def wait(self, pending: list[int]) -> tuple[list[int], list[int]]:
        return pending[:1], pending[1:]

    def get(self, task: int) -> tuple[list[str], list[Run]]:
        classes = read_plan(plan_path(self.root, "tiny", "first")).classes
        runs = self.tasks[task]
        before = runs[: runs.index(self.deadly)] if self.deadly in runs else runs
        done = carry_out_together(self.root, "tiny", classes, before, {})
        if self.deadly in runs:
            raise WorkerCrashed("the worker died\nand a long trace")
        return done


def test_a_run_that_loses_its_worker_every_time_is_a_row_and_the_others_are_done(
    grid: Path,
) -> None:
    runs = planned(grid)[:3]
    locks_folder(grid, "tiny").mkdir()
    ray = DyingRay(grid, deadly=runs[1])
    lines = list(outcomes(ray, grid, "tiny", [runs], ray.submit))
    assert [line.partition(": ")[0] for line in lines] == [run.run_id for run in runs]
    assert ray.tasks == [runs, *([run] for run in runs)]
    with pytest.raises(UserError, match="2 of 4 runs failed"):  # the fourth was never asked for
        runner.write_indices(grid, "tiny", ["first"], "tiny")
    index = read_json(grid / "results" / "tiny" / "experiments" / "first.json")
    rows = {row["run_id"]: row for row in index["runs"]}
    assert [rows[run.run_id]["outcome"] for run in runs] == ["done", "error", "done"]
    assert rows[runs[1].run_id]["reason"] == "its worker was lost 4 times: the worker died"
    # As any failed run it is tried again by the next launch.
    left = {task[0].run_id for task in missing_tasks(grid, "tiny", ["first"])}
    assert left == {runs[1].run_id, planned(grid)[3].run_id}


def test_a_lost_run_that_another_process_holds_by_now_is_left_to_it(grid: Path) -> None:
    run = planned(grid)[0]
    ray = DyingRay(grid, deadly=run)
    with run_lock(grid, "tiny", run):
        (line,) = outcomes(ray, grid, "tiny", [[run]], ray.submit)
    assert line.endswith("another process works on it")
    assert not (grid / "results" / "tiny" / "runs" / run.run_id / "run.json").exists()


def test_a_lost_run_that_was_done_before_its_worker_died_is_done(grid: Path) -> None:
    """Its predictions were deleted, and a failure was recorded in their place."""
    run = planned(grid)[0]
    locks_folder(grid, "tiny").mkdir()
    classes = read_plan(plan_path(grid, "tiny", "first")).classes
    carry_out_together(grid, "tiny", classes, [run], {})
    before = predictions(grid)
    ray = DyingRay(grid, deadly=run)
    (line,) = outcomes(ray, grid, "tiny", [[run]], ray.submit)
    assert line == f"{run.run_id}: done already"
    assert predictions(grid) == before
    assert len(before) == 1


@pytest.mark.parametrize("threads", ["²", "0", "-1", "many", "9" * 50])
def test_d13_a_number_of_threads_that_is_none_is_one_line(
    grid: Path, wbc_shift, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("WBC_THREADS", threads)
    for command in ("launch", "train"):
        outcome = wbc_shift(command, "-p", "tiny")
        assert outcome.status == 1
        assert len(outcome.err.splitlines()) == 1
        assert "give a number of processor threads" in outcome.err


def test_a_killed_worker_and_a_lost_machine_cost_no_run_and_change_no_bit(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    edit(Path("params.yaml"), "      seeds: 2", f"      seeds: {RUNS // 2}")
    cli.plan("tiny")
    # Ray's two nodes speak through this machine's own address, which need not be 127.0.0.1.
    monkeypatch.setattr(socket.socket, "connect", _socket.socket.connect)
    here = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=here | {"include_dashboard": False})
    try:
        second = cluster.add_node(**here)
        raylet = second.all_processes["raylet"][0].process.pid
        launch = [*COMMAND, "launch", "-p", "tiny", "--address", cluster.address]
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(launch, env=SETTINGS, stdout=log, stderr=log)
            try:
                os.kill(wait_for(lambda: list(at_work(grid)), process)[0], signal.SIGKILL)
                assert wait_for(lambda: raylet in at_work(grid).values(), process)
                cluster.remove_node(second, allow_graceful=False)
                seen = set(records_written(grid, process))
            finally:
                process.kill()
                process.wait()
    finally:
        cluster.shutdown()
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert len(seen) == len({run for run, _ in seen}) == RUNS
    index = read_json(grid / "results" / "tiny" / "experiments" / "first.json")
    assert [run["outcome"] for run in index["runs"]] == ["done"] * RUNS

    launched = predictions(grid)
    (grid / "results" / "tiny" / "runs").rename(tmp_path / "launched")
    (grid / "results" / "tiny" / "checkpoints").rename(tmp_path / "checkpoints")
    monkeypatch.setenv("WBC_THREADS", "1")
    runner.train_experiment(grid, "tiny", "first")
    assert launched == predictions(grid)
    assert len(launched) == RUNS
