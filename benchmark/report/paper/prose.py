r"""Prose about a profile's results in; the same with its numbers filled in, out.

`paper/<profile>/*.tex` name numbers and hold none, so that none of them can grow old. METHOD is a
method's name in the code, or `majority` for the constant answer; COLUMN is `in_domain`,
`mean_target`, `worst_target` or a domain:

- `\score{SCENARIO}{METHOD}{COLUMN}`: macro-F1 in per cent, with its interval if it has one;
  `\accuracy{...}` the same of accuracy; `\mean{...}` macro-F1 without the interval.
- `\difference{SCENARIO}{METHOD}{OTHER}{COLUMN}`: macro-F1 of a method minus that of another one
  that differs from it in a single part, in points, from `effects.parquet`.
- `\isshown{SCENARIO}{METHOD}{OTHER}{COLUMN}`: "shown" or "not shown" and the p-value of that
  difference, corrected for all single-part ablations of the profile.
- `\compared{SCENARIO}{METHOD}{COLUMN}`: "lies, with its whole interval, below", "... above" or
  "with this interval cannot be told from": where a method's interval, of this one number and
  corrected for no other, lies to the constant answer's score. No test of a difference is behind it.
- `\tally{SCENARIO}{VERDICT}{PART}`: of single changes of a part, or of any without PART, how many
  `helped`, `harmed` or did `neither` on the mean of targets after correction, or were looked at at
  `all`; SCENARIO is `*` for all whose targets are other laboratories.
- `\helpers{SCENARIO}`: the single changes that are shown to help there, in words.
- `\best{SCENARIO}` and `\bestscore{SCENARIO}{COLUMN}`: the inductive method with the highest mean
  of targets, in words, and its macro-F1.
- `\leastloss{SCENARIO}`: the smallest loss of any inductive method, from home to the mean of
  targets, in points.
- `\rankcorrelation{SCENARIO}`: Kendall's tau of the inductive methods at home and elsewhere.
- `\onename{SCENARIO}{METHOD}{DOMAIN}`: per cent of a target's cells that get the answer which is
  given most often there, over all seeds.
- `\rejected{SCENARIO}{METHOD}{home|elsewhere}{rejected|accuracy}`: per cent rejected, or right
  among the accepted, at the source's threshold on the largest probability.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmark.errors import UserError
from benchmark.evaluation.compare import p_text
from benchmark.evaluation.comparisons import significant
from benchmark.evaluation.scores import MAJORITY
from benchmark.report.claims import signed
from benchmark.report.paper.latex import joined, tex
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.words import method_words
from benchmark.report.table import Cell
from benchmark.report.write import cell_text, number

Fillings = dict[str, Callable[..., str]]
"""What a text may name → the function that gives its LaTeX."""


def fillings(own: Readings) -> Fillings:
    """What a text about these results may name."""
    kinds = {
        "score": lambda *words: cell_text(own.score(*words)),
        "accuracy": lambda *words: cell_text(own.score(*words, "accuracy")),
        "mean": lambda *words: number(own.score(*words).mean),
        "difference": lambda *words: signed(own.difference(*words)),
        "isshown": lambda *words: verdict(own.difference(*words)),
        "compared": lambda *words: compared(own, *words),
        "tally": lambda *words: str(tally(own, *words) or "none"),
        "best": lambda scenario: method_words(own.best(scenario)),
        "bestscore": lambda scenario, column: cell_text(
            own.score(scenario, own.best(scenario), column)
        ),
        "helpers": lambda scenario: joined(own.helpers(scenario) or ["none"]),
        "leastloss": lambda scenario: number(own.least_loss(scenario)),
        "rankcorrelation": lambda scenario: number(own.tau(scenario), 2),
        "onename": lambda *words: number(own.one_name(*words)),
        "rejected": lambda *words: number(own.rejected(*words)),
    }
    return {name: lambda *words, kind=kind: tex(kind(*words)) for name, kind in kinds.items()}


def prose(path: Path, kinds: Fillings) -> str:
    """A text with its `fillings`, ready for LaTeX.

    Raises:
        UserError: there is no such text; a number that the results do not hold, or that is not
            named unmistakably.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the paper is about profiles with prose of their own "
            f"({path.parent.parent}/<profile>/)"
        )

    def filled(line: int, kind: str, words: list[str]) -> str:
        try:
            return kinds[kind](*words)
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}, line {line}: \\{kind}: {error}") from None

    named = re.compile(rf"\\({'|'.join(kinds)})((?:\{{[^{{}}]*\}})+)")
    lines = path.read_text(encoding="utf-8").splitlines()
    return "".join(
        named.sub(lambda m, n=n: filled(n, m[1], re.findall(r"\{([^{}]*)\}", m[2])), line) + "\n"
        for n, line in enumerate(lines, 1)
    )


def compared(readings: Readings, scenario: str, method: str, column: str) -> str:
    """On which side of the constant answer's score the interval of a method lies."""
    own: Cell = readings.score(scenario, method, column)
    constant = readings.score(scenario, MAJORITY, column).mean
    if not own.low <= own.high:
        raise ValueError(f"{method} has no interval there")
    if own.low <= constant <= own.high:
        return "with this interval cannot be told from"
    return f"lies, with its whole interval, {'below' if own.high < constant else 'above'}"


def verdict(row: pd.Series) -> str:
    """`not shown, p = 0.41`."""
    return f"{'shown' if significant(row['p_holm']) else 'not shown'}, {p_text(row['p_holm'])}"


def tally(readings: Readings, scenario: str, what: str, part: str = "") -> int:
    """How many single changes have a verdict."""
    counts = readings.tally(scenario, part)
    if what not in counts:
        raise ValueError(f"{what} is none of {', '.join(counts)}")
    return counts[what]
