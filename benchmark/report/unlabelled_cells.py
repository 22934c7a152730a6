"""What unlabelled cells of a new laboratory buy: a table, and what the figure draws."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmark.evaluation.unlabelled_cells import (
    MARGIN,
    METHODS,
    MOST_DRAWS,
    NUMBERS,
    ORDERS,
    enough_from,
    read_unlabelled_cells,
    scored,
    unlabelled_cells_folder,
)
from benchmark.laboratory.shipped import all_shipped
from benchmark.progress import say
from benchmark.report.results import Results
from benchmark.report.table import DRAWS_NOTE, UNPAIRED_NOTE, Table, Value, share, sheet
from benchmark.report.write import NOTHING

BY = ["source", "network", "order", "method"]
"""What a line of the short table, and one of the figure, is of."""
MEANING = (
    "A network is adapted to so many unlabelled cells of a target and predicts others of it, of "
    "groups that it has not seen; scores are macro-F1 over the classes that the target has ten "
    "cells of. Gains are over the same network without adaptation on the same cells, in points. "
    f"Collapsed: draws more than {100 * MARGIN:.0f} points below it."
)


def adapted_scores(results: Results) -> pd.DataFrame | None:
    """Scores of every draw of every network of the profile, by source and network; None of none.

    Says which files are of another network than the one that is here, and leaves them out.
    """
    folder = results.folder
    known = {run_id: record.get("network_sha256") for run_id, record in results.records.items()}
    own = [shipped.record for shipped in all_shipped(folder.absolute().parents[1])]
    known |= {record.name: record.sha256 for record in own if record.profile == folder.name}
    found = []
    for path in sorted(unlabelled_cells_folder(folder).glob("*.parquet")):
        table = read_unlabelled_cells(path)
        stale = table["network_sha256"] != table["network"].map(known)
        if stale.any():
            say(
                f"note: {path} is stale and not shown: run `wbc-shift unlabelled-cells` again, or "
                "delete it"
            )
        elif len(table):
            found.append(scored(table))
    if not found or not sum(map(len, found)):
        return None
    table = pd.concat(found, ignore_index=True)
    places = {name: place for place, name in enumerate([*METHODS, *ORDERS])}
    by = [*BY, "target", "number", "draw"]
    return table.sort_values(by, key=lambda c: c.map(places) if c.name in BY[2:] else c)


def network_name(network: str) -> str:
    """A network of the repository by its name, another by its method and seed."""
    method, _, rest = network.partition("/")
    return f"{method}, {rest.rpartition('/')[2].replace('seed', 'seed ')}" if rest else network


def by_target(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the draws of each target and number, with the share of collapsed ones."""
    grouped = table.groupby([*BY, "target", "number"], sort=False)
    return grouped.agg(
        draws=("draw", "size"),
        macro_f1=("macro_f1", "mean"),
        low=("macro_f1", "min"),
        high=("macro_f1", "max"),
        gain=("gain", "mean"),
        collapsed=("collapsed", "mean"),
        few_named=("few_named", "mean"),
    ).reset_index()


def unlabelled_cells_sheet(results: Results) -> Table | None:
    """A line per network, order and method, over its targets; None where nothing was tried."""
    table = adapted_scores(results)
    if table is None:
        return None
    numbers = [number for number in NUMBERS if (table["number"] == number).any()]
    rows: list[tuple[Value, ...]] = []
    for (source, network, order, method), every in table.groupby(BY, sort=False):
        own, home = every[~every["at_home"]], every[every["at_home"]]
        if not len(own):
            continue
        means = by_target(own)
        gains = means.groupby("number")["gain"].mean()
        enough = [
            enough_from(target["number"].to_numpy(), target["gain"].to_numpy())
            for _, target in own.groupby("target")
        ]
        from_here = [number for number in enough if number is not None]
        rows.append(
            (
                source,
                network_name(network),
                ORDERS[order],
                METHODS[method],
                f"{own['target'].nunique()} × {draws_told(own)}",
                *(share(gains.get(number)) for number in numbers),
                share(home.groupby("number")["gain"].mean().mean()),
                share(means["collapsed"].mean()),
                share(means["few_named"].mean()),
                f"{len(from_here)} of {len(enough)}",
                f"{int(np.median(from_here))}" if from_here else NOTHING,
            )
        )
    notes = [*targets_at(table[~table["at_home"]]), DRAWS_NOTE, UNPAIRED_NOTE]
    return sheet(
        "unlabelled_cells",
        "What unlabelled cells of a new laboratory buy: macro-F1 gained by adapting to so many of "
        f"them, in points, mean over targets and draws. {MEANING} At home: the same of the "
        "source's own test part, mean over the numbers: what adapting costs without a shift. "
        "Collapsed, and few classes (fewer than half of them named): per cent of the draws, mean "
        "over targets and numbers. Better: targets on which at least "
        f"{100 * MOST_DRAWS:.0f} % of the draws gain at a number and at all larger ones tried; "
        "from: the median of these numbers.",
        ("trained on", "network", "order", "method", "targets × draws")
        + tuple(f"{number} cells" for number in numbers)
        + ("at home", "collapsed", "few classes", "better", "from"),
        rows,
        notes,
        words=4,
    )


def draws_told(table: pd.DataFrame) -> str:
    """How many draws the targets have, `1–3` where they differ."""
    found = table.groupby(["target", "number"])["draw"].nunique()
    return "–".join(map(str, sorted({found.min(), found.max()})))


def targets_at(table: pd.DataFrame) -> list[str]:
    """A note on the numbers of cells that not every target has, by the network tried most."""
    own = table[table["network"] == table["network"].mode()[0]]
    found = own[own["order"] == next(iter(ORDERS))].groupby("number")["target"].nunique()
    few = [f"{number} cells: {count} of {found.max()}" for number, count in found.items()
           if count < found.max()]  # fmt: skip
    clinical = "at clinical prevalence a target ends where a class has no cell left"
    if not few:
        return [clinical.capitalize()]
    told = ", ".join(few)
    return [f"Means are over the targets that have so many cells ({told}); {clinical}"]
