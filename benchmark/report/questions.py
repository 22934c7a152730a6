"""What laboratories and model makers ask: differential counts, labels to be made, performance
without labels, severity of errors. Each is a table of a few methods; those of all are in the
published results (`published`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.evaluation.acceptance import ACCURACY, DRAWS, LABELS, MOST_CELLS, SENSITIVITIES
from benchmark.evaluation.differential import ALL, CORRECTED, CORRECTIONS, PERFECT, SMEARS
from benchmark.evaluation.exact import exact_limits
from benchmark.evaluation.experiments import RecordedRun
from benchmark.evaluation.rejection import images_needed
from benchmark.evaluation.unlabelled import ESTIMATORS, REGRESSION
from benchmark.metrics import HEADLINE, MINIMUM_SUPPORT
from benchmark.report.results import Results, counted_sets, plain_targets, values
from benchmark.report.table import Cell, Table, Value, share, sheet
from benchmark.report.write import NOTHING
from benchmark.scenarios import corruption_of
from benchmark.study.runs import Scenario

GOAL = 8.0
"""Points that an estimate without labels may be off, on average."""
ESTIMATOR_NAMES = {
    "confidence": "average confidence",
    "difference": "difference of confidences",
    "threshold": "ATC (negative entropy)",
    "nuclear": "nuclear norm",
    "confusion": "source's confusion matrix",
    REGRESSION: "regression (other sets)",
}
CORRECTION_NAMES = {"none": "none", "adjusted": "adjusted count", "emq": "EMQ"}
BRANCHES = {
    0: "within a lineage",
    1: "between granulocytes, or between lymphoid cells",
    2: "between granulocyte and monocyte, or erythroblast and platelet",
    3: "between granulocyte or monocyte and erythroblast or platelet",
    4: "between myeloid and lymphoid cell",
}
"""Height of an error in `datasets/haematology/lineage.yaml` → what is taken for what."""
SHOWN = (
    "Methods: the first plain one of the plan and, of the inductive methods that answer by their "
    "own head, the one with the highest mean of targets, which is chosen on the targets themselves."
)
HOME = " (in-domain)"


def asked(results: Results) -> dict[str, dict[str, list[RecordedRun]]]:
    """Scenario → method → its runs, of the methods that laboratories are told of, in plan order."""
    found: dict[str, dict[str, dict[str, RecordedRun]]] = {}
    for experiment in results.experiments:
        for run in experiment.runs:
            asked_of = run.done and run.track == "inductive" and run.method.answers_itself
            if asked_of and plain_targets(run.scenario):
                own = found.setdefault(run.scenario.name, {}).setdefault(run.method.name, {})
                own[run.run_id] = run
    return {
        name: {method: list(runs.values()) for method, runs in methods.items()}
        for name, methods in found.items()
    }


def shown(results: Results) -> dict[str, list[str]]:
    """Scenario → the methods of the short tables: the first plain one, and the best."""
    chosen = {}
    for name, methods in asked(results).items():
        scenario = next(iter(methods.values()))[0].scenario
        test_sets = counted_sets(scenario, results.scores) or scenario.test_sets[:1]
        means = {
            method: float(
                np.nan_to_num(
                    values(results.scores, [r.run_id for r in runs], test_sets, HEADLINE)
                ).mean()
            )
            for method, runs in methods.items()
        }
        plain = [method for method, runs in methods.items() if runs[0].method.is_plain()]
        pair = [*plain, *methods][:1] + [max(means, key=means.get)]
        chosen[name] = list(dict.fromkeys(pair))
    return chosen


def places(scenario: Scenario) -> list[tuple[str, str]]:
    """The test sets without corruptions, at home first."""
    return [pair for pair in scenario.test_sets if corruption_of(pair[0]) is None]


def place_name(domain: str, part: str) -> str:
    return f"{domain}{HOME}" if part == "id_test" else domain


class Line(NamedTuple):
    """What a method has in a test set."""

    scenario: Scenario
    method: str
    place: tuple[str, str]
    """(domain, part)"""
    rows: list[dict]

    @property
    def where(self) -> tuple[str, str, str]:
        return self.scenario.source, self.method, place_name(*self.place)


def lines_of(results: Results, table: pd.DataFrame, more: tuple[str, ...] = ()) -> list[Line]:
    """The rows of each method that is shown and each test set, in the order of the plan.

    Args:
        more: methods that are no method of the plan, last.
    """
    chosen, known = shown(results), results.scenarios
    wanted = {method for own in chosen.values() for method in own} | {*more}
    groups: dict[tuple, list[dict]] = {}
    for row in table[table["method"].isin(wanted)].to_dict("records"):
        key = row["scenario"], row["method"], row["domain"], row["part"]
        groups.setdefault(key, []).append(row)
    return [
        Line(known[name], method, place, groups[key])
        for name, own in chosen.items()
        for method in (*own, *more)
        for place in places(known[name])
        if (key := (name, method, *place)) in groups
    ]


def classes_of(results: Results, names: set[str]) -> list[str]:
    """Names of classes in the order of the label space."""
    known = dict.fromkeys(c for experiment in results.experiments for c in experiment.classes)
    return [name for name in known if name in names]


# Differential counts


def differential_sheet(results: Results) -> Table | None:
    """Share of smears whose limits hold the truth by class, mean error, and flags."""
    table = results.differential
    if table.empty:
        return None
    table = table[(table["patient"] == ALL) & (table["cells"] == CORRECTED)]
    classes = classes_of(results, set(table["class_name"]))
    flagged = classes_of(results, set(table.loc[table["sensitivity"].notna(), "class_name"]))
    rows: list[tuple[Value, ...]] = []
    for line in lines_of(results, table, (PERFECT,)):
        own = {(row["correction"], row["class_name"]): row for row in line.rows}
        for correction in CORRECTIONS:
            found = {c: own[correction, c] for c in classes if (correction, c) in own}
            if not found:
                continue
            cells = [share(found[c]["inside"] if c in found else None) for c in classes]
            cells.append(share(float(np.mean([row["mae"] for row in found.values()]))))
            for c in flagged:
                cells += [
                    share(found[c][name] if c in found else None)
                    for name in ("sensitivity", "specificity")
                ]
            smears = next(iter(found.values()))["smears"]
            rows.append((*line.where, CORRECTION_NAMES[correction], smears, *cells))
    header = ("trained on", "method", "tested on", "correction", "smears of each patient", *classes)
    header += ("mean abs. error", *(f"{c} flag {n}" for c in flagged for n in ("sens.", "spec.")))
    caption = (
        f"Differential counts of {CORRECTED} cells, over the model patients "
        "(datasets/haematology/prevalences.yaml), in %. By class: smears whose exact binomial "
        "limits (Clopper-Pearson, 95 %) hold the patient's share, at least 95 by the drawing of "
        "cells alone (the rows of "
        f"“{PERFECT}”). Mean abs. error: of a share, over patients and drawn classes, in points. "
        "Flags: sensitivity and specificity of too few neutrophils, too many eosinophils, too many "
        f"lymphocytes. {SHOWN}"
    )
    notes = [
        f"–: the test set has fewer than {MINIMUM_SUPPORT} images of the class, which is not "
        "drawn; the other classes share what is left",
        "Adjusted count: by the source's confusion matrix; EMQ: shares by expectation maximisation "
        "of the temperature-scaled probabilities. Both assume label shift, that only the class "
        "shares differ from the source's, which does not hold for another laboratory",
        f"{SMEARS} smears of each patient and seed. Cells are drawn with replacement from the test "
        "set, those of a class from one slide where it names one with enough; artefacts and cells "
        "of no class, which real smears hold, are missing",
    ]
    return sheet("differential", caption, header, rows, notes, words=4)


# Site acceptance


def labels_needed_sheet(results: Results) -> Table | None:
    """Cells of a class that certify a sensitivity, by method and test set."""
    rows: list[tuple[Value, ...]] = []
    for line in lines_of(results, results.labels_needed):
        own = {(row["class_name"], row["stated"]): row for row in line.rows}
        for c in classes_of(results, {name for name, _ in own}):
            found = [own[c, stated] for stated in SENSITIVITIES]
            about = (*line.where, c, found[0]["images"], share(found[0]["observed"]))
            rows.append((*about, *map(needed_text, found)))
    if not rows:
        return None
    caption = (
        "Labelled local cells of a class that let a laboratory state, with 95 % confidence, that "
        "the network recognises at least 80, 90 or 95 % of them (one-sided exact binomial bound), "
        "and in brackets how many of them may be misread. Recognised: observed in the test set, in "
        "%, over all seeds. If that is the network's sensitivity, so many cells suffice with "
        f"probability 80 %; –: no number up to {MOST_CELLS} does. {SHOWN}"
    )
    notes = [
        f"Classes with fewer than {MINIMUM_SUPPORT} images are left out",
        "The bound assumes independent cells; where few slides or patients are labelled, more "
        "cells are needed",
        "Networks of one method differ by seed, and a laboratory tests the one that it has",
    ]
    header = ("trained on", "method", "tested on", "class", "images", "recognised")
    header += tuple(f"≥ {100 * stated:.0f} %" for stated in SENSITIVITIES)
    return sheet("labels_needed", caption, header, rows, notes, words=4)


def needed_text(row: dict) -> str:
    if math.isnan(row["cells"]):
        return NOTHING
    return f"{row['cells']:.0f} ({row['errors']:.0f})"


def local_thresholds_sheet(results: Results) -> Table | None:
    """Coverage and accuracy of thresholds from the source and from labelled local cells."""
    rows: list[tuple[Value, ...]] = []
    for line in lines_of(results, results.local_thresholds):
        own = {(row["fit"], row["labels"]): row for row in line.rows}

        def cells(fit: str, labels: int, *names: str, own: dict = own) -> list[Cell]:
            return [share(own[fit, labels][n] if (fit, labels) in own else None) for n in names]

        found = [*cells("oracle", 0, "coverage"), *cells("source", 0, "coverage", "accuracy")]
        for size in LABELS:
            found += cells("plain", size, "coverage", "accuracy", "held")
        for size in LABELS[-2:]:
            found += cells("guaranteed", size, "coverage", "accuracy")
        rows.append((*line.where, line.rows[0]["seeds"], *found))
    if not rows:
        return None
    caption = (
        f"What labelled local cells gain: thresholds of confidence for {100 * ACCURACY:.0f} % "
        f"accuracy of the accepted, chosen on so many cells of the test set ({DRAWS} random "
        "choices by seed) and tried on its other cells; in %. Coverage: accepted. Accuracy: of all "
        "that were accepted. Held: choices in which the accepted were as accurate as asked for. "
        "Oracle: the largest coverage at that accuracy, chosen on the test set itself. Source: the "
        f"threshold of the source's calibration part. {SHOWN}"
    )
    notes = [
        "–: the test set has fewer than twice so many cells, or nothing was accepted",
        "Other cells are of other slides or patients where these are at least half of the test set",
        f"Guaranteed: proven by exact binomial bounds, for which {images_needed(ACCURACY)} or more "
        "confident cells have to be right; under shift it mostly accepts nothing, and rightly so",
    ]
    header = ("trained on", "method", "tested on", "seeds", "oracle coverage")
    header += ("source coverage", "source accuracy")
    header += tuple(f"{n} cells: {w}" for n in LABELS for w in ("coverage", "accuracy", "held"))
    header += tuple(
        f"{n} cells guaranteed: {w}" for n in LABELS[-2:] for w in ("coverage", "accuracy")
    )
    return sheet("local_thresholds", caption, header, rows, notes, words=3)


# Performance without labels


def unlabelled_frame(results: Results) -> pd.DataFrame:
    """`unlabelled.parquet` with the source, the kind of test set, and the error in points."""
    table = results.unlabelled
    kinds = {"id_test": "in-domain"}
    return table.assign(
        source=[results.done[i].scenario.source for i in table["run_id"]],
        tested=[
            kinds.get(part, "corruptions" if corruption_of(domain) else "other domains")
            for domain, part in zip(table["domain"], table["part"], strict=True)
        ],
        error=100 * (table["estimate"] - table["truth"]),
    )


def unlabelled_sheet(results: Results) -> Table | None:
    """Estimators of accuracy and macro-F1 without labels, over all runs and test sets."""
    table = unlabelled_frame(results)
    if table.empty:
        return None
    rows: list[tuple[Value, ...]] = []
    for (source, tested, metric), block in table.groupby(["source", "tested", "metric"]):
        for estimator in (*ESTIMATORS, REGRESSION):
            own = block[block["estimator"] == estimator]
            if own.empty:
                continue
            off = own["error"].abs()
            by_set = off.groupby(own["domain"]).mean()
            above = int((by_set > GOAL).sum())
            where = (source, tested, METRIC_NAMES[metric], ESTIMATOR_NAMES[estimator])
            counts = (own["run_id"].nunique(), len(by_set), len(own))
            errors = (Cell(off.mean()), Cell(own["error"].mean()), Cell(by_set.max()))
            within = share((off <= GOAL).mean())
            ranks = [Cell(value, decimals=2) for value in rank_correlations(own)]
            warning = f"fails on {above} of {len(by_set)}" if above else "holds"
            rows.append((*where, warning, *counts, *errors, within, *ranks))
    header = ("trained on", "tested on", "of", "estimate", "warning", "runs", "test sets", "n")
    header += ("mean abs. error", "bias", "worst test set", f"within {GOAL:g} points", "rank corr.")
    header += ("rank corr. of runs on a test set",)
    caption = (
        "Performance without labels: how far estimates of accuracy and macro-F1 from unlabelled "
        "predictions are from the truth, over all runs and test sets (n pairs). Mean abs. error "
        "and bias in points; worst: test set with the largest mean error. Warning: test sets "
        f"whose mean error is above {GOAL:g} points. Rank corr.: Spearman's, of estimate and truth "
        "over all pairs, and, as the mean over test sets, over the runs on one. Everything is "
        "fitted on the source's calibration part, except the regression, which is fitted on the "
        "labelled cells of the other sets of images and never on those of the target's own."
    )
    notes = [
        "An estimate with a high rank correlation and a large error orders test sets or runs "
        "rightly, but does not say how good they are",
        "Pairs share networks and images, and laboratories are few: a small mean error here "
        "promises nothing about a laboratory that is none of these",
    ]
    return sheet("unlabelled", caption, header, rows, notes, words=5)


METRIC_NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


def rank_correlations(own: pd.DataFrame) -> tuple[float, float]:
    """Spearman's of estimate and truth: over all rows, and the mean over domains."""
    whole = spearman(own)
    parts = [spearman(part) for _, part in own.groupby("domain")]
    known = [value for value in parts if not math.isnan(value)]
    return whole, float(np.mean(known)) if known else math.nan


def spearman(own: pd.DataFrame) -> float:
    """NaN of fewer than three rows, or where all are alike."""
    ranks = own[["estimate", "truth"]].rank()
    if len(ranks) < 3 or (ranks.std() == 0).any():
        return math.nan
    return float(ranks.corr().iat[0, 1])


# Severity


def severity_lines(results: Results) -> list[Line]:
    """As `lines_of`, of the rows of all seeds."""
    return seeds_of(results, results.severity)


def seeds_of(results: Results, table: pd.DataFrame) -> list[Line]:
    """The same of any table of runs."""
    own = {
        r.run_id for methods in asked(results).values() for runs in methods.values() for r in runs
    }
    return lines_of(results, results.named(table[table["run_id"].isin(own)]))


def severity_sheet(results: Results) -> Table | None:
    """Errors by how far the lineages are apart, and critical ones."""
    table = results.severity
    if table.empty:
        return None
    heights = heights_of(table)
    stages = bool(table["immature"].any())
    rows: list[tuple[Value, ...]] = []
    for line in severity_lines(results):
        errors, shares, chance = errors_by_height(line.rows)
        whole = list({row["run_id"]: row for row in line.rows}.values())
        cells = sum(row["n"] for row in whole)
        counts = (len(whole), whole[0]["n"], share(sum(errors.values()) / cells))
        found = [Cell(mean_of(whole, "lineage"), decimals=2)]
        found += [share(part.get(h)) for h in heights for part in (shares, chance)]
        if stages:
            found.append(Cell(mean_of(whole, "maturity"), decimals=2))
            for part, of in (("missed", "immature"), ("alarms", "mature")):
                total = sum(row[of] for row in whole)
                found.append(share(sum(row[part] for row in whole) / total if total else None))
        rows.append((*line.where, *counts, *found))
    if not rows:
        return None
    header = ("trained on", "method", "tested on", "seeds", "n", "errors", "mean height")
    header += tuple(name for h in heights for name in (f"height {h}", f"height {h} by chance"))
    header += ("mean stages", "immature called mature", "others called blasts") if stages else ()
    caption = (
        "Severity of errors by the tree of lineages (datasets/haematology/lineage.yaml). Errors: "
        "share of the cells, in %. Height: of the branch where the lineages of cell and answer "
        f"part: {'; '.join(f'{h} {BRANCHES[h]}' for h in heights)}; share of the errors, in %. By "
        "chance: the same if every other class were an equally likely wrong answer. "
        + ("Stages: of maturity between cell and answer. " if stages else "")
        + SHOWN
    )
    notes = []
    if not stages:
        notes.append(
            "No class here is immature, so the critical error, a blast or an immature granulocyte "
            "called mature, cannot occur; how well such cells are told from the classes by "
            "confidence is in the tables of the open set"
        )
    return sheet("severity", caption, header, rows, notes, words=3)


def same_cells_sheet(results: Results) -> Table | None:
    """How often the answer to one cell changes with its photograph."""
    rows: list[tuple[Value, ...]] = []
    for line in seeds_of(results, results.same_cells):
        means = {
            name: float(np.mean([row[name] for row in line.rows]))
            for name in ("pairs", "changed", "expected", "both_right", "one_right")
        }
        pairs = means["pairs"]
        limits = exact_limits(means["changed"], pairs)
        changed = Cell(*(100 * value for value in (means["changed"] / pairs, *limits)))
        others = (share(means[n] / pairs) for n in ("expected", "both_right", "one_right"))
        rows.append((*line.where, len(line.rows), round(pairs), changed, *others))
    if not rows:
        return None
    header = ("trained on", "method", "tested on", "seeds", "pairs", "changed", "if independent")
    caption = (
        "The same cell photographed twice (datasets/same_cells.csv): per cent of the pairs of "
        "photographs whose answers differ, mean over seeds, with the exact 95 % interval of so "
        "many pairs. If independent: what would differ if an answer depended on the class alone, "
        "and not on the cell. Right: both photographs, or one of them. No shift lies between the "
        f"two. {SHOWN}"
    )
    return sheet("same_cells", caption, (*header, "both right", "one right"), rows, words=3)


def heights_of(table: pd.DataFrame) -> list[int]:
    """The heights at which there is an error, or would be one by chance."""
    some = (table["errors"] > 0) | (table["expected"] > 0)
    return sorted(set(table.loc[some, "height"]))


def mean_of(rows: list[dict], name: str) -> float:
    """NaN of runs without an error."""
    known = [row[name] for row in rows if not math.isnan(row[name])]
    return float(np.mean(known)) if known else math.nan


def errors_by_height(
    rows: list[dict],
) -> tuple[dict[int, int], dict[int, float], dict[int, float]]:
    """Height → errors of all seeds, their share of all errors, and the share by chance."""
    errors: dict[int, int] = {}
    of_run: dict[str, int] = {}
    for row in rows:
        errors[row["height"]] = errors.get(row["height"], 0) + row["errors"]
        of_run[row["run_id"]] = of_run.get(row["run_id"], 0) + row["errors"]
    total = sum(errors.values())
    if not total:
        return errors, {}, {}
    chance: dict[int, float] = {}
    for row in rows:
        if of_run[row["run_id"]]:
            more = row["expected"] * of_run[row["run_id"]] / total
            chance[row["height"]] = chance.get(row["height"], 0) + more
    return errors, {height: n / total for height, n in errors.items()}, chance
