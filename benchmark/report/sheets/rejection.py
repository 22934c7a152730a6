"""Rejection: what each rejector gains, with thresholds from the source and at matched accuracy."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.selective import ACCURACY
from benchmark.report.formats import number
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.sheets.sheet import Sheet, percent
from benchmark.report.tables import by_method, done_ids, read_evaluated

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
SCORES = ("rejected", "accuracy", "right")
FREE = ("aurc", "excess_aurc", "coverage_99", "coverage_90")
"""Scores without a threshold."""
HEADER = ("trained on", "method", "tested on", "rejector", "seeds", "Rr", "Ra", "R")
HEADER += ("Rr guaranteed", "Ra guaranteed", "AURC", "E-AURC", "cov@99", "cov@90")


def load_rejection(results: Path, experiments: list[Experiment]) -> pd.DataFrame:
    """`rejection.parquet`."""
    return pd.DataFrame(read_evaluated(Path(results) / "rejection.parquet", experiments))


def rejection_sheet(
    experiment: Experiment, table: pd.DataFrame, whole: bool = True
) -> Sheet | None:
    """Methods × rejectors on the source's test set and on the targets; None without a run.

    Args:
        whole: a line per target; else one for the mean of targets.
    """
    rows: list[tuple[str, ...]] = []
    marginal = 0
    for (scenario, track), runs in experiment.blocks().items():
        for method, planned in by_method(runs).items():
            own = table[table["run_id"].isin(done_ids(planned))]
            if own.empty:
                continue
            marginal = max(marginal, int(own["marginal_classes"].fillna(0).max()))
            home = own["part"] == "id_test"
            places = [(f"{scenario.source} (in-domain)", own[home])]
            if whole:
                shifted = own[~home].groupby("domain", sort=False)
                places += [
                    (t, shifted.get_group(t)) for t in scenario.targets if t in shifted.groups
                ]
            elif (~home).any():
                places.append(("mean of targets", own[~home]))
            name = method if track == "inductive" else f"{method} ({track})"
            for place, found in places:
                for rejector in filter(set(found["rejector"]).__contains__, NAMES):
                    lines = found[found["rejector"] == rejector]
                    rows.append((scenario.source, name, place, NAMES[rejector], *texts(lines)))
    if not rows:
        return None
    caption = (
        f"{experiment.title}: rejection in %, mean over seeds; {found_of_planned(experiment)} "
        "runs. Thresholds are fitted on the source's calibration part to "
        f"{100 * ACCURACY:.0f} % accuracy of the accepted. Rr: share rejected; Ra: accuracy of the "
        "accepted (mean over the runs that accept any); R = (1 − Rr)·Ra. Guaranteed: the same by "
        "exact binomial (Clopper-Pearson) bounds at 95 %, for images like the calibration images "
        "only. AURC, E-AURC (× 100): lower is better. cov@99, cov@90: largest share of the test "
        "set that is accepted at 99 and 90 % accuracy, chosen on the test set itself: rejectors at "
        "equal accuracy, and no threshold known beforehand."
    )
    calibration = table.loc[table["run_id"].isin(done_ids(list(experiment.runs))), "calibration_n"]
    notes = [
        f"Calibration images: {calibration.min()} to {calibration.max()}; "
        "below 299 nothing can be guaranteed at 99 %, so that all is rejected",
        "Calibration images of one patient or smear are not independent, as the bounds assume",
    ]
    if not calibration.max():
        notes = ["No calibration part was predicted, so there is no threshold"]
    if marginal:
        notes.append(
            f"Conformal p-values of up to {marginal} classes with fewer than 20 calibration "
            "images compare with all classes"
        )
    suffix = "" if whole else "_summary"
    return Sheet(
        f"{experiment.experiment}_rejection{suffix}",
        caption,
        HEADER,
        tuple(rows),
        (*notes, *gap_notes(experiment)),
        text_columns=4,
    )


def texts(lines: pd.DataFrame) -> list[str]:
    """Seeds, the three scores at the plain threshold, two at the guaranteed one, and the rest."""
    fits = {fit: lines[lines["fit"] == fit] for fit in ("plain", "guaranteed")}
    shown = [str(lines["run_id"].nunique())]
    shown += [percent(fits["plain"][name].mean()) for name in SCORES]
    shown += [percent(fits["guaranteed"][name].mean()) for name in SCORES[:2]]
    return shown + [number(100 * lines[name].mean(), 1) for name in FREE]
