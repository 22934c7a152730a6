"""Report: from scores to tables, figures and the page, and the headline on the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.table import Table as TerminalTable

from benchmark.errors import UserError
from benchmark.evaluation.experiments import Experiment, gaps, load_experiments
from benchmark.evaluation.scores import MAJORITY
from benchmark.files import write_text
from benchmark.progress import console, say
from benchmark.report import per_class
from benchmark.report.facts import run_records
from benchmark.report.figures.confusion import load_confusions
from benchmark.report.figures.curves import load_curves
from benchmark.report.figures.embedding import load_embeddings
from benchmark.report.formats import cell_text, headline, to_csv, to_latex, to_markdown
from benchmark.report.page import Overview, Section, write_page
from benchmark.report.pictures import OVERVIEW, Material, draw_all
from benchmark.report.sheets.claims import claims_sheet
from benchmark.report.sheets.corruptions import corruption_sheet
from benchmark.report.sheets.exchanges import exchanges_sheet
from benchmark.report.sheets.measures import Evidence, load_evidence
from benchmark.report.sheets.open_set import open_set_sheet
from benchmark.report.sheets.rejection import rejection_sheet, rejectors_sheet
from benchmark.report.sheets.runs import runs_sheet
from benchmark.report.sheets.sheet import Sheet, write_sheet
from benchmark.report.sheets.throughput import throughput_sheet
from benchmark.report.sheets.work import work_sheet
from benchmark.report.tables import METRICS, Table, build_table, load_scores
from benchmark.report.trainings import Records
from benchmark.speed.records import training_speeds


def report(results: Path, strict: bool = False) -> None:
    """Write a results folder's `tables/`, `figures/` and `report.html`, and print the headline.

    A pure function of `experiments/*.json`, the runs' records, what `evaluate` wrote and, if there
    is one, `data.json`: the same input gives the same bytes.

    Args:
        results: `results/<profile>`.
        strict: fail, before anything is written, if a planned run is neither done nor skipped.

    Raises:
        UserError: `evaluate` has not run on these predictions; in strict mode, the first gaps.
    """
    results = Path(results)
    experiments = load_experiments(results)
    if strict:
        refuse_gaps(experiments)
    scores = load_scores(results, experiments)
    evidence = load_evidence(results, experiments, scores)
    records = {record["run_id"]: record for record in run_records(results, experiments)}
    sections = [write_experiment(results / "tables", e, evidence, records) for e in experiments]
    material = Material(
        experiments, scores, load_confusions(results, experiments),
        load_curves(results, experiments), records, load_embeddings(results, experiments),
        training_speeds(results.parents[1]),
    )  # fmt: skip
    drawn = draw_all(results / "figures", material)
    sections = [replace(s, pictures=drawn[s.experiment.experiment]) for s in sections]
    overview = Overview(drawn[OVERVIEW], write_overview(results / "tables", evidence, records))
    write_page(results, sections, overview)
    for section in sections:
        print_headline(section.experiment, section.tables[0])
    say(f"report: {results / 'report.html'}, {results / 'tables'}, {results / 'figures'}")


def refuse_gaps(experiments: list[Experiment], most: int = 3) -> None:
    """Raise a `UserError` naming the first planned runs that are not done."""
    lines = gaps(experiments, skips=False)
    if lines:
        more = f" and {len(lines) - most} more" if len(lines) > most else ""
        raise UserError(
            f"{len(lines)} planned runs are not done: {'; '.join(lines[:most])}{more}: "
            f"run `wbc-shift train -p {experiments[0].profile}`, or report without --strict"
        )


def write_experiment(
    folder: Path, experiment: Experiment, evidence: Evidence, records: Records
) -> Section:
    """Write one experiment's tables; return them for the page, still without pictures."""
    scores = evidence.scores
    tables = [build_table(experiment, scores, metric, records) for metric in METRICS]
    tables = [table for table in tables if table.blocks]
    for table in tables:
        for suffix, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            write_text(folder / f"{table.name}.{suffix}", text(table))
    blocks = per_class.class_blocks(experiment, scores)
    name = f"{experiment.experiment}_per_class"
    write_text(folder / f"{name}.csv", per_class.to_csv(blocks))
    write_text(folder / f"{name}.md", per_class.to_markdown(experiment, blocks))
    sheets = [
        corruption_sheet(experiment, scores),
        rejection_sheet(experiment, evidence.rejection_counted, whole=False),
        open_set_sheet(experiment, evidence.open_set),
        rejection_sheet(experiment, evidence.rejection),
        rejection_sheet(experiment, evidence.rejection, track="transductive"),
    ]
    for sheet in filter(None, sheets):
        write_sheet(folder, sheet)
    # The page has the summary; line by line the rejectors are hundreds of rows.
    return Section(experiment, tables, blocks, [], list(filter(None, sheets[:3])))


def write_overview(folder: Path, evidence: Evidence, records: Records) -> list[Sheet]:
    """Write the tables about all experiments; return them for the page."""
    experiments = evidence.experiments
    sheets = [claims_sheet(evidence)]
    sheets += filter(None, [exchanges_sheet(evidence)])
    sheets.append(runs_sheet(experiments))
    sheets += [
        rejectors_sheet(experiments, evidence.rejection_counted),
        work_sheet(experiments, records),
    ]
    sheets.append(throughput_sheet(experiments, records))
    for sheet in sheets:
        write_sheet(folder, sheet)
    return sheets


def print_headline(experiment: Experiment, table: Table) -> None:
    """Print in-domain and mean shifted macro-F1: a table on a terminal, plain lines elsewhere."""
    found = f"found {experiment.found} of {len(experiment.runs)} planned runs"
    title = f"{experiment.title}: {METRICS[table.metric]} (%), {found}"
    header = ["in-domain", "mean of targets", "shift drop"]
    if not console.is_terminal:
        say(title)
    for block in table.blocks:
        lines = [
            [row.method, row.runs, *map(cell_text, headline(block, row).values())]
            for row in block.rows
        ]
        if console.is_terminal:
            shown = TerminalTable(title=f"{title}\n{block.title}", title_justify="left")
            for column in ("method", "runs", *header):
                shown.add_column(column, justify="left" if column == "method" else "right")
            for line in lines:
                shown.add_row(*line, style="dim" if line[0] == MAJORITY else None)
            console.print(shown)
            continue
        say(f"  {block.title}")
        width = max(len(line[0]) for line in lines)
        say("  ".join(["", "method".ljust(width), " runs", *(text.rjust(15) for text in header)]))
        for method, runs, *cells in lines:
            texts = [cell.rjust(15) for cell in cells]
            say("  ".join(["", method.ljust(width), runs.rjust(5), *texts]))
