"""Ctrl-C: told at once, also within a long computation, and over within seconds.

Every file is whole or absent at any moment (`files.atomic`), so an end is safe wherever it comes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

STATUS = 128 + signal.SIGINT
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
def told_at_once() -> Iterator[None]:
    """Within it, Ctrl-C prints one line at once, and the process has `GRACE_S` seconds to end.

    Python itself looks at signals between two of its own steps only; a thread is woken by the
    system, whatever the main one computes.
    """
    read, write = socket.socketpair()
    write.setblocking(False)
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, args=(read,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        write.close()
        watcher.join()
        read.close()


def watch(signals: socket.socket) -> None:
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
    os._exit(STATUS)
