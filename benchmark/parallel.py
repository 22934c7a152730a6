"""Parallel: jobs without arguments in, their results in the same order out, on all processors."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmark.errors import UserError
from benchmark.progress import track
from benchmark.texts import shortened

_jobs: Sequence[Callable[[], Any]] = ()


def in_processes(jobs: Sequence[Callable[[], Any]], description: str) -> list[Any]:
    """Run jobs in forked processes, which see what is in memory without a copy.

    Results travel by pickle and should be small. Where there is one processor or no fork, jobs run
    here, one after the other. Jobs must not use pyarrow or torch, whose threads do not survive a
    fork.
    """
    global _jobs
    processes = min(len(jobs), processors())
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        return [job() for job in track(jobs, description, total=len(jobs))]
    _jobs = jobs
    # What is here already is no garbage: looking at it would copy it into every process.
    gc.freeze()
    try:
        with warnings.catch_warnings():
            # Python warns of any fork beside threads; the rule above is what makes it safe.
            warnings.simplefilter("ignore", DeprecationWarning)
            fork = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(processes, fork, initializer=end_with_parent) as pool:
                # Few jobs are long and unlike each other; many are short, and the way costs.
                share = max(1, min(8, len(jobs) // (32 * processes)))
                results = pool.map(_run, range(len(jobs)), chunksize=share)
                return list(track(results, description, total=len(jobs)))
    finally:
        gc.unfreeze()
        _jobs = ()


def end_with_parent() -> None:
    """Make a worker end when the process that started it does, by whatever signal.

    Else it would wait for work for ever, and keep open the pipe that the command printed to.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted_threads() -> int | None:
    """The processor threads that `WBC_THREADS` asks for; None if it asks for none.

    Raises:
        UserError: it is no number.
    """
    text = os.environ.get("WBC_THREADS")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 5 and int(text) > 0):
        raise UserError(f"WBC_THREADS={shortened(text)}: give a number of processor threads")
    return int(text)


def _run(place: int) -> Any:
    return _jobs[place]()
