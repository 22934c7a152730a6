"""WBCBench: a submission `ID,labels` and the true labels in, the challenge's scores out.

WBCBench 2026 ranks by macro-F1 over all 13 classes with `zero_division=0`; ties are broken by
balanced accuracy, then macro precision, then macro specificity.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.errors import UserError, suggest
from benchmark.evaluation import metrics
from benchmark.tables import plain, read_table, shown, tidy

CLASSES = ("SNE", "LY", "MO", "BL", "EO", "BNE", "MY", "MMY", "VLY", "BA", "PMY", "PC", "PLY")
COLUMNS = ["ID", "labels"]


class ChallengeScore(NamedTuple):
    """In the order in which the challenge ranks: two submissions compare as tuples."""

    macro_f1: float
    balanced_accuracy: float
    macro_precision: float
    macro_specificity: float


def score_challenge(submission: Path, truth: Path) -> tuple[ChallengeScore, list[str]]:
    """Score a submission against a file of true labels, both with the columns `ID,labels`.

    Macro-F1 and macro precision are over all 13 classes, 0 for one that never occurs; balanced
    accuracy and macro specificity over those that occur. With the scores come the number of images
    and notes of how the files were read.

    Raises:
        UserError: one line for the first fault: columns, unknown class, an ID twice or missing.
    """
    answers, notes = read_labels(Path(submission))
    labels, more = read_labels(Path(truth))
    if missing := [f"'{name}'" for name in labels if name not in answers]:
        raise UserError(f"{submission}: no answer for {len(missing)} of {len(labels)} IDs of "
                        f"{truth}: {shown(missing)}")  # fmt: skip
    if extra := [name for name in answers if name not in labels]:
        raise UserError(
            f"{submission}: {len(extra)} IDs are not in {truth}, first '{extra[0]}'"
            f"{suggest(extra[0], labels)}"
        )
    pairs = np.array([(label, answers[name]) for name, label in labels.items()]).T
    confusion = metrics.confusion_matrix(*pairs, len(CLASSES))
    score = ChallengeScore(
        float(metrics.macro_f1_all(confusion)),
        float(metrics.balanced_accuracy(confusion)),
        float(np.nan_to_num(metrics.precision(confusion)).mean()),
        float(metrics.macro_specificity(confusion)),
    )
    return score, [f"{len(labels)} images", *notes, *more]


def read_labels(path: Path) -> tuple[dict[str, int], list[str]]:
    """Class index by ID, and notes of how the file was read."""
    table, notes = read_table(path, COLUMNS)
    if table.empty:
        raise UserError(f"{path}: no rows")
    names, labels = table["ID"].map(tidy), table["labels"].map(tidy)
    for column, texts in (("ID", names), ("label", labels)):
        if (texts == "").any():
            raise UserError(f"{path}: line {texts.index[texts == ''][0]}: no {column}")
    twice = names.duplicated()
    if twice.any():
        line = names.index[twice][0]
        raise UserError(f"{path}: line {line}: ID '{names[line]}' stands twice")
    places = {plain(name): place for place, name in enumerate(CLASSES)}
    found = labels.map(plain).map(places)
    if found.isna().any():
        line = found.index[found.isna()][0]
        name = labels[line]
        raise UserError(f"{path}: line {line}: unknown class '{name}'{suggest(name, CLASSES)}")
    return dict(zip(names, found.astype(int), strict=True)), notes
