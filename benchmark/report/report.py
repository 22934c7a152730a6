"""Report: from scores to tables, figures and the page, and what was found on the terminal."""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import UserError
from benchmark.evaluation.experiments import Experiment, gaps
from benchmark.progress import say, say_each
from benchmark.report.blocks import METRICS
from benchmark.report.facts import audit_summary
from benchmark.report.in_words import sentences
from benchmark.report.page import Section, write_page
from benchmark.report.pictures import draw_all
from benchmark.report.published import write_published
from benchmark.report.results import Results
from benchmark.report.tables import OVERVIEW, tables_of
from benchmark.report.write import print_headline, write_table


def report(folder: Path, strict: bool = False) -> None:
    """Write a results folder's `tables/`, `figures/`, `report.html`, `pages/` and the published
    results, and print what was found, in words and as headline tables.

    A pure function of `experiments/*.json`, the runs' records, what `evaluate` wrote and, if there
    is one, `data.json`: the same input gives the same bytes.

    Args:
        folder: `results/<profile>`.
        strict: fail, before anything is written, if a planned run is neither done nor skipped.

    Raises:
        UserError: `evaluate` has not run on these predictions; in strict mode, the first gaps.
    """
    results = Results.of(folder)
    if strict:
        refuse_gaps(results.experiments)
    audit_summary(results.folder)  # one that cannot be read is told before anything is written
    tables = tables_of(results)
    for own in tables.values():
        for table in own.printed:
            write_table(results.folder / "tables", table)
    write_published(results)
    pictures = draw_all(results, results.folder / "figures", "png")
    experiments = {OVERVIEW: None} | {e.experiment: e for e in results.experiments}
    sections = [Section(e, tables[name], pictures[name]) for name, e in experiments.items()]
    write_page(results, *sections)
    say_each(sentences(results))
    for experiment in results.experiments:
        headline = tables[experiment.experiment].scores[0]
        found = f"found {experiment.found} of {len(experiment.runs)} planned runs"
        print_headline(f"{experiment.title}: {METRICS[headline.metric]} (%), {found}", headline)
    where = (str(results.folder / name) for name in ("report.html", "tables", "figures"))
    say(f"report: {', '.join(where)}")


def refuse_gaps(experiments: list[Experiment], most: int = 3) -> None:
    """Raise a `UserError` naming the first planned runs that are not done."""
    lines = gaps(experiments, skips=False)
    if lines:
        more = f" and {len(lines) - most} more" if len(lines) > most else ""
        raise UserError(
            f"{len(lines)} planned runs are not done: {'; '.join(lines[:most])}{more}: "
            f"run `wbc-shift train -p {experiments[0].profile}`, or report without --strict"
        )
