"""Writers: a table in, its Markdown, LaTeX or terminal text out (HTML: `page.html.jinja`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.table import Table as TerminalTable

from benchmark.evaluation.scores import MAJORITY
from benchmark.files import write_text
from benchmark.progress import console, say
from benchmark.report.table import Block, Cell, Column, Row, Table, Value
from benchmark.texts import latex, markdown

NOTHING = "–"
LONG = 34
"""Characters beyond which the texts of a column wrap in print."""
LINE = 150
"""Characters that a line of the page holds in print."""
HEADLINE_COLUMNS = {
    "in_domain": "in-domain",
    "mean_target": "mean of targets",
    "shift_drop": "shift drop",
}
"""What is printed on the terminal."""


def write_table(folder: Path, table: Table) -> None:
    """Write a table as Markdown."""
    write_text(folder / f"{table.name}.md", to_markdown(table))


# Cells


def number(value: float, decimals: int = 1) -> str:
    """A number with a true minus sign; never "-0.0"."""
    text = f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed_number(value: float) -> str:
    """A difference with its sign: `+3.2`, `−1.0`; what rounds to 0 has none."""
    text = number(value)
    return text if text[0] == "−" or float(text) == 0 else f"+{text}"


def cell_text(cell: Value) -> str:
    """`45.3 [43.1, 47.0]`, `45.3` where there is no interval, `–` where there is no value."""
    if not isinstance(cell, Cell):
        return str(cell)
    if math.isnan(cell.mean):
        return NOTHING
    return f"{number(cell.mean, cell.decimals)}{mark(cell)}{interval_text(cell)}"


def interval_text(cell: Cell) -> str:
    """` [43.1, 47.0]`, or nothing."""
    if math.isnan(cell.low):
        return ""
    return f" [{number(cell.low)}, {number(cell.high)}]"


def mark(cell: Cell) -> str:
    """° behind a mean that is not shown to be worse than the best of its column."""
    return "°" if cell.as_good else ""


def column_title(column: Column) -> str:
    """A column's name with † where a class of it is too small to carry a claim."""
    return column.title + ("†" if column.flagged and not column.is_summary else "")


def column_support(column: Column) -> str:
    """`n = 351` below a test set's name; nothing below a summary or what stands beside."""
    if column.is_summary or column.beside:
        return ""
    return f"n = {column.n if column.n else NOTHING}"


# Markdown


def to_markdown(table: Table) -> str:
    """Caption, blocks under their headings, and notes."""
    parts = [markdown(table.caption, emphasis=True)]
    for block in table.blocks:
        parts += [f"**{markdown(block.title)}**"] if block.title else []
        parts += [markdown_block(block), *(f"{markdown(note)}." for note in block.notes)]
    parts += [f"{markdown(note)}." for note in table.notes]
    return "\n\n".join(parts) + "\n"


def markdown_block(block: Block) -> str:
    """The lines of a block; a table of methods has their names and runs in front."""
    if not block.scenario:
        rows = [[markdown_cell(cell, markdown) for cell in row.cells] for row in block.rows]
        words = sum(column.words for column in block.columns)
        return markdown_rows([markdown(column.title) for column in block.columns], rows, words)
    escape = partial(markdown, emphasis=True)
    titles = (f"{column_title(column)}, {column_support(column)}" for column in block.columns)
    header = ["method", "runs", *(escape(title.removesuffix(", ")) for title in titles)]
    rows = [
        [escape(row.method), row.runs or NOTHING, *(markdown_cell(c, escape) for c in row.cells)]
        for row in block.rows
    ]
    return markdown_rows(header, rows)


def markdown_rows(header: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A Markdown table with aligned source; all but the first columns, of words, align right.

    Args:
        header, rows: cells as Markdown (`texts.markdown`).
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            text.ljust(width) if place < words else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    rule = [
        "-" * (width + 2) if place < words else "-" * (width + 1) + ":"
        for place, width in enumerate(widths)
    ]
    lines.insert(1, "|" + "|".join(rule) + "|")
    return "\n".join(lines)


def markdown_cell(cell: Value, escape: Callable[[str], str] = markdown) -> str:
    """The cell's text, its mean in bold if it is the best of its column."""
    text = escape(cell_text(cell))
    mean, space, interval = text.partition(" ")
    best = isinstance(cell, Cell) and cell.best
    return f"**{mean}**{space}{interval}" if best else text


# LaTeX


def to_latex(table: Table) -> str:
    """A `table*` for booktabs, \\input as it is: turned if it is wider than the page, and shrunk if
    it is longer than that."""
    needs = "array,booktabs,graphicx"
    if table.metric:
        needs = "booktabs,graphicx,siunitx} and\n% \\sisetup{detect-weight=true} for bold numbers."
    else:
        needs += "}"
    columns, body = (score_grid if table.metric else text_grid)(table)
    notes = dict.fromkeys(note for part in (*table.blocks, table) for note in part.notes)
    below = " ".join(f"{latex(note)}." for note in notes)
    lines = [
        f"% Written by `wbc-shift report`. Needs \\usepackage{{{needs}",
        "\\begin{table*}",
        "\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}",
        "\\sbox0{%",
        f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        "\\toprule",
        *body,
        "\\bottomrule",
        "\\end{tabular}}",
        "\\def\\whole{%",
        f"\\caption{{{latex(table.caption)}}}",
        f"\\label{{tab:{label(table.name)}}}",
        "\\vspace{4pt}",
        "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi",
        *([f"\n\\vspace{{3pt}}\\parbox{{\\linewidth}}{{\\scriptsize {below}}}"] if below else []),
        "}",
        "\\ifdim\\wd0>\\linewidth",
        "\\rotatebox{90}{\\begin{minipage}{0.96\\textheight}\\centering\\whole\\end{minipage}}",
        "\\else\\whole\\fi",
        "\\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def label(name: str) -> str:
    """A file's name as the label that its table or figure has in LaTeX."""
    return name.replace("_", "-")


def printed_lines(table: Table) -> int:
    """Lines of a table in print, its headings with it."""
    heading = 4 if table.metric else 1
    return sum(heading + len(block.rows) for block in table.blocks)


def text_grid(table: Table) -> tuple[str, list[str]]:
    """Kinds of columns and lines; columns of long texts wrap, others keep their width. A heading
    longer than what is below it stands in two lines."""
    (block,) = table.blocks
    texts = [[cell_text(cell) for cell in row.cells] for row in block.rows]
    titles = [column.title for column in block.columns]
    widths = [max(map(len, column), default=0) for column in zip(titles, *texts, strict=True)]
    kinds = [
        f">{{\\raggedright\\arraybackslash}}p{{{share:.3f}\\linewidth}}"
        if share
        else "l"
        if column.words
        else "r"
        for column, share in zip(block.columns, shares(widths), strict=True)
    ]
    header, rows = list(map(latex, titles)), [list(map(latex, row)) for row in texts]
    header = [
        in_two_lines(title) if len(title) > max(map(len, column), default=0) else title
        for title, *column in zip(header, *rows, strict=True)
    ]
    lines = [" & ".join(row) + " \\\\" for row in (header, *rows)]
    return "".join(kinds), [lines[0], "\\midrule", *lines[1:]]


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


def in_two_lines(heading: str) -> str:
    """A heading broken at the space that makes it narrowest."""
    places = [place.start() for place in re.finditer(" ", heading)]
    if not places:
        return heading
    place = min(places, key=lambda place: max(place, len(heading) - place))
    return f"\\shortstack{{{heading[:place]}\\\\{heading[place + 1 :]}}}"


def score_grid(table: Table) -> tuple[str, list[str]]:
    """Kinds of columns and lines of a table of scores.

    Mean and interval are two columns: siunitx aligns the means.
    """
    most = max((len(block.columns) for block in table.blocks), default=0)
    lines = []
    for place, block in enumerate(table.blocks):
        lines += ["\\midrule"] if place else []
        lines += score_block(block, most)
    return f"lc*{{{most}}}{{S[table-format={siunitx_format(table)}]@{{\\,}}r}}", lines


def score_block(block: Block, most: int) -> list[str]:
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


# Terminal


def print_headline(title: str, table: Table) -> None:
    """In-domain, mean of targets and shift drop: a table on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        say(title)
    for block in table.blocks:
        lines = [[row.method, row.runs, *headline_cells(block, row)] for row in block.rows]
        if console.is_terminal:
            shown = TerminalTable(title=f"{title}\n{block.title}", title_justify="left")
            for column in ("method", "runs", *HEADLINE_COLUMNS.values()):
                shown.add_column(column, justify="left" if column == "method" else "right")
            for line in lines:
                shown.add_row(*line, style="dim" if line[0] == MAJORITY else None)
            console.print(shown)
            continue
        say(f"  {block.title}")
        width = max(len(line[0]) for line in lines)
        for method, runs, *cells in [["method", "runs", *HEADLINE_COLUMNS.values()], *lines]:
            texts = [cell.rjust(15) for cell in cells]
            say("  ".join(["", method.ljust(width), runs.rjust(5), *texts]))


def headline_cells(block: Block, row: Row) -> list[str]:
    """The texts that answer the question."""
    places = map(block.place, HEADLINE_COLUMNS)
    return [NOTHING if place is None else cell_text(row.cells[place]) for place in places]
