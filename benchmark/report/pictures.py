"""Pictures: which figures a report has, drawn on all processors.

A figure is a pure function of what was read before; they are drawn in processes of their own,
because drawing keeps one processor busy for a second each. A figure has to say what no other one
says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmark.evaluation.experiments import Experiment, Run, Scenario
from benchmark.parallel import in_processes
from benchmark.report.figures.confusion import Confusions, confusion_figure
from benchmark.report.figures.corruptions import corruption_figure
from benchmark.report.figures.curves import Curves, plain_targets, reliability_figure, risk_figure
from benchmark.report.figures.dumbbell import dumbbell_figure, grouped
from benchmark.report.figures.embedding import (
    ACROSS,
    Embedding,
    embedding_figure,
    embedding_text,
)
from benchmark.report.figures.forest import TEXT, forest_figure, forest_pages
from benchmark.report.figures.overview import heat_figure, heat_maps
from benchmark.report.figures.ranks import rank_figure, ranking
from benchmark.report.figures.style import save
from benchmark.report.figures.throughput import speed_figure, speeds
from benchmark.report.figures.training import training_figure, training_rows
from benchmark.report.page import Picture
from benchmark.report.tables import Scores, done_ids
from benchmark.report.trainings import Records
from benchmark.speed.records import Workload

OVERVIEW = ""
"""Stands for all experiments."""
MOST_SCENARIOS = 1
"""Scenarios of each track of an experiment that get figures of their own: the first of the plan.
The tables hold them all."""


Blocks = dict[tuple[Scenario, str], list[Run]]


class Material(NamedTuple):
    """What figures are drawn from."""

    experiments: list[Experiment]
    scores: Scores
    confusions: Confusions
    curves: Curves
    records: Records
    embeddings: list[Embedding]
    measured: dict[Workload, float]


class Job(NamedTuple):
    """A figure to draw."""

    owner: str
    """an experiment, or `OVERVIEW`"""
    picture: Picture
    draw: Callable[[], Figure]


def draw_all(folder: Path, material: Material) -> dict[str, list[Picture]]:
    """Draw every figure as PDF and PNG; pictures by experiment, in the order of reading."""
    jobs = [*overview_jobs(material)]
    for experiment in material.experiments:
        jobs += experiment_jobs(experiment, material)
    in_processes([partial(save_job, folder, job) for job in jobs], "figures")
    pictures = {owner: [] for owner in (OVERVIEW, *(e.experiment for e in material.experiments))}
    for job in jobs:
        pictures[job.owner].append(job.picture)
    return pictures


def save_job(folder: Path, job: Job) -> None:
    """Draw one figure."""
    save(job.draw(), folder / job.picture.name)


def overview_jobs(material: Material) -> Iterator[Job]:
    """Figures about all experiments."""
    experiments, scores = material.experiments, material.scores
    if maps := heat_maps(experiments, scores):
        text = (
            "Macro-F1 by source and target, mean over seeds, for plain training with each "
            "normalisation and for the best inductive method of each cell, which is chosen on the "
            "target itself. None that never saw the target did better here; what adapts to its "
            "unlabelled images may have."
        )
        yield Job(OVERVIEW, Picture("heat_map", text), lambda: heat_figure(maps))
    found = speeds(experiments, material.records, scores, material.measured)
    if found.methods:
        text = (
            "Mean macro-F1 over the targets against images per second in training, with the "
            f"methods that no other beats in both ({found.where}). Speeds are of the network "
            "measured alone, its loss and augmentation aside. Inductive methods that were trained "
            "for themselves."
        )
        if found.left_out:
            text += f" Left out: {found.left_out} of networks that were not measured."
        yield Job(OVERVIEW, Picture("throughput", text), lambda: speed_figure(found))
    for stem, own in embedding_pages(material.embeddings):
        yield Job(OVERVIEW, Picture(stem, embedding_text(own)), partial(embedding_figure, own))


def embedding_pages(embeddings: list[Embedding]) -> Iterator[tuple[str, list[Embedding]]]:
    """Runs that show the same images, as many as a figure has room for, and its file name."""
    alike: dict[tuple, list[Embedding]] = {}
    for one in embeddings:
        alike.setdefault((one.run.scenario, one.classes), []).append(one)
    for (scenario, _), own in alike.items():
        for start in range(0, len(own), ACROSS):
            page = start // ACROSS + 1
            stem = f"embedding_{scenario.file_name}" + (f"_{page}" if page > 1 else "")
            yield stem, own[start : start + ACROSS]


def experiment_jobs(experiment: Experiment, material: Material) -> Iterator[Job]:
    """Figures of one experiment."""
    name, scores = experiment.experiment, material.scores

    def job(stem: str, text: str, draw: Callable[[], Figure]) -> Job:
        return Job(name, Picture(stem, text), draw)

    for place, panels in enumerate(forest_pages(experiment, scores), start=1):
        text = (
            "Macro-F1 of every method in-domain and on each target, sorted by mean of targets. "
            f"Filled: best of its column or not shown to be worse. {TEXT} Dashed: the majority "
            "constant."
        )
        stem = f"shift_{name}" if place == 1 else f"shift_{name}_{place}"
        yield job(stem, text, partial(forest_figure, experiment, scores, panels))
    if not done_ids(list(experiment.runs)):
        return
    # With one normalisation it would say again what the first figure says.
    if len({kind for runs in experiment.blocks().values() for kind, _ in grouped(runs)}) > 1:
        yield job(
            f"dumbbell_{name}",
            f"From in-domain to the mean of targets, a line per method, by normalisation. {TEXT}",
            lambda: dumbbell_figure(experiment, scores),
        )
    tracks = dict.fromkeys(kind for _, kind in experiment.blocks())
    for kind in tracks:
        if ranked := ranking(experiment, kind, scores):
            left = f" Left out for want of a run: {', '.join(ranked.left_out)}."
            text = (
                f"Mean ranks of the methods over {ranked.blocks} blocks, each a target of a "
                "scenario and a seed; bars join methods within Nemenyi's critical difference. "
                "Blocks share images and targets are few, so the diagram is surer than it "
                "should be." + (left if ranked.left_out else "")
            )
            stem = f"ranks_{name}" if kind == "inductive" else f"ranks_{name}_{kind}"
            yield job(stem, text, partial(rank_figure, ranked))
    blocks = {key: runs for key, runs in experiment.blocks().items() if done_ids(runs)}
    for (scenario, kind), runs in first_of_each_track(blocks):
        suffix = f"{name}_{scenario.file_name}" + ("" if kind == "inductive" else f"_{kind}")
        where = (scenario, runs, scores)
        if scenario.target_groups:
            yield job(
                f"corruptions_{suffix}",
                f"Macro-F1 against severity for each corruption of {scenario.source}'s test set, "
                "mean over seeds.",
                lambda w=where, k=kind: corruption_figure(experiment, w[0], k, *w[1:]),
            )
        if plain_targets(scenario):
            yield job(
                f"confusion_{suffix}",
                f"Confusion matrices by domain, trained on {scenario.source}: per cent of each "
                "true class, summed over seeds.",
                lambda w=where: confusion_figure(experiment, *w, material.confusions),
            )
            yield job(
                f"reliability_{suffix}",
                f"Reliability in-domain and on all targets together, trained on {scenario.source}: "
                "accuracy against stated confidence in bins of ten images or more; a mark's area: "
                "its share of images.",
                lambda w=where: reliability_figure(*w, material.curves),
            )
            yield job(
                f"risk_{suffix}",
                f"Risk against coverage, trained on {scenario.source}: errors among the answered "
                "images when the least confident are rejected first; mean over seeds, and over all "
                "orders of images that tie.",
                lambda w=where: risk_figure(*w, material.curves),
            )
    if rows := training_rows(experiment, material.records, scores):
        yield job(
            f"training_{name}",
            "Training loss and selection score by epoch. Thin: one seed; thick: mean over seeds.",
            lambda: training_figure(rows, material.records),
        )


def first_of_each_track(blocks: Blocks) -> Iterator[tuple[tuple[Scenario, str], list[Run]]]:
    """The first `MOST_SCENARIOS` blocks of each track, in plan order."""
    seen: Counter[str] = Counter()
    for (scenario, kind), runs in blocks.items():
        seen[kind] += 1
        if seen[kind] <= MOST_SCENARIOS:
            yield (scenario, kind), runs
