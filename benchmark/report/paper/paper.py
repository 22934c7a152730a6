"""Paper: a results folder, settings and cards in; what `paper/*.tex` read, `generated/`, out.

Every number of the paper is written here: `numbers.tex` holds macros, the other files sentences,
tables and figures. `main.tex`, `supplement.tex` and `<profile>/` have prose alone. The paper shows
tables and figures of its own; the supplement has those of the report, of every experiment.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmark.data.arrays import read_prepared
from benchmark.data.cards import load_cards
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.files import read_yaml, write_text
from benchmark.metrics import HEADLINE
from benchmark.report import facts
from benchmark.report.blocks import BESIDE, LEGEND, METRICS
from benchmark.report.claims import counted_verdicts
from benchmark.report.paper import figures
from benchmark.report.paper.latex import appendix, data_table, figure, joined, macros, tex
from benchmark.report.paper.numbers import numbers
from benchmark.report.paper.prose import fillings, prose
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.second import read_second, second_study
from benchmark.report.paper.tables import adaptation_table, claims_table, scores_table
from benchmark.report.pictures import Picture, draw_all
from benchmark.report.results import Results
from benchmark.report.table import Block, Row, Table
from benchmark.report.tables import OVERVIEW, tables_of
from benchmark.report.write import cell_text, number, printed_lines, to_latex

SECOND = "core2"
"""The profile of study two."""
PROSE = ("abstract", "results", "discussion")
"""The texts of `paper/<profile>/`."""
CLAIMS_TABLE = "claims"
LEFT_OUT = ("claim", "source", "verdict", "what this does not show")
"""Columns of the table of claims that the supplement has."""
THRESHOLDS_TABLE = "local_thresholds"
SPARED = ("25 cells", "100 cells")
"""Columns of local thresholds for which a page has no room in letters that can be read."""
MOST_FLOATS = 8
"""tables and figures put off together: of many more LaTeX loses some"""
MOST_ROWS = 70
"""lines of a table that a page has room for"""


def write_paper(root: Path, profile: str) -> Path:
    """Write `paper/generated/` from `results/<profile>`, and from study two as far as it is.

    Returns:
        the folder.

    Raises:
        UserError: the report has not been written, or it is not of these predictions; there is no
            prose about this profile, or it names a number that the results do not hold.
    """
    folder = root / "paper" / "generated"

    def write(name: str, text: str) -> None:
        write_text(folder / name, text)

    results = Results.of(root / "results" / profile)
    readings = Readings(results)
    kinds = fillings(readings)
    for name in PROSE:
        write(f"{name}.tex", prose(root / "paper" / profile / f"{name}.tex", kinds))
    experiments = results.experiments
    tables = tables_of(results)
    data = read_prepared(results.folder / "data.json")
    environment = facts.environment(results.records)
    settings = read_yaml(root / "params.yaml")
    audit = facts.audit_summary(results.folder)
    verdicts = counted_verdicts(results)
    write(
        "numbers.tex",
        macros(numbers(profile, experiments, data, environment, settings, audit, verdicts)),
    )
    write("scores.tex", scores_table(readings))
    write("adaptation.tex", adaptation_table(readings) or absent("tab:adaptation"))
    write("claims.tex", claims_table(results))
    second = second_study(read_second(root / "results" / SECOND))
    write("second.tex", second)
    write("data.tex", data_table(data, facts.data_cards(results.folder), experiments[0].classes))
    write("gaps.tex", gaps_text(experiments) + tex(environment.note))
    draw_figures(readings, folder / "figures", root / "datasets")
    # The supplement
    write("legend.tex", tex(LEGEND) + "\n")
    write("methods.tex", appendix(settings, profile, experiments))
    for table in (table for own in tables.values() for table in own.printed):
        write(f"tables/{table.name}.tex", to_latex(printed(table)))
    pictures = draw_all(results, folder / "figures", "pdf")
    more = []
    for experiment in experiments:
        name = experiment.experiment
        more.append(results_text(experiment, tables[name].scores[0]))
        more.append(floats_text(tables[name].printed, pictures[name]))
    more.append("\\subsection{All experiments together}\n")
    more.append(floats_text(tables[OVERVIEW].printed, pictures[OVERVIEW]))
    write("more.tex", "\n".join(more))
    own = (root / "paper" / "references.bib").read_text(encoding="utf-8")
    cards = (card.citation.bibtex for card in load_cards(root / "datasets").values())
    write("references.bib", facts.bibliography([own, *cards]) + "\n")
    return folder


def draw_figures(readings: Readings, folder: Path, datasets: Path) -> None:
    """The figures of the paper alone, each as `paper_<name>.pdf`; an old one that has nothing to
    show any more goes."""
    drawings = {
        "shift": partial(figures.shift_figure, datasets=datasets),
        "heat": figures.heat_figure,
        "differences": figures.difference_figure,
        "risk": figures.risk_figure,
    }
    for name, drawing in drawings.items():
        if not figures.draw(folder, f"paper_{name}", partial(drawing, readings)):
            (folder / f"paper_{name}.pdf").unlink(missing_ok=True)


def absent(label: str) -> str:
    """Where a reference leads to whose table the results cannot fill."""
    return f"\\phantomsection\\label{{{label}}}\n"


def printed(table: Table) -> Table:
    """A table as the supplement has it, which explains the signs of scores once for all tables.

    It has no accuracies, for which a page has no room in letters that can be read. Of the claims it
    has what the paper's own table leaves out.
    """
    if table.name == CLAIMS_TABLE:
        return replace(
            table.with_columns(lambda column: column.key in LEFT_OUT),
            caption="Claims checked: what each comparison does not show. What was published and "
            f"found is in the paper, with every p-value in tables/{CLAIMS_TABLE}.md.",
        )
    if table.name == THRESHOLDS_TABLE:
        return replace(
            table.with_columns(lambda column: not column.key.startswith(SPARED)),
            caption=f"{table.caption} Those of 25 and of 100 cells are in tables/{table.name}.md.",
        )
    if not table.metric:
        return table
    table = table.with_columns(lambda column: column.metric != BESIDE)
    return replace(table, caption=table.caption.removesuffix(LEGEND).rstrip())


def floats_text(tables: list[Table], pictures: list[Picture]) -> str:
    """Tables and figures that need not stand by a text; what is longer than a page is named."""
    long = [f"{table.name}.md" for table in tables if printed_lines(table) > MOST_ROWS]
    parts = [tex(f"Longer than a page, and so only in tables/: {joined(long)}.\n")] if long else []
    floats = [
        f"\\input{{generated/tables/{table.name}}}\n"
        for table in tables
        if printed_lines(table) <= MOST_ROWS
    ]
    floats += [figure(picture.name, picture.caption) for picture in pictures]
    for start in range(0, len(floats), MOST_FLOATS):
        parts += [*floats[start : start + MOST_FLOATS], "\\clearpage\n"]
    return "\n".join(parts) + "\n"


def gaps_text(experiments: list[Experiment]) -> str:
    """The planned runs without a result, each with its reason."""
    lines = gaps(experiments)
    if not lines:
        return ""
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
