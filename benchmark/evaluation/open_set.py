"""Open set: confidences of known and of foreign cells in, how well they are told apart out.

Known cells are the positive class and *a higher confidence means known*, as everywhere here
(`rejection.py`). A shifted image of a known class is known: only its meaning makes a cell foreign
(blasts, erythroblasts, platelets, immature granulocytes).
"""

from __future__ import annotations

import numpy as np


def auroc(known: np.ndarray, foreign: np.ndarray) -> float:
    """P(confidence of a known cell > that of a foreign one), ties count half (Mann-Whitney).

    Args:
        known, foreign: (images,) confidences; NaN if either is empty.
    """
    if not len(known) or not len(foreign):
        return float("nan")
    ordered = np.sort(known)
    below, up_to = (np.searchsorted(ordered, foreign, side=side) for side in ("left", "right"))
    higher = 2 * len(known) - below - up_to  # known cells above each foreign one, ties half, twice
    return float(higher.sum() / (2 * len(known) * len(foreign)))


def fpr_at_95(known: np.ndarray, foreign: np.ndarray) -> float:
    """Share of foreign cells accepted by the highest threshold that accepts 95 % of the known.

    A cell is accepted if its confidence is at least the threshold, so ties are accepted together.
    """
    if not len(known) or not len(foreign):
        return float("nan")
    accepted = int(np.ceil(round(0.95 * len(known), 9)))
    threshold = np.sort(known)[len(known) - accepted]
    return float((np.asarray(foreign) >= threshold).mean())
