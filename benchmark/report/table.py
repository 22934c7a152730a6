"""The table: words and numbers under columns, in blocks; how it is written is up to `write`.

A cell is a text, a count, or a `Cell`: a number that may have an interval and marks. All tables of
the report are of this one kind, whether they hold scores of methods or a list of claims.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmark.evaluation.columns import SUMMARIES
from benchmark.study.runs import Scenario


class Cell(NamedTuple):
    """A mean over seeds with its interval, in per cent, as it stands in a table."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    seeds: int = 0
    """done anywhere in the profile"""
    best: bool = False
    """the highest mean of its column, the majority constant aside"""
    as_good: bool = False
    """not shown to be worse than the best (paired, corrected for the number of methods)"""
    across_seeds: bool = False
    """the interval covers other seeds too, and not other images alone"""
    decimals: int = 1


Value = str | int | Cell
"""What stands in a table."""


UNPAIRED_NOTE = (
    "The tables labelled_cells and unlabelled_cells test other cells of a target (a half of it in "
    "ten draws; a hundred cells in draws of their own): what labels and what unlabelled cells buy "
    "compares as means over draws, and not cell by cell"
)
DRAWS_NOTE = (
    "No intervals: the draws share the cells of one target, so that their spread says nothing of "
    "other cells, slides or laboratories, and a difference between two lines is not tested"
)


def share(value: float | None) -> Cell:
    """A share as per cent; None and NaN are no value."""
    return Cell(math.nan if value is None else 100 * value)


def points(row: Mapping[str, Any]) -> Cell:
    """The difference that a row of `effects.parquet` is of, with its interval, in points."""
    ends = (row[name] for name in ("mean", "low", "high"))
    return Cell(*(math.nan if end is None else 100 * end for end in ends))


@dataclass(frozen=True)
class Column:
    """A test set, a class, a summary of the targets (which has no n), or a column of any name."""

    key: str
    title: str
    n: int | None = None
    flagged: bool = False
    """The test set, or one that the summary is of, holds a class with too few images to carry a
    claim."""
    beside: str = ""
    """The key of the column that it stands beside, with another score."""
    metric: str = ""
    """That score, where it is not the table's."""
    words: bool = False
    """whether it holds words and no numbers"""

    @property
    def is_summary(self) -> bool:
        """Whether it stands behind the test sets."""
        return bool(self.beside) or self.key in SUMMARIES


@dataclass(frozen=True)
class Row:
    """Cells in the order of the block's columns, and the method that they are of, if any."""

    cells: tuple[Value, ...]
    method: str = ""
    found: int = 0
    planned: int = 0

    @property
    def across_seeds(self) -> bool:
        return any(cell.across_seeds for cell in self.cells)

    @property
    def seeds(self) -> int:
        return max((cell.seeds for cell in self.cells), default=0)

    @property
    def runs(self) -> str:
        """Found/planned, and in brackets the seeds behind the values if they are others; empty for
        the constant, which is not a run."""
        if not self.planned:
            return ""
        more = f" ({self.seeds})" if self.seeds != self.found else ""
        return f"{self.found}/{self.planned}{more}"


@dataclass(frozen=True)
class Block:
    """Rows under the same columns; those of methods also have a name and a number of runs."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    scenario: Scenario | None = None
    """of methods, which were trained and tested in it"""
    track: str = "inductive"
    counted: tuple[str, ...] = ()
    """the targets that the summaries are of"""

    @property
    def title(self) -> str:
        """Scenario and, if it is not the inductive one, the track."""
        if self.scenario is None:
            return ""
        track = "" if self.track == "inductive" else f", {self.track}"
        return f"Trained on {self.scenario.source} ({self.scenario.name}{track})"

    def place(self, key: str) -> int | None:
        """Where in a row the cell of a column stands; None without such a column."""
        return next((i for i, column in enumerate(self.columns) if column.key == key), None)


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    name: str
    """its file in `tables/`, without suffix"""
    caption: str
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    metric: str = ""
    """of a table of methods, the score that it holds"""

    def with_columns(self, wanted: Callable[[Column], bool]) -> Table:
        """The same with some of its columns."""
        blocks = []
        for block in self.blocks:
            kept = [place for place, column in enumerate(block.columns) if wanted(column)]
            rows = (replace(row, cells=tuple(row.cells[i] for i in kept)) for row in block.rows)
            columns = tuple(block.columns[i] for i in kept)
            blocks.append(replace(block, columns=columns, rows=tuple(rows)))
        return replace(self, blocks=tuple(blocks))


def sheet(
    name: str,
    caption: str,
    header: Iterable[str],
    rows: Iterable[Iterable[Value]],
    notes: Iterable[str] = (),
    words: int = 1,
) -> Table:
    """A table of a single block.

    Args:
        words: how many columns, from the left, hold words.
    """
    columns = tuple(Column(name, name, words=i < words) for i, name in enumerate(header))
    block = Block(columns, tuple(Row(tuple(cells)) for cells in rows))
    return Table(name, caption, (block,), tuple(notes))
