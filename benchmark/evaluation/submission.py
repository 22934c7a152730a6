"""Submission: scores of a user's own predictions, with intervals, and their place among methods.

The labels are those of a profile's finished runs, so that no image is needed and the user's
predictions are scored on exactly the same ones.

A submission to the challenge WBCBench is scored against a file of true labels. WBCBench 2026 ranks
by macro-F1 over all 13 classes with `zero_division=0`; ties are broken by balanced accuracy, then
macro precision, then macro specificity.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark import metrics
from benchmark.errors import UserError, suggest
from benchmark.evaluation import calibration
from benchmark.evaluation.columns import counted_targets
from benchmark.evaluation.experiments import (
    RecordedRun,
    done_runs,
    load_experiments,
    predictions_of,
)
from benchmark.evaluation.intervals import interval
from benchmark.evaluation.resampling import JointPredictions, observed_and_drawn
from benchmark.files import write_text
from benchmark.study.predictions import Predictions, TestSet
from benchmark.tables import left_out, plain, read_table, shown, tidy, tidy_path

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
    return dict(zip(names, told_classes(path, labels, CLASSES), strict=True)), notes


TOLERANCE = 0.01
"""How far from 1 the probabilities of an image may add up, whatever their decimals: half-precision
numbers are off by less."""
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_SAID = ("", "nan", "na", "n/a", "null", "none")
"""What stands in a cell of numbers that holds none."""
Finished = dict[str, tuple[RecordedRun, tuple[str, ...]]]


class Submission(NamedTuple):
    """Checked predictions, one entry per row that has one."""

    lines: list[int]
    """of the file"""
    images: list[str]
    domains: list[str]
    """"" where the file does not tell"""
    predicted: np.ndarray
    probabilities: np.ndarray | None
    """(images, classes), adding up to 1, if the file has a column per class"""
    notes: list[str]
    """what a reader must know of how the file was read"""


def score_submission(path: Path, results: Path, scenario: str) -> Iterator[str]:
    """Lines that score a file of predictions on a scenario and place it among the methods.

    Columns: `image` (as in `predictions.parquet`, or a trailing part of that path where it is
    unambiguous), `domain` (may be left out), and `prediction` (a class name; `label`, as in the
    file that `predict` writes, is the same) or a column of probabilities for each class, called
    as the class or `p_<class>`. A domain without any row is not scored; within a domain every
    image is needed, once.

    Raises:
        UserError: one line for the first fault of the file, or no finished run of the scenario.
    """
    path, results = Path(path), Path(results)
    found = runs_of(results, scenario)
    reference, classes = next(iter(found.values()))
    predictions = predictions_of(results, reference, classes).known
    submission = read_submission(path, classes)
    placed, spare = place_rows(path, submission, predictions, reference)
    yield f"{path}: scored on {scenario}, {len(classes)} classes; intervals cover the images only"
    for note in submission.notes:
        yield f"  note: {note.removeprefix(f'{path}: ')}"
    if spare:
        yield (
            f"  note: {len(spare)} of {len(submission.images)} rows name no test image of this "
            f"scenario and were left out: {shown(spare)}"
        )
    macro_f1: dict[TestSet, tuple[float, np.ndarray]] = {}
    for test_set in reference.scenario.test_sets:
        name = f"{test_set[0]}{' (in-domain)' if test_set[1] == 'id_test' else ''}"
        own = predictions[test_set]
        if test_set not in placed:
            yield f"  {name}: no row, its {len(own.images)} test images are not scored"
            continue
        rows = placed[test_set]
        predicted = submission.predicted[rows][None]
        images = JointPredictions(
            "/".join(test_set), own.labels, own.groups, predicted, len(classes)
        )
        texts = []
        for key, (value, draws) in observed_and_drawn(images, metrics.TABLED).items():
            texts.append(f"{metrics.TABLED[key].title} {with_interval(value[0], draws[0])}")
            if key == metrics.HEADLINE:
                macro_f1[test_set] = value[0], draws[0]
        if submission.probabilities is not None:
            bins = calibration.reliability(submission.probabilities[rows], own.labels)
            error = calibration.expected_calibration_error(bins)
            texts.append(f"ECE {100 * error:.1f}")
        yield f"  {name}, n = {len(rows)}: {', '.join(texts)}"
    yield from place_lines(results, found, predictions, macro_f1)


def write_test_images(path: Path, results: Path, scenario: str) -> int:
    """Write the images that a scenario tests, as a CSV of image and domain; return their number.

    Raises:
        UserError: no finished run of the scenario.
    """
    reference, classes = next(iter(runs_of(Path(results), scenario).values()))
    predictions = predictions_of(Path(results), reference, classes).known
    rows = [
        (image, test_set[0])
        for test_set in reference.scenario.test_sets
        for image in predictions[test_set].images
    ]
    table = pd.DataFrame(rows, columns=["image", "domain"])
    write_text(Path(path), table.to_csv(index=False, lineterminator="\n"))
    return len(table)


def with_interval(value: float, draws: np.ndarray) -> str:
    """`45.3 [43.1, 47.0]`, in per cent; `–` where no class has the images that a score needs."""
    if not np.isfinite(value):
        return "–"
    mean, low, high, _ = interval(draws, value, 1)
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def runs_of(results: Path, scenario: str) -> Finished:
    """The finished runs of a scenario, by run id."""
    found = done_runs(load_experiments(results))
    known = {run.scenario.name for run, _ in found.values()}
    if scenario not in known:
        raise UserError(f"{results}: no finished run of scenario '{scenario}'"
                        f"{suggest(scenario, known)}")  # fmt: skip
    return {key: pair for key, pair in found.items() if pair[0].scenario.name == scenario}


def read_submission(path: Path, classes: tuple[str, ...]) -> Submission:
    """Read and check a file of predictions by itself."""
    chances = {name: (name, f"p_{name}") for name in classes}
    optional = ["domain", "prediction", "label", *(n for pair in chances.values() for n in pair)]
    table, notes = read_table(path, ["image"], optional)
    if table.empty:
        raise UserError(f"{path}: no rows")
    columns = columns_of_classes(path, table, chances)
    answer = next((name for name in ("prediction", "label") if name in table), None)
    if answer is None and not columns:
        raise UserError(
            f"{path}: no column 'prediction', and none of probabilities for '{classes[0]}'"
            f"{suggest(classes[0], table.columns)}"
        )
    if answer == "prediction" and "label" in table:
        notes.append(f"{path}: the column 'prediction' is scored, 'label' is not read")
    silent = pd.Series(True, index=table.index)
    for column in [*columns, *([answer] if answer else [])]:
        silent &= table[column].map(plain).isin(NOT_SAID if column != answer else [""])
    notes += left_out(path, table.index[silent], "without an answer")
    table = table[~silent]
    if table.empty:
        raise UserError(f"{path}: no row has an answer")
    unnamed = table["image"].map(plain) == ""
    if unnamed.any():
        raise UserError(f"{path}: line {table.index[unnamed][0]}: no image")
    images = [tidy_path(name) for name in table["image"]]
    domains = [text.strip() for text in table["domain"]] if "domain" in table else [""] * len(table)
    told = told_classes(path, table[answer], classes) if answer else None
    if not columns:
        return Submission([*table.index], images, domains, told, None, notes)
    numbers, more = read_probabilities(path, table[columns])
    predicted = numbers.argmax(axis=1)
    highest = numbers >= numbers.max(axis=1, keepdims=True) - 1e-9
    if told is not None:
        against = ~highest[np.arange(len(told)), told]
        if against.any():
            row = int(against.argmax())
            raise UserError(
                f"{path}: line {table.index[row]}: the {answer} is {classes[told[row]]}, the "
                f"highest probability that of {classes[predicted[row]]} ({int(against.sum())} "
                "such rows): which one is meant? Remove the other"
            )
        predicted = told
    elif ties := int((highest.sum(axis=1) > 1).sum()):
        more.append(
            f"{ties} rows have two highest probabilities that are equal as written: the first "
            "class counts; more decimals or a column 'prediction' would tell"
        )
    return Submission([*table.index], images, domains, predicted, numbers, notes + more)


def columns_of_classes(
    path: Path, table: pd.DataFrame, chances: dict[str, tuple[str, str]]
) -> list[str]:
    """The columns of probabilities, in the order of the classes; none if there are none.

    Raises:
        UserError: a class has two, or none where others have one.
    """
    found = {name: [form for form in forms if form in table] for name, forms in chances.items()}
    if not any(found.values()):
        return []
    for name, columns in found.items():
        if not columns:
            near = suggest(name, table.columns)
            raise UserError(f"{path}: no column of probabilities for '{name}'{near}")
        if len(columns) > 1:
            raise UserError(f"{path}: '{name}' has two columns, {' and '.join(columns)}: keep one")
    return [column for (column,) in found.values()]


def told_classes(path: Path, answers: pd.Series, classes: tuple[str, ...]) -> np.ndarray:
    """Class index of each answer in words."""
    places = {plain(name): place for place, name in enumerate(classes)}
    found = answers.map(plain).map(places)
    if found.isna().any():
        line = found.index[found.isna()][0]
        name = answers[line].strip()
        what = f"unknown class '{name}'{suggest(name, classes)}" if name else "no class"
        raise UserError(f"{path}: line {line}: {what}")
    return found.to_numpy(np.int64)


def read_probabilities(path: Path, table: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Probabilities (rows, columns) that add up to 1, and a note where they were made to.

    Rounded to d decimals, C numbers may add up to as much as C / 2 units of the last decimal more
    or less than 1. A comma may stand for the decimal point.

    Raises:
        UserError: with the line, a cell that holds no number; numbers that are no probabilities.
    """
    texts = table.map(str.strip)
    for column in texts:
        bad = ~texts[column].map(lambda text: NUMBER.fullmatch(text) is not None)
        if bad.any():
            line = texts.index[bad][0]
            raise UserError(f"{path}: line {line}: {column} is '{texts[column][line]}', no number")
    numbers = texts.map(lambda text: float(text.replace(",", "."))).to_numpy(float)
    sums = numbers.sum(axis=1)
    tolerance = max(TOLERANCE, rounding(numbers)) + 1e-9
    wrong = (numbers < 0).any(axis=1) | ~(np.abs(sums - 1) <= tolerance)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}: line {table.index[row]}: probabilities must be 0 or more and add up to 1, "
            f"here to {sums[row]:.6g} ({int(wrong.sum())} such rows): apply a softmax, write more "
            "decimals, or give a column 'prediction'"
        )
    notes = []
    rounded = np.abs(sums - 1) > 1e-6
    if rounded.any():
        notes.append(
            f"the probabilities of {int(rounded.sum())} rows add up to {sums.min():.6g} to "
            f"{sums.max():.6g}, as rounded numbers do: each row was divided by its sum"
        )
    return numbers / sums[:, None], notes


def rounding(numbers: np.ndarray) -> float:
    """How far rounding can move the sum of a row of numbers (rows, columns) from 1.

    Told by the number that has the most decimals, for final zeros may not be written; 0 if all are
    whole, for then nothing was rounded.
    """
    # Nine digits: what binary fractions add to a decimal number stands behind them.
    decimals = {-Decimal(f"{number:.9g}").as_tuple().exponent for number in np.unique(numbers)}
    most = max(decimals, default=0)
    return numbers.shape[1] * 0.5 * 10.0**-most if most > 0 else 0.0


def place_rows(
    path: Path,
    submission: Submission,
    predictions: dict[TestSet, Predictions],
    reference: RecordedRun,
) -> tuple[dict[TestSet, np.ndarray], list[str]]:
    """For each test set the row of every image, in the order of the labels; and images left over.

    Raises:
        UserError: unknown domain; an image twice, ambiguous or missing; no image known at all.
    """
    test_sets = {domain: (domain, part) for domain, part in reference.scenario.test_sets}
    images = {domain: predictions[test_set].images for domain, test_set in test_sets.items()}
    by_name = {plain(domain): domain for domain in test_sets}
    # Name, or trailing part of one → (domain, place among its images) of all that are called so.
    names: dict[str, list[tuple[str, int]]] = defaultdict(list)
    tails: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for domain, own in images.items():
        for place, image in enumerate(map(tidy_path, own)):
            names[image].append((domain, place))
            for tail in tails_of(image):
                tails[tail].append((domain, place))
    rows = {domain: np.full(len(own), -1) for domain, own in images.items()}
    spare = []
    for row, (line, image, domain) in enumerate(
        zip(submission.lines, submission.images, submission.domains, strict=True)
    ):
        where = f"{path}: line {line}"
        if domain and plain(domain) not in by_name:
            raise UserError(f"{where}: unknown domain '{domain}'{suggest(domain, test_sets)}")
        allowed = {by_name[plain(domain)]} if domain else set(test_sets)
        # The path as we have it, or else a shorter one or a longer one.
        near = [*tails.get(image, ()), *(p for t in tails_of(image) for p in names.get(t, ()))]
        found = [place for place in names.get(image, ()) if place[0] in allowed]
        found = found or [place for place in near if place[0] in allowed]
        domains = sorted({domain for domain, _ in found})
        if len(domains) > 1:
            raise UserError(
                f"{where}: image '{image}' is in {' and in '.join(domains)}: add a column 'domain'"
            )
        if len(found) > 1:
            candidates = shown(images[domain][place] for domain, place in found)
            raise UserError(
                f"{where}: image '{image}' may be any of {candidates}: write its folders too"
            )
        if not found:
            spare.append(image)
            continue
        domain, place = found[0]
        if rows[domain][place] >= 0:
            raise UserError(
                f"{path}: image '{image}' of {domain} stands in lines "
                f"{submission.lines[rows[domain][place]]} and {line}: one answer each"
            )
        rows[domain][place] = row
    placed = {}
    for domain, own in rows.items():
        gaps = images[domain][own < 0]
        if 0 < len(gaps) < len(own):
            raise UserError(
                f"{path}: {domain}: no answer for {len(gaps)} of {len(own)} test images, "
                f"{shown(gaps)}: every test image needs one (--images FILE lists them)"
            )
        if not len(gaps):
            placed[test_sets[domain]] = own
    if not placed:
        known = next(iter(predictions.values())).images[0]
        raise UserError(f"{path}: none of its images is in the scenario; one is called '{known}'")
    return placed, spare


def tails_of(path: str) -> Iterable[str]:
    """The trailing parts of a path, without the whole of it: `b/c` and `c` of `a/b/c`."""
    parts = path.split("/")
    return ("/".join(parts[start:]) for start in range(1, len(parts)))


def place_lines(
    results: Path,
    found: Finished,
    predictions: dict[TestSet, Predictions],
    macro_f1: dict[TestSet, tuple[float, np.ndarray]],
) -> Iterator[str]:
    """Where the file stands among the methods of each track, by mean macro-F1 over its targets.

    In-domain, and targets that enter no mean, count only where no other is predicted; a test set
    without any class of ten images has no score.
    """
    reference, classes = next(iter(found.values()))
    test_sets = reference.scenario.test_sets[1:]
    counts = [np.bincount(predictions[t].labels, minlength=len(classes)) for t in test_sets]
    counted = counted_targets(reference.scenario, np.reshape(counts, (-1, len(classes))))
    known = [test_set for test_set in macro_f1 if np.isfinite(macro_f1[test_set][0])]
    targets = [test_set for test_set in known if test_set[1] != "id_test"]
    sets = [test_set for test_set in targets if test_set[0] in counted] or targets or known
    if not sets:
        yield "  no class has the ten images that a mean and a place among the methods need"
        return
    tracks: dict[str, dict[str, list[float]]] = {}
    for run, classes in found.values():
        theirs = predictions_of(results, run, classes).known
        scores = [
            metrics.macro_f1(metrics.confusion_matrix(own.labels, own.predicted, len(classes)))
            for own in (theirs[test_set] for test_set in sets)
        ]
        methods = tracks.setdefault(run.track, {})
        methods.setdefault(run.method.name, []).append(float(np.mean(scores)))
    own = float(np.mean([macro_f1[test_set][0] for test_set in sets]))
    draws = np.mean([macro_f1[test_set][1] for test_set in sets], axis=0)
    names = ", ".join(domain for domain, _ in sets)
    yield f"  mean macro-F1 over {names}: {with_interval(own, draws)}"
    for track, methods in tracks.items():
        ranking = [("this file", own)]
        for name, values in methods.items():
            seeds = f"{len(values)} {'seed' if len(values) == 1 else 'seeds'}"
            ranking.append((f"{name} ({seeds})", float(np.mean(values))))
        place = 1 + sum(value > own for _, value in ranking)
        yield f"  place {place} of {len(ranking)} among the {track} methods (mean over seeds)"
        # Of equal values, a file's own comes last.
        for name, value in sorted([*ranking[1:], ranking[0]], key=lambda item: -item[1]):
            yield f"    {100 * value:5.1f}  {name}"
