"""Report: from scores to tables, figures and the page, and the headline on the terminal."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table as TerminalTable

from benchmark.errors import UserError
from benchmark.evaluation.evaluate import MAJORITY
from benchmark.evaluation.experiments import Experiment, gaps, load_experiments
from benchmark.files import write_text
from benchmark.progress import console, say, track
from benchmark.report import figures, per_class
from benchmark.report.formats import cell_text, headline, to_csv, to_latex, to_markdown
from benchmark.report.page import Picture, Section, write_page
from benchmark.report.tables import METRICS, Scores, Table, build_table, load_scores


def report(results: Path, strict: bool = False) -> None:
    """Write a results folder's `tables/`, `figures/` and `report.html`, and print the headline.

    A pure function of `experiments/*.json`, `metrics.parquet`, `confusion.parquet` and, if there
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
    sections = [
        write_experiment(results, experiment, scores)
        for experiment in track(experiments, "report", total=len(experiments))
    ]
    write_page(results, sections)
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
            "run `wbc-shift train`, or report without --strict"
        )


def write_experiment(results: Path, experiment: Experiment, scores: Scores) -> Section:
    """Write one experiment's tables and figures; return them for the page."""
    folder = results / "tables"
    tables = [build_table(experiment, scores, metric) for metric in METRICS]
    for table in tables:
        for suffix, text in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            write_text(folder / f"{table.name}.{suffix}", text(table))
    blocks = per_class.class_blocks(experiment, scores)
    name = f"{experiment.experiment}_per_class"
    write_text(folder / f"{name}.csv", per_class.to_csv(blocks))
    write_text(folder / f"{name}.md", per_class.to_markdown(experiment, blocks))
    return Section(experiment, tables, blocks, write_figures(results, experiment, scores))


def write_figures(results: Path, experiment: Experiment, scores: Scores) -> list[Picture]:
    """Draw an experiment's figures as PDF and PNG, and return them for the page."""
    pictures = []

    def show(name: str, figure: Figure, text: str) -> None:
        figures.save(figure, results / "figures" / name)
        pictures.append(Picture(name, text))

    show(
        f"shift_{experiment.experiment}",
        figures.shift_figure(experiment, scores),
        "In-domain against shifted macro-F1 of every method. Outlines are means over seeds, dots "
        "are single seeds, grey ticks the majority constant of the same test set.",
    )
    confusions = figures.load_confusions(results, experiment)
    for (scenario, kind), runs in experiment.blocks().items():
        suffix = "" if kind == "inductive" else f"_{kind}"
        show(
            f"confusion_{experiment.experiment}_{scenario.file_name}{suffix}",
            figures.confusion_figure(experiment, scenario, runs, confusions),
            f"Confusion matrices by domain, trained on {scenario.source}, of "
            f"{', '.join(figures.shown_methods(runs))}: per cent of each true class, summed over "
            "seeds.",
        )
    return pictures


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
