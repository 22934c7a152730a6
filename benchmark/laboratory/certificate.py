"""The numbers of a certificate: what a network did on a laboratory's labelled images, and what that
shows.

Each number comes from one function and stands in `certificate.json`; the page prints these and no
others. Three rules keep its words from saying more than the images do:

* Limits of sensitivity and specificity are exact (`benchmark/evaluation/exact.py`), and as wide as
  the patients or slides that are known make them. A class with fewer than `MINIMUM_SUPPORT` cells,
  or all of one patient, carries no claim.
* Here and at home are compared by mean sensitivity, over the same classes. F1 cannot serve: it
  depends on the precision, and so on how common each class is, which differs between laboratories
  that recognise each cell equally well.
* A level is held if the lower limit of *every* class with a claim reaches it, so that the number of
  classes needs no correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from benchmark.domains.ranges import PARTS, SourceRange
from benchmark.evaluation.exact import Share, images_to_settle, share
from benchmark.evaluation.intervals import Interval, interval
from benchmark.evaluation.rejection import maximum_probability
from benchmark.evaluation.resampling import JointPredictions, observed_and_drawn
from benchmark.laboratory.networks import Gauge
from benchmark.metrics import (
    METRICS,
    MINIMUM_SUPPORT,
    Metric,
    confusion_matrix,
    constant_confusion,
    macro_f1,
    predicted_classes,
    recall,
    support,
    supported,
)

SENSITIVITY = Metric(recall, "each class", of_tally=lambda tally: tally.right / tally.labels)
"""Of each class, in resamples too."""
BY_CLASS = {"f1": METRICS["f1"], "sensitivity": SENSITIVITY}
APART = {0.5: "alike", 1.0: "a little different", 2.0: "different", math.inf: "very different"}
"""How far the mean of a folder's images lies from the source's, up to so many standard deviations
of single images of the source."""
COLOUR_STEP = 3.0
"""CIELAB units from which on a colour is said to be darker, redder, …: a just visible step."""
DIRECTIONS = (("darker", "lighter"), ("greener", "redder"), ("bluer", "yellower"))
"""Of L*, a* and b*: what less of it is called, and more."""

Kind = Literal["worse", "below", "holds", "open"]


@dataclass(frozen=True)
class Answers:
    """What a network answered to images whose class is known, or known to be none of its classes.

    Attributes:
        labels: (images,) index into the network's classes; negative for cells of none of them.
        groups: (images,) patient, slide or whatever else holds images together.
        logits: (images, classes).
        facts: (images, 8) `appearance` in the network's framing.
        unlike: (images,) why an image is not to be accepted at any confidence, or "".
    """

    labels: np.ndarray
    groups: np.ndarray
    logits: np.ndarray
    facts: np.ndarray
    unlike: list[str]

    @property
    def known(self) -> np.ndarray:
        """Which images are of a class of the network."""
        return self.labels >= 0

    @property
    def predicted(self) -> np.ndarray:
        """(images,) class indices."""
        return predicted_classes(self.logits)

    @property
    def confidence(self) -> np.ndarray:
        """(images,) the largest probability, as the network states it."""
        return maximum_probability(self.logits)

    def accepted(self, gauge: Gauge) -> np.ndarray:
        """(images,) which are like the source's and of a confidence that reaches the threshold."""
        like = np.array([not why for why in self.unlike], bool)
        return like & (self.confidence >= gauge.threshold)


class Scored(NamedTuple):
    """Labels, predictions and groups of images of the network's classes.

    Their name fixes the random numbers of resamples: the same images have the same intervals,
    whatever a certificate is called.
    """

    name: str
    labels: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray


class Verdict(NamedTuple):
    """What the images show: a kind, one line, and sentences."""

    kind: Kind
    headline: str
    sentences: list[str]


def per_cent(value: float) -> str:
    """A share in per cent, to one digit; 0 and 100 are none and all, and nothing else."""
    return f"{min(max(100 * value, 0.1), 99.9):.1f}" if 0 < value < 1 else f"{100 * value:.0f}"


def home_of(stored: pd.DataFrame, classes: list[str], source: str) -> Scored:
    """The held-out images of a network's source, of the predictions that are kept with it."""
    own = stored[(stored["part"] == "id_test") & (stored["label"] >= 0)]
    logits = own[[f"logit_{name}" for name in classes]].to_numpy(np.float64)
    labels = own["label"].to_numpy(np.int64)
    groups = own["domain"].astype(str) + "/" + own["group"].astype(str)
    return Scored(f"home {source}", labels, predicted_classes(logits), groups.to_numpy(str))


def by_class(images: Scored, classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """F1 and sensitivity of each class: (classes,) as observed and (classes, resamples)."""
    groups, _ = pd.factorize(images.groups)
    joint = JointPredictions(images.name, images.labels, groups, images.predicted[None], classes)
    found = observed_and_drawn(joint, BY_CLASS)
    return {name: (seen[:, 0], drawn[:, 0]) for name, (seen, drawn) in found.items()}


def mean_over(found: tuple[np.ndarray, np.ndarray], chosen: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over some classes, as observed and (resamples,)."""
    seen, drawn = found
    return float(seen[chosen].mean()), drawn[chosen].mean(axis=0)


def compared(here: Scored, home: Scored, classes: int) -> dict[str, Any]:
    """Macro-F1 and mean sensitivity here and at home, with their intervals and the difference.

    Both means run over the classes with images enough on both sides; at home over the images of
    classes that occur here, since those of others would cost a precision that nothing costs here.

    Returns:
        classes (indices), images at home, and, of macro_f1 and mean_sensitivity, here and home;
        and the difference of the latter. Intervals are None where there is no such class.
    """
    counts = np.bincount(here.labels, minlength=classes)
    there = np.isin(home.labels, np.flatnonzero(counts))
    home = home._replace(
        labels=home.labels[there], predicted=home.predicted[there], groups=home.groups[there]
    )
    both = supported(counts) & supported(np.bincount(home.labels, minlength=classes))
    chosen, mine = np.flatnonzero(both), np.flatnonzero(supported(counts))
    own = by_class(here, classes)
    value, drawn = mean_over(own["f1"], mine)
    found: dict[str, Any] = {
        "classes": chosen.tolist(),
        "images_at_home": len(home.labels),
        "macro_f1": {"here": interval(drawn, value, 1), "home": None},
        "mean_sensitivity": {"here": None, "home": None, "difference": None},
    }
    if not len(chosen):
        return found
    theirs = by_class(home, classes)
    value, drawn = mean_over(theirs["f1"], chosen)
    found["macro_f1"]["home"] = interval(drawn, value, 1)
    (one, ones), (two, twos) = (mean_over(side["sensitivity"], chosen) for side in (own, theirs))
    found["mean_sensitivity"] = {
        "here": interval(ones, one, 1),
        "home": interval(twos, two, 1),
        "difference": interval(ones - twos, one - two, 1, (-1.0, 1.0)),
    }
    return found


def class_row(here: Scored, index: int, level: float) -> dict[str, Any]:
    """What is known of one class: how often it is recognised, and how often others are taken for
    it; whether that carries a claim; what would settle the level."""
    own = here.labels == index
    named = here.predicted == index
    sensitivity = share(named[own], here.groups[own])
    specificity = share(~named[~own], here.groups[~own])
    number = int(own.sum())
    claim = number >= MINIMUM_SUPPORT and sensitivity.independent > 0
    return {
        "images": number,
        "groups": len(np.unique(here.groups[own])),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "claim": claim,
        "level": level_of(sensitivity, claim, level),
        "to_settle": more_images(sensitivity, claim, level),
    }


def level_of(found: Share, claim: bool, level: float) -> Literal["held", "missed", "open"]:
    """Whether a class is shown to reach a level, or to be below it."""
    if claim and found.low >= level:
        return "held"
    return "missed" if claim and found.high < level else "open"


def more_images(found: Share, claim: bool, level: float) -> int | None:
    """How many more images, like those at hand, would tell a class's sensitivity from a level.

    If the rate and the likeness of images of one group stay as they are. Of a class that carries no
    claim neither is known: the fewest that can show the level to be held, all of them recognised;
    to show that it is missed, fewer may do. None if none would.
    """
    if level_of(found, claim, level) != "open":
        return 0
    if not claim:
        return max(images_to_settle(1.0, level) - found.number, MINIMUM_SUPPORT - found.number, 1)
    needed = images_to_settle(found.rate, level)
    if needed is None:
        return None
    return max(math.ceil(needed * found.number / found.independent) - found.number, 1)


def accepted_of(answers: Answers, gauge: Gauge) -> dict[str, Any]:
    """How many images are accepted, and how many of these are wrong."""
    sure, accepted = answers.confidence >= gauge.threshold, answers.accepted(gauge)
    known, wrong = answers.known, answers.predicted != answers.labels
    return {
        "accuracy": gauge.accuracy,
        "threshold": gauge.threshold if math.isfinite(gauge.threshold) else None,
        "accepted": share(accepted[known], answers.groups[known]),
        "wrong": share(wrong[known & accepted], answers.groups[known & accepted]),
        "by_confidence_alone": {
            "accepted": int((sure & known).sum()),
            "wrong": int((sure & known & wrong).sum()),
        },
        "cells_of_no_class": share(accepted[~known], answers.groups[~known]),
    }


def appearance_of(ranges: list[SourceRange], facts: np.ndarray) -> dict[str, Any]:
    """How far the images of a folder are from those of the source, whole and by part.

    Args:
        ranges: of the domains that the network was trained on; the nearest is compared with.
        facts: `appearance` (images, 8) of all images.

    Returns:
        source, images, outside (of the range), without a nucleus; and for each part how many
        standard deviations of single images of the source the mean lies from its mean (root mean
        square over the part's columns), in words and in units; how many images are outside by it
        most of all. Parts are None where no image has a nucleus.
    """
    distances = np.stack([own.distances(facts) / own.limit for own in ranges])
    nearest = int(np.bincount(distances.argmin(axis=0), minlength=len(ranges)).argmax())
    source = ranges[nearest]
    outside = distances.min(axis=0) > 1
    seen = ~np.isnan(facts).any(axis=1)
    found: dict[str, Any] = {
        "source": source.source,
        "images": len(facts),
        "outside": int(outside.sum()),
        "without_nucleus": int((~seen).sum()),
        "parts": None,
    }
    if not seen.any():
        return found
    mean = facts[seen].mean(axis=0)
    apart = {
        name: source.distances(facts, part) / math.sqrt(part.stop - part.start)
        for name, part in PARTS.items()
    }
    most = np.array(list(PARTS))[np.stack([*apart.values()]).argmax(axis=0)]
    found["parts"] = {}
    for name, part in PARTS.items():
        spreads = float(source.distances(mean[None], part)[0]) / math.sqrt(part.stop - part.start)
        found["parts"][name] = {
            "spreads": spreads,
            "word": next(word for most_, word in APART.items() if spreads <= most_),
            **in_units(name, mean[part], np.array(source.mean)[part]),
            "outside": int((outside & seen & (most == name)).sum()),
        }
    return found


def in_units(name: str, here: np.ndarray, home: np.ndarray) -> dict[str, Any]:
    """A difference of two means of a part, in its own unit and in words."""
    if len(here) == 3:
        moved = [
            (abs(step), less if step < 0 else more)
            for step, (less, more) in zip(here - home, DIRECTIONS, strict=True)
            if abs(step) >= COLOUR_STEP
        ]
        words = ", ".join(word for _, word in sorted(moved, reverse=True))
        return {"colour_difference": float(np.linalg.norm(here - home)), "direction": words}
    # The share of contrast in fine detail is kept as its logarithm.
    ratio = float(np.exp(here[0] - home[0]) if name == "sharpness" else here[0] / home[0])
    less, more = ("blurred", "sharp") if name == "sharpness" else ("small", "large")
    words = "" if 1 / 1.05 < ratio < 1.05 else f"more {more}" if ratio > 1 else f"more {less}"
    words = words.replace("more small", "smaller").replace("more large", "larger")
    return {"ratio": ratio, "direction": words.replace("more sharp", "sharper")}


def listed(names: list[str]) -> str:
    """Names in a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def verdict(rows: dict[str, dict[str, Any]], at_home: dict[str, Any], level: float) -> Verdict:
    """What may be said.

    Args:
        rows: `class_row` of each class by name.
        at_home: `compared`, with the constant's macro-F1.
    """
    by = {
        state: [name for name, row in rows.items() if row["claim"] and row["level"] == state]
        for state in ("held", "missed", "open")
    }
    silent = [name for name, row in rows.items() if not row["claim"]]
    claimed = by["held"] + by["missed"] + by["open"]
    asked = f"{100 * level:g} %"
    # Whether all classes of the network are meant, or the tested ones alone, is never left open.
    each = "each class" if not silent else f"each of the {len(claimed)} classes that carry a claim"
    macro, (here, home, difference) = (
        at_home["macro_f1"],
        (at_home["mean_sensitivity"][of] for of in ("here", "home", "difference")),
    )
    worse = difference is not None and difference.high < 0
    sentences = []
    if macro["here"].mean <= macro["constant"]:
        sentences.append(
            "Its macro-F1 is no higher than that of one constant answer: as it is, the network is "
            "of no use on these images."
        )
    if by["held"]:
        sentences.append(
            f"A sensitivity of at least {asked} is shown for {listed(by['held'])}, with 95 % "
            "confidence each."
        )
    if by["missed"]:
        sentences.append(
            f"The sensitivity for {listed(by['missed'])} is shown to be below {asked}."
        )
    if by["open"]:
        sentences.append(
            f"For {listed(by['open'])} neither is shown: the limits include {asked}."
            + needed(rows, by["open"])
        )
    if silent:
        sentences.append(
            f"No claim is made for {listed(silent)}: fewer than {MINIMUM_SUPPORT} cells, or all of "
            "one patient or slide."
        )
    if difference is not None:
        sentences.append(against_home(difference, worse))
    if worse:
        kind = "worse"
        headline = (
            f"Worse than at home: mean sensitivity {per_cent(here.mean)} %, at home "
            f"{per_cent(home.mean)} %"
        )
        if claimed and len(by["held"]) == len(claimed):
            headline += f"; yet at least {asked} is shown for {each}"
    elif not claimed:
        kind, headline = (
            "open",
            f"Nothing is shown of {asked} sensitivity: no class carries a claim",
        )
    elif by["missed"]:
        kind, headline = "below", f"Below {asked} sensitivity for {listed(by['missed'])}"
    elif len(by["held"]) == len(claimed):
        kind, headline = "holds", f"Shown: at least {asked} sensitivity for {each}"
    else:
        kind, headline = "open", f"Not shown: whether sensitivity is at least {asked} for {each}"
    return Verdict(kind, headline, sentences)


def against_home(difference: Interval, worse: bool) -> str:
    """The sentence that compares mean sensitivity here with that at home."""
    mean, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in difference[:3])
    text = f"Mean sensitivity differs from home's by {mean} points [{low}, {high}]: "
    if worse:
        return f"{text}worse than at home."
    if difference.low < 0:
        fall = f"{-100 * difference.low:.1f} points"
        return f"{text}not shown to be worse than at home, but a fall by {fall} is not excluded."
    return f"{text}not worse than at home."


def needed(rows: dict[str, dict[str, Any]], names: list[str]) -> str:
    """The sentence that says how many more cells would settle what is open, with a space before."""
    more = [
        f"about {n} more cells of class {name}" for name in names if (n := rows[name]["to_settle"])
    ]
    return f" If the rates stay as they are, {listed(more)} would settle it." if more else ""


def numbers(
    answers: Answers,
    home: Scored,
    gauge: Gauge,
    ranges: list[SourceRange],
    classes: list[str],
    level: float,
) -> dict[str, Any]:
    """All numbers of a network on a laboratory's images, as `certificate.json` holds them."""
    known, size = answers.known, len(classes)
    here = Scored("here", answers.labels[known], answers.predicted[known], answers.groups[known])
    confusion = confusion_matrix(here.labels, here.predicted, size)
    counts = support(confusion)
    at_home = compared(here, home, size)
    constant = constant_confusion(counts)
    rows = {label: class_row(here, index, level) for index, label in enumerate(classes)}
    for index, row in enumerate(rows.values()):
        own = home.labels == index
        row["sensitivity_at_home"] = share((home.predicted == index)[own], home.groups[own])
    at_home["macro_f1"]["constant"] = float(macro_f1(constant))
    # One constant answer recognises one class wholly, the commonest, which may not be compared.
    among = at_home["classes"]
    at_home["mean_sensitivity"]["constant"] = (int(counts.argmax()) in among) / max(1, len(among))
    return plain(
        {
            "level": level,
            "images": len(here.labels),
            "groups": len(np.unique(here.groups)),
            "cells_of_no_class": int((~known).sum()),
            "classes": rows,
            "confusion": confusion.tolist(),
            "compared": at_home,
            "accepted": accepted_of(answers, gauge),
            "appearance": appearance_of(ranges, answers.facts),
            "verdict": verdict(rows, at_home, level),
        }
    )


def plain(value: Any) -> Any:
    """A value for JSON: named tuples by name, no number that is none."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
