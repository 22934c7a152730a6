r"""Prose about a profile's results in; the same with its numbers and tables filled in, out.

`paper/<profile>/results.tex` and `discussion.tex` name numbers and hold none, so that none of them
can grow old:

- `\entry{TABLE}{ROW}{COLUMN}` is a cell of `results/<profile>/tables/TABLE.md`, with its interval
  if it has one. ROW is the row's labels, set apart by ` | `: its method, scenario and so on, or the
  words of a table that has no methods; one row alone may fit.
- `\difference{SCENARIO}{METHOD}{OTHER}{COLUMN}` is macro-F1 of a method minus that of another one
  that differs from it in a single part, in points, from `effects.parquet`.
- `\isshown{SCENARIO}{METHOD}{OTHER}{COLUMN}` is "shown" or "not shown" and the p-value of that
  difference, corrected for all single-part ablations of the profile.
- `\compared{TABLE}{ROW}{OTHER}{COLUMN}` is "lies below", "lies above" or "does not differ
  significantly from": what a row's interval says of the value of another row that has none, such as
  a constant.
- `\experiment{NAME}` is the table of an experiment's headline score and its first figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmark.errors import UserError, suggest
from benchmark.evaluation.compare import p_text
from benchmark.evaluation.comparisons import significant
from benchmark.report.claims import signed
from benchmark.report.paper.latex import tex
from benchmark.report.table import Block, Cell, Row, Table, Value
from benchmark.report.tables import Tables
from benchmark.report.write import NOTHING, cell_text

NAMED = re.compile(r"\\(entry|difference|isshown|compared|experiment)((?:\{[^{}]*\})+)")


def experiments_shown(path: Path) -> list[str]:
    """The experiments whose table a text shows; none if there is no such text."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [words[1:-1] for kind, words in NAMED.findall(text) if kind == "experiment"]


def fillings(
    tables: dict[str, Tables], effects: pd.DataFrame, floats: dict[str, str]
) -> dict[str, Callable[..., str]]:
    """What a text may name → the function that gives its LaTeX.

    Args:
        effects: differences between methods that differ in one part.
        floats: experiment → the LaTeX of its table and figure.
    """
    known = {table.name: table for own in tables.values() for table in own.printed}
    return {
        "entry": lambda *words: tex(cell_text(entry(known, *words))),
        "difference": lambda *words: tex(signed(difference(effects, *words))),
        "isshown": lambda *words: tex(verdict(difference(effects, *words))),
        "compared": lambda *words: compared(known, *words),
        "experiment": lambda *words: of_experiment(floats, *words),
    }


def prose(path: Path, kinds: dict[str, Callable[..., str]]) -> str:
    """A text with its `fillings`, ready for LaTeX; nothing if none was written.

    Raises:
        UserError: a number that the results do not hold, or that is not named unmistakably.
    """
    if not path.is_file():
        return ""

    def filled(line: int, kind: str, words: list[str]) -> str:
        try:
            return kinds[kind](*words)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {line}: \\{kind}: {error}") from None

    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(
        NAMED.sub(lambda m, n=n: filled(n, m[1], re.findall(r"\{([^{}]*)\}", m[2])), line)
        for n, line in enumerate(lines, 1)
    )


def of_experiment(floats: dict[str, str], name: str) -> str:
    if name not in floats:
        raise ValueError(f"there is no experiment {name}{suggest(name, floats)}")
    return floats[name]


def entry(tables: dict[str, Table], name: str, row: str, column: str) -> Value:
    """A cell of a table, without its mark: in the row of these labels, which has a value there."""
    if name not in tables:
        raise ValueError(f"there is no table {name}{suggest(name, tables)}")
    columns = {own.key: None for block in tables[name].blocks for own in block.columns}
    if column not in columns:
        raise ValueError(f"{name} has no column {column}{suggest(column, columns)}")
    words = {word.strip() for word in row.split("|")}
    fits = [
        (block, own)
        for block in tables[name].blocks
        for own in block.rows
        if words <= labels(block, own)
    ]
    if len(fits) != 1:
        raise ValueError(f"{len(fits)} rows of {name} hold {' and '.join(sorted(words))}")
    ((block, found),) = fits
    place = block.place(column)
    cell = Cell(math.nan) if place is None else found.cells[place]
    if cell_text(cell) == NOTHING:
        raise ValueError(f"{name} has no value of {column} in the row of {row}")
    return cell._replace(as_good=False) if isinstance(cell, Cell) else cell


def labels(block: Block, row: Row) -> set[str]:
    """What tells a row from others: its words, or its method, scenario and source."""
    if block.scenario is None:
        return {cell for cell, c in zip(row.cells, block.columns, strict=True) if c.words}
    own = (block.scenario.name, block.scenario.source, block.track)
    return {row.method, *own}


def compared(tables: dict[str, Table], name: str, row: str, other: str, column: str) -> str:
    """How a cell lies to that of another row, by its interval."""
    own, theirs = (entry(tables, name, one, column) for one in (row, other))
    if math.isnan(own.low) or not math.isnan(theirs.low):
        raise ValueError(f"{row} needs an interval, and {other} must have none: use \\difference")
    if own.high < theirs.mean:
        return "lies below"
    return "lies above" if own.low > theirs.mean else "does not differ significantly from"


def verdict(row: pd.Series) -> str:
    """`not shown, p = 0.41`."""
    return f"{'shown' if significant(row['p_holm']) else 'not shown'}, {p_text(row['p_holm'])}"


def difference(
    effects: pd.DataFrame, scenario: str, method: str, other: str, column: str
) -> pd.Series:
    """What two methods that differ in one part differ by: a row of `effects.parquet`."""
    asked = {"scenario": scenario, "method": method, "reference": other, "column": column}
    for key, value in asked.items():
        known = effects[key].unique()
        effects = effects[effects[key] == value]
        if effects.empty:
            raise ValueError(f"no difference with {key} {value}{suggest(value, known)}")
    return effects.iloc[0]
