"""Progress: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one plain line; square brackets are text, not markup."""
    console.print(line, markup=False)


def track(
    items: Iterable[Item], description: str, total: int | None = None, every_s: float = 20.0
) -> Iterator[Item]:
    """Iterate with progress: a bar on a terminal, else a line at most every `every_s` seconds."""
    if total is None:
        total = len(items) if hasattr(items, "__len__") else None
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total=total, description=description)
        return
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= every_s:
            last = time.monotonic()
            say(f"{description}: {done}" + (f"/{total}" if total else ""))
