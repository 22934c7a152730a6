"""Progress: a live bar on a terminal, plain lines elsewhere; and the one way to standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from benchmark.errors import UserError
from benchmark.texts import visible

Item = TypeVar("Item")
EVERY_S = 20.0


class StandardOutput:
    """Standard output as it is when something is written; a full disk behind it is a `UserError`,
    and so is a reader that has gone.
    """

    @property
    def stream(self) -> Any:
        """The stream itself, not what rich puts in its place while a bar is shown."""
        return getattr(sys.stdout, "rich_proxied_file", sys.stdout)

    def write(self, text: str) -> int:
        with told_if_lost():
            return self.stream.write(text) if self.stream else len(text)

    def flush(self) -> None:
        with told_if_lost():
            if self.stream:
                self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def told_if_lost() -> Iterator[None]:
    """Turn what stops standard output into one line."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"standard output cannot be written ({error.strerror}): what was finished is kept"
        ) from None


class Terminal(Console):
    """A console on which square brackets are text, as are codes that terminals would obey."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)


console = Terminal(
    file=StandardOutput(), highlight=False, soft_wrap=True, markup=False, emoji=False
)


def say(line: str) -> None:
    console.print(line)


def say_each(lines: Iterable[object]) -> None:
    """Print lines as they come."""
    for line in lines:
        say(str(line))


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with progress: a bar on a terminal, else a line at most every `EVERY_S` seconds."""
    if total is None:
        total = len(items) if hasattr(items, "__len__") else None
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total=total, description=visible(description))
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= EVERY_S:
            last = time.monotonic()
            say(f"{description}: {done}" + (f"/{total}" if total else ""))
