"""Jobs on all processors, in processes or threads, and what Ctrl-C does to them.

Every file is whole or absent at any moment (`files.atomic`), so an end is safe wherever it comes.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from benchmark.errors import UserError
from benchmark.progress import track
from benchmark.texts import shortened

_jobs: Sequence[Callable[[], Any]] = ()


def in_processes(jobs: Sequence[Callable[[], Any]], description: str) -> list[Any]:
    """Run jobs in forked processes, which see what is in memory without a copy.

    Jobs are begun in their order: the longest should stand first. Results travel by pickle and
    should be small. Where there is one processor or no fork, jobs run
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
                results = pool.map(_run, range(len(jobs)))
                return list(track(results, description, total=len(jobs)))
    finally:
        gc.unfreeze()
        _jobs = ()


def in_threads(
    function: Callable[[Any], Any], values: Sequence[Any], description: str = ""
) -> list[Any]:
    """The results of a function that frees the interpreter lock, in the order of its values.

    Args:
        description: of the progress that is shown; none by default.
    """
    with ThreadPoolExecutor(processors()) as pool:
        results = pool.map(function, values)
        return list(track(results, description, len(values)) if description else results)


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


# --------------------------------------------------------------------------- Ctrl-C

INTERRUPTED = 128 + signal.SIGINT
"""What shells expect of a command ended by Ctrl-C: 130."""
GRACE_S = 3.0
"""Time to put things away; pools of workers would wait for all that they were given."""
LINE = "interrupted: no file is half written, what was finished is kept, the same command goes on"


def _leave_signals_to_the_parent() -> None:
    """A forked worker neither tells nor ends anything: the process that started it does."""
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_signals_to_the_parent)


@contextlib.contextmanager
def interrupts_told() -> Iterator[None]:
    """Within it, Ctrl-C prints one line at once, and the process has `GRACE_S` seconds to end.

    Python itself looks at signals between two of its own steps only; a thread is woken by the
    system, whatever the main one computes.
    """
    read, write = socket.socketpair()
    write.setblocking(False)
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=wait_for_interrupt, args=(read,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        write.close()
        watcher.join()
        read.close()


def wait_for_interrupt(signals: socket.socket) -> None:
    """Wait for an interrupt; tell it, and end the process where it does not end by itself."""
    while number := signals.recv(1):
        if number[0] == signal.SIGINT:
            break
    else:
        return
    with contextlib.suppress(OSError):
        print(LINE, file=sys.stderr, flush=True)
    signals.settimeout(GRACE_S)
    with contextlib.suppress(TimeoutError):
        if not signals.recv(1):  # it has ended; a second interrupt does not wait
            return
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(INTERRUPTED)
