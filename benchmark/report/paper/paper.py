"""Paper: a results folder, settings and cards in; what `paper/*.tex` read, `generated/`, out.

Every number of the paper is written here: `numbers.tex` holds macros, the other files sentences,
tables and figures. `main.tex`, `supplement.tex` and `<profile>/` have prose alone. The paper shows
the experiments that the prose about the profile names, all of them if there is none; the
supplement has everything else.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmark.errors import UserError
from benchmark.evaluation.experiments import load_experiments
from benchmark.evaluation.metrics import HEADLINE
from benchmark.files import atomic, read_yaml, write_text
from benchmark.report import facts
from benchmark.report.formats import to_latex
from benchmark.report.leaderboard import findings, leaderboard
from benchmark.report.paper.latex import (
    appendix,
    data_table,
    gaps_text,
    macros,
    narrower,
    tex,
    without_all_classes,
    without_drop,
    without_legend,
)
from benchmark.report.paper.numbers import numbers
from benchmark.report.paper.prose import experiments_shown, fillings, prose
from benchmark.report.paper.sections import (
    EXCHANGES,
    claims_text,
    exchanges_text,
    lead_floats,
    more_text,
    results_text,
    together_text,
)
from benchmark.report.tables import (
    LEGEND,
    METRICS,
    build_table,
    load_scores,
)
from benchmark.schema import read_prepared


def write_paper(root: Path, profile: str) -> Path:
    """Write `paper/generated/` from `results/<profile>`.

    Returns:
        the folder.

    Raises:
        UserError: the report has not been written, or it is not of these predictions.
    """
    results, folder = root / "results" / profile, root / "paper" / "generated"
    page = results / "report.html"
    if not page.is_file():
        raise UserError(f"{page} is missing: run `wbc-shift report -p {profile}`")
    experiments = load_experiments(results)
    scores = load_scores(results, experiments)
    records = {r["run_id"]: r for r in facts.run_records(results, experiments)}
    tables = [(e, build_table(e, scores, HEADLINE, records)) for e in experiments]
    found = findings(leaderboard(tables))
    data = read_prepared(results / "data.json")
    cards = facts.data_cards(results)
    environment = facts.environment(list(records.values()))
    settings = read_yaml(root / "params.yaml")
    audit = facts.audit_summary(results)
    values = numbers(profile, experiments, found, data, environment, settings, audit)
    write_text(folder / "numbers.tex", macros(values))
    write_text(folder / "findings.tex", "\n\n".join(tex(f.text) for f in found) + "\n")
    write_text(folder / "legend.tex", tex(LEGEND) + "\n")
    rest = [metric for metric in METRICS if metric != HEADLINE]
    others = [build_table(e, scores, metric, records) for e in experiments for metric in rest]
    in_print = {
        table.name: to_latex(without_all_classes(without_legend(table))) for _, table in tables
    }
    in_print |= {table.name: to_latex(without_drop(without_legend(table))) for table in others}
    written = {path.stem: path for path in sorted((results / "tables").glob("*.tex"))}
    for name, path in written.items():
        text = in_print.get(name) or path.read_text(encoding="utf-8")
        write_text(folder / "tables" / f"{name}.tex", narrower(text))
    drawn = {path.stem: path for path in sorted((results / "figures").glob("*.pdf"))}
    for path in drawn.values():
        with atomic(folder / "figures" / path.name) as temporary:
            temporary.write_bytes(path.read_bytes())
    pictures = {
        name: [pair for pair in own if pair[0] in drawn]
        for name, own in figure_captions(page).items()
    }
    overview = together_text(pictures.pop("", [])) + exchanges_text(written)
    write_text(folder / "overview.tex", overview)
    claims = {name: path for name, path in written.items() if "claim" in name}
    write_text(folder / "claims.tex", claims_text(claims))
    floats = {
        e.experiment: lead_floats(table, pictures.get(e.experiment, []), written)
        for e, table in tables
    }
    own_words = root / "paper" / profile
    kinds = fillings(results, experiments, floats)
    shown = experiments_shown(own_words / "results.tex")
    text = prose(own_words / "results.tex", kinds)
    if not text:
        shown = list(floats)
        text = "\n".join(results_text(e, table) + floats[e.experiment] for e, table in tables)
    write_text(folder / "results.tex", text)
    write_text(folder / "discussion.tex", prose(own_words / "discussion.tex", kinds))
    rest = {name: path for name, path in written.items() if name not in {*claims, EXCHANGES}}
    write_text(folder / "more.tex", more_text(tables, shown, floats, rest, pictures))
    write_text(folder / "data.tex", data_table(data, cards, experiments[0].classes))
    write_text(folder / "gaps.tex", gaps_text(experiments) + tex(environment.note))
    write_text(folder / "methods.tex", appendix(settings, profile, experiments))
    systems = (root / "paper" / "systems.bib").read_text(encoding="utf-8")
    entries = facts.bibliography([*(used.card.citation.bibtex for used in cards), systems])
    write_text(folder / "references.bib", entries + "\n")
    return folder


def figure_captions(page: Path) -> dict[str, list[tuple[str, str]]]:
    """Experiment → (figure, what it shows), as the page says it and in its order."""
    text = page.read_text(encoding="utf-8")
    held = re.search(r'id="figure-data">(.*?)</script>', text, re.DOTALL)
    if held is None:
        again = f"run `wbc-shift report -p {page.parent.name}` again"
        raise UserError(f"{page} is of an older version: {again}")
    return {name: [tuple(pair) for pair in own] for name, own in json.loads(held[1]).items()}
