"""Formats: a table in, its CSV, Markdown or LaTeX text out."""

from __future__ import annotations

import csv
import io
import math

from benchmark.evaluation.columns import SUMMARIES
from benchmark.evaluation.scores import MAJORITY
from benchmark.report.tables import Block, Cell, Column, Row, Table
from benchmark.texts import csv_cell, latex, markdown

NOTHING = "–"


def number(value: float, decimals: int = 1) -> str:
    """A number with a true minus sign; never "-0.0"."""
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def cell_text(cell: Cell) -> str:
    """`45.3 [43.1, 47.0]`, `45.3` where there is no interval, `–` where there is no value."""
    if math.isnan(cell.mean):
        return NOTHING
    return f"{number(cell.mean)}{mark(cell)}{interval_text(cell)}"


def interval_text(cell: Cell) -> str:
    """` [43.1, 47.0]`, or nothing."""
    if math.isnan(cell.low):
        return ""
    return f" [{number(cell.low)}, {number(cell.high)}]"


def mark(cell: Cell) -> str:
    """° behind a mean that is not shown to be worse than the best of its column."""
    return "°" if cell.as_good else ""


def column_title(column: Column) -> str:
    """A test set's name with † where one of its classes is too small to carry a claim."""
    return column.title + ("†" if column.flagged and not column.is_summary else "")


def column_support(column: Column) -> str:
    """`n = 351` below a test set's name; nothing below a summary or what stands beside."""
    if column.is_summary or column.beside:
        return ""
    return f"n = {column.n if column.n else NOTHING}"


def csv_text(rows: list[list[object]]) -> str:
    """Rows, the first being the header, as CSV with Unix line ends; no cell is a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def to_csv(table: Table) -> str:
    """One line per row; for each column mean, interval and mark, and n for a test set.

    An empty field means: not a test set of this scenario, or no value. The mark is `best`,
    `as_good` (not shown to be worse than the best) or empty.
    """
    columns: dict[str, Column] = {}
    for block in table.blocks:
        columns |= {column.key: column for column in block.columns}
    summaries = [key for key in columns if columns[key].is_summary and key not in SUMMARIES]
    keys = [key for key in columns if not columns[key].is_summary]
    keys += [*SUMMARIES, *summaries]
    header = ["scenario", "source", "track", "method", "found", "planned", "seeds"]
    for key in keys:
        header += [key, f"{key}_low", f"{key}_high", f"{key}_mark"]
        header += [] if key in (*SUMMARIES, *summaries) else [f"{key}_n"]
    lines: list[list[object]] = [header]
    for block in table.blocks:
        places = {column.key: place for place, column in enumerate(block.columns)}
        for row in block.rows:
            counts = [row.found, row.planned, row.seeds] if row.planned else ["", "", ""]
            line = [block.scenario.name, block.scenario.source, block.track, row.method, *counts]
            for key in keys:
                place = places.get(key)
                cell = row.cells[place] if place is not None else Cell(math.nan)
                line += [plain(cell.mean), plain(cell.low), plain(cell.high)]
                line.append("best" if cell.best else "as_good" if cell.as_good else "")
                if key not in (*SUMMARIES, *summaries):
                    line.append((block.columns[place].n or "") if place is not None else "")
            lines.append(line)
    return csv_text(lines)


def plain(value: float) -> str:
    """All four decimals that `evaluate` keeps, empty where there is no value.

    With fewer, a number that is read here and rounded again, as the paper's are, would differ from
    the printed table.
    """
    return "" if math.isnan(value) else number(value, 4).replace("−", "-")


def markdown_rows(header: list[str], rows: list[list[str]], text_columns: int = 1) -> str:
    """A Markdown table with aligned source; all but the first `text_columns` align right.

    Args:
        header, rows: cells as Markdown (`texts.markdown`).
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            text.ljust(width) if place < text_columns else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = [
        "-" * (width + 2) if place < text_columns else "-" * (width + 1) + ":"
        for place, width in enumerate(widths)
    ]
    lines.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(lines)


def to_markdown(table: Table) -> str:
    """One Markdown table per block under its heading, notes below it."""
    parts = [markdown(table.caption, emphasis=True)]
    for block in table.blocks:
        titles = [f"{column_title(column)}, {column_support(column)}" for column in block.columns]
        header = ["method", "runs"]
        header += [markdown(title.removesuffix(", "), emphasis=True) for title in titles]
        rows = [
            [
                markdown(row.method, emphasis=True),
                row.runs or NOTHING,
                *map(markdown_cell, row.cells),
            ]
            for row in block.rows
        ]
        parts += [f"**{markdown(block.title)}**", markdown_rows(header, rows)]
        parts += [f"{markdown(note)}." for note in block.notes]
    parts += [f"{markdown(note)}." for note in table.notes]
    return "\n\n".join(parts) + "\n"


def markdown_cell(cell: Cell) -> str:
    """The cell's text, its mean in bold if it is the best of its column."""
    text = cell_text(cell)
    mean, space, interval = text.partition(" ")
    return f"**{mean}**{space}{interval}" if cell.best else text


def to_latex(table: Table) -> str:
    """A `table*` for booktabs and siunitx, \\input as it is; shrunk if wider than the page.

    Mean and interval are two columns: siunitx aligns the means.
    """
    most = max((len(block.columns) for block in table.blocks), default=0)
    lines = [
        "% Written by `wbc-shift report`. Needs \\usepackage{booktabs,graphicx,siunitx} and",
        "% \\sisetup{detect-weight=true} for bold numbers.",
        "\\begin{table*}",
        "\\centering",
        "\\caption{" + latex(table.caption) + "}",
        "\\label{tab:" + table.name.replace("_", "-") + "}",
        "\\vspace{4pt}\\scriptsize\\setlength{\\tabcolsep}{3pt}",
        "\\sbox0{%",
        f"\\begin{{tabular}}{{@{{}}lc*{{{most}}}{{S[table-format={siunitx_format(table)}]@{{\\,}}r}}@{{}}}}",
        "\\toprule",
    ]
    for place, block in enumerate(table.blocks):
        lines += ["\\midrule"] if place else []
        lines += latex_block(block, most)
    lines += [
        "\\bottomrule",
        "\\end{tabular}}",
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi",
    ]
    notes = dict.fromkeys(note for block in table.blocks for note in block.notes)
    notes |= dict.fromkeys(table.notes)
    if notes:
        text = " ".join(f"{latex(note)}." for note in notes)
        lines.append(f"\n\\vspace{{3pt}}\\parbox{{\\linewidth}}{{\\scriptsize {text}}}")
    return "\n".join([*lines, "\\end{table*}"]) + "\n"


def latex_block(block: Block, most: int) -> list[str]:
    """Heading, three header lines and rows of a block, padded to `most` pairs of columns."""
    targets = sum(not column.is_summary for column in block.columns)

    def line(first: str, second: str, cells: list[str]) -> str:
        """Targets first, summaries last, so that the summaries of all blocks stand in one line."""
        padding = ["&"] * (most - len(cells))
        cells = [*cells[:targets], *padding, *cells[targets:]]
        return " & ".join([first, second, *cells]) + " \\\\"

    def over_pair(text: str) -> str:
        return f"\\multicolumn{{2}}{{c}}{{{text}}}"

    first, second, support = [], [], []
    for column in block.columns:
        name = latex(column_title(column))
        word, _, rest = name.partition(" (" if column.key == "in_domain" else " ")
        first.append(over_pair(word))
        second.append(over_pair(rest.replace(")", "")))
        support.append(over_pair(latex(column_support(column)).replace("n =", "$n=$")))
    rows = []
    for row in block.rows:
        rows += ["\\addlinespace[2pt]"] if row.method == MAJORITY else []
        rows.append(line(latex(row.method), row.runs, list(map(latex_cell, row.cells))))
    title = f"\\textbf{{{latex(block.title)}}}"
    return [
        f"\\multicolumn{{{2 * most + 2}}}{{@{{}}l}}{{{title}}} \\\\",
        "\\addlinespace[2pt]",
        line("", "", first),
        line("", "", second),
        line("Method", "Runs", support),
        "\\midrule",
        *rows,
    ]


def latex_cell(cell: Cell) -> str:
    """`45.3 & [43.1, 47.0]`, `45.3 &` without an interval, a dash over both without a value."""
    if math.isnan(cell.mean):
        return "\\multicolumn{2}{c}{--}"
    mean = ("\\bfseries " if cell.best else "") + number(cell.mean).replace("−", "-")
    return f"{mean} & {latex(mark(cell) + interval_text(cell)).strip()}".strip()


def siunitx_format(table: Table) -> str:
    """The S column's format: sign and integer digits of the widest mean that occurs."""
    cells = [cell for block in table.blocks for row in block.rows for cell in row.cells]
    means = [number(cell.mean) for cell in cells if not math.isnan(cell.mean)]
    integers = max((len(text.lstrip("−")) - 2 for text in means), default=2)
    sign = "-" if any(text.startswith("−") for text in means) else ""
    return f"{sign}{integers}.1"


def headline(block: Block, row: Row) -> dict[str, Cell]:
    """The cells that answer the question: in-domain, mean of targets, shift drop."""
    places = {column.key: place for place, column in enumerate(block.columns)}
    return {
        key: row.cells[places[key]] if key in places else Cell(math.nan)
        for key in ("in_domain", "mean_target", "shift_drop")
    }
