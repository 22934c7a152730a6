"""Rejection: what each rejector gains, with thresholds from the source and at matched accuracy; and
how well a method's confidence tells cells that it was never taught from known ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmark.evaluation.calibration import NO_TEMPERATURE
from benchmark.evaluation.experiments import RecordedRun
from benchmark.evaluation.rejection import images_needed
from benchmark.evaluation.selective import ACCURACY, closeness
from benchmark.report import questions
from benchmark.report.questions import HOME
from benchmark.report.results import Results
from benchmark.report.table import Table, Value, share, sheet
from benchmark.study.runs import Scenario

NAMES = {
    "msp": "maximum probability",
    "entropy": "negative entropy",
    "energy": "energy",
    "margin": "probability margin",
    "scaled_msp": "maximum probability, temperature-scaled",
    "ccl_published": "CCL 1 − Σ D + max D (as published)",
    "ccl_max": "CCL max D",
    "ccl_margin": "CCL margin",
    "conformal": "conformal (Mondrian)",
}
"""Rejector → its name in print."""
SHOWN = ("msp", "scaled_msp", "conformal", "ccl_margin")
"""Rejectors of the table of methods; all are set side by side in that of rejectors."""
MEAN = "mean of targets"
SCORES = ("rejected", "accuracy", "right")
FREE = ("aurc", "excess_aurc", "coverage_99", "coverage_90")
"""Scores without a threshold."""
HEADER = ("trained on", "method", "tested on", "rejector", "seeds", "Rr", "Ra", "R")
FREE_HEADER = ("AURC", "E-AURC", "cov@99", "cov@90")
HEADER += ("Rr guaranteed", "Ra guaranteed", *FREE_HEADER)


def runs_shown(results: Results) -> Iterator[tuple[Scenario, str, list[RecordedRun]]]:
    """The methods that the questions of laboratories are answered for, in every scenario that
    they were run in."""
    names = dict.fromkeys(name for own in questions.shown(results).values() for name in own)
    for methods in questions.asked(results).values():
        for name in filter(methods.__contains__, names):
            yield methods[name][0].scenario, name, methods[name]


def rejection_sheet(results: Results) -> Table | None:
    """A few methods × rejectors on the source's test set and as mean of targets; None without a
    run."""
    table = results.rejection_counted
    rows: list[tuple[Value, ...]] = []
    used = []
    # Arrays, since thousands of small frames take longer than all else in a report.
    columns = {name: table[name].to_numpy() for name in table}
    lines_of = table.groupby("run_id").indices
    for scenario, method, runs in runs_shown(results):
        found = [lines_of[run.run_id] for run in runs if run.run_id in lines_of]
        if not found:
            continue
        own = np.concatenate(found)
        used.append(own)
        home = columns["part"][own] == "id_test"
        for place, lines in ((f"{scenario.source}{HOME}", own[home]), (MEAN, own[~home])):
            judged = columns["rejector"][lines]
            for rejector in filter(set(judged).__contains__, SHOWN):
                cells = scores_of(columns, lines[judged == rejector])
                rows.append((scenario.source, method, place, NAMES[rejector], *cells))
    if not rows:
        return None
    own = table.iloc[np.concatenate(used)]
    notes = calibration_notes(results, own)
    if marginal := int(np.nan_to_num(own["marginal_classes"].astype(float)).max()):
        notes.append(
            f"Conformal p-values of up to {marginal} classes with fewer than 20 calibration "
            "images are computed against all classes"
        )
    caption = (
        "Rejection in %, mean over seeds. Thresholds are fitted on the source's calibration "
        f"part to {100 * ACCURACY:.0f} % accuracy of the accepted. Rr: share rejected; Ra: "
        "accuracy of the accepted (mean over the runs that accept any); R = (1 − Rr)·Ra. "
        "Guaranteed: the same by exact binomial (Clopper-Pearson) bounds at 95 %, for images like "
        "the calibration images only; –: not attainable. AURC, E-AURC (× 100): lower is better. "
        "cov@99, cov@90: largest share of the test set that is accepted at 99 and 90 % accuracy, "
        "chosen on the test set itself: rejectors at equal accuracy, and no threshold known "
        f"beforehand. {questions.SHOWN}"
    )
    return sheet("rejection", caption, HEADER, rows, notes, words=4)


def calibration_notes(results: Results, table: pd.DataFrame) -> list[str]:
    """What thresholds rest on, by source.

    Args:
        table: rows of `rejection.parquet`.
    """
    sources = {run_id: run.scenario.source for run_id, run in results.done.items()}
    images = table.groupby(table["run_id"].map(sources), sort=False)["calibration_n"].max()
    if not images.max():
        return ["No calibration part was predicted, so there is no threshold"]
    fewest = images_needed(ACCURACY)
    counts = ", ".join(f"{count} of {source}" for source, count in images.items())
    notes = [f"Calibration images: {counts}"]
    if few := [source for source, count in images.items() if count < fewest]:
        notes.append(
            f"A guarantee of {100 * ACCURACY:.0f} % requires at least {fewest} calibration images, "
            f"all predicted correctly, so {' and '.join(few)} cannot give one"
        )
    notes.append(
        "The temperature is fitted to the calibration images too, so that scaled probabilities "
        "have no guaranteed threshold"
    )
    fitted = table[table["temperature"].notna()].drop_duplicates("run_id")["temperature"]
    if unfitted := int((fitted == NO_TEMPERATURE).sum()):
        notes.append(
            f"The temperature is 1 in {unfitted} of {len(fitted)} runs, whose calibration part "
            "holds no error to fit one to"
        )
    return [
        *notes,
        "Calibration images of one patient or smear are not independent, as the bounds assume",
    ]


def rejectors_sheet(results: Results) -> Table:
    """Rejectors by what needs no threshold, on the source and under shift side by side.

    Every rejector of a block judges the same runs: networks of the inductive track that answer by
    their own head, whose logits any of them can read.
    """
    table = results.rejection_counted
    runs = {
        run_id: run
        for run_id, run in results.done.items()
        if run.track == "inductive" and run.method.answers_itself
    }
    # A network of two names counts once, and one that met corruptions alone has no target here.
    once = {run.predictions_sha256: run_id for run_id, run in reversed(runs.items())}
    shifted = set(table.loc[table["part"] == "shifted", "run_id"])
    chosen = shifted.intersection(once.values())
    own = table[table["run_id"].isin(chosen) & (table["fit"] != "guaranteed")]
    own = own.assign(
        source=[runs[i].scenario.source for i in own["run_id"]],
        answers=["centroids" if closeness(runs[i].method) else "softmax" for i in own["run_id"]],
    )
    header = ("trained on", "output", "rejector", "runs")
    header += tuple(f"{name} {place}" for place in ("in-domain", "shifted") for name in FREE_HEADER)
    rows = []
    for block, found in own.groupby(["source", "answers"], sort=False):
        for rejector in filter(set(found["rejector"]).__contains__, NAMES):
            lines = found[found["rejector"] == rejector]
            home = lines["part"] == "id_test"
            shown = []
            for part in (lines[home], lines[~home]):
                # Of a run its targets first: one with many targets weighs no more than others.
                means = part.groupby("run_id")[list(FREE)].mean().mean()
                shown += [share(means[name]) for name in FREE]
            rows.append((*block, NAMES[rejector], lines["run_id"].nunique(), *shown))
    return sheet(
        "rejectors",
        "Rejectors compared without a threshold, × 100: mean over the inductive runs of every "
        "experiment that predict by their own head, the same for each rejector of a block; "
        "in-domain, and mean over targets. "
        "AURC, E-AURC: area under the risk-coverage curve, and the part of it that an oracle "
        "avoids; lower is better. cov@99, cov@90: largest share that is accepted at 99 and 90 % "
        "accuracy of the accepted, so that rejectors stand at equal accuracy; higher is better.",
        header,
        rows,
        (
            "Conformal: ranked by the second largest p-value, of which many images share the "
            "smallest possible; where images tie, the score is its mean over all their orders",
            "CCL confidences are of runs whose logits are those of a closeness to centroids",
        ),
        words=3,
    )


def scores_of(columns: dict[str, np.ndarray], lines: np.ndarray) -> list[Value]:
    """Seeds, the three scores at the plain threshold, two at the guaranteed one, and the rest.

    Args:
        lines: rows of the columns.
    """

    def mean(name: str, rows: np.ndarray) -> float:
        values = columns[name][rows].astype(float)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else np.nan

    plain, guaranteed = (lines[columns["fit"][lines] == fit] for fit in ("plain", "guaranteed"))
    return [
        len(set(columns["run_id"][lines])),
        *(share(mean(name, plain)) for name in SCORES),
        *(share(mean(name, guaranteed)) for name in SCORES[:2]),
        *(share(mean(name, lines)) for name in FREE),
    ]


def open_set_sheet(results: Results) -> Table | None:
    """A few methods × kinds of foreign cells × scores; None where no such cell was tested."""
    table = results.open_set
    rows: list[tuple[Value, ...]] = []
    for scenario, method, runs in runs_shown(results):
        own = table[table["run_id"].isin([run.run_id for run in runs])]
        # The nearer kind of cell first, and the scores in the order of the table of rejection.
        for (domain, kind), cells in sorted(own.groupby(["domain", "kind"]), reverse=True):
            for rejector in filter(set(cells["rejector"]).__contains__, NAMES):
                lines = cells[cells["rejector"] == rejector]
                home = HOME if (lines["part"] == "id_test").all() else ""
                counts = [int(lines[n].iloc[0]) for n in ("known_n", "foreign_n")]
                scores = [share(lines[n].mean()) for n in ("auroc", "fpr_at_95")]
                where = (scenario.source, method, domain + home, kind, NAMES[rejector])
                rows.append((*where, lines["run_id"].nunique(), *counts, *scores))
    if not rows:
        return None
    caption = (
        "Cells of no class, separated from known cells of the same laboratory by confidence; in %, "
        "mean over seeds. Near: "
        "leucocytes and their precursors that are no class here (immature granulocytes); far: "
        "erythroblasts and platelets. AUROC: probability that a known cell has the higher "
        "confidence, 50 by chance. FPR at 95 %: share of foreign cells accepted where 95 % of the "
        f"known are; 95 by chance, and lower is better. {questions.SHOWN}"
    )
    notes = ("A high AUROC does not say that known cells are classified correctly",)
    return sheet(
        "open_set",
        caption,
        ("trained on", "method", "cells of", "foreign cells", "score", "seeds", "n known")
        + ("n foreign", "AUROC", "FPR at 95 %"),
        rows,
        notes,
        words=5,
    )
