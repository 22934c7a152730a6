"""Full factorial experiments: which part of a method, or which two together, a score depends on.

Analysis of variance of an experiment that crosses the choices of several parts. A run is an
observation. Seeds are the replicates of a cell, and blocks, since a seed draws the order of
the images and, under cross-fitting, the fold that is held out for all methods alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations

import pandas as pd

from benchmark.evaluation.experiments import RecordedMethod
from benchmark.parts import PARTS

FEWEST_PARTS = 3
"""Parts crossed from which on effects are told: the table of scores itself shows two."""
SEED, RESIDUAL = "seed", "residual"
"""Terms beside those of the parts: the blocks, and what seeds of a cell differ by beyond them."""
SCORE = "score"


def crossed_parts(methods: Iterable[RecordedMethod]) -> dict[str, list[str]]:
    """Part → its choices, in plan order, of methods that cross several parts, each cell once.

    Empty where the methods cross fewer than `FEWEST_PARTS`, or a cell is planned by none or two.
    """
    planned = list(methods)
    choices = {
        part: list(dict.fromkeys(getattr(method, part) or "" for method in planned))
        for part in PARTS
    }
    crossed = {part: own for part, own in choices.items() if len(own) > 1}
    cells = {tuple(getattr(method, part) for part in crossed) for method in planned}
    alike = len({method.training for method in planned}) == 1
    whole = len(cells) == len(planned) == math.prod(map(len, crossed.values()))
    return crossed if whole and alike and len(crossed) >= FEWEST_PARTS else {}


def analysis_of_variance(runs: pd.DataFrame, parts: Sequence[str]) -> pd.DataFrame:
    """Sums of squares of type II: of each part, each pair of parts, and all higher interactions.

    An effect is what a model of all effects that do not contain it explains less than one with it
    (type II; in a grid with as many seeds in every cell all types are one). It is tested against
    the runs' scatter about their cells, seeds taken off; where every cell has a single seed, there
    is none, and the interactions of three parts or more stand in its place.

    Args:
        runs: a row per run: a column for each part, `seed`, and `score`. Every cell has a run.
        parts: the columns that are crossed.

    Returns:
        A row per term, in the order of `parts`, then their pairs, `higher interactions`, `SEED` and
        `RESIDUAL`: `term`, `freedom`, `squares`, `share` (of the total sum of squares), `partial`
        (partial eta squared), `f`, `p`; the last three NaN where nothing is tested.
    """
    # They take two seconds, and few reports have a crossed grid.
    from scipy.stats import f as distribution
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    names = [f"C({part})" for part in parts]
    block = f" + C({SEED})" if runs[SEED].nunique() > 1 else ""
    pairs = ols(f"{SCORE} ~ ({' + '.join(names)}) ** 2{block}", runs).fit()
    whole = ols(f"{SCORE} ~ {' * '.join(names)}{block}", runs).fit()
    replicated = whole.df_resid > 0
    error = whole if replicated else pairs
    with warnings.catch_warnings():
        # An effect without variance has no F; it is NaN, as is said.
        warnings.simplefilter("ignore", RuntimeWarning)
        table = anova_lm(pairs, typ=2)
    terms = [(part,) for part in parts] + list(combinations(parts, 2))
    explained = {
        " × ".join(term): table.loc[":".join(f"C({part})" for part in term)] for term in terms
    }
    rows = [(name, row["df"], row["sum_sq"]) for name, row in explained.items()]
    if replicated and pairs.df_resid > whole.df_resid:
        higher = pairs.df_resid - whole.df_resid, pairs.ssr - whole.ssr
        rows.append(("higher interactions", *higher))
    tested = len(rows)
    if block:
        own = table.loc[f"C({SEED})"]
        rows.append((SEED, own["df"], own["sum_sq"]))
    left, squares_left = error.df_resid, error.ssr
    rows.append((RESIDUAL, left, squares_left))
    found = pd.DataFrame(rows, columns=["term", "freedom", "squares"]).astype({"freedom": int})
    squares, freedom = (found[name].where(found.index < tested) for name in ("squares", "freedom"))
    variance = squares_left / left if left and squares_left > 0 else math.nan
    total = float(((runs[SCORE] - runs[SCORE].mean()) ** 2).sum())
    found["share"] = found["squares"] / total if total else math.nan
    found["partial"] = squares / (squares + squares_left)
    found["f"] = squares / freedom / variance
    found["p"] = distribution.sf(found["f"], freedom, left)
    return found
