"""The table that a measurement ends with: every goal, and what was reached in the same run.

A test hands its row to `record_property("reached", row(...))`; the rows of those that passed are
printed together. `--renew` keeps them in `results/speed/goals/`, in the file of this processor and
its instructions; rows of what was not measured this time stay.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console
from rich.table import Table

from benchmark.files import write_text
from benchmark.speed.measure import here_and_now
from benchmark.speed.records import speed_path

ROOT = Path(__file__).parents[2]
COLUMNS = ("what", "measure", "goal", "processor", "wall", "threads", "load")
"""`processor` and `wall`: what was reached by processor time and by wall-clock time. `load`: how
many processes wanted a processor, on average over a minute at the end, for each there is. Above 1
only the first means much, and it falls short where processors share what multiplies."""
FLOOR = "share of the floor"
HABIT = "× the habit"


def row(what: str, measure: str, goal: str, processor: float, wall: float) -> dict[str, str]:
    """A line of the table.

    Args:
        measure: the unit (`s`), or what the ratio is of (`× the habit`).
        goal: as the project states it, with its sign: `≥ 5`.
    """
    reached = {"processor": f"{processor:.3g}", "wall": f"{wall:.3g}"}
    return {"what": what, "measure": measure, "goal": goal, **reached}


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the rows of the tests that passed; with `--renew` keep them."""
    passed = terminalreporter.getreports("passed")
    found = [fact for report in passed for key, fact in report.user_properties if key == "reached"]
    if not found:
        return
    here = here_and_now(torch.device("cpu"))
    load = os.getloadavg()[0] / os.cpu_count()
    table = pd.DataFrame(found).assign(threads=str(here["threads"]), load=f"{load:.1f}")
    table = table[list(COLUMNS)]
    title = f"{here['device']} ({here['instructions']}), torch {here['torch']}"
    shown = Table(*COLUMNS, title=title, title_justify="left")
    for line in table.itertuples(index=False, name=None):
        shown.add_row(*line)
    terminalreporter.section("goals")
    text = Console(file=io.StringIO(), width=110)
    text.print(shown)
    terminalreporter.write(text.file.getvalue())
    if config.getoption("--renew"):
        path = goals_path(ROOT, here)
        if path.exists():
            table = pd.concat([pd.read_csv(path, dtype=str), table], ignore_index=True)
        again = table.duplicated(["what", "measure", "threads"], keep="last")
        write_text(path, table[~again].sort_values(["measure", "what"]).to_csv(index=False))
        terminalreporter.write_line(f"wrote {path.relative_to(ROOT)}")


def goals_path(root: Path, here: dict[str, object]) -> Path:
    """`results/speed/goals/cpu-<processor>-<instructions>-torch<version>.csv`."""
    path = speed_path(root, here, "", "")
    return path.parent / "goals" / f"{path.stem.rstrip('-')}.csv"
