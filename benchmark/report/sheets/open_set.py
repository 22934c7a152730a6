"""Open set: how well a method's confidence tells cells that it was never taught from known ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmark.evaluation.experiments import Experiment
from benchmark.report.notes import found_of_planned, gap_notes
from benchmark.report.sheets.rejection import NAMES
from benchmark.report.sheets.sheet import Sheet, percent
from benchmark.report.tables import by_method, done_ids, read_evaluated

HEADER = ("trained on", "method", "cells of", "foreign cells", "score", "seeds", "n known")
HEADER += ("n foreign", "AUROC", "FPR at 95 %")


def load_open_set(results: Path, experiments: list[Experiment]) -> pd.DataFrame:
    """`open_set.parquet`."""
    return pd.DataFrame(read_evaluated(Path(results) / "open_set.parquet", experiments))


def open_set_sheet(experiment: Experiment, table: pd.DataFrame) -> Sheet | None:
    """Methods × kinds of foreign cells × scores; None where no such cell was tested."""
    rows: list[tuple[str, ...]] = []
    for (scenario, _), runs in experiment.blocks().items():
        for method, planned in by_method(runs).items():
            own = table[table["run_id"].isin(done_ids(planned))]
            # The nearer kind of cell first, and the scores in the order of the table of rejection.
            for (domain, kind), cells in sorted(own.groupby(["domain", "kind"]), reverse=True):
                for rejector in filter(set(cells["rejector"]).__contains__, NAMES):
                    lines = cells[cells["rejector"] == rejector]
                    home = " (in-domain)" if (lines["part"] == "id_test").all() else ""
                    counts = [str(lines[n].iloc[0]) for n in ("known_n", "foreign_n")]
                    scores = [percent(lines[n].mean()) for n in ("auroc", "fpr_at_95")]
                    where = (scenario.source, method, domain + home, kind, NAMES[rejector])
                    rows.append((*where, str(lines["run_id"].nunique()), *counts, *scores))
    if not rows:
        return None
    caption = (
        f"{experiment.title}: cells of no class, told from the known cells of the same laboratory "
        f"by a confidence; in %, mean over seeds; {found_of_planned(experiment)} runs. Near: "
        "leucocytes and their precursors that are no class here (immature granulocytes); far: "
        "erythroblasts and platelets. AUROC: probability that a known cell has the higher "
        "confidence, 50 by chance. FPR at 95 %: share of foreign cells accepted where 95 % of the "
        "known are; 95 by chance, and lower is better."
    )
    notes = ("A high AUROC does not say that the known cells are answered rightly",)
    return Sheet(
        f"{experiment.experiment}_open_set",
        caption,
        HEADER,
        tuple(rows),
        (*notes, *gap_notes(experiment)),
        text_columns=5,
    )
