"""Submission: a user's own predictions as CSV in, scores with intervals and their place out.

The labels are those of a profile's finished runs, so that no image is needed and the user's answers
are judged on exactly the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.errors import UserError, suggest
from benchmark.evaluation import calibration, metrics
from benchmark.evaluation.bootstrap import Images
from benchmark.evaluation.columns import values
from benchmark.evaluation.experiments import Run, done_runs, load_experiments
from benchmark.evaluation.intervals import interval
from benchmark.evaluation.predictions import Answers, TestSet, read_answers
from benchmark.evaluation.tallies import HEADLINE, STATISTICS

NAMED = 3
"""images named in an error line"""
Finished = dict[str, tuple[Run, tuple[str, ...]]]


class Submission(NamedTuple):
    """Checked answers, one entry per row of the file."""

    images: list[str]
    domains: list[str | None]
    predicted: np.ndarray
    probabilities: np.ndarray | None
    """(images, classes), if the file has a column per class"""


def score_submission(path: Path, results: Path, scenario: str) -> Iterator[str]:
    """Lines that score a file of predictions on a scenario and place it among the methods.

    Columns: `image` (as in `predictions.parquet`, or the file name alone where that is
    unambiguous), `domain` (may be left out), and `prediction` (a class name) or one column of
    probabilities for each class. A domain without any row is not scored; within a domain every
    image is needed, once.

    Raises:
        UserError: one line for the first fault of the file, or no finished run of the scenario.
    """
    found = runs_of(Path(results), scenario)
    reference, classes = next(iter(found.values()))
    answers = read_answers(Path(results), reference, classes)
    submission = read_submission(Path(path), classes)
    placed, spare = place_rows(Path(path), submission, answers, reference)
    yield f"{path}: scored on {scenario}, {len(classes)} classes; intervals cover the images only"
    if spare:
        yield f"  {spare} rows name no test image of this scenario and were left out"
    macro_f1: dict[TestSet, tuple[float, np.ndarray]] = {}
    for test_set in reference.scenario.test_sets:
        name = f"{test_set[0]}{' (in-domain)' if test_set[1] == 'id_test' else ''}"
        if test_set not in placed:
            yield f"  {name}: no row, not scored"
            continue
        own, rows = answers[test_set], placed[test_set]
        predicted = submission.predicted[rows][None]
        images = Images("/".join(test_set), own.labels, own.groups, predicted, len(classes))
        found_values = {key: (o[0], d[0]) for key, (o, d) in values(images, STATISTICS).items()}
        macro_f1[test_set] = found_values[HEADLINE]
        texts = [f"{STATISTICS[key].title} {shown(*pair)}" for key, pair in found_values.items()]
        if submission.probabilities is not None:
            bins = calibration.reliability(submission.probabilities[rows], own.labels)
            error = calibration.expected_calibration_error(bins)
            texts.append(f"ECE {100 * error:.1f}")
        yield f"  {name}, n = {len(rows)}: {', '.join(texts)}"
    yield from place_lines(Path(results), found, macro_f1)


def shown(value: float, draws: np.ndarray) -> str:
    """`45.3 [43.1, 47.0]`, in per cent."""
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
    if not path.is_file():
        raise UserError(f"{path} is missing: name a CSV file with predictions")
    try:
        table = pd.read_csv(path, dtype={"image": str, "domain": str, "prediction": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    if "image" not in table:
        raise UserError(f"{path}: no column 'image'{suggest('image', table.columns)}")
    if not len(table):
        raise UserError(f"{path}: no rows")
    if table["image"].isna().any():
        raise UserError(f"{path}: line {int(table['image'].isna().argmax()) + 2}: no image")
    domains = table["domain"].tolist() if "domain" in table else [None] * len(table)
    images = [name.replace("\\", "/").removeprefix("./") for name in table["image"]]
    if "prediction" in table:
        unknown = ~table["prediction"].isin(classes)
        if unknown.any():
            line, name = int(unknown.argmax()) + 2, str(table["prediction"][unknown.argmax()])
            raise UserError(f"{path}: line {line}: unknown class '{name}'{suggest(name, classes)}")
        predicted = table["prediction"].map({c: i for i, c in enumerate(classes)}).to_numpy()
        return Submission(images, domains, predicted, None)
    missing = [name for name in classes if name not in table]
    if missing:
        raise UserError(
            f"{path}: no column 'prediction', and none of probabilities for '{missing[0]}'"
            f"{suggest(missing[0], table.columns)}"
        )
    numbers = table[list(classes)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    wrong = ~np.isfinite(numbers).all(axis=1) | (numbers < 0).any(axis=1)
    wrong |= np.abs(numbers.sum(axis=1) - 1) > 0.01
    if wrong.any():
        raise UserError(
            f"{path}: line {int(wrong.argmax()) + 2}: probabilities must be 0 or more and add up "
            "to 1: apply a softmax, or give a column 'prediction'"
        )
    return Submission(images, domains, numbers.argmax(axis=1), numbers)


def place_rows(
    path: Path, submission: Submission, answers: dict[TestSet, Answers], reference: Run
) -> tuple[dict[TestSet, np.ndarray], int]:
    """For each test set the row of every image, in the order of the labels; and rows left over.

    Raises:
        UserError: unknown domain; an image twice, ambiguous or missing; no image known at all.
    """
    test_sets = {domain: (domain, part) for domain, part in reference.scenario.test_sets}
    index: dict[tuple[str, str], int] = {}
    owners: dict[str, set[str]] = {}
    for domain, test_set in test_sets.items():
        names = answers[test_set].images
        files = [PurePosixPath(name).name for name in names]
        short = files if len(set(files)) == len(files) else []
        for keys in (short, names):
            for place, key in enumerate(keys):
                index[domain, str(key)] = place
                owners.setdefault(str(key), set()).add(domain)
    rows = {
        domain: np.full(len(answers[test_set].images), -1) for domain, test_set in test_sets.items()
    }
    spare = 0
    for row, (image, domain) in enumerate(zip(submission.images, submission.domains, strict=True)):
        if isinstance(domain, str) and domain not in test_sets:
            raise UserError(
                f"{path}: line {row + 2}: unknown domain '{domain}'{suggest(domain, test_sets)}"
            )
        own = {domain} if isinstance(domain, str) else owners.get(image, set())
        if len(own) > 1:
            raise UserError(
                f"{path}: line {row + 2}: image '{image}' is in {' and in '.join(sorted(own))}: "
                "add a column 'domain'"
            )
        place = index.get((next(iter(own), ""), image))
        if place is None:
            spare += 1
            continue
        (where,) = own
        if rows[where][place] >= 0:
            raise UserError(
                f"{path}: image '{image}' of {where} stands in lines {rows[where][place] + 2} and "
                f"{row + 2}: one answer each"
            )
        rows[where][place] = row
    placed = {}
    for domain, test_set in test_sets.items():
        gaps = answers[test_set].images[rows[domain] < 0]
        if len(gaps) == len(rows[domain]):
            continue
        if len(gaps):
            more = f" and {len(gaps) - NAMED} more" if len(gaps) > NAMED else ""
            raise UserError(
                f"{path}: {domain}: no answer for {', '.join(gaps[:NAMED])}{more}: every test "
                "image needs one"
            )
        placed[test_set] = rows[domain]
    if not placed:
        known = next(iter(answers.values())).images[0]
        raise UserError(f"{path}: none of its images is in the scenario; one is called '{known}'")
    return placed, spare


def place_lines(
    results: Path, found: Finished, macro_f1: dict[TestSet, tuple[float, np.ndarray]]
) -> Iterator[str]:
    """Where the file stands among the methods of each track, by mean macro-F1 over its targets.

    In-domain counts only where no target is answered.
    """
    sets = [test_set for test_set in macro_f1 if test_set[1] != "id_test"] or list(macro_f1)
    tracks: dict[str, dict[str, list[float]]] = {}
    for run, classes in found.values():
        answers = read_answers(results, run, classes)
        scores = [
            metrics.macro_f1(metrics.confusion_matrix(own.labels, own.predicted, len(classes)))
            for own in (answers[test_set] for test_set in sets)
        ]
        methods = tracks.setdefault(run.track, {})
        methods.setdefault(run.method.name, []).append(float(np.mean(scores)))
    own = float(np.mean([macro_f1[test_set][0] for test_set in sets]))
    draws = np.mean([macro_f1[test_set][1] for test_set in sets], axis=0)
    yield f"  mean macro-F1 over {', '.join(domain for domain, _ in sets)}: {shown(own, draws)}"
    for track, methods in tracks.items():
        table = {name: float(np.mean(per_seed)) for name, per_seed in methods.items()}
        place = 1 + sum(value > own for value in table.values())
        yield f"  place {place} of {len(table) + 1} among the {track} methods (mean over seeds)"
        ranking = sorted([*table.items(), ("this file", own)], key=lambda item: -item[1])
        for name, value in ranking:
            yield f"    {100 * value:5.1f}  {name}"
