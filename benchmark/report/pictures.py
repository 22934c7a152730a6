"""Pictures: which figures a report has, drawn on all processors.

A figure is a pure function of what was read before; they are drawn in processes of their own,
because drawing keeps one processor busy for a second each. A figure has to say what no other one
says. A new one is a function that draws it, and an entry of `KINDS` or a job here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
from matplotlib.figure import Figure

from benchmark.drawing import STYLE, Form, save
from benchmark.evaluation.experiments import Experiment
from benchmark.metrics import HEADLINE
from benchmark.parallel import in_processes
from benchmark.report import questions as asked_of
from benchmark.report.doses import dose_response_figure, dosed, doses_of
from benchmark.report.figures import (
    confusion,
    curves,
    embedding,
    features,
    intervals,
    overview,
    questions,
    unlabelled_cells,
)
from benchmark.report.results import Group, Results, done_ids
from benchmark.report.shift_parts import shift_parts, shift_parts_figure
from benchmark.report.tables import OVERVIEW
from benchmark.report.unlabelled_cells import MEANING, adapted_scores
from benchmark.speed.records import training_speeds


class Picture(NamedTuple):
    """A figure and what is said of it."""

    name: str
    """its file in `figures/`, without suffix"""
    caption: str
    alt: str
    """what is said in its place where it cannot be seen"""
    source: str
    """the file of the results folder that its numbers are from"""


class Job(NamedTuple):
    owner: str
    """an experiment, or `OVERVIEW`"""
    picture: Picture
    draw: Callable[[], Figure]


class Kind(NamedTuple):
    """A figure of a few methods that every scenario on other domains has."""

    name: str
    source: str
    alt: str
    caption: str
    """`{source}` stands for the domain trained on"""
    draw: Callable[[Results, Group], Figure]


MOST_TARGETS = 12
"""Test sets beyond which a panel for each is too many."""
KINDS = (
    Kind(
        "confusion",
        "confusion.parquet",
        "Confusion matrices: a row of matrices per method, a column per test set.",
        "Confusion matrices by domain, trained on {source}: per cent of each true class, summed "
        "over seeds.",
        confusion.confusion_figure,
    ),
    Kind(
        "reliability",
        "curves.parquet",
        "Reliability diagrams, a panel per method, in-domain and on all targets together.",
        "Reliability in-domain and on all targets together, trained on {source}: accuracy against "
        "stated confidence in bins of ten images or more; a mark's area: its share of images.",
        curves.reliability_figure,
    ),
    Kind(
        "risk",
        "curves.parquet",
        "Risk-coverage curves: a panel per test set, a line per method.",
        "Risk against coverage, trained on {source}: errors among the accepted images when the "
        "least confident are rejected first; mean over seeds, and over all orders of images that "
        "tie.",
        curves.risk_figure,
    ),
)


def draw_all(results: Results, folder: Path, form: Form) -> dict[str, list[Picture]]:
    """Draw every figure into a folder; pictures by experiment, in the order of reading."""
    jobs = [*overview_jobs(results)]
    for experiment in results.experiments:
        jobs += experiment_jobs(results, experiment)
    # Read before processes are forked, in which pyarrow may not be used.
    _ = results.curves, results.confusions, results.local_thresholds, results.feature_scores
    in_processes([partial(save_job, folder, form, job) for job in jobs], "figures")
    pictures = {owner: [] for owner in (OVERVIEW, *(e.experiment for e in results.experiments))}
    for job in jobs:
        pictures[job.owner].append(job.picture)
    return pictures


def save_job(folder: Path, form: Form, job: Job) -> None:
    with matplotlib.style.context(STYLE):
        save(job.draw(), folder / job.picture.name, form)


def job(
    owner: str, name: str, source: str, alt: str, caption: str, draw: Callable[[], Figure]
) -> Job:
    return Job(owner, Picture(name, caption, alt, source), draw)


def overview_jobs(results: Results) -> Iterator[Job]:
    if maps := overview.heat_maps(results):
        text = (
            "Macro-F1 by source and target, mean over seeds, for plain training with each "
            "normalisation and for the best inductive method of each cell, which is chosen on the "
            "target itself. No method that never saw the target did better here; methods that "
            "adapt to its unlabelled images may."
        )
        alt = "Heat maps of macro-F1: a row per source, a column per target."
        yield job(
            OVERVIEW, "heat_map", "metrics.parquet", alt, text, partial(overview.heat_figure, maps)
        )
    found = overview.speeds(results, training_speeds(results.folder.parents[1]))
    if found.methods:
        text = (
            "Mean macro-F1 over the targets against images per second in training, with the "
            f"methods that no other beats in both ({found.where}). Speeds are of the network "
            "measured alone, its loss and augmentation aside. Inductive methods with a "
            "training run of their own."
        )
        if found.left_out:
            text += f" Left out: {found.left_out} of networks that were not measured."
        alt = "Scatter plot of mean macro-F1 over the targets against training speed, by method."
        yield job(
            OVERVIEW, "throughput", "../speed", alt, text, partial(overview.speed_figure, found)
        )
    yield from question_jobs(results)
    table = adapted_scores(results)
    if table is not None and not table["at_home"].all():
        yield job(
            OVERVIEW,
            "unlabelled_cells",
            "unlabelled_cells",
            "Line plots of macro-F1 gained against the number of unlabelled cells: a row per "
            "network, a column per order, a line per method.",
            "Macro-F1 gained by adapting to unlabelled cells of the target, mean over targets and "
            "draws; vertical lines: lowest and highest target. In brackets: the targets that an "
            "order was tried on. Hollow: of fewer of them, as "
            f"the others have not so many cells. {MEANING}",
            partial(unlabelled_cells.unlabelled_cells_figure, table[~table["at_home"]]),
        )
    for group in groups_shown(results):
        for kind in KINDS if len(group.scenario.targets) <= MOST_TARGETS else ():
            yield job(
                OVERVIEW,
                f"{kind.name}_{group.scenario.file_name}",
                kind.source,
                kind.alt,
                kind.caption.format(source=group.scenario.source) + f" {asked_of.SHOWN}",
                partial(kind.draw, results, group),
            )
    if results.feature_sets:
        text = (
            "Frozen features with logistic regression. First panel: mean macro-F1 of the targets "
            "(95 % interval over other test images), fitted on the source, against the robustness "
            "index (range over ten draws; 0.5 is what a representation of neither class nor "
            "laboratory has). Others: macro-F1 on a half of a target, fitted on labelled cells of "
            "each class of the other half alone (mean and range over ten draws), and, at the "
            "left, on the source without any."
        )
        alt = "Scatter plot of sets of features, and curves of macro-F1 against labelled cells."
        draw = partial(features.features_figure, results)
        yield job(OVERVIEW, "features", "features", alt, text, draw)
    for name, own in embedding.embedding_pages(embedding.load_embeddings(results)):
        alt = "Scatter plots of image features: a column per network, by class and by domain."
        draw = partial(embedding.embedding_figure, own)
        yield job(OVERVIEW, name, "embeddings", alt, embedding.embedding_text(own), draw)


def question_jobs(results: Results) -> Iterator[Job]:
    """What laboratories and model makers ask."""
    best = "the inductive method with the highest mean of targets, which is chosen on them"
    if questions.has_patient(results):
        yield job(
            OVERVIEW,
            "differential",
            "differential.parquet",
            "Dots with limits of agreement by class, a panel per source and test set.",
            "Differential counts of a healthy adult, 200 cells: mean difference from a faultless "
            "count of other cells and its limits of agreement (95 %), by class and correction; of "
            f"{best}. Grey: a network that never errs, whose limits are those of drawing cells.",
            partial(questions.differential_figure, results),
        )
    if questions.has_targets(results):
        yield job(
            OVERVIEW,
            "local_labels",
            "local_thresholds.parquet",
            "Line plots of coverage and accuracy against labelled local cells, a panel per test "
            "set.",
            "Coverage and accuracy of the accepted with the source's threshold (none) and with one "
            f"chosen on labelled local cells, mean over choices and seeds; of {best}.",
            partial(questions.labels_figure, results),
        )
    if (results.unlabelled["metric"] == HEADLINE).any():
        yield job(
            OVERVIEW,
            "unlabelled",
            "unlabelled.parquet",
            "Scatter plots of estimated against true macro-F1, a panel per estimator.",
            "Macro-F1 as estimated from unlabelled predictions against the truth, a dot per run "
            "and test set; above each panel the mean absolute error on other domains. All but the "
            "regression are fitted on the source alone.",
            partial(questions.unlabelled_figure, results),
        )
    if questions.heights_seen(results):
        yield job(
            OVERVIEW,
            "severity",
            "severity.parquet",
            "Stacked bars of errors by severity: a bar per source, method and test set.",
            "Errors by the branch where the lineages of cell and answer part, over all seeds. "
            "Black: where the most severe errors would begin if every other class were an equally "
            "likely wrong answer.",
            partial(questions.severity_figure, results),
        )


def groups_shown(results: Results) -> Iterator[Group]:
    """The done runs of the methods that tables of a few show, by scenario."""
    shown = asked_of.shown(results)
    for name, methods in asked_of.asked(results).items():
        runs = [run for method in shown[name] for run in methods[method]]
        owner = next(e for e in results.experiments if runs[0] in e.runs)
        yield Group(owner, runs[0].scenario, runs[0].track, runs)


def experiment_jobs(results: Results, experiment: Experiment) -> Iterator[Job]:
    name, scores = experiment.experiment, results.scores
    doses = doses_of(results.folder)
    for (scenario, track), runs in experiment.blocks().items():
        if dosed(doses, scenario.targets) and done_ids(runs):
            group = Group(experiment, scenario, track, runs)
            yield job(
                name,
                f"response_{name}",
                "intervals.parquet",
                "Line plots of macro-F1 against one changed setting: a panel per setting, a line "
                "per network.",
                "Macro-F1 on drawn cells with one setting changed at a time, mean over seeds with "
                "95 % intervals; dashed: the setting of training. Drawn cells are not blood.",
                partial(dose_response_figure, results, group),
            )
    if parts := shift_parts(experiment, scores):
        yield job(
            name,
            f"parts_{name}",
            "metrics.parquet",
            "Dot plots: a panel per source and part of the loss, a line per training, a dot per "
            "target.",
            "What of the loss of macro-F1 (in-domain minus target) matching the target's colours "
            "and framing to the source's wins back, and what remains with both matched: points, "
            "mean over seeds; the bar is the mean of targets. Below 0: matching makes it worse.",
            partial(shift_parts_figure, experiment, parts),
        )
    if any(dosed(doses, scenario.targets) for scenario, _ in experiment.blocks()):
        return  # a forest of a test set per level would say it again, illegibly
    for place, panels in enumerate(intervals.forest_pages(experiment, scores), start=1):
        yield job(
            name,
            f"shift_{name}" if place == 1 else f"shift_{name}_{place}",
            "intervals.parquet",
            "Forest plot of macro-F1 with 95 % intervals: a row per method, a column per test set.",
            "Macro-F1 of every method in-domain and on each target, sorted by mean of targets. "
            f"Filled: best of its column or not shown to be worse. {intervals.TEXT} Dashed: the "
            "majority constant.",
            partial(intervals.forest_figure, scores, panels),
        )
    for (scenario, track), runs in experiment.blocks().items():
        if scenario.target_groups and done_ids(runs):
            yield job(
                name,
                f"corruptions_{name}_{scenario.file_name}",
                "intervals.parquet",
                "Line plots of macro-F1 against severity: a panel per corruption, a line per "
                "method.",
                f"Macro-F1 against severity for each corruption of {scenario.source}'s test set, "
                "mean over seeds.",
                partial(
                    curves.corruption_figure, results, Group(experiment, scenario, track, runs)
                ),
            )
