"""An audit → one self-contained page: faults, pairs side by side, contact sheets.

The page holds third-party images: it stays on the machine that made it and is not for git.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmark.audit.findings import Finding
from benchmark.audit.pictures import address, contact_sheet, small_picture
from benchmark.data.cards import Card
from benchmark.data.fetch import raw_folder
from benchmark.files import write_text
from benchmark.templates import templates_beside

if TYPE_CHECKING:
    from benchmark.audit.audit import Audit

PICTURE_SIDE = 160
MOST_PICTURES = 300
"""Findings of one kind that are shown with their images; the rest is in the record."""


def write_page(
    path: Path,
    name: str,
    audit: Audit,
    images: pd.DataFrame,
    datasets: Path,
    cards: dict[str, Card],
) -> None:
    """Write the page of a profile's audit.

    Args:
        images: dataset, domain, path, class_name and part of every image audited.
    """
    files = pd.Series(
        [raw_folder(datasets, cards[r.dataset]) / r.path for r in images.itertuples()],
        index=images.index,
        dtype=object,
    )

    def pictures(finding: Finding) -> list[tuple[str, str]]:
        """Address and caption of the images at hand, the second turned like the first."""
        found = []
        for (dataset, file), view in zip(finding.images, (0, finding.view), strict=False):
            place = raw_folder(datasets, cards[dataset]) / file
            found.append((address(small_picture(place, PICTURE_SIDE, view)), file))
        return [picture for picture in found if picture[0]]

    sheets = {
        domain: (
            sorted(rows["class_name"].unique()),
            address(contact_sheet(files[rows.index], rows["class_name"])),
        )
        for domain, rows in images.groupby("domain", sort=False)
    }
    environment = templates_beside(__file__)
    kinds = {
        "Failures": audit.failures,
        "New finds": audit.warnings,
        "Pairs inside one group that nobody has looked at": audit.inside,
        "Known cases": audit.known,
    }
    lines: dict[str, list[str]] = {}
    for finding in [*audit.failures, *audit.warnings, *audit.inside]:
        for mend in finding.mend:
            lines.setdefault(mend.file, []).append(mend.line)
    text = environment.get_template("audit.html.jinja").render(
        name=name,
        audit=audit,
        kinds=kinds,
        most=MOST_PICTURES,
        pictures=pictures,
        sheets=sheets,
        lines={file: list(dict.fromkeys(added)) for file, added in lines.items()},
        parts=pd.crosstab(images["domain"], images["part"].replace("", "tested on")),
        groups=images.groupby("domain")["group"].nunique(),
    )
    write_text(path, text)
