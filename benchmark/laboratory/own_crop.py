"""How large a laboratory's cells stand in its images, beside those of a profile's sources.

The crop decides more than any method does: a network that has learned cells of one size answers
nearly by chance on cells of half of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.data.prepare import decode_all
from benchmark.domains.facts import nucleus_diameters
from benchmark.errors import UserError
from benchmark.files import read_json

SIDE = 160
"""Pixels of the square in which nuclei are measured."""
MOST = 40
"""Images per class that are measured, and as many of each source."""
FEWEST = 3
"""Nuclei per class without which there is no comparison by it."""
ALIKE = 1.15
"""Sizes that differ by less than this factor are left as they are."""


def nuclei(folder: Path, images: pd.DataFrame, crop: float, name: str) -> dict[str, float]:
    """Median nucleus diameter per class, as a fraction of the crop's side.

    Args:
        images: path (below `folder`) and class_name.
        crop: as on a card.
        name: of the domain, for the progress.
    """
    found = {}
    for class_name, rows in images.groupby("class_name"):
        chosen = rows.iloc[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)]
        pixels = decode_all([folder / path for path in chosen["path"]], crop, SIDE, name)
        diameters = nucleus_diameters(pixels)
        diameters = diameters[np.isfinite(diameters)]
        if len(diameters) >= FEWEST:
            found[class_name] = float(np.median(diameters))
    return found


def published_nuclei(path: Path, sources: list[str]) -> dict[str, dict[str, float]]:
    """The same of the sources, as `domain cards` wrote them down; none where it has not run."""
    try:
        domains = read_json(path)["domains"]
        return {
            source: {
                class_name: facts["of the crop's side"][1]
                for class_name, facts in domains[source]["nucleus diameter, quartiles"].items()
                if facts["images"] >= FEWEST
            }
            for source in sources
            if source in domains
        }
    except (UserError, KeyError, TypeError, IndexError):
        return {}


def ratio(own: dict[str, float], source: dict[str, float]) -> float | None:
    """How much smaller or larger nuclei stand than those of a source, the median over classes."""
    both = [own[name] / source[name] for name in own if name in source]
    return float(np.median(both)) if both else None


def crop_advice(
    folder: Path,
    images: pd.DataFrame,
    crop: float,
    name: str,
    sources: dict[str, dict[str, float]],
) -> list[str]:
    """Lines that compare the size of nuclei with that of each source, and propose a crop.

    Args:
        images: path and class_name.
        sources: domain → class → median nucleus diameter, as a fraction of the crop's side.
    """
    own = nuclei(folder, images, crop, name)
    if not own:
        return []
    share = 100 * np.median([*own.values()])
    stated = f"nuclei of {name} take {share:.0f} % of the square's side (--crop {crop:g})"
    ratios = {source: ratio(own, theirs) for source, theirs in sources.items()}
    ratios = {source: first for source, first in ratios.items() if first is not None}
    if not ratios:
        return [f"{stated}; no images of a source are here to compare them with"]
    lines = []
    for source, first in ratios.items():
        theirs = sources[source]
        text = f"{stated}, those of the same classes in {source} {1 / first:.2f} times that"
        if 1 / ALIKE <= first <= ALIKE:
            lines.append(f"{text}: much the same")
            continue
        wanted = min(max(crop * first, 0.05), 1.0)
        # Measured again there, for what lies around a cell is told from it more easily.
        again = ratio(nuclei(folder, images, wanted, name), theirs)
        wanted = min(max(wanted * (again or 1.0), 0.05), 1.0)
        if abs(wanted - crop) < 0.02:
            lines.append(f"{text}: no crop of these images shows them alike")
        else:
            lines.append(f"{text}: --crop {wanted:.2f} would show them alike; look at some images")
    return lines
