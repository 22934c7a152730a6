"""WBCBench: a submission `ID,labels` and the true labels in, the challenge's scores out.

WBCBench 2026 ranks by macro-F1 over all 13 classes with `zero_division=0`; ties are broken by
balanced accuracy, then macro precision, then macro specificity.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.errors import UserError, suggest
from benchmark.evaluation import metrics

CLASSES = ("SNE", "LY", "MO", "BL", "EO", "BNE", "MY", "MMY", "VLY", "BA", "PMY", "PC", "PLY")
COLUMNS = ["ID", "labels"]


class ChallengeScore(NamedTuple):
    """In the order in which the challenge ranks: two submissions compare as tuples."""

    macro_f1: float
    balanced_accuracy: float
    macro_precision: float
    macro_specificity: float


def score_challenge(submission: Path, truth: Path) -> ChallengeScore:
    """Score a submission against a file of true labels, both with the columns `ID,labels`.

    Macro-F1 and macro precision are over all 13 classes, 0 for one that never occurs; balanced
    accuracy and macro specificity over those that occur.

    Raises:
        UserError: one line for the first fault: columns, unknown class, an ID twice or missing.
    """
    answers, labels = read_labels(Path(submission)), read_labels(Path(truth))
    if missing := [name for name in labels if name not in answers]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{submission}: no answer for ID '{missing[0]}'{more}")
    if extra := [name for name in answers if name not in labels]:
        near = suggest(extra[0], labels)
        raise UserError(f"{submission}: ID '{extra[0]}' is not in {truth}{near}")
    pairs = np.array([(label, answers[name]) for name, label in labels.items()]).T
    confusion = metrics.confusion_matrix(*pairs, len(CLASSES))
    return ChallengeScore(
        float(metrics.macro_f1_all(confusion)),
        float(metrics.balanced_accuracy(confusion)),
        float(np.nan_to_num(metrics.precision(confusion)).mean()),
        float(metrics.macro_specificity(confusion)),
    )


def read_labels(path: Path) -> dict[str, int]:
    """Class index by ID."""
    if not path.is_file():
        raise UserError(f"{path} is missing: name a CSV file with the columns ID,labels")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    if list(table.columns) != COLUMNS:
        raise UserError(f"{path}: columns are {','.join(table.columns)}: name them ID,labels")
    if not len(table):
        raise UserError(f"{path}: no rows")
    twice = table["ID"].duplicated()
    if twice.any():
        raise UserError(f"{path}: ID '{table['ID'][twice.argmax()]}' stands twice")
    unknown = ~table["labels"].isin(CLASSES)
    if unknown.any():
        line, name = int(unknown.argmax()) + 2, table["labels"][unknown.argmax()]
        raise UserError(f"{path}: line {line}: unknown class '{name}'{suggest(name, CLASSES)}")
    places = {name: place for place, name in enumerate(CLASSES)}
    return dict(zip(table["ID"], table["labels"].map(places), strict=True))
