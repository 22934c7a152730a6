"""Page: tables, figures and records in, one self-contained `report.html` out (no network)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.evaluation.columns import SUMMARIES
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.evaluation.scores import MAJORITY
from benchmark.files import write_text
from benchmark.report import facts, per_class
from benchmark.report.confident_errors import confident_errors
from benchmark.report.formats import cell_text, column_support, column_title, number
from benchmark.report.leaderboard import as_json, findings, leaderboard
from benchmark.report.per_class import ClassBlock
from benchmark.report.sheets.sheet import Sheet
from benchmark.report.tables import METRICS, Table
from benchmark.schema import read_prepared
from benchmark.texts import templates_beside

PICTURE_BYTES = 2_400_000
"""Figures are embedded up to this many bytes of PNG, so that the page stays below 5 MB; the first
of every experiment come before the second of any, and what is left over is linked."""


@dataclass(frozen=True)
class Picture:
    """A figure: its file name in `figures/` without suffix, and what it shows."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """What the page shows of one experiment."""

    experiment: Experiment
    tables: list[Table]
    class_blocks: list[ClassBlock]
    pictures: list[Picture]
    sheets: list[Sheet] = field(default_factory=list)


@dataclass(frozen=True)
class Overview:
    """What the page shows of all experiments together."""

    pictures: list[Picture]
    sheets: list[Sheet]


def write_page(results: Path, sections: list[Section], overview: Overview | None = None) -> None:
    """Write `report.html` beside the tables and figures that it repeats.

    It is a function of the tables, the figures, `data.json`, `audit.json`, the runs' records and
    predictions, and the cards of the sets: the same input gives the same bytes.
    """
    results = Path(results)
    overview = overview or Overview([], [])
    environment = templates_beside(__file__)
    environment.filters |= {
        "cell": cell_text,
        "number": number,
        "column_title": column_title,
        "column_support": column_support,
    }
    experiments = [section.experiment for section in sections]
    runs = {run.run_id: run for experiment in experiments for run in experiment.runs}
    boards = leaderboard([(s.experiment, table) for s in sections for table in s.tables])
    data = results / "data.json"
    cards = facts.data_cards(results)
    text = environment.get_template("page.html.jinja").render(
        profile=experiments[0].profile,
        sections=sections,
        board=as_json(boards, experiments),
        findings=findings(boards),
        overview=overview,
        addresses=addresses(results, [overview, *sections]),
        captions={"": pairs(overview)} | {s.experiment.experiment: pairs(s) for s in sections},
        found=sum(run.done for run in runs.values()),
        planned=len(runs),
        outcomes={e.experiment: facts.outcomes(e) for e in experiments},
        gaps=gaps(experiments),
        mistakes=confident_errors(results, experiments),
        data=read_prepared(data) if data.is_file() else None,
        cards=cards,
        bibliography=facts.bibliography([used.card.citation.bibtex for used in cards]),
        audit=facts.audit_summary(results),
        environment=facts.environment(facts.run_records(results, experiments)),
        metric_names=METRICS,
        summaries=SUMMARIES,
        majority=MAJORITY,
        class_caption=per_class.caption,
        class_notes=per_class.notes,
    )
    write_text(results / "report.html", tidy(text))


def pairs(part: Section | Overview) -> list[list[str]]:
    """(name, text) of each figure, for JSON."""
    return [[picture.name, picture.text] for picture in part.pictures]


def addresses(results: Path, parts: list[Section | Overview]) -> dict[str, str]:
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
            content = (results / "figures" / f"{name}.png").read_bytes()
            spent += len(content)
            fits = spent <= PICTURE_BYTES
            found[name] = image(content) if fits else ""
    return found


def image(png: bytes) -> str:
    """A PNG as the address of an `img`, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def tidy(page: str) -> str:
    """Indentation and blank lines of the template left out, text in `pre` left as it is."""
    parts = re.split(r"(<pre.*?</pre>)", page, flags=re.DOTALL)
    return "".join(
        part if part.startswith("<pre") else re.sub(r"\n\s+", "\n", part) for part in parts
    )
