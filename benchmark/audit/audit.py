"""The audit of a profile's images, splits and scenarios, a gate of the pipeline: one failure fails.

`results/<profile>/audit.json` holds paths and numbers. `audit.html` shows third-party images: it
stays on the machine that made it and is not for git.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.audit import near_duplicates
from benchmark.audit.checks import (
    Audit,
    Finding,
    Scenarios,
    check_counts,
    check_files,
    check_manifest,
    check_sides,
    check_splits,
    more,
    parts_of,
)
from benchmark.audit.images import address, contact_sheet, look_at, small_picture
from benchmark.audit.pairs import (
    check_pairs,
    declared,
    find_pairs,
    known_cases,
    of_one_family,
    precision,
    review,
)
from benchmark.data.arrays import open_set_of
from benchmark.data.cards import Card, card_of, raw_folder
from benchmark.data.manifests import domain_images, open_set_images
from benchmark.data.prepare import placed
from benchmark.errors import UserError
from benchmark.files import write_json, write_text
from benchmark.progress import say
from benchmark.settings import Params, Profile
from benchmark.study.plan import profile_folder
from benchmark.texts import templates_beside

MEASURES = {
    "hash": f"{near_duplicates.FREQUENCIES} x {near_duplicates.FREQUENCIES} cosine frequencies",
    "nominated": near_duplicates.NEAREST,
    "one cell from correlation and margin": near_duplicates.SAME,
    "more if turned, more if warped": near_duplicates.PRICE,
}
"""What "one cell" meant in a record."""
PICTURE_SIDE = 160
MOST_PICTURES = 300
"""Findings of one kind that are shown with their images; the rest is in the record."""


def audit_profile(root: Path, params: Params, cards: dict[str, Card], name: str) -> Audit:
    """Audit everything that a profile trains and tests on, and write the record and the page.

    Raises:
        UserError: images are missing; or the audit failed, with the number of faults and the first
            one, after record and page were written.
    """
    profile = params.profile(name)
    images = images_of(root, profile, cards)
    chosen = [cards[dataset] for dataset in images["dataset"].unique()]
    files = images["file"].to_list()
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise UserError(
            f"{absent[0]} is missing{more(len(absent), 'image')}: run `wbc-shift fetch -p {name}`"
        )
    used = set(zip(images["dataset"], images["path"], strict=True))
    audit = Audit(check_sides(profile, cards, images) + check_splits(root, profile, cards))
    for card in chosen:
        audit.failures += check_counts(root, card)
        check_manifest(audit, root, card, used)
    looks = look_at(files, root / "datasets" / "cache" / "audit", images["square"].to_list())
    audit.failures += check_files(images, looks)
    sound = [row for row, seen in enumerate(looks) if seen.fault is None]
    table, looks = images.iloc[sound].reset_index(drop=True), [looks[row] for row in sound]
    searched = np.flatnonzero(~declared(audit, table))
    pairs = find_pairs([looks[row] for row in searched])
    for column in ("first", "second"):
        pairs[column] = searched[pairs[column].to_numpy(int)]
    pairs = pairs[~of_one_family(audit, cards, table, pairs)].reset_index(drop=True)
    pairs["verdict"] = review(root / "datasets", table, looks, pairs)
    audit.pairs = precision(pairs["verdict"])
    check_pairs(audit, Scenarios(profile), table, looks, pairs)
    audit.known += known_cases(root, chosen, table, looks)
    folder = profile_folder(root, name)
    write_json(folder / "audit.json", record(name, images, audit))
    write_page(folder / "audit.html", name, audit, images, root / "datasets", cards)
    for warning in audit.warnings:
        say(f"warning: {warning.text}")
    if audit.failures:
        raise UserError(
            f"audit of profile {name} failed: {audit.failures[0].text}"
            f"{more(len(audit.failures), 'fault')}: see {folder / 'audit.html'}"
        )
    return audit


def images_of(root: Path, profile: Profile, cards: dict[str, Card]) -> pd.DataFrame:
    """Every image that a profile uses, fetched or not.

    Returns:
        dataset, domain, path, file, square (around the cell, where a box says where in a field it
        lies; else None), group, class_name, part ("" where a domain is only tested on), and
        sha256, width, height and cell, the name of a cell that several images are declared to show
        ("" where unknown). Cells of no class are a domain of their own
        (`<domain>.open_set`), near or far in the place of a class.
    """
    tables = []
    for domain in profile.domains:
        card = card_of(cards, domain)
        raw = raw_folder(root / "datasets", card)
        asked = root / "datasets", card, domain, profile.label_space, profile.subset
        table = domain_images(*asked).assign(domain=domain, part="")
        if domain in profile.sources():
            # Without a split no image has a part, and pandas takes them all for numbers.
            parts = table["path"].map(parts_of(root, domain)).astype(object)
            table["part"] = parts.fillna("no part")
        foreign = open_set_images(*asked)
        for own in (table, foreign.assign(domain=open_set_of(domain), part="")):
            files = pd.Series([raw / path for path in own["path"]], own.index, dtype=object)
            cut = placed(card.domains[domain].crop_for(profile.label_space), own, card.manifest)
            squares = cut if isinstance(cut, list) else [None] * len(own)
            own = own.assign(dataset=card.name, file=files)
            tables.append(own.assign(square=pd.Series(squares, own.index, dtype=object)))
    images = pd.concat(tables, ignore_index=True)
    facts = ["sha256", "width", "height", "cell"]
    for fact in facts:
        images[fact] = images[fact].fillna("") if fact in images else ""
    columns = ["dataset", "domain", "path", "file", "square", "group", "class_name", "part"]
    return images[columns + facts]


def record(name: str, images: pd.DataFrame, audit: Audit) -> dict[str, Any]:
    """The audit as JSON: no image in it, and nothing that differs from one machine to another."""
    domains = {}
    for domain, rows in images.groupby("domain", sort=False):
        parts = rows["part"].value_counts().sort_index()
        domains[domain] = {
            "dataset": rows["dataset"].iloc[0],
            "images": len(rows),
            "groups": int(rows["group"].nunique()),
            "parts": {part: int(number) for part, number in parts.items() if part},
        }
    return {
        "schema_version": 1,
        "profile": name,
        "verdict": audit.verdict,
        "measures": MEASURES,
        "domains": domains,
        "pairs": audit.pairs,
        "pairs_kept_together_by_their_group": audit.kept_together,
        "failures": [asdict(finding) for finding in audit.failures],
        "warnings": [asdict(finding) for finding in audit.warnings],
        "unreviewed_in_one_group": [asdict(finding) for finding in audit.inside],
        "known": [asdict(finding) for finding in audit.known],
    }


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
        images: as of `images_of`.
    """

    names = zip(images["dataset"], images["path"], strict=True)
    squares = dict(zip(names, images["square"], strict=True))

    def pictures(finding: Finding) -> list[tuple[str, str]]:
        """Address and caption of the images at hand, the second turned like the first."""
        found = []
        for (dataset, file), view in zip(finding.images, (0, finding.view), strict=False):
            place = raw_folder(datasets, cards[dataset]) / file
            square = squares.get((dataset, file))
            found.append((address(small_picture(place, PICTURE_SIDE, view, square)), file))
        return [picture for picture in found if picture[0]]

    sheets = {
        domain: (
            sorted(rows["class_name"].unique()),
            address(contact_sheet(rows["file"], rows["class_name"], rows["square"])),
        )
        for domain, rows in images.groupby("domain", sort=False)
    }
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
    text = (
        templates_beside(__file__)
        .get_template("audit.html.jinja")
        .render(
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
    )
    write_text(path, text)
