"""Ranks: a critical-difference diagram of the methods of an experiment (Demšar 2006).

Blocks are the pairs of target and seed that all methods share. They are no independent sample of
laboratories: seeds meet the same images, and targets are few. The diagram is therefore too sure of
itself, and it says so; the paired tests of the tables are the evidence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from benchmark.drawing import INK, PAGE_WIDTH, canvas
from benchmark.evaluation.experiments import Experiment, RecordedRun
from benchmark.metrics import HEADLINE
from benchmark.report.results import Scores, plain_targets, values

FEWEST = 3
"""methods for which ranks say more than a difference, and blocks behind them"""
LEVEL = 0.05


class Ranking(NamedTuple):
    """Mean ranks over blocks and the tests on them."""

    methods: tuple[str, ...]
    """best first"""
    ranks: np.ndarray
    blocks: int
    p: float
    """Friedman's, of no difference between the methods"""
    critical: float
    """Nemenyi's critical difference of mean ranks at 5 %"""
    left_out: tuple[str, ...]
    """methods that lack a block of the others"""


def nemenyi(methods: int, blocks: int) -> float:
    """q_0.05 √(k (k + 1) / 6N), q the studentised range over √2 (Demšar 2006, equation 5)."""
    q = stats.studentized_range.ppf(1 - LEVEL, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def ranking(experiment: Experiment, track: str, scores: Scores) -> Ranking | None:
    """Rank the methods of one track; None where there is too little to rank."""
    table: dict[str, dict[tuple[str, str, int], float]] = {}
    for (scenario, kind), runs in experiment.blocks().items():
        if kind == track:
            for run in filter(lambda run: run.done, runs):
                targets = plain_targets(scenario)
                add(table, run, [t for t in targets if t in scores.counted[scenario.name]], scores)
    most = max(map(len, table.values()), default=0)
    methods = [name for name, own in table.items() if len(own) == most]
    shared = set.intersection(*(set(table[name]) for name in methods)) if methods else set()
    if len(methods) < FEWEST or len(shared) < FEWEST:
        return None
    grid = np.array([[table[name][block] for block in sorted(shared)] for name in methods])
    ranks = stats.rankdata(-grid, axis=0).mean(axis=1)
    order = np.argsort(ranks, kind="stable")
    return Ranking(
        tuple(methods[place] for place in order),
        ranks[order],
        len(shared),
        float(stats.friedmanchisquare(*grid).pvalue),
        nemenyi(len(methods), len(shared)),
        tuple(name for name in table if name not in methods),
    )


def add(table: dict, run: RecordedRun, targets: list[str], scores: Scores) -> None:
    """Put a run's scores into the table: method → (scenario, target, seed) → value."""
    test_sets = tuple((target, "shifted") for target in targets)
    for target, value in zip(
        targets, values(scores, [run.run_id], test_sets, HEADLINE)[0], strict=True
    ):
        if not np.isnan(value):
            table.setdefault(run.method.name, {})[run.scenario.name, target, run.seed] = value


def cliques(ranks: np.ndarray, critical: float) -> list[tuple[int, int]]:
    """First and last place of each longest run of ascending ranks within the difference."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = int(np.searchsorted(ranks, ranks[first] + critical, side="right")) - 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def rank_figure(ranked: Ranking) -> Figure:
    """The diagram: mean ranks on an axis, bars over methods without a significant difference."""
    groups = cliques(ranked.ranks, ranked.critical)
    half = -(-len(ranked.methods) // 2)
    height = 20.5 + 2.4 * len(groups) + 3.6 * half
    names = 1.15 * max(map(len, ranked.methods)) + 14
    figure, axes = canvas(height, min(2 * names + 58, PAGE_WIDTH))
    draw(axes, ranked, groups, half)
    return figure


def draw(axes: Axes, ranked: Ranking, groups: list[tuple[int, int]], half: int) -> None:
    """In mm from the top left: axis, bars, and names on both sides."""
    middle, top = axes.get_xlim()[1] / 2, 15.0
    left, right = middle - 29, middle + 29
    count = len(ranked.methods)

    def at(rank: float) -> float:
        return left + (rank - 1) / (count - 1) * (right - left)

    axes.plot([left, right], [top, top], color=INK, linewidth=0.8)
    for tick in range(1, count + 1):
        axes.plot([at(tick)] * 2, [top - 1.2, top], color=INK, linewidth=0.8)
        if count < 13 or tick % 2:
            axes.text(at(tick), top - 2, str(tick), ha="center", va="bottom", fontsize=6.5)
    end = min(at(1 + ranked.critical), right)
    axes.plot([left, end], [6.5, 6.5], color=INK, linewidth=1.2)
    for x in (left, end):
        axes.plot([x, x], [5.7, 7.3], color=INK, linewidth=0.8)
    p = "p < 0.001" if ranked.p < 0.001 else f"p = {ranked.p:.3f}"
    text = f"critical difference {ranked.critical:.2f} ranks; Friedman {p}; {ranked.blocks} blocks"
    axes.text(left, 4.6, text, ha="left", va="bottom", fontsize=6.5)
    for place, (first, last) in enumerate(groups):
        y = top + 2.4 + 2.4 * place
        ends = [at(ranked.ranks[first]) - 0.7, at(ranked.ranks[last]) + 0.7]
        axes.plot(ends, [y, y], color="#D55E00", linewidth=2.2, solid_capstyle="butt")
    below = top + 4 + 2.4 * len(groups)
    for place, (name, rank) in enumerate(zip(ranked.methods, ranked.ranks, strict=True)):
        first_half = place < half
        y = below + 3.6 * (place if first_half else count - 1 - place)
        side = left - 2 if first_half else right + 2
        axes.plot([at(rank), at(rank), side], [top, y, y], color="#666666", linewidth=0.6)
        words = f"{name}  {rank:.2f}" if first_half else f"{rank:.2f}  {name}"
        axes.text(side + (-1 if first_half else 1), y, words, va="center", fontsize=6.2,
                  ha="right" if first_half else "left")  # fmt: skip
