"""Sheet: a plain table of texts, written as CSV, Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from benchmark.files import write_text
from benchmark.report.formats import NOTHING, csv_text, markdown_rows, number
from benchmark.texts import latex, markdown

LONG = 34
"""Characters beyond which the texts of a column wrap in print."""
LINE = 150
"""Characters that a line of the page holds in print."""


@dataclass(frozen=True)
class Sheet:
    """Rows of texts under a header; the first `text_columns` are words and the rest numbers."""

    name: str
    """its file in `tables/`, without suffix"""
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: int = 1


def percent(value: float | None) -> str:
    """A share as per cent with one decimal, `–` for none."""
    return NOTHING if value is None or math.isnan(value) else number(100 * value)


def write_sheet(folder: Path, sheet: Sheet) -> None:
    """Write a sheet in the three forms."""
    for suffix, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        write_text(folder / f"{sheet.name}.{suffix}", text(sheet))


def to_csv(sheet: Sheet) -> str:
    """Header and rows; a dash becomes an empty field, a true minus the machine's."""
    rows = [
        ["" if text == NOTHING else text.replace("−", "-") for text in row] for row in sheet.rows
    ]
    return csv_text([list(sheet.header), *rows])


def to_markdown(sheet: Sheet) -> str:
    """Caption, table and notes."""
    header = [markdown(text) for text in sheet.header]
    rows = [[markdown(text) for text in row] for row in sheet.rows]
    parts = [
        markdown(sheet.caption, emphasis=True),
        markdown_rows(header, rows, sheet.text_columns),
    ]
    parts += [f"{markdown(note)}." for note in sheet.notes]
    return "\n\n".join(parts) + "\n"


def shares(widths: list[int]) -> list[float]:
    """Share of the line for each column whose texts wrap, 0 for one that keeps its width.

    What the narrow columns leave is given out by the square root of the longest text, so that no
    column is much taller than the others.

    Args:
        widths: characters of the longest text of each column.
    """
    long = [math.sqrt(width) if width > LONG else 0 for width in widths]
    narrow = sum(width for width in widths if width <= LONG) / LINE
    room = 0.98 - narrow - 0.013 * len(widths)
    return [max(room, 0.4) * weight / max(sum(long), 1) for weight in long]


def to_latex(sheet: Sheet) -> str:
    """A `table*` for booktabs; columns of long texts wrap, others keep their width."""
    rows = [[latex(text) for text in row] for row in sheet.rows]
    widths = [
        max(map(len, column), default=0) for column in zip(sheet.header, *sheet.rows, strict=True)
    ]
    kinds = [
        f">{{\\raggedright\\arraybackslash}}p{{{share:.3f}\\linewidth}}"
        if share
        else "l"
        if place < sheet.text_columns
        else "r"
        for place, share in enumerate(shares(widths))
    ]
    lines = [
        "% Written by `wbc-shift report`. Needs \\usepackage{array,booktabs,graphicx}",
        "\\begin{table*}",
        "\\centering",
        "\\caption{" + latex(sheet.caption) + "}",
        "\\label{tab:" + re.sub(r"[^a-z0-9]+", "-", sheet.name.lower()) + "}",
        "\\vspace{4pt}\\scriptsize\\setlength{\\tabcolsep}{3pt}",
        "\\sbox0{%",
        "\\begin{tabular}{@{}" + "".join(kinds) + "@{}}",
        "\\toprule",
        " & ".join(map(latex, sheet.header)) + " \\\\",
        "\\midrule",
        *(" & ".join(row) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi",
    ]
    if sheet.notes:
        text = " ".join(f"{latex(note)}." for note in sheet.notes)
        lines.append(f"\n\\vspace{{3pt}}\\parbox{{\\linewidth}}{{\\scriptsize {text}}}")
    return "\n".join([*lines, "\\end{table*}"]) + "\n"
