"""A profile's images, splits and scenarios → `results/<profile>/audit.json` and `audit.html`.

The gate of the pipeline: one failure and it says no. The record holds paths and numbers; the page
shows the images themselves and stays on the machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.audit import near_duplicates
from benchmark.audit.checks import (
    Scenarios,
    check_counts,
    check_files,
    check_manifest,
    check_sides,
    check_splits,
    parts_of,
)
from benchmark.audit.findings import Finding, more
from benchmark.audit.images import look_at
from benchmark.audit.page import write_page
from benchmark.audit.pairs import (
    check_pairs,
    find_pairs,
    known_cases,
    precision,
    review,
)
from benchmark.config import Params, Profile
from benchmark.data.arrays import open_set_of
from benchmark.data.cards import Card, card_of, domain_images, open_set_images
from benchmark.data.fetch import raw_folder
from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.plan import profile_folder
from benchmark.progress import say

MEASURES = {
    "hash": f"{near_duplicates.FREQUENCIES} x {near_duplicates.FREQUENCIES} cosine frequencies",
    "nominated": near_duplicates.NEAREST,
    "one cell from correlation and margin": near_duplicates.SAME,
    "more if turned, more if warped": near_duplicates.PRICE,
}
"""What "one cell" meant in a record."""


@dataclass
class Audit:
    """What an audit found, worst first."""

    failures: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    known: list[Finding] = field(default_factory=list)
    kept_together: int = 0
    """Pairs of one cell inside one group, which no split can part."""
    inside: list[Finding] = field(default_factory=list)
    """Those of them that nobody has looked at."""
    pairs: dict[str, Any] = field(default_factory=dict)
    """How many pairs the search flagged, and what review says of them."""

    @property
    def verdict(self) -> str:
        """`passed` or `failed`."""
        return "failed" if self.failures else "passed"


def audit_profile(root: Path, params: Params, cards: dict[str, Card], name: str) -> Audit:
    """Audit everything that a profile trains and tests on, and write the record and the page.

    Raises:
        UserError: images are missing; or the audit failed, with the number of faults and the first
            one, after record and page were written.
    """
    profile = params.profile(name)
    images = images_of(root, profile, cards)
    chosen = [cards[dataset] for dataset in images["dataset"].unique()]
    files = [raw_folder(root / "datasets", cards[r.dataset]) / r.path for r in images.itertuples()]
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise UserError(
            f"{absent[0]} is missing{more(len(absent), 'image')}: run `wbc-shift fetch -p {name}`"
        )
    used = set(zip(images["dataset"], images["path"], strict=True))
    audit = Audit(check_sides(profile, cards, images))
    audit.failures += check_splits(root, profile, cards)
    for card in chosen:
        audit.failures += check_counts(root, card)
        failures, warnings, known = check_manifest(root, card, used)
        audit.failures += failures
        audit.warnings += warnings
        audit.known += known
    looks = look_at(files, root / "datasets" / "cache" / "audit")
    audit.failures += check_files(images, looks)
    sound = [row for row, seen in enumerate(looks) if seen.fault is None]
    table, looks = images.iloc[sound].reset_index(drop=True), [looks[row] for row in sound]
    pairs = find_pairs(looks)
    pairs["verdict"] = review(root / "datasets", table, looks, pairs)
    audit.pairs = precision(pairs["verdict"])
    judged = check_pairs(Scenarios(profile), table, looks, pairs)
    audit.failures += judged.failures
    audit.warnings += judged.warnings
    audit.inside, audit.kept_together = judged.inside, judged.kept_together
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
    """Every image that a profile uses: dataset, domain, path, group, class_name, part, facts.

    Returns:
        Cells of no class are a domain of their own (`<domain>.open_set`), near or far in the place
        of a class. `part` is "" where a domain is only tested on; sha256, width, height are ""
        where unknown.
    """
    tables = []
    for domain in profile.domains:
        card = card_of(cards, domain)
        asked = root / "datasets", card, domain, profile.label_space, profile.subset
        table = domain_images(*asked).assign(domain=domain, part="")
        if domain in profile.sources():
            table["part"] = table["path"].map(parts_of(root, domain)).fillna("no part")
        foreign = open_set_images(*asked).rename(columns={"open_set": "class_name"})
        for own in (table, foreign.assign(domain=open_set_of(domain), part="")):
            for column in ("sha256", "width", "height"):
                if column not in own:
                    own[column] = ""
            tables.append(own.assign(dataset=card.name))
    columns = ["dataset", "domain", "path", "group", "class_name", "part"]
    return pd.concat(tables, ignore_index=True)[[*columns, "sha256", "width", "height"]]


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
