"""The cells of a table, as tests compare them."""

from __future__ import annotations

from pathlib import Path

from benchmark.report.table import Row, Table
from benchmark.report.write import NOTHING, cell_text


def texts_of(table: Table) -> list[dict[str, str]]:
    """The rows of a sheet: column → text, "" where there is no value, with the machine's minus."""
    (block,) = table.blocks
    titles = [column.title for column in block.columns]
    return [dict(zip(titles, map(plain, row.cells), strict=True)) for row in block.rows]


def plain(cell: object) -> str:
    text = cell_text(cell)
    return "" if text == NOTHING else text.replace("−", "-")


def rows_of(table: Table) -> dict[str, Row]:
    """The rows of a table of scores that has one block, by method."""
    (block,) = table.blocks
    return {row.method: row for row in block.rows}


def cells_of(table: Table, method: str) -> dict[str, object]:
    """Column → cell of a method."""
    (block,) = table.blocks
    return dict(zip((c.key for c in block.columns), rows_of(table)[method].cells, strict=True))


def read_lines(path: Path) -> list[dict[str, str]]:
    """The rows of the first table of a Markdown file: column → text, without escapes."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines()]
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    end = next((p for p, line in enumerate(lines) if p > start and not line.startswith("|")), None)
    header, _, *rows = (
        [cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")]
        for line in lines[start:end]
    )
    cells = ([plain(cell) for cell in row] for row in rows)
    return [dict(zip(header, row, strict=True)) for row in cells]
