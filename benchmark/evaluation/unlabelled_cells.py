"""What unlabelled cells of a new laboratory buy: scores of networks that were adapted to few cells
of a target and predicted others, from the files that `wbc-shift unlabelled-cells` leaves.

A row is one draw: so many cells, in an order, for a method; its confusion matrix is of cells that
the method has not seen. The same cells are predicted without adaptation (`NONE`), so that what a
method wins is of the same cells and free of their choice. F1 is averaged over the classes that the
whole target has ten cells of, since a draw tests a hundred.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmark.errors import UserError
from benchmark.evaluation.scores import macro_f1_of_parts
from benchmark.texts import shortened

NUMBERS = (5, 10, 20, 50, 100, 200)
"""Unlabelled cells that a method adapts to."""
DRAWS = 10
NONE = "none"
"""The method that adapts to nothing; and the order of its rows, which take no cells."""
ORDERS = {
    "random": "at random",
    "slides": "slide by slide",
    "clinical": "at clinical prevalence",
    "arrival": "in order of arrival",
}
"""In which order cells come to be adapted to, and how it is called in print."""
METHODS = {
    NONE: "none",
    "adabn": "AdaBN",
    "adabn_half": "AdaBN, half the source's",
    "moments": "colour matched",
    "scale_and_moments": "framing and colour matched",
    "tent": "TENT",
}
MARGIN = 0.05
"""Macro-F1 lost against no adaptation from which on a draw has collapsed."""
MOST_DRAWS = 0.9
"""Share of draws in which a method has to be better than none."""
COLUMNS = ["network", "target", "method", "order", "number", "draw"]
"""What tells a row from all others."""
UNLABELLED_CELLS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("profile", "source", "network", "network_sha256")),
        *((name, pa.string()) for name in ("target", "cells", "method", "order")),
        *((name, pa.int32()) for name in ("number", "draw")),
        *((name, pa.list_(pa.int32())) for name in ("support", "confusion")),
    ]
)
"""`unlabelled_cells/<network>.parquet`, whose metadata name the `classes`. `cells` is the digest of
the target's images and of how cells are drawn of them; `support`, cells of each class in the whole
target; `confusion`, of the tested cells, true × predicted, row by row."""


def unlabelled_cells_folder(results: Path) -> Path:
    """Where a profile's files lie, one per network."""
    return Path(results) / "unlabelled_cells"


def read_unlabelled_cells(path: Path) -> pd.DataFrame:
    """The rows of one network.

    Raises:
        UserError: the file is broken, or is none of this kind.
    """
    again = "delete it and run `wbc-shift unlabelled-cells` again"
    try:
        table = pq.read_table(path, partitioning=None).select(UNLABELLED_CELLS_SCHEMA.names)
        table = table.cast(UNLABELLED_CELLS_SCHEMA)
    except (ValueError, KeyError, OSError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path} cannot be read ({shortened(str(error), 120)}): {again}") from None
    frame = table.to_pandas()
    if len(frame):
        support, counts = (np.stack(frame[name].to_list()) for name in ("support", "confusion"))
        if counts.shape[1] != support.shape[1] ** 2:
            raise UserError(f"{path} holds confusion matrices of other classes: {again}")
    if frame.duplicated(COLUMNS).any():
        raise UserError(f"{path} holds a draw twice: {again}")
    return frame


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of adapted networks with their scores.

    Returns:
        `COLUMNS` and source; at_home, whether it is of the source's own test part; macro_f1; gain,
        over no adaptation on the same cells; collapsed, by `MARGIN`; few_named, whether fewer than
        half of the classes were predicted at all.
    """
    support = np.stack(table["support"].to_list())
    classes = support.shape[1]
    counts = np.stack(table["confusion"].to_list()).reshape(-1, classes, classes)
    whole = table[["source", *COLUMNS]].assign(
        at_home=table["source"] == table["target"],
        macro_f1=macro_f1_of_parts(counts, support),
        few_named=(counts.sum(axis=1) > 0).sum(axis=1) < classes / 2,
    )
    plain = whole[whole["method"] == NONE].set_index(["network", "target", "draw"])["macro_f1"]
    adapted = whole[whole["method"] != NONE].reset_index(drop=True)
    keys = pd.MultiIndex.from_frame(adapted[["network", "target", "draw"]])
    gain = adapted["macro_f1"].to_numpy() - plain.reindex(keys).to_numpy()
    return adapted.assign(gain=gain, collapsed=gain < -MARGIN)


def enough_from(numbers: np.ndarray, gains: np.ndarray) -> int | None:
    """The number of cells from which on a method is better than none in nine draws of ten, at it
    and at every larger number tried; None if it is not even at the largest.

    Args:
        numbers, gains: [draws], of one target.
    """
    found = None
    for number in sorted(set(numbers.tolist()), reverse=True):
        if (gains[numbers == number] > 0).mean() < MOST_DRAWS:
            return found
        found = number
    return found
