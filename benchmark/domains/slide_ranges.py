"""The range of a source's own slides: how far the cells of a slide that was never seen may lie.

`benchmark.domains.ranges` takes its limit from held-out images, all alike. Cells of one slide are
more alike than cells of two, so that a limit which holds for new images of known slides is passed
more often by those of a new slide. Here every slide counts as one: distances are measured on slides
that mean and covariance are not of (cross-fitting by slide), each slide weighs as much as any
other, and one slide more, infinitely far, stands for the new one (Lee, Barber and Willett 2023,
Distribution-free inference with hierarchical data, arXiv:2306.06342; the pooling of Dunn, Wasserman
and Ramdas 2023, J. Am. Stat. Assoc. 118, 2491, with a guarantee for finitely many groups). A
random cell of a new slide like those of the source, in which a nucleus is found, then lies within
the range with a probability of the level at least.

That is an average over new slides and over which slides are known: it promises nothing of a single
slide, which may have far more cells beyond, nothing of one class of cells, and nothing of slides
unlike the source's. Images without a nucleus lie beyond any limit. The proof is for distances from
a mean and covariance fixed beforehand. Here they are cross-fitted, and those of the range are of
more slides than the limit was measured with: that errs towards a wide range where slides are few
(of nine simulated slides, 99 in 100 cells of a new one lie within, where 90 are meant), but is not
proved.

The price is that few slides allow no high level: with K of them no more than K / (K + 1), at which
the limit is the farthest cell of all. So the level is the highest of `LEVELS` that the slides
allow: 0.99 from 99 slides on, 0.95 from 19, 0.9 from 9. Where a set names no slides each image is
one, and the level is that of cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from benchmark.domains.ranges import SourceRange, fit_range
from benchmark.errors import UserError
from benchmark.evaluation.exact import share
from benchmark.progress import say

LEVELS = (0.99, 0.95, 0.9)
"""Of which the highest is taken that the slides allow: fixed beforehand, whatever it shows."""
FOLDS = 10
"""Into how many parts the slides are cut for cross-fitting, at most."""
COLUMNS = "source target fitted_slides level limit images slides beyond beyond_low beyond_high"
COLUMNS = [*COLUMNS.split(), "mean_of_slides", "worst_slide"]


@dataclass(frozen=True)
class SlideRange:
    """Where the own images of a source lie, a slide counted as one.

    Attributes:
        range: mean and covariance of all its images but those of the test part, and the limit.
        slides: how many the limit is of.
        level: least share of the cells of a new slide that lies within, on average over slides.
    """

    range: SourceRange
    slides: int
    level: float


def allowed_level(slides: int) -> float:
    """The highest of `LEVELS` that K slides allow, at most K / (K + 1); fewer than nine, the
    latter."""
    most = slides / (slides + 1)
    return next((level for level in LEVELS if level <= most + 1e-9), most)


def slide_limit(distances: np.ndarray, slides: np.ndarray, level: float) -> float:
    """The distance up to which `level` of the cells of a new slide lie, on average over slides.

    Args:
        distances: [N], each measured without its own slide.
        slides: [N] which slide a cell lies on.

    Returns:
        inf where the slides are too few for the level.
    """
    _, members, counts = np.unique(slides, return_inverse=True, return_counts=True)
    order = np.argsort(distances)
    within = np.cumsum((1 / ((len(counts) + 1) * counts[members]))[order])
    reached = np.flatnonzero(within >= level - 1e-9)  # sums of thirds fall short of one by a bit
    return float(distances[order[reached[0]]]) if len(reached) else float("inf")


def fit_slide_range(source: str, facts: np.ndarray, slides: np.ndarray) -> SlideRange:
    """The range of a source by its slides, at the highest level that they allow.

    Args:
        facts: `appearance` of all its images but those of its test part, [N, 8].
        slides: [N] group of each.

    Raises:
        UserError: too few images with a nucleus, as `fit_range`.
    """
    known = ~np.isnan(facts).any(axis=1)
    facts, slides = facts[known], slides[known]
    names, members = np.unique(slides, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[members] % FOLDS
    distances = np.empty(len(facts))
    for held_out in np.unique(fold):
        own = fold == held_out
        distances[own] = fit_range(source, facts[~own], facts[own]).distances(facts[own])
    level = allowed_level(len(names))
    limit = slide_limit(distances, slides, level)
    return SlideRange(replace(fit_range(source, facts, facts), limit=limit), len(names), level)


def slides_table(
    looks: pd.DataFrame, columns: list[str], sources: list[str], domains: list[str], own: str
) -> pd.DataFrame:
    """A row for each source and laboratory: how much of it lies beyond the range of slides.

    A source whose slides allow none has no rows, and is named.

    Columns: source; target (the source itself: its test part); fitted_slides, level and limit of
    the range; images and slides of the target; beyond, the share of its images beyond, with exact
    limits, which mind slides; mean_of_slides, each slide counted as one: for new slides of the
    source 1 - level bounds its expectation, but for images without a nucleus; worst_slide.

    Args:
        looks: domain, part, group, and what each image looks like.
        columns: of the latter, as in `appearance`.
        own: the part of a source that its range is not of.
    """
    rows = []
    for source in sources:
        fitted = looks[(looks["domain"] == source) & (looks["part"] != own)]
        own_slides = fitted["group"].to_numpy(str)
        try:
            found = fit_slide_range(source, fitted[columns].to_numpy(float), own_slides)
        except UserError as error:  # one slide holds nearly all: the range of images stands
            say(f"note: no range of the {len(set(own_slides))} slides of {source}: {error}")
            continue
        for target in [source, *(domain for domain in domains if domain != source)]:
            chosen = looks[looks["domain"] == target]
            if target == source:
                chosen = chosen[chosen["part"] == own]
            outside = found.range.distances(chosen[columns].to_numpy(float)) > found.range.limit
            slides = chosen["group"].to_numpy(str)
            beyond = share(outside, slides)
            by_slide = pd.Series(outside).groupby(slides).mean()
            rows.append(
                {
                    "source": source,
                    "target": target,
                    "fitted_slides": found.slides,
                    "level": found.level,
                    "limit": found.range.limit,
                    "images": len(chosen),
                    "slides": len(by_slide),
                    "beyond": beyond.rate,
                    "beyond_low": beyond.low,
                    "beyond_high": beyond.high,
                    "mean_of_slides": by_slide.mean(),
                    "worst_slide": by_slide.max(),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)
