"""Fan a profile's missing runs out over processes, GPUs and machines with Ray.

Plans → tasks, one for each training → the folders that `wbc-shift train` writes, bit for bit.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.execution.networks import RunContext
from benchmark.execution.runner import WAIT_S, carry_out, record_failure, write_indices
from benchmark.files import writable_folder
from benchmark.parallel import wanted_threads
from benchmark.progress import say, track
from benchmark.study.plan import plan_path, read_plan
from benchmark.study.records import finished, locks_folder
from benchmark.study.runs import Run

RETRIES = 3
"""How often a task is started again whose worker or machine was lost."""
OBJECT_STORE_BYTES = 100 * 2**20
"""Little: tasks are names and outcomes are lines; images and results go through the file system."""


def launch(
    root: Path,
    profile: str,
    experiments: list[str],
    address: str | None = None,
    workers: int | None = None,
    gpus_per_run: float | None = None,
) -> None:
    """Carry out every planned run that is not done, then write the index of each experiment.

    A run uses `WBC_THREADS` processor threads, one if unset: its last bits depend on that number,
    never on where or beside what it runs. Other processes may work on the same plans.

    Args:
        address: of a Ray cluster whose machines see `root` under the same path; None: this machine.
        workers: runs at once on this machine; None: as many as it has processors for.
        gpus_per_run: share of a GPU that a run takes; None: a whole one where there is one.

    Raises:
        UserError: Ray is missing or cannot be reached, results cannot be written, or some runs
            failed, raised after all were attempted.
    """
    wanted_threads()  # refused before anything is started
    ray = import_ray(here=address is None)
    root = Path(root).resolve()
    writable_folder(locks_folder(root, profile))
    tasks = missing_tasks(root, profile, experiments)
    total = sum(map(len, tasks))
    say(f"{profile}: {total} runs to do, in {len(tasks)} trainings")
    if tasks:
        try:
            submit = connect(ray, root, profile, experiments[0], address, workers, gpus_per_run)
            done = chain.from_iterable(
                outcomes(ray, root, profile, wave, submit) for wave in waves(tasks)
            )
            for number, line in enumerate(track(done, "runs", total), start=1):
                say(f"[{number}/{total}] {line}")
        finally:
            ray.shutdown()
    write_indices(root, profile, experiments, profile)


def import_ray(here: bool) -> Any:
    """Ray, with its report of usage to its makers switched off.

    Args:
        here: it is for this machine alone and listens on the loopback interface.
    """
    if here:
        # Read once, when Ray is loaded. Elsewhere than on Windows and macOS, where it is the
        # default, a Ray listens on all interfaces, whatever address it is given.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A run that asks for no GPU must see none, today and in the versions that no longer hide them.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        import ray
    except ModuleNotFoundError:
        raise UserError(
            "launch needs Ray: pip install 'wbc-shift[cluster]', or run `wbc-shift train`"
        ) from None
    return ray


def missing_tasks(root: Path, profile: str, experiments: list[str]) -> list[list[Run]]:
    """The planned runs that are not done, each once, those of one training together.

    The second run of a training takes the first one's checkpoint, so they go to one worker in turn.
    """
    trainings: dict[str, dict[str, Run]] = {}
    for experiment in experiments:
        for run in read_plan(plan_path(root, profile, experiment)).runs:
            if not finished(root, profile, run):
                trainings.setdefault(run.training_fingerprint, {})[run.run_id] = run
    return [list(runs.values()) for runs in trainings.values()]


def waves(tasks: list[list[Run]]) -> list[list[list[Run]]]:
    """Tasks to be done one after the other: networks, then the ensembles of their predictions."""
    networks = [runs for runs in tasks if not runs[0].settings.members]
    return [networks, [runs for runs in tasks if runs not in networks]]


def connect(
    ray: Any,
    root: Path,
    profile: str,
    experiment: str,
    address: str | None,
    workers: int | None,
    gpus_per_run: float | None,
) -> Callable[[list[Run]], Any]:
    """Start Ray here or join a cluster; returns what submits the runs of one training to it.

    Without an address it is a Ray of this launch alone, on the loopback interface: no other machine
    reaches it, and neither RAY_ADDRESS nor the file that another `ray start` left names it.
    """
    environment = {key: value for key, value in os.environ.items() if key.startswith("WBC_")}
    environment.setdefault("WBC_THREADS", "1")
    threads = wanted_threads() or 1
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address is not None and workers is not None:
        raise UserError("--workers is of this machine, a cluster has its own: leave it out")
    try:
        if address is None:
            workers = workers or max(1, (os.cpu_count() or 1) // threads)
            ray.init(
                "local",
                num_cpus=workers * threads,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        here = "Ray cannot be started here"
        what = here if address is None else f"--address {address} cannot be reached"
        raise UserError(f"{what} ({reason})") from None
    resources = ray.cluster_resources()
    if gpus_per_run is None:
        gpus_per_run = min(1.0, resources.get("GPU", 0.0))
    if gpus_per_run > resources.get("GPU", 0.0):
        raise UserError("--gpus-per-run: Ray sees no GPU here: leave it out to use processors")
    if gpus_per_run == 0:
        environment["WBC_DEVICE"] = "cpu"
    task = ray.remote(carry_out_together).options(
        num_cpus=threads, num_gpus=gpus_per_run, max_retries=RETRIES
    )
    classes = read_plan(plan_path(root, profile, experiment)).classes
    return lambda runs: task.remote(root, profile, classes, runs, environment)


def outcomes(
    ray: Any,
    root: Path,
    profile: str,
    tasks: list[list[Run]],
    submit: Callable[[list[Run]], Any],
) -> Iterator[str]:
    """Submit tasks; a line for each run as its task ends, in whatever order they do.

    A run at which a worker was lost as often as it was tried has a record of that, as one that
    fails by itself, and the others of its training go on without it.

    Raises:
        UserError: what a worker could not mend: a full disk, missing images.
    """
    pending = {submit(runs): runs for runs in tasks}
    held: list[list[Run]] = []
    while pending or held:
        if not pending:
            time.sleep(WAIT_S)
            pending, held = {submit(runs): runs for runs in held}, []
        (ready,), _ = ray.wait(list(pending))
        runs = pending.pop(ready)
        try:
            lines, left = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            if len(runs) > 1:  # at which of them is not known: each by itself
                pending |= {submit([run]): [run] for run in runs}
                continue
            reason = f"its worker was lost {RETRIES + 1} times: {str(error).splitlines()[0]}"
            yield f"{runs[0].run_id}: {record_failure(root, profile, runs[0], reason)}"
            continue
        yield from lines
        if left:
            held.append(left)


def carry_out_together(
    root: Path, profile: str, classes: list[str], runs: list[Run], environment: dict[str, str]
) -> tuple[list[str], list[Run]]:
    """In a worker: carry out the runs of one training, one after the other.

    Returns:
        A line for each run, and the runs left because another process is at one of them.
    """
    os.environ.update(environment)
    if not locks_folder(root, profile).exists():
        raise UserError(f"{platform.node()} does not see {root}: share the project's folder")
    lines = []
    context = context_of(root, profile, tuple(classes))
    # A task that Ray started again finds done what its first try has finished.
    for index, (run, outcome) in enumerate(carry_out(context, runs, wait=False)):
        if outcome is None:
            return lines, runs[index:]
        lines.append(f"{run.run_id}: {outcome}")
    return lines, []


@lru_cache(maxsize=1)
def context_of(root: Path, profile: str, classes: tuple[str, ...]) -> RunContext:
    """The images and the device of a worker process, kept from task to task."""
    return RunContext(root, profile, list(classes))
