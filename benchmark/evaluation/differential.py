"""Differential counts: how far the count of a smear by a network is from the patient's.

Smears are drawn from a test set's cells, with replacement, at the class shares of model patients
(`datasets/haematology/prevalences.yaml`): a class that the set has fewer than ten images of is not
drawn, and the others share what is left. All cells of one class in a smear are of one slide or
patient, where the set names one with ten images of that class; smaller groups are drawn from
together. The same smears meet every network, and the first 100 cells of a smear of 400 are its
smear of 100. What a drawn smear lacks is what a test set lacks: cells of no class, artefacts, and
more slides than it has.

The truth is the patient's share. A count is *inside* if the truth lies within the count's exact
binomial limits (Clopper-Pearson, 95 %), which are those of Rümke's table, by which CLSI H20-A2
compares two counts. Differences of Bland and Altman (1986) and the slope of Deming's regression are
against a second, faultless count of as many other cells of that patient, as two examiners would
count. The ratio of the two counts' error variances, which Deming's regression needs, is that of
their variances between smears of one patient (Linnet 1993). A network that never errs has its own
row, which shows how much of all that is the drawing of cells alone.

Two corrections, both known from the source alone, and both right only where the target's cells are
confused as the source's are (label shift): the *adjusted* count inverts the confusion matrix of the
calibration part (Forman 2008; Lipton et al. 2018), *EMQ* estimates the shares by expectation
maximisation of the temperature-scaled probabilities (Saerens et al. 2002; Alexandari et al. 2020).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.optimize import brentq
from scipy.special import betainc, betaincc

from benchmark.data.haematology import Prevalences
from benchmark.evaluation.at_source import AtSource, at_source
from benchmark.evaluation.exact import TAIL
from benchmark.evaluation.experiments import ScenarioRuns
from benchmark.evaluation.selective import scored_sets
from benchmark.metrics import MINIMUM_SUPPORT
from benchmark.study.predictions import Predictions, TestSet

SMEARS = 50
"""Smears of each patient that a network counts; networks of three seeds count 150."""
CHUNK = 100
SIZES = (100, 200, 400)
"""Cells of a smear; each a multiple of `CHUNK`."""
CORRECTED = 200
"""Cells of the smears that are also counted with a correction: H20-A2's, of each examiner."""
DRAWS = 20
"""Seed of all that is drawn, beside the digest of the test set."""
ITERATIONS = 40
"""Of expectation maximisation; a share is within 0.001 of the optimum then, on average."""
RANGE = 0.9
"""Least correlation of the second count with the truth at which a slope is given: of classes that
all patients have alike, the drawing of cells decides it."""
ALL = ""
"""Stands for all patients together."""
PERFECT = "no error"
"""The method that answers every cell with its label."""
CORRECTIONS = ("none", "adjusted", "emq")

DIFFERENTIAL_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("scenario", "method", "domain", "part")),
        *((name, pa.string()) for name in ("correction", "patient", "class_name")),
        *((name, pa.int64()) for name in ("cells", "seeds", "smears", "images")),
        *((name, pa.float64()) for name in ("truth", "bias", "mae", "low", "high", "inside")),
        *((name, pa.float64()) for name in ("slope", "sensitivity", "specificity")),
    ]
)
"""`differential.parquet`: by method, test set, patient and drawn class; shares from 0 to 1.
`bias` and `mae` are the mean and the mean absolute difference from the patient's share, `low` and
`high` the limits of agreement with a second count, `inside` the share of smears whose binomial
limits hold the truth. The rows of no patient are of all: they have Deming's slope where the
patients' shares differ enough for one, and the sensitivity and specificity of the flag of their
class, if there is one. `smears` counts those of all seeds,
`images` those of the class in the test set."""


class Smears(NamedTuple):
    """What is drawn from a test set, the same for every network."""

    images: np.ndarray
    """(patients, smears, cells) places in the test set"""
    drawn: np.ndarray
    """(classes,) booleans"""
    shares: np.ndarray
    """(patients, classes) truth"""
    leucocytes: np.ndarray
    """(patients,) count of all drawn classes, in the unit of the patients"""
    second: np.ndarray
    """(patients, smears, sizes, classes) shares that a faultless count of other cells finds"""


def draw_smears(own: Predictions, counts: np.ndarray) -> Smears | None:
    """Draw smears of every patient; None if the test set has too few images of all classes but one.

    Args:
        counts: (patients, classes) cells of each class in the patients' blood.
    """
    classes = counts.shape[1]
    drawn = np.bincount(own.labels, minlength=classes) >= MINIMUM_SUPPORT
    counts = np.where(drawn, counts, 0)
    leucocytes = counts.sum(axis=1)
    if drawn.sum() < 2 or not leucocytes.all():
        return None
    random = np.random.default_rng([DRAWS, int(own.digest[:15], 16)])
    shares = counts / leucocytes[:, None]
    most, shape = max(SIZES), (len(counts), SMEARS, max(SIZES))
    places = random.random(shape)
    images = np.empty(shape, np.int64)
    for patient, edges in enumerate(np.cumsum(shares, axis=1)):
        # Rounding may leave the last edge below 1, where a draw would be of no class.
        edges[np.flatnonzero(drawn)[-1] :] = 1
        true = np.searchsorted(edges, random.random(shape[1:]), side="right")
        for c in np.flatnonzero(drawn):
            order, starts, sizes = slides(own, c)
            slide = random.choice(len(sizes), SMEARS, p=sizes / sizes.sum())
            at = starts[slide, None] + (places[patient] * sizes[slide, None]).astype(int)
            images[patient] = np.where(true == c, order[at], images[patient])
    parts = random.multinomial(CHUNK, shares[:, None, None], (len(counts), SMEARS, most // CHUNK))
    return Smears(images, drawn, shares, leucocytes, nested(parts))


def slides(own: Predictions, c: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images of a class, slide by slide, the first place and the number of each slide's.

    Groups with too few images of the class are one slide together.
    """
    images = np.flatnonzero(own.labels == c)
    group, number = np.unique(own.groups[images], return_inverse=True, return_counts=True)[1:]
    slide = np.where(number[group] >= MINIMUM_SUPPORT, group, -1)
    order = np.argsort(slide, kind="stable")
    sizes = np.unique(slide, return_counts=True)[1]
    return images[order], np.cumsum(sizes) - sizes, sizes


def nested(parts: np.ndarray) -> np.ndarray:
    """Shares in smears of each of `SIZES` from counts (..., chunks, classes) in their chunks."""
    whole = np.cumsum(parts, axis=-2)
    return np.stack([whole[..., size // CHUNK - 1, :] / size for size in SIZES], axis=-2)


def counted(predicted: np.ndarray, smears: Smears) -> np.ndarray:
    """(patients, smears, sizes, classes) shares that predicted classes give.

    Args:
        predicted: (images,) class indices.
    """
    classes = smears.shares.shape[1]
    rows = predicted[smears.images].reshape(-1, CHUNK)
    flat = (rows + classes * np.arange(len(rows))[:, None]).ravel()
    parts = np.bincount(flat, minlength=classes * len(rows))
    return nested(parts.reshape(*smears.images.shape[:2], -1, classes))


def nearest_shares(points: np.ndarray) -> np.ndarray:
    """The nearest points (..., classes) that are shares: none negative, together 1 (Held 1974)."""
    ordered = -np.sort(-points, axis=-1)
    excess = (np.cumsum(ordered, axis=-1) - 1) / np.arange(1, points.shape[-1] + 1)
    last = (ordered > excess).sum(axis=-1, keepdims=True) - 1
    return np.maximum(points - np.take_along_axis(excess, last, axis=-1), 0)


def adjusted(shares: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Counted shares corrected by a confusion matrix: the inverse of P(predicted | true), and the
    nearest shares to what it gives.

    A class that the matrix has no image of is taken as always recognised.

    Args:
        shares: (..., classes) of predicted classes.
        confusion: (classes, classes) counts, true × predicted.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    rates = np.where(totals > 0, confusion / np.maximum(totals, 1), np.eye(len(confusion)))
    return nearest_shares(shares @ np.linalg.pinv(rates))


def emq(probabilities: np.ndarray, prior: np.ndarray, iterations: int = ITERATIONS) -> np.ndarray:
    """Shares by expectation maximisation (Saerens et al. 2002), of many smears at once.

    As `models.predict.log_prior_ratio` does for a single test set.

    Args:
        probabilities: (smears, cells, classes) of a source with the class shares `prior`.
        prior: (classes,); of a class without a share nothing is known, and its ratio stays 1.

    Returns:
        (smears, classes).
    """
    known, cells = prior > 0, probabilities.shape[1]
    divisor = np.where(known, prior, 1)
    # Long rows of cells: of short ones of classes the products take half as long again.
    by_class = np.ascontiguousarray(probabilities.transpose(0, 2, 1))
    ratio = np.ones((len(probabilities), len(prior)))
    for _ in range(iterations):
        # (smears, 1, cells): what each cell's corrected probabilities are divided by
        whole = np.reciprocal(ratio[:, None] @ by_class)
        share = (by_class @ whole.transpose(0, 2, 1))[..., 0] * ratio / cells
        ratio = np.where(known, share / divisor, 1)
    return share


def corrected(
    raw: np.ndarray, own: Predictions, smears: Smears, source: AtSource | None
) -> dict[tuple[str, int], np.ndarray]:
    """(patients, smears, classes) shares by correction and number of cells.

    Args:
        raw: as `counted` gives them.
        source: without one nothing can be corrected.
    """
    found = {("none", size): raw[:, :, place] for place, size in enumerate(SIZES)}
    if source is not None:
        plain = found["none", CORRECTED]
        found["adjusted", CORRECTED] = adjusted(plain, source.confusion)
        images = smears.images[:, :, :CORRECTED].reshape(-1, CORRECTED)
        shares = emq(source.stated(own)[images], source.prior)
        found["emq", CORRECTED] = shares.reshape(plain.shape)
    return found


@lru_cache(maxsize=1024)
def limits(share: float, cells: int) -> tuple[float, float]:
    """The least and the largest counted share whose exact binomial limits hold a true share.

    Clopper-Pearson's 95 % limits of k cells of n hold p if P(K ≥ k | p) and P(K ≤ k | p) are both
    at least 2.5 %. By the incomplete beta function, so that a corrected k need not be whole.
    """
    if share in (0, 1):
        return share, share

    def above(k: float) -> float:
        return betainc(k, cells - k + 1, share) - TAIL

    def below(k: float) -> float:
        return betaincc(k + 1, cells - k, share) - TAIL

    low = 0.0 if below(0) >= 0 else brentq(below, 0, cells - 1e-9)
    high = float(cells) if above(cells) >= 0 else brentq(above, 1e-9, cells)
    return low / cells, high / cells


def deming(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of Deming's regression of y on x; the ratio of the variances of their errors is that of
    the variances within rows (Linnet 1993, equation 4).

    Args:
        x, y: (patients, smears); repeated counts of a patient stand in a row.

    Returns:
        NaN where a slope is not defined.
    """
    (xx, xy), (_, yy) = np.cov(x.ravel(), y.ravel())
    ratio = y.var(axis=1, ddof=1).mean() / x.var(axis=1, ddof=1).mean()
    if not xy:
        return float("nan")
    return float((yy - ratio * xx + np.hypot(yy - ratio * xx, 2 * xy * np.sqrt(ratio))) / (2 * xy))


def scores(shares: np.ndarray, second: np.ndarray, truth: np.ndarray, cells: int) -> list[dict]:
    """Scores of one class: of each patient, then of all together.

    Args:
        shares: (patients, smears) counted.
        second: the same of a second count.
        truth: (patients,).
    """
    low, high = np.array([limits(float(share), cells) for share in truth]).T[..., None]
    off, apart = shares - truth[:, None], shares - second
    found = {
        "truth": truth[:, None],
        "bias": off,
        "mae": np.abs(off),
        "inside": (shares >= low - 1e-9) & (shares <= high + 1e-9),
    }
    means = {name: values.mean(axis=1) for name, values in found.items()}
    middle = np.append(apart.mean(axis=1), apart.mean())
    spread = 1.96 * np.append(apart.std(axis=1, ddof=1), apart.std(ddof=1))
    columns = {name: np.append(own, own.mean()) for name, own in means.items()}
    columns |= {"low": middle - spread, "high": middle + spread}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if truth.std() >= RANGE * np.sqrt(second.var(axis=1).mean() + truth.var()):
        rows[-1]["slope"] = deming(second, shares)
    return rows


def flag_scores(
    facts: Prevalences, name: str, shares: np.ndarray, smears: Smears, place: int
) -> dict[str, float]:
    """Sensitivity and specificity of the flag of a class over all patients' smears, if it has one
    and there are patients of both kinds."""
    for flag in facts.flags.values():
        true = flag.raised(smears.shares[:, place] * smears.leucocytes)
        if flag.of == name and true.any() and not true.all():
            raised = flag.raised(shares * smears.leucocytes[:, None])
            return {"sensitivity": raised[true].mean(), "specificity": 1 - raised[~true].mean()}
    return {}


def differential_rows(
    runs: ScenarioRuns,
    method: str,
    predictions: dict[str, dict[TestSet, Predictions]],
    facts: Prevalences,
    drawn: dict[str, Smears | None],
) -> list[dict]:
    """Rows of `differential.parquet` of one method in one scenario, over its seeds.

    Args:
        predictions: by run id.
        drawn: digest of a test set → its smears.
    """
    run = runs.methods[method]
    members = [predictions[run_id] for _, run_id in runs.members[method]]
    found: dict[TestSet, dict[tuple[str, int], list[np.ndarray]]] = {}
    for known in members:
        source = at_source(run, known)
        for test_set, own in scored_sets(run, known).items():
            if smears := drawn[own.digest]:
                raw = counted(own.predicted, smears)
                for key, shares in corrected(raw, own, smears, source).items():
                    found.setdefault(test_set, {}).setdefault(key, []).append(shares)
    rows = []
    for test_set, counts in found.items():
        own = members[0][test_set]
        where = {"scenario": runs.scenario.name, "method": method, "seeds": len(members)}
        where |= {"domain": test_set[0], "part": test_set[1]}
        rows += method_rows(where, runs.classes, own, counts, facts, drawn[own.digest])
    return rows


def perfect_rows(
    runs: ScenarioRuns,
    predictions: dict[str, dict[TestSet, Predictions]],
    facts: Prevalences,
    drawn: dict[str, Smears | None],
) -> list[dict]:
    """The same of a network that never errs."""
    rows = []
    run = runs.runs[0]
    for test_set, own in scored_sets(run, predictions[run.run_id]).items():
        if smears := drawn[own.digest]:
            raw = counted(own.labels, smears)
            counts = {("none", size): [raw[:, :, place]] for place, size in enumerate(SIZES)}
            where = {"scenario": runs.scenario.name, "method": PERFECT, "seeds": 0}
            where |= {"domain": test_set[0], "part": test_set[1]}
            rows += method_rows(where, runs.classes, own, counts, facts, smears)
    return rows


def method_rows(
    where: dict,
    classes: tuple[str, ...],
    own: Predictions,
    counts: dict[tuple[str, int], list[np.ndarray]],
    facts: Prevalences,
    smears: Smears,
) -> list[dict]:
    rows = []
    patients = [*facts.patients, ALL]
    images = np.bincount(own.labels, minlength=len(classes))
    for (correction, cells), members in counts.items():
        shares = np.concatenate(members, axis=1)
        second = np.tile(smears.second[:, :, SIZES.index(cells)], (1, len(members), 1))
        about = where | {"correction": correction, "cells": cells, "smears": shares.shape[1]}
        for c in np.flatnonzero(smears.drawn):
            found = scores(shares[..., c], second[..., c], smears.shares[:, c], cells)
            found[-1] |= flag_scores(facts, classes[c], shares[..., c], smears, c)
            for patient, row in zip(patients, found, strict=True):
                values = {name: rounded(value) for name, value in row.items()}
                place = {"patient": patient, "class_name": classes[c], "images": int(images[c])}
                rows.append(about | place | values)
    return rows


def rounded(value: float) -> float | None:
    """Four decimals: what lies beyond only makes the file large. NaN is no value."""
    return None if np.isnan(value) else round(float(value), 4)
