r"""Prose about a profile's results in; the same with its numbers and tables filled in, out.

`paper/<profile>/results.tex` and `discussion.tex` name numbers and hold none, so that none of them
can grow old:

- `\entry{TABLE}{ROW}{COLUMN}` is a cell of `results/<profile>/tables/TABLE.csv`, with its interval
  if it has one. ROW is what the row has in other cells, set apart by ` | `; one row alone may fit.
- `\difference{SCENARIO}{METHOD}{OTHER}{COLUMN}` is macro-F1 of a method minus that of another one
  that differs from it in a single part, in points, from `effects.parquet`.
- `\isshown{SCENARIO}{METHOD}{OTHER}{COLUMN}` is "shown" or "not shown" and the p-value of that
  difference, corrected for all exchanged parts of the profile.
- `\compared{TABLE}{ROW}{OTHER}{COLUMN}` is "lies below", "lies above" or "is not told apart from":
  what a row's interval says of the value of another row that has none, such as a constant.
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
from benchmark.evaluation.experiments import Experiment
from benchmark.report.formats import cell_text
from benchmark.report.paper.latex import tex
from benchmark.report.sheets.measures import load_effects, signed
from benchmark.report.tables import Cell

NAMED = re.compile(r"\\(entry|difference|isshown|compared|experiment)((?:\{[^{}]*\})+)")


def experiments_shown(path: Path) -> list[str]:
    """The experiments whose table a text shows; none if there is no such text."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [words[1:-1] for kind, words in NAMED.findall(text) if kind == "experiment"]


def fillings(
    results: Path, experiments: list[Experiment], floats: dict[str, str]
) -> dict[str, Callable[..., str]]:
    """What a text may name → the function that gives its LaTeX.

    Args:
        floats: experiment → the LaTeX of its table and figure.
    """
    tables, effects = results / "tables", load_effects(results, experiments)
    return {
        "entry": lambda *words: tex(entry(tables, *words)),
        "difference": lambda *words: tex(signed(difference(effects, *words))),
        "isshown": lambda *words: tex(verdict(difference(effects, *words))),
        "compared": lambda *words: compared(tables, *words),
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
    """An experiment's table and figure."""
    if name not in floats:
        raise ValueError(f"there is no experiment {name}{suggest(name, floats)}")
    return floats[name]


def entry(tables: Path, name: str, row: str, column: str) -> str:
    """A cell of a table of the report."""
    found = row_of(tables, name, row, column)
    if f"{column}_low" not in found:
        return found[column].replace("-", "−")
    return cell_text(cell_of(found, column))


def compared(tables: Path, name: str, row: str, other: str, column: str) -> str:
    """How a cell lies to that of another row, by its interval."""
    own, theirs = (cell_of(row_of(tables, name, r, column), column) for r in (row, other))
    if math.isnan(own.low) or not math.isnan(theirs.low):
        raise ValueError(f"{row} needs an interval, and {other} must have none: use \\difference")
    if own.high < theirs.mean:
        return "lies below"
    return "lies above" if own.low > theirs.mean else "is not told apart from"


def cell_of(found: pd.Series, column: str) -> Cell:
    """A row's value in a column with its interval; NaN where it has none."""
    ends = (found.get(f"{column}{end}", "") for end in ("", "_low", "_high"))
    return Cell(*(float(end) if end else math.nan for end in ends))


def row_of(tables: Path, name: str, row: str, column: str) -> pd.Series:
    """The row of a table that has these words in its cells, and a value in this column."""
    path = tables / f"{name}.csv"
    if not path.is_file():
        known = [other.stem for other in tables.glob("*.csv")]
        raise ValueError(f"there is no table {name}{suggest(name, known)}")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if column not in table:
        raise ValueError(f"{name} has no column {column}{suggest(column, table.columns)}")
    words = {word.strip() for word in row.split("|")}
    fits = [place for place, cells in enumerate(table.to_numpy()) if words <= set(cells)]
    if len(fits) != 1:
        raise ValueError(f"{len(fits)} rows of {name} hold {' and '.join(sorted(words))}")
    found = table.iloc[fits[0]]
    if not found[column]:
        raise ValueError(f"{name} has no value of {column} in the row of {row}")
    return found


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
