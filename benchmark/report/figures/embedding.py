"""Features of runs in the plane (t-SNE): a panel per run, class as colour, domain as mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pydantic import Field

from benchmark.drawing import FAINT, MARKS, MILLIMETRE, mark_of, panels, title
from benchmark.evaluation.experiments import RecordedRun, done_runs
from benchmark.progress import say
from benchmark.report.results import Results, short_source
from benchmark.schema import Record, read_shape

ACROSS = 3
"""runs side by side"""
PANEL = (57.5, 46.0)
"""mm"""


class Places(Record):
    """Of every image drawn: its test set, its class and where it stands."""

    test_set: list[int]
    kind: list[int] = Field(alias="class")
    x: list[float]
    y: list[float]


class Embedded(Record):
    run_id: str
    predictions_sha256: str
    perplexity: float
    neighbours: int
    same_domain: float
    """share of the nearest neighbours that are of an image's own domain"""
    same_class_elsewhere: float
    """share of the nearest ones in other domains that are of its class"""
    test_sets: list[tuple[str, str]]
    images: Places


class Embedding(NamedTuple):
    """What `wbc-shift embed` wrote of a run."""

    run: RecordedRun
    classes: tuple[str, ...]
    record: Embedded
    places: np.ndarray
    """(images,), of which test set an image is"""
    kinds: np.ndarray
    """(images,), of which class"""


def load_embeddings(results: Results) -> list[Embedding]:
    """Read `embeddings/*.json` in plan order; says which are of other predictions."""
    done = done_runs(results.experiments)
    planned = dict.fromkeys(run.run_id for e in results.experiments for run in e.runs)
    again = "run `wbc-shift embed` again, or delete it"
    found = {}
    for path in sorted((results.folder / "embeddings").glob("*.json")):
        record = read_shape(path, Embedded, again)
        run, classes = done.get(record.run_id, (None, ()))
        if run is None or run.predictions_sha256 != record.predictions_sha256:
            say(f"note: {path} is stale and not drawn: {again}")
            continue
        images = record.images
        found[run.run_id] = Embedding(
            run, classes, record, np.array(images.test_set), np.array(images.kind)
        )
    return [found[run_id] for run_id in planned if run_id in found]


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


def by_chance(embedding: Embedding) -> tuple[float, float]:
    """What the two shares would be if features told nothing: from the numbers of images alone."""
    places, kinds = embedding.places, embedding.kinds
    others = len(places) - 1
    same_domain = np.mean([(places == place).sum() - 1 for place in places]) / others
    abroad = [kinds[places != place] == kind for place, kind in zip(places, kinds, strict=True)]
    return float(same_domain), float(np.mean([own.mean() for own in abroad]))


def embedding_text(embeddings: list[Embedding]) -> str:
    """The caption: what is drawn, and what t-SNE does not show."""
    first = embeddings[0]
    most = np.bincount(first.places).max()
    return (
        f"Features of {len(first.places)} held-out images in two dimensions (t-SNE, perplexity "
        f"{first.record.perplexity:g}), at most {most} per domain, with equally many of each "
        "class where possible, the same for every network. Above, colours are classes; below, "
        "domains; marks are domains in both. Shares, with what chance would give, are of the "
        f"{first.record.neighbours} nearest in the features themselves: how many are of an image's "
        "own domain, and how many "
        "of the nearest in other domains are of its class. In two dimensions, distances between "
        "clusters, their sizes and densities mean nothing, and another seed gives another picture."
    )


def embedding_figure(embeddings: list[Embedding]) -> Figure:
    """At most `ACROSS` runs of a scenario side by side: above by class, below by domain."""
    first = embeddings[0]
    domains = ["sources" if "+" in domain else domain for domain, _ in first.record.test_sets]
    across = len(embeddings)
    columns = 2 * across
    rooms = [2.5 + 3.2 * -(-len(names) // columns) for names in (first.classes, domains)]
    top, below = 11.0, 8.0
    margins = (1.5, top, 1.5, below + rooms[1])
    figure, found = panels(2 * across, across, PANEL, (2, rooms[0]), margins)
    height = figure.get_figheight() / MILLIMETRE
    for embedding, upper, lower in zip(embeddings, found[:across], found[across:], strict=True):
        draw(upper, embedding, embedding.kinds, domains)
        draw(lower, embedding, embedding.places, domains)
        run = embedding.run
        upper.set_title(f"{run.method.name}, seed {run.seed}", fontsize=7)
        lower.set_xlabel(shares(embedding), fontsize=6, labelpad=3)
    circles = ["o"] * len(first.classes)
    shapes = [mark_of(domain, domains)[0] for domain in domains]
    under = (top + PANEL[1] + rooms[0] / 2, height - rooms[1] / 2)
    for names, marks, y in zip((first.classes, domains), (circles, shapes), under, strict=True):
        handles = [
            Line2D([], [], linestyle="", marker=mark, markersize=3.5, markeredgewidth=0,
                   color=mark_of(name, names)[1], label=name)
            for name, mark in zip(names, marks, strict=True)
        ]  # fmt: skip
        figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.5, 1 - y / height),
                      ncols=columns, fontsize=6.5, handletextpad=0.1, labelspacing=0.3,
                      columnspacing=1.5)  # fmt: skip
    title(figure, f"Trained on {short_source(first.run.scenario)}")
    return figure


def shares(embedding: Embedding) -> str:
    """What the features say, and what chance would."""
    whats = ("nearest: own domain", "nearest elsewhere: own class")
    found = (embedding.record.same_domain, embedding.record.same_class_elsewhere)
    return "\n".join(
        f"{what} {100 * share:.0f} % (chance {100 * chance:.0f} %)"
        for what, share, chance in zip(whats, found, by_chance(embedding), strict=True)
    )


def draw(axes: Axes, embedding: Embedding, colours: np.ndarray, domains: Sequence[str]) -> None:
    """The images of a run in the plane; a domain's mark, and the colour of what is asked for."""
    points = np.array([embedding.record.images.x, embedding.record.images.y])
    for place, domain in enumerate(domains):
        rows = embedding.places == place
        axes.scatter(
            *points[:, rows],
            s=6,
            marker=mark_of(domain, domains)[0],
            facecolors=[MARKS[colour % len(MARKS)][1] for colour in colours[rows]],
            linewidth=0,
            alpha=0.85,
        )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=FAINT)
