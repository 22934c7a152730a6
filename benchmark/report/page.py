"""Page: tables and figures in, one self-contained `report.html` out (no network, no script)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmark.evaluation.evaluate import MAJORITY
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.files import read_json, write_text
from benchmark.report import per_class
from benchmark.report.formats import cell_text, column_support, column_title, number
from benchmark.report.per_class import ClassBlock
from benchmark.report.tables import METRICS, SUMMARIES, Table


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


def write_page(results: Path, sections: list[Section]) -> None:
    """Write `report.html` beside the tables and figures that it repeats."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": cell_text,
        "column_title": column_title,
        "column_support": column_support,
        "address": lambda picture: image(results / "figures" / f"{picture.name}.png"),
    }
    data = results / "data.json"
    runs = {run.run_id: run for section in sections for run in section.experiment.runs}
    text = environment.get_template("page.html.jinja").render(
        profile=sections[0].experiment.profile,
        sections=sections,
        findings=[line for section in sections for line in findings(section)],
        found=sum(run.done for run in runs.values()),
        planned=len(runs),
        gaps=gaps([section.experiment for section in sections]),
        data=read_json(data) if data.is_file() else None,
        metric_names=METRICS,
        summaries=SUMMARIES,
        majority=MAJORITY,
        class_caption=per_class.caption,
        class_notes=per_class.notes,
    )
    write_text(results / "report.html", text)


def image(path: Path) -> str:
    """A PNG file as the address of an `img`, so that the page is one file."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def findings(section: Section) -> list[str]:
    """One sentence per scenario: how far the headline metric falls, over all methods found."""
    sentences = []
    for block in section.tables[0].blocks:
        places = {column.key: place for place, column in enumerate(block.columns)}
        rows = [row for row in block.rows if row.found]
        constant = [row for row in block.rows if row.method == MAJORITY]
        if not rows or not block.scenario.targets:
            continue
        spans = [span([row.cells[places[key]].mean for row in rows]) for key in
                 ("in_domain", "mean_target")]  # fmt: skip
        methods = f"{len(rows)} methods" if len(rows) > 1 else "one method"
        transductive = "" if block.track == "inductive" else f" ({block.track})"
        sentence = (
            f"{section.experiment.title}: trained on {block.scenario.source}{transductive}, "
            f"{methods} reach {spans[0]} % macro-F1 in-domain and {spans[1]} % on average over "
            f"{len(block.scenario.targets)} other domains"
        )
        if constant:
            sentence += (
                f" (majority constant: {cell_text(constant[0].cells[places['mean_target']])} %)"
            )
        sentences.append(sentence + ".")
    return sentences


def span(means: list[float]) -> str:
    """`41.0–63.2`, or one number where both ends print alike."""
    low, high = number(min(means)), number(max(means))
    return low if low == high else f"{low}–{high}"
