"""Paper: a results folder, settings and cards in; what `paper/*.tex` read, `generated/`, out.

Every number of the paper is written here: `numbers.tex` holds macros, the other files sentences,
tables and figures. `main.tex`, `supplement.tex` and `<profile>/` have prose alone. The paper shows
the experiments that the prose about the profile names, all of them if there is none; the
supplement has everything else.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.evaluation.bootstrap import RESAMPLES
from benchmark.evaluation.experiments import Experiment, load_experiments
from benchmark.evaluation.metrics import MINIMUM_SUPPORT
from benchmark.evaluation.paired import SIGNIFICANCE
from benchmark.evaluation.selective import ACCURACY
from benchmark.files import atomic, read_json, read_yaml, write_text
from benchmark.report import facts
from benchmark.report.formats import cell_text, number, to_latex
from benchmark.report.leaderboard import Finding, findings, leaderboard
from benchmark.report.paper_text import (
    appendix,
    data_table,
    figure,
    gaps_text,
    joined,
    label,
    macros,
    narrower,
    tex,
    without_drop,
    without_legend,
)
from benchmark.report.prose import experiments_shown, prose
from benchmark.report.tables import (
    LEGEND,
    METRICS,
    Block,
    Table,
    build_table,
    load_scores,
)

HEADLINE = next(iter(METRICS))
EXCHANGES = "exchanges"
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
    results, folder = root / "results" / profile, root / "paper" / "generated"
    page = results / "report.html"
    if not page.is_file():
        raise UserError(f"{page} is missing: run `wbc-shift report -p {profile}`")
    experiments = load_experiments(results)
    scores = load_scores(results, experiments)
    tables = [(e, build_table(e, scores, HEADLINE)) for e in experiments]
    found = findings(leaderboard(tables))
    data = read_json(results / "data.json")
    cards = facts.data_cards(results)
    environment = facts.environment(facts.run_records(results, experiments))
    settings = read_yaml(root / "params.yaml")
    audit = facts.audit_summary(results)
    values = numbers(profile, experiments, found, data, environment, settings, audit)
    write_text(folder / "numbers.tex", macros(values))
    write_text(folder / "findings.tex", "\n\n".join(tex(f.text) for f in found) + "\n")
    write_text(folder / "legend.tex", tex(LEGEND) + "\n")
    others = [build_table(e, scores, m) for e in experiments for m in METRICS if m != HEADLINE]
    in_print = {table.name: to_latex(without_legend(table)) for _, table in tables}
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
    shown = experiments_shown(own_words / "results.tex")
    for part in ("results", "discussion"):
        text = prose(own_words / f"{part}.tex", results, experiments, floats)
        write_text(folder / f"{part}.tex", text)
    if not shown:
        shown = list(floats)
        text = "\n".join(results_text(e, table) + floats[e.experiment] for e, table in tables)
        write_text(folder / "results.tex", text)
    rest = {name: path for name, path in written.items() if name not in {*claims, EXCHANGES}}
    write_text(folder / "more.tex", more_text(tables, shown, floats, rest, pictures))
    write_text(folder / "data.tex", data_table(data, cards, experiments[0].classes))
    write_text(folder / "gaps.tex", gaps_text(experiments))
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
        raise UserError(f"{page} is of an older version: run `wbc-shift report` again")
    return {name: [tuple(pair) for pair in own] for name, own in json.loads(held[1]).items()}


def numbers(
    profile: str,
    experiments: list[Experiment],
    found: list[Finding],
    data: dict[str, Any],
    environment: facts.Environment,
    settings: dict[str, Any],
    audit: facts.AuditSummary | None,
) -> dict[str, str]:
    """Macro name → its plain text; LaTeX letters are escaped later."""
    runs = {run.run_id: run for experiment in experiments for run in experiment.runs}
    done = [run for run in runs.values() if run.done]
    split = settings["split"]["fractions"]
    values = {
        "Profile": profile,
        "ImageSize": data["image_size"],
        "Framings": framings_text(data),
        "LabelSpace": data["label_space"],
        "Classes": joined(experiments[0].classes),
        "Domains": counted(len(data["domains"]), "domain"),
        "Sets": counted(len({own["dataset"] for own in data["domains"].values()}), "image set"),
        "Images": counted(sum(own["images"] for own in data["domains"].values()), "image"),
        "Experiments": counted(len(experiments), "experiment"),
        "Scenarios": counted(len({run.scenario.name for run in runs.values()}), "scenario"),
        "Methods": counted(len({run.method.name for run in runs.values()}), "method"),
        "RunsPlanned": len(runs),
        "RunsFound": len(done),
        "Seeds": seeds_of(experiments),
        "Hours": number(environment.hours),
        "Resamples": RESAMPLES,
        "Significance": f"{100 * SIGNIFICANCE:g} %",
        "Confidence": "95 %",
        "MinimumSupport": MINIMUM_SUPPORT,
        "AcceptedAccuracy": percent(ACCURACY),
        "Headline": METRICS[HEADLINE],
        "SplitSeed": settings["split"]["seed"],
        **{f"Split{''.join(map(str.title, p.split('_')))}": percent(split[p]) for p in split},
        "AuditVerdict": audit.verdict if audit else "was not run",
        "AuditImages": audit.images if audit else 0,
        "AuditKnown": sum(known for *_, known in audit.counts) if audit else 0,
        "AuditWarnings": sum(warnings for _, _, warnings, _ in audit.counts) if audit else 0,
        "AuditFailures": sum(failures for _, failures, _, _ in audit.counts) if audit else 0,
    }
    for name in ("Device", "torch", "timm"):
        values[name.title()] = dict(environment.facts).get(name, "unknown")
    return {name: str(value) for name, value in values.items()} | lead(found)


def lead(found: list[Finding]) -> dict[str, str]:
    """The macros of the abstract: the first finding, whose targets are other domains."""
    first = next((f for f in found if not f.corrupted), None)
    cells = {} if first is None else {
        "LeadInDomain": first.home_in_domain,
        "LeadTargets": first.home_mean_target,
        "LeadBestTargets": first.abroad_mean_target,
        "LeadMajority": first.constant,
    }  # fmt: skip
    names = ("LeadInDomain", "LeadTargets", "LeadBestTargets", "LeadMajority")
    texts = {
        name: f"{cell_text(cells[name])} %".replace("°", "") if cells.get(name) else "(no run)"
        for name in names
    }
    words = {
        "LeadSource": first.source if first else "(no run)",
        "LeadOthers": first.others if first else "(no run)",
        "LeadMethod": first.home if first else "(no run)",
        "LeadBestMethod": first.abroad if first else "(no run)",
    }
    return texts | words


def seeds_of(experiments: list[Experiment]) -> str:
    """How many seeds the planned runs have: one number, or from the fewest to the most."""
    seeds: dict[tuple, set[int]] = {}
    for experiment in experiments:
        for run in experiment.runs:
            seeds.setdefault((run.scenario.name, run.method.name), set()).add(run.seed)
    counts = sorted({len(own) for own in seeds.values()})
    return counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def together_text(pictures: list[tuple[str, str]]) -> str:
    """The figures about all experiments, and where they are."""
    if not pictures:
        return ""
    places = joined([f"Figure~\\ref{{fig:{label(name)}}}" for name, _ in pictures])
    shown = "shows" if len(pictures) == 1 else "show"
    text = f"{places} {shown} all experiments together.\n\n"
    return text + "\n".join(figure(*picture) for picture in pictures)


def framings_text(data: dict[str, Any]) -> str:
    """The framings of `data.json` in words."""
    found = []
    for name, own in data.get("framings", {}).items():
        size = f"{own['image_size'] or data['image_size']} pixels"
        found.append(f"{name} ({size}, {own['crop']:g} times the side of the usual crop)")
    return joined(found) if found else "none"


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
