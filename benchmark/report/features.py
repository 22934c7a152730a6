"""Features of every cell, of any network: sets beside each other, and what labels buy."""

from __future__ import annotations

import math

from benchmark.evaluation.features import (
    READOUTS,
    FeatureSet,
    budget_scores,
    common_neighbours,
    majority_of,
    robustness_at,
    verdict_of,
)
from benchmark.evaluation.intervals import Interval
from benchmark.evaluation.robustness import CELLS, DRAWS
from benchmark.evaluation.scores import MAJORITY
from benchmark.report.results import Results
from benchmark.report.table import DRAWS_NOTE, UNPAIRED_NOTE, Cell, Table, Value, share, sheet
from benchmark.report.write import NOTHING

READOUT_NAMES = {"logistic": "logistic regression", "prototypes": "class means"}
"""How readouts are called in print, where not by their own name."""


def read_name(readout: str) -> str:
    return READOUT_NAMES.get(readout, readout)


def per_cent(value: Interval | None) -> Cell:
    """A score and its interval over other test images; no value where there is none."""
    return Cell(*(100 * number for number in value[:3])) if value else Cell(math.nan)


def ordered(sets: list[FeatureSet], values: dict, scenario: str) -> list[FeatureSet]:
    """The highest mean of targets of logistic regression first."""

    def mean(own: FeatureSet) -> float:
        found = values.get((own.record.name, scenario, "logistic", "mean_target"))
        return -found.mean if found else 1.0

    return sorted(sets, key=mean)


def features_sheet(results: Results) -> Table | None:
    """A line per source and set of features."""
    sets = results.feature_sets
    if not sets:
        return None
    values = {score[:4]: score.value for score in results.feature_scores}
    k, rows = common_neighbours(sets), []
    for scenario in sets[0].record.scenarios:
        for own in ordered(sets, values, scenario.name):
            name, about = own.record.name, own.record.about
            size = NOTHING if about.parameters is None else Cell(about.parameters / 1e6)
            verdict = verdict_of(own, scenario.source)
            line: list[Value] = [scenario.source, name, verdict, own.record.dimension, size]
            line.append(per_cent(values.get((name, scenario.name, "logistic", "in_domain"))))
            line += [
                per_cent(values.get((name, scenario.name, readout, "mean_target")))
                for readout in READOUTS
            ]
            index = Cell(robustness_at(own, k)[0], decimals=2)
            rows.append((*line, index, share(own.record.laboratory_told)))
        home, mean = majority_of(sets[0], scenario)
        nothing = (NOTHING,) * 3
        means = (share(mean),) * len(READOUTS)
        rows.append((scenario.source, MAJORITY, *nothing, share(home), *means, *nothing[:2]))
    caption = (
        "Frozen features and four readouts, the same for all, fitted on the source's training "
        "part: macro-F1 in % [95 % interval over other test images]. In-domain: logistic "
        "regression on the source's held-out part; the other readouts: mean of the targets. C of "
        "the logistic regression is chosen on id_val. Robustness index (Kömen et al. 2026): of "
        "the neighbours that share either class or laboratory with a cell, the share that have "
        f"the class in common ({k} nearest; 0.5 without either). Laboratory told: accuracy with "
        "which a linear classifier tells two laboratories apart, in %, mean over pairs (50 by "
        "chance). Contamination: test domains whose images the network was made with. Majority: "
        "the commonest class of each test set, answered for every image; an oracle constant."
    )
    notes = [
        f"Both measures of the laboratory are of {CELLS} cells of each class and domain, drawn "
        f"{DRAWS} times for the index, and of none that a network here was trained on; they do not "
        "depend on the source",
        "Two acquisitions of one set count as two laboratories; class and slide are confounded in "
        "some sets",
        "A network that was trained on the labels of the source has an advantage over one that "
        "was not: it is a representation of these classes",
    ]
    header = ("trained on", "features", "contamination", "dimensions", "parameters (M)")
    header += ("in-domain", *map(read_name, READOUTS), "robustness index", "laboratory told")
    return sheet("features", caption, header, rows, notes, words=3)


def labelled_cells_sheet(results: Results) -> Table | None:
    """A line per target and set: macro-F1 by labelled cells of each class."""
    sets = results.feature_sets
    if not sets:
        return None
    values = {score[:4]: score.value for score in results.feature_scores}
    scenarios = sets[0].record.scenarios
    frames = {own.record.name: budget_scores(own) for own in sets}
    frames = {name: frame[frame["method"] == "logistic"] for name, frame in frames.items()}
    budgets = sorted({k for frame in frames.values() for k in frame["per_class"]} - {0})
    rows: list[tuple[Value, ...]] = []
    for target in dict.fromkeys(t for scenario in scenarios for t in scenario.targets):
        for own in ordered(sets, values, scenarios[0].name):
            frame = frames[own.record.name]
            part = frame[frame["target"] == target]
            found = [part.loc[part["source"] == s.source, "macro_f1"].mean() for s in scenarios]
            found += [part.loc[part["per_class"] == k, "macro_f1"].mean() for k in budgets]
            rows.append((target, own.record.name, *map(share, found)))
    caption = (
        "What labelled cells of a new laboratory buy: macro-F1 in %, mean over ten draws, or over "
        "those whose half holds so many cells of each class, of a logistic regression fitted on k "
        "labelled cells of each class of the target alone, beside that of the source without any, "
        "on the same half of the target. No label chooses a setting."
    )
    notes = [
        "–: a class that counts has fewer cells than that in the half that is labelled from, or "
        "the source is the target",
        "Halves cut no slide or patient where these are known; classes with fewer than ten cells "
        "in the whole target are left out of the mean, and give what they have",
        DRAWS_NOTE,
        UNPAIRED_NOTE,
    ]
    header = ("target", "features", *(f"source {scenario.source}" for scenario in scenarios))
    header += tuple(f"{k} a class" for k in budgets)
    return sheet("labelled_cells", caption, header, rows, notes, words=2)
