"""Sections of the paper and its supplement: tables and figures, and what each table says."""

from __future__ import annotations

import math
from dataclasses import replace

from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.metrics import HEADLINE
from benchmark.report.blocks import LEGEND, METRICS
from benchmark.report.paper.latex import figure, joined, tex
from benchmark.report.pictures import Picture
from benchmark.report.table import Block, Row, Table
from benchmark.report.write import cell_text, label, number, printed_lines

MOST_FLOATS = 8
"""tables and figures put off together: of many more LaTeX loses some"""
MOST_ROWS = 70
"""lines of a table that a page has room for"""


def printed(table: Table) -> Table:
    """A table as the paper has it, which explains the signs of scores once for all tables.

    The headline's has no columns over all present classes, but for the mean of targets: those of
    each target stand in the table of that score, and all of them leave a page no room for letters
    that can be read. The others have no shift drop, the difference of two columns that stay.
    """
    if not table.metric:
        return table
    if table.metric == HEADLINE:
        table = table.with_columns(lambda column: column.beside in ("", "mean_target"))
    else:
        table = table.with_columns(lambda column: column.key != "shift_drop")
    return replace(table, caption=table.caption.removesuffix(LEGEND).rstrip())


def table_input(table: Table) -> str:
    return f"\\input{{generated/tables/{table.name}}}\n"


def overview_text(pictures: list[Picture], exchanges: Table | None) -> str:
    """The figures about all experiments, and the table of what exchanging one part did."""
    text = ""
    if pictures:
        places = joined(f"Figure~\\ref{{fig:{label(picture.name)}}}" for picture in pictures)
        shown = "shows" if len(pictures) == 1 else "show"
        text = f"{places} {shown} all experiments together.\n\n"
        text += "\n".join(figure(p.name, p.caption) for p in pictures)
    if exchanges is not None:
        text += (
            f"Table~\\ref{{tab:{label(exchanges.name)}}} counts, over all experiments, what the "
            "exchange of a single part of a method did to the mean of targets.\n\n"
            f"{table_input(exchanges)}"
        )
    return text


def claims_text(claims: Table) -> str:
    """The table of claims."""
    return (
        f"Table~\\ref{{tab:{label(claims.name)}}} sets what was published beside what was measured "
        f"or computed here.\n\n{table_input(claims)}"
    )


def lead_floats(table: Table, pictures: list[Picture]) -> str:
    """An experiment's table of the headline and its first figure."""
    return "\n".join([table_input(table), *(figure(p.name, p.caption) for p in pictures[:1])])


def floats_text(tables: list[Table], pictures: list[Picture]) -> str:
    """Tables and figures that need not stand by a text; what is longer than a page is named."""
    long = [f"{table.name}.csv" for table in tables if printed_lines(table) > MOST_ROWS]
    parts = [tex(f"Longer than a page, and so only in tables/: {joined(long)}.\n")] if long else []
    floats = [table_input(table) for table in tables if printed_lines(table) <= MOST_ROWS]
    floats += [figure(picture.name, picture.caption) for picture in pictures]
    for start in range(0, len(floats), MOST_FLOATS):
        parts += [*floats[start : start + MOST_FLOATS], "\\clearpage\n"]
    return "\n".join(parts) + "\n"


def gaps_text(experiments: list[Experiment]) -> str:
    """The planned runs without a result, each with its reason."""
    lines = gaps(experiments)
    if not lines:
        return "Every planned run is done.\n"
    items = "".join(f"\\item {tex(line)}\n" for line in lines)
    return (
        "These planned runs have no result and stand in no mean:\n\\begin{itemize}\n"
        + f"{items}\\end{{itemize}}\n"
    )


def results_text(experiment: Experiment, table: Table) -> str:
    """A subsection about an experiment: what its table says."""
    parts = [
        f"\\subsection{{{tex(experiment.title)}}}",
        tex(f"Found {experiment.found} of {len(experiment.runs)} planned runs."),
        *(tex(sentence(block)) for block in table.blocks),
    ]
    return "\n\n".join(filter(None, parts)) + "\n\n"


def sentence(block: Block) -> str:
    """What a block's mean of targets (or in-domain column, without targets) says."""
    away = block.place("mean_target")
    place = block.place("in_domain") if away is None else away

    def mean(row: Row) -> float:
        return row.cells[place].mean

    rows = [row for row in block.rows if row.found and not math.isnan(mean(row))]
    if not rows:
        return ""
    over = "in-domain" if away is None else "on the mean of targets"
    best = max(rows, key=mean)
    text = f"{block.title}: {over}, {best.method} has the highest {METRICS[HEADLINE]}, "
    text += f"{cell_text(best.cells[place])} %"
    rivals = [row.method for row in rows if row.cells[place].as_good]
    others = len(rows) - 1
    if others == 0:
        return text + "."
    if others == 1:
        text += f"; the other method is {'not ' if rivals else ''}shown to be worse"
    elif not rivals:
        text += f"; each of the {others} others is shown to be worse"
    elif len(rivals) == others:
        text += f"; none of the other {others} is shown to be worse"
    else:
        text += f"; of the other {others}, {len(rivals)} are not shown to be worse"
        text += f" ({', '.join(rivals)})" if len(rivals) <= 4 else ""
    constant = next((mean(row) for row in block.rows if not row.planned), math.nan)
    if not math.isnan(constant):
        below = sum(mean(row) < constant for row in rows)
        text += f". The majority constant has {number(constant)} %; {below} of {len(rows)} methods "
        text += "lie below it"
    return text.replace("°", "") + "."
