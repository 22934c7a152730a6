"""Page: tables, figures and records in, one self-contained `report.html` out (no network)."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple

from benchmark.data.arrays import read_prepared
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.evaluation.scores import MAJORITY
from benchmark.files import write_text
from benchmark.report import facts
from benchmark.report.blocks import METRICS
from benchmark.report.confident_errors import confident_errors
from benchmark.report.in_words import sentences
from benchmark.report.leaderboard import as_json, findings, leaderboard
from benchmark.report.pictures import Picture
from benchmark.report.results import Results
from benchmark.report.tables import Tables
from benchmark.report.write import cell_text, column_support, column_title, number
from benchmark.texts import templates_beside

PICTURE_BYTES = 2_400_000
"""Figures are embedded up to this many bytes of PNG, so that the page stays below 5 MB; the first
of every experiment come before the second of any, and what is left over is linked."""


class Section(NamedTuple):
    """What the page shows of an experiment, or, where it is None, of all of them together."""

    experiment: Experiment | None
    tables: Tables
    pictures: list[Picture]


def write_page(results: Results, overview: Section, *sections: Section) -> None:
    """Write `report.html` beside the tables and figures that it repeats.

    It is a function of the tables, the figures, `data.json`, `audit.json`, the runs' records and
    predictions, and the cards of the sets: the same input gives the same bytes.
    """
    environment = templates_beside(__file__)
    environment.filters |= {
        "cell": cell_text,
        "number": number,
        "column_title": column_title,
        "column_support": column_support,
    }
    experiments = results.experiments
    boards = leaderboard([(s.experiment, table) for s in sections for table in s.tables.scores])
    data = results.folder / "data.json"
    cards = facts.data_cards(results.folder)
    text = environment.get_template("page.html.jinja").render(
        profile=experiments[0].profile,
        sections=sections,
        board=as_json(boards, experiments),
        findings=findings(boards),
        sentences=sentences(results),
        overview=overview,
        addresses=addresses(results, [overview, *sections]),
        found=len(results.done),
        planned=len({run.run_id for experiment in experiments for run in experiment.runs}),
        outcomes={e.experiment: facts.outcomes(e) for e in experiments},
        gaps=gaps(experiments),
        mistakes=confident_errors(results.folder, experiments),
        data=read_prepared(data) if data.is_file() else None,
        cards=cards,
        bibliography=facts.bibliography([used.card.citation.bibtex for used in cards]),
        audit=facts.audit_summary(results.folder),
        environment=facts.environment(results.records),
        metric_names=METRICS | {"f1": "F1"},
        majority=MAJORITY,
    )
    write_text(results.folder / "report.html", tidy(text))


def addresses(results: Results, parts: list[Section]) -> dict[str, str]:
    """Figure name → the address of its PNG: the picture itself, or "" beyond `PICTURE_BYTES`."""
    ranked = sorted(
        (place, row, picture.name)
        for row, part in enumerate(parts)
        for place, picture in enumerate(part.pictures)
    )
    found: dict[str, str] = {}
    spent = 0
    for *_, name in ranked:
        if name not in found:
            content = (results.folder / "figures" / f"{name}.png").read_bytes()
            spent += len(content)
            # The picture itself as the address of an `img`, so that the page is one file.
            address = "data:image/png;base64," + base64.b64encode(content).decode()
            found[name] = address if spent <= PICTURE_BYTES else ""
    return found


def tidy(page: str) -> str:
    """Indentation and blank lines of the template left out, text in `pre` left as it is."""
    parts = re.split(r"(<pre.*?</pre>)", page, flags=re.DOTALL)
    return "".join(
        part if part.startswith("<pre") else re.sub(r"\n\s+", "\n", part) for part in parts
    )
