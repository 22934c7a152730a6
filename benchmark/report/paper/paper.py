"""Paper: a results folder, settings and cards in; what `paper/*.tex` read, `generated/`, out.

Every number of the paper is written here: `numbers.tex` holds macros, the other files sentences,
tables and figures. `main.tex`, `supplement.tex` and `<profile>/` have prose alone. The paper shows
the experiments that the prose about the profile names, all of them if there is none; the
supplement has everything else.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from benchmark.data.arrays import read_prepared
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.files import read_yaml, write_text
from benchmark.metrics import HEADLINE
from benchmark.report import facts
from benchmark.report.blocks import BESIDE, LEGEND, METRICS
from benchmark.report.leaderboard import findings, leaderboard
from benchmark.report.paper.latex import appendix, data_table, figure, joined, macros, tex
from benchmark.report.paper.numbers import numbers
from benchmark.report.paper.prose import experiments_shown, fillings, prose
from benchmark.report.pictures import Picture, draw_all
from benchmark.report.results import Results
from benchmark.report.table import Block, Row, Table
from benchmark.report.tables import OVERVIEW, tables_of
from benchmark.report.write import cell_text, label, number, printed_lines, to_latex

MOST_FLOATS = 8
"""tables and figures put off together: of many more LaTeX loses some"""
MOST_ROWS = 70
"""lines of a table that a page has room for"""


def write_paper(root: Path, profile: str) -> Path:
    """Write `paper/generated/` from `results/<profile>`.

    Returns:
        the folder.

    Raises:
        UserError: the report has not been written, or it is not of these predictions.
    """
    folder = root / "paper" / "generated"
    own_words = root / "paper" / profile

    def write(name: str, text: str) -> None:
        write_text(folder / name, text)

    results = Results.of(root / "results" / profile)
    experiments = results.experiments
    tables = tables_of(results)
    found = findings(leaderboard([(e, tables[e.experiment].scores[0]) for e in experiments]))
    data = read_prepared(results.folder / "data.json")
    cards = facts.data_cards(results.folder)
    environment = facts.environment(results.records)
    settings = read_yaml(root / "params.yaml")
    audit = facts.audit_summary(results.folder)
    values = numbers(profile, experiments, found, data, environment, settings, audit)
    write("numbers.tex", macros(values))
    write("findings.tex", "\n\n".join(tex(f.text) for f in found) + "\n")
    write("legend.tex", tex(LEGEND) + "\n")
    for table in (table for own in tables.values() for table in own.printed):
        write(f"tables/{table.name}.tex", to_latex(printed(table), narrow=True))
    pictures = draw_all(results, folder / "figures", "pdf")
    by_name = {table.name: table for table in tables[OVERVIEW].printed}
    claims = by_name.pop("claims")
    ablations = by_name.pop("ablations", None)
    write("overview.tex", overview_text(pictures[OVERVIEW], ablations))
    write("claims.tex", claims_text(claims))
    floats = {
        e.experiment: lead_floats(tables[e.experiment].scores[0], pictures[e.experiment])
        for e in experiments
    }
    texts = {e.experiment: results_text(e, tables[e.experiment].scores[0]) for e in experiments}
    kinds = fillings(tables, results.effects, floats)
    text = prose(own_words / "results.tex", kinds)
    shown = experiments_shown(own_words / "results.tex") if text else list(floats)
    write("results.tex", text or "\n".join(texts[name] + floats[name] for name in floats))
    write("discussion.tex", prose(own_words / "discussion.tex", kinds))
    more = []
    for name in floats:
        headline = tables[name].scores[0]
        rest = [table for table in tables[name].printed if table is not headline]
        more.append(texts[name])
        more.append("The paper shows its first table.\n" if name in shown else floats[name])
        more.append(floats_text(rest, pictures[name][1:]))
    more.append("\\subsection{All experiments together}\n")
    more.append(floats_text(list(by_name.values()), []))
    write("more.tex", "\n".join(more))
    write("data.tex", data_table(data, cards, experiments[0].classes))
    write("gaps.tex", gaps_text(experiments) + tex(environment.note))
    write("methods.tex", appendix(settings, profile, experiments))
    systems = (root / "paper" / "systems.bib").read_text(encoding="utf-8")
    entries = facts.bibliography([*(used.card.citation.bibtex for used in cards), systems])
    write("references.bib", entries + "\n")
    return folder


def printed(table: Table) -> Table:
    """A table as the paper has it, which explains the signs of scores once for all tables.

    It has no accuracies, for which a page has no room in letters that can be read.
    """
    if not table.metric:
        return table
    table = table.with_columns(lambda column: column.metric != BESIDE)
    return replace(table, caption=table.caption.removesuffix(LEGEND).rstrip())


def table_input(table: Table) -> str:
    return f"\\input{{generated/tables/{table.name}}}\n"


def overview_text(pictures: list[Picture], ablations: Table | None) -> str:
    """The figures about all experiments, and the table of single-part ablations."""
    text = ""
    if pictures:
        places = joined(f"Figure~\\ref{{fig:{label(picture.name)}}}" for picture in pictures)
        shown = "shows" if len(pictures) == 1 else "show"
        text = f"{places} {shown} all experiments together.\n\n"
        text += "\n".join(figure(p.name, p.caption) for p in pictures)
    if ablations is not None:
        text += (
            f"Table~\\ref{{tab:{label(ablations.name)}}} counts, over all experiments, what "
            "changing a single part of a method did to the mean of targets.\n\n"
            f"{table_input(ablations)}"
        )
    return text


def claims_text(claims: Table) -> str:
    return (
        f"Table~\\ref{{tab:{label(claims.name)}}} sets what was published beside what was measured "
        f"or computed here.\n\n{table_input(claims)}"
    )


def lead_floats(table: Table, pictures: list[Picture]) -> str:
    """An experiment's table of the headline and its first figure."""
    return "\n".join([table_input(table), *(figure(p.name, p.caption) for p in pictures[:1])])


def floats_text(tables: list[Table], pictures: list[Picture]) -> str:
    """Tables and figures that need not stand by a text; what is longer than a page is named."""
    long = [f"{table.name}.md" for table in tables if printed_lines(table) > MOST_ROWS]
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
