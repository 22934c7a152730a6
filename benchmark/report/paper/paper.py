"""Paper: a results folder, settings and cards in; what `paper/*.tex` read, `generated/`, out.

Every number of the paper is written here: `numbers.tex` holds macros, the other files sentences,
tables and figures. `main.tex`, `supplement.tex` and `<profile>/` have prose alone. The paper shows
the experiments that the prose about the profile names, all of them if there is none; the
supplement has everything else.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import atomic, read_yaml, write_text
from benchmark.report import facts
from benchmark.report.blocks import LEGEND
from benchmark.report.leaderboard import findings, leaderboard
from benchmark.report.paper.latex import appendix, data_table, macros, tex
from benchmark.report.paper.numbers import numbers
from benchmark.report.paper.prose import experiments_shown, fillings, prose
from benchmark.report.paper.sections import (
    claims_text,
    floats_text,
    gaps_text,
    lead_floats,
    overview_text,
    printed,
    results_text,
)
from benchmark.report.pictures import Picture, read_index
from benchmark.report.results import Results
from benchmark.report.tables import OVERVIEW, tables_of
from benchmark.report.write import to_latex
from benchmark.schema import read_prepared


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

    pictures = read_index(root / "results" / profile)
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
    for picture in (picture for own in pictures.values() for picture in own):
        copy_figure(results, picture, folder)
    by_name = {table.name: table for table in tables[OVERVIEW].printed}
    claims = by_name.pop("claims")
    exchanges = by_name.pop("exchanges", None)
    write("overview.tex", overview_text(pictures[OVERVIEW], exchanges))
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


def copy_figure(results: Results, picture: Picture, folder: Path) -> None:
    """Copy a figure's PDF into `generated/figures/`."""
    path = results.folder / "figures" / f"{picture.name}.pdf"
    if not path.is_file():
        profile = results.folder.name
        raise UserError(f"{path} is missing: run `wbc-shift report -p {profile}` again")
    with atomic(folder / "figures" / path.name) as temporary:
        temporary.write_bytes(path.read_bytes())
