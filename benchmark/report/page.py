"""Page: `report.html`, what was found at a glance, and `pages/`, where the tables and figures are.

No page needs a network: styles, the leaderboard and its script are in it. Pictures are files beside
it, which a browser loads when they are scrolled to; so are the leaderboard's scores in further
metrics, which it reads when one is chosen.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from benchmark.data.arrays import read_prepared
from benchmark.evaluation.experiments import Experiment, gaps, predictions_digest
from benchmark.evaluation.scores import MAJORITY
from benchmark.files import digest, read_yaml, write_text
from benchmark.metrics import HEADLINE
from benchmark.parts import PARTS, Parts
from benchmark.progress import say
from benchmark.report import facts
from benchmark.report.blocks import METRICS
from benchmark.report.cards import cards_of
from benchmark.report.confident_errors import confident_errors
from benchmark.report.explained import glossary
from benchmark.report.in_words import sentences
from benchmark.report.leaderboard import as_json, leaderboard, scores_json
from benchmark.report.pictures import Picture
from benchmark.report.published import FILES
from benchmark.report.results import Results
from benchmark.report.tables import Tables
from benchmark.report.write import (
    cell_text,
    column_support,
    column_title,
    interval_text,
    number,
    signed_number,
)
from benchmark.scenarios import corruption_of
from benchmark.study.numerics import PROTOCOL
from benchmark.texts import COMPACT, templates_beside

MOST_BYTES = 500_000
"""What a page should not exceed, its pictures aside."""
LINKS = (("README", "README.md"), ("Paper", "paper/main.tex"), ("Code", "benchmark"))
"""What the project's folder may hold: name, path."""
PAGES = (
    ("overview.html", "All experiments together", "claims checked, ablations, figures"),
    ("methods.html", "Methods and their names", "what each part of a name is, parameters, speed"),
    ("errors.html", "Confident errors", "where to look first for wrong labels"),
    ("data.html", "Data", "the image sets, their licences and the audit"),
    ("runs.html", "Runs", "planned and found, on which machines"),
)
"""Beside those of the experiments: file, title, what is on it."""


class Section(NamedTuple):
    """What the pages show of an experiment, or, where it is None, of all of them together."""

    experiment: Experiment | None
    tables: Tables
    pictures: list[Picture]


def write_page(results: Results, overview: Section, *sections: Section) -> None:
    """Write `report.html` and `pages/` beside the tables and figures that they show.

    They are a function of the tables, the figures, `data.json`, `audit.json`, the runs' records and
    predictions, `results/speed` and the cards of the sets: the same input gives the same bytes.
    """
    environment = templates_beside(__file__)
    environment.filters |= {
        "cell": cell_text,
        "stacked": stacked,
        "number": number,
        "interval": interval_text,
        "points": lambda difference: signed_number(difference.mean),
        "named": named,
        "column_title": column_title,
        "column_support": column_support,
    }
    experiments = results.experiments
    boards = leaderboard([(s.experiment, table) for s in sections for table in s.tables.scores])
    data = results.folder / "data.json"
    cards = facts.data_cards(results.folder)
    words = glossary(results)
    mistakes = confident_errors(results.folder, experiments)
    audit = facts.audit_summary(results.folder)
    shown = {
        "overview.html": overview.tables.sheets or overview.pictures,
        "errors.html": mistakes,
        "data.html": data.is_file() or audit,
    }
    pages = [page for page in PAGES if shown.get(page[0], True)]
    environment.globals |= {
        "profile": experiments[0].profile,
        "version": version(results.folder),
        "about": about(results),
        "sections": sections,
        "overview": overview,
        "sizes": {p.name: size_of(results.folder, p) for s in (overview, *sections) for p in s[2]},
        "metric_names": METRICS | {"f1": "F1"},
        "majority": MAJORITY,
        "page_of": page_of,
        "found": len(results.done),
        "planned": len({run.run_id for experiment in experiments for run in experiment.runs}),
        "bibliography": facts.bibliography([used.card.citation.bibtex for used in cards]),
    }
    scores = {m: scores_json(boards, m) for m in dict.fromkeys(b.metric for b in boards)}
    board = as_json(boards, experiments, results.scores, words)
    board["edition"] = digest([board, scores])
    texts = {
        "report.html": environment.get_template("page.html.jinja").render(
            up="",
            links=links(results.folder),
            cards=cards_of(results),
            others=most_targets(results),
            board=board,
            where=words.where,
            pages=pages,
            outlines={s.experiment.experiment: outline(s) for s in sections},
            files=[name for name in FILES if (results.folder / name).is_file()],
        )
    }
    own = {
        "overview.html": {"sentences": sentences(results)},
        "methods.html": {
            "glossary": words,
            "kinds": [kind for kind in PARTS if any(part[0] == kind for part in words.blocks)],
            "says": {k: Parts.model_fields[k].description.replace("`", "") for k in PARTS},
        },
        "errors.html": {"mistakes": mistakes},
        "data.html": {
            "data": read_prepared(data) if data.is_file() else None,
            "cards": cards,
            "audit": audit,
        },
        "runs.html": {
            "outcomes": {e.experiment: facts.outcomes(e) for e in experiments},
            "gaps": gaps(experiments),
            "environment": facts.environment(results.records),
        },
    }
    below = {"up": "../", "links": links(results.folder)}
    for file, *_ in pages:
        template = environment.get_template(f"page_{file}.jinja")
        texts[f"pages/{file}"] = template.render(**below, **own[file])
    template = environment.get_template("page_experiment.html.jinja")
    for section in sections:
        file = page_of(section.experiment)
        texts[f"pages/{file}"] = template.render(**below, section=section)
    texts = {file: tidy(text) for file, text in texts.items()}
    for metric, lists in scores.items():
        if metric != HEADLINE:
            own = json.dumps({"edition": board["edition"], "lists": lists}, **COMPACT)
            texts[f"pages/scores-{metric}.js"] = f"wbcShiftScores.{metric} = {own};\n"
    for pattern in ("*.html", "scores-*.js"):
        for path in (results.folder / "pages").glob(pattern):
            if f"pages/{path.name}" not in texts:
                path.unlink()  # of an experiment that is no more, or of a metric
    for file, text in texts.items():
        write_text(results.folder / file, text)
        if (size := len(text.encode())) > MOST_BYTES:
            say(f"note: {file} weighs {size / 1e3:.0f} kB, more than a page should")


def page_of(experiment: Experiment) -> str:
    """The file of an experiment's page in `pages/`."""
    return f"experiment-{experiment.experiment}.html"


def links(folder: Path) -> list[tuple[str, str]]:
    """Name and address, from the results folder, of what the project's folder holds."""
    root = folder.parents[1]
    return [(name, f"../../{path}") for name, path in LINKS if (root / path).exists()]


def version(folder: Path) -> str:
    """Version and date, where the project's folder states them, and protocol."""
    citation = folder.parents[1] / "CITATION.cff"
    known = read_yaml(citation) if citation.is_file() else {}
    words = {"version": "version", "date-released": "of"}
    stated = " ".join(f"{word} {known[key]}" for key, word in words.items() if key in known)
    return ", ".join(filter(None, [stated, f"protocol {PROTOCOL}"]))


def about(results: Results) -> str:
    """Which predictions the numbers are from."""
    digest = predictions_digest(results.experiments)
    return f"From the predictions of {len(results.done)} runs (digest {digest[:10]})."


def named(experiment: Experiment) -> str:
    """An experiment's title, in which code is not set apart."""
    return experiment.title.replace("`", "")


def most_targets(results: Results) -> int:
    """How many other domains the widest scenario tests on, a laboratory's own aside."""
    counted = {
        name: sum(corruption_of(target) is None for target in targets)
        for name, targets in results.scores.counted.items()
    }
    return max(counted.values(), default=0)


def outline(section: Section) -> str:
    """An experiment in a line: how much of it there is, and its highest mean of targets in the
    first scenario, whatever the track."""
    experiment = section.experiment
    text = f"{experiment.found} of {len(experiment.runs)} runs"
    table = section.tables.scores[0]
    found = [
        (row.cells[place], row.method, block.track)
        for block in table.blocks
        if (place := block.place("mean_target")) is not None
        and block.scenario == table.blocks[0].scenario
        for row in block.rows
        if row.method != MAJORITY and not math.isnan(row.cells[place].mean)
    ]
    if not found:
        return text
    best, method, track = max(found, key=lambda one: one[0].mean)
    value = cell_text(best._replace(as_good=False))
    whose = method if track == "inductive" else f"{method} ({track})"
    source = table.blocks[0].scenario.source
    return f"{text}; highest mean of targets, trained on {source}: {whose}, {value} %"


def stacked(text: str) -> str | Markup:
    """A number above its interval, which takes half the width of one beside it."""
    found = re.fullmatch(r"([^\[\]]{1,12}) (\[[^\[\]]+\])", text)
    return Markup("{}<small>{}</small>").format(*found.groups()) if found else text


def size_of(folder: Path, picture: Picture) -> tuple[int, int]:
    """Width and height of a figure's PNG, from its header, so that a page does not jump."""
    with (folder / "figures" / f"{picture.name}.png").open("rb") as file:
        return struct.unpack(">II", file.read(24)[16:])


def tidy(page: str) -> str:
    """Indentation and blank lines of the template left out, text in `pre` left as it is."""
    parts = re.split(r"(<pre.*?</pre>)", page, flags=re.DOTALL)
    return "".join(
        part if part.startswith("<pre") else re.sub(r"\n\s+", "\n", part) for part in parts
    )
