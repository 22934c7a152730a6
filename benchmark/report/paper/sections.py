"""Sections of the paper and its supplement: tables and figures, and what each table says."""

from __future__ import annotations

import math
from pathlib import Path

from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.metrics import HEADLINE
from benchmark.report.formats import cell_text, number
from benchmark.report.paper.latex import figure, joined, label, tex
from benchmark.report.tables import METRICS, Block, Table

EXCHANGES = "exchanges"
MOST_FLOATS = 8
"""tables and figures put off together: of many more LaTeX loses some"""
MOST_ROWS = 70
"""lines of a table that a page has room for"""


def together_text(pictures: list[tuple[str, str]]) -> str:
    """The figures about all experiments, and where they are."""
    if not pictures:
        return ""
    places = joined([f"Figure~\\ref{{fig:{label(name)}}}" for name, _ in pictures])
    shown = "shows" if len(pictures) == 1 else "show"
    text = f"{places} {shown} all experiments together.\n\n"
    return text + "\n".join(figure(*picture) for picture in pictures)


def exchanges_text(written: dict[str, Path]) -> str:
    """The table of what exchanging one part did, if there is one."""
    if EXCHANGES not in written:
        return ""
    return (
        f"Table~\\ref{{tab:{label(EXCHANGES)}}} counts, over all experiments, what the exchange of "
        "a single part of a method did to the mean of targets.\n\n"
        f"\\input{{generated/tables/{EXCHANGES}}}\n"
    )


def lead_floats(table: Table, pictures: list[tuple[str, str]], written: dict[str, Path]) -> str:
    """An experiment's table of the headline and its first figure."""
    parts = [f"\\input{{generated/tables/{table.name}}}\n"] if table.name in written else []
    return "\n".join(parts + [figure(*picture) for picture in pictures[:1]])


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
    places = {column.key: place for place, column in enumerate(block.columns)}
    key = "mean_target" if "mean_target" in places else "in_domain"
    rows = [row for row in block.rows if row.found and not math.isnan(row.cells[places[key]].mean)]
    if not rows:
        return ""
    over = "on the mean of targets" if key == "mean_target" else "in-domain"
    best = max(rows, key=lambda row: row.cells[places[key]].mean)
    text = f"{block.title}: {over}, {best.method} has the highest {METRICS[HEADLINE]}, "
    text += f"{cell_text(best.cells[places[key]])} %"
    if len(rows) == 1:
        return text + "."
    rivals = [row.method for row in rows if row.cells[places[key]].as_good]
    others = len(rows) - 1
    if not rivals:
        text += f"; each of the {others} others is shown to be worse" if others > 1 else (
            "; the other method is shown to be worse"
        )  # fmt: skip
    elif len(rivals) == others:
        text += f"; none of the other {others} is shown to be worse" if others > 1 else (
            "; the other method is not shown to be worse"
        )  # fmt: skip
    else:
        text += f"; of the other {others}, {len(rivals)} are not shown to be worse"
        text += f" ({', '.join(rivals)})" if len(rivals) <= 4 else ""
    constant = [row for row in block.rows if not row.planned]
    if constant and not math.isnan(constant[0].cells[places[key]].mean):
        value = constant[0].cells[places[key]].mean
        below = sum(row.cells[places[key]].mean < value for row in rows)
        text += f". The majority constant has {number(value)} %; {below} of {len(rows)} methods "
        text += "lie below it"
    return text.replace("°", "") + "."


def claims_text(claims: dict[str, Path]) -> str:
    """The tables of claims, or that there is none."""
    if not claims:
        return "No table of claims was generated from these results.\n"
    places = joined([f"Table~\\ref{{tab:{label(name)}}}" for name in claims])
    text = f"{places} sets what was published beside what was measured or computed here.\n\n"
    return text + "".join(f"\\input{{generated/tables/{name}}}\n" for name in claims)


def more_text(
    tables: list[tuple[Experiment, Table]],
    shown: list[str],
    floats: dict[str, str],
    written: dict[str, Path],
    pictures: dict[str, list[tuple[str, str]]],
) -> str:
    """All tables and figures that the paper does not show, by experiment."""
    own = by_experiment([experiment.experiment for experiment, _ in tables], written)
    parts = []
    for experiment, table in tables:
        name = experiment.experiment
        parts.append(results_text(experiment, table))
        parts.append("The paper shows its first table.\n" if name in shown else floats[name])
        others = {n: path for n, path in own[name].items() if n != table.name}
        parts.append(floats_text(others, pictures.get(name, [])[1:]))
    parts += ["\\subsection{All experiments together}\n", floats_text(own[""], [])]
    return "\n".join(parts)


def by_experiment(experiments: list[str], written: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Experiment → its tables by name; under "" those about all experiments.

    A table's name begins with that of its experiment, the longest one where several fit.
    """
    own: dict[str, dict[str, Path]] = {name: {} for name in ("", *experiments)}
    for name, path in written.items():
        fits = [known for known in experiments if name.startswith(f"{known}_")]
        own[max(fits, key=len, default="")][name] = path
    return own


def floats_text(tables: dict[str, Path], pictures: list[tuple[str, str]]) -> str:
    """Tables and figures that need not stand by a text; what is longer than a page is named."""
    rows = {name: path.read_text("utf-8").count(" \\\\\n") for name, path in tables.items()}
    long = [f"{name}.csv" for name in tables if rows[name] > MOST_ROWS]
    parts = [tex(f"Longer than a page, and so only in tables/: {joined(long)}.\n")] if long else []
    floats = [f"\\input{{generated/tables/{name}}}\n" for name in tables if rows[name] <= MOST_ROWS]
    floats += [figure(*picture) for picture in pictures]
    for start in range(0, len(floats), MOST_FLOATS):
        parts += [*floats[start : start + MOST_FLOATS], "\\clearpage\n"]
    return "\n".join(parts) + "\n"
