"""What is read of the JSON records that commands leave for each other: a record of another shape
(a list, one without a key) is one line that says which command makes it anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from benchmark.files import Record, read_record
from benchmark.names import Name, ProfileName, RunId


class PlannedScenario(Record):
    """What a planned run trains and is tested on."""

    name: str
    source: str
    targets: list[str]


class PlannedRun(Record):
    """A run as `plan` writes it."""

    run_id: RunId
    fingerprint: str
    training_fingerprint: str
    answering: str
    skip: str | None
    track: str
    seed: int
    scenario: PlannedScenario
    tested: dict[str, str]
    method: dict[str, str]
    settings: dict[str, Any]


class Plan(Record):
    """`plans/<experiment>.json`."""

    experiment: Name
    profile: ProfileName
    title: str
    classes: Annotated[list[str], Field(min_length=1)]
    runs: list[PlannedRun]


class PreparedDomain(Record):
    """A domain as `prepare` left it."""

    dataset: str
    images: int
    classes: dict[str, int]
    crop: Any
    digest: str = ""


class Prepared(Record):
    """`data.json`."""

    subset: str
    image_size: int
    label_space: str
    domains: dict[str, PreparedDomain]
    framings: dict[str, dict[str, Any]] = {}  # noqa: RUF012  pydantic copies defaults


Looks = Annotated[list[float], Field(min_length=8, max_length=8)]
"""One number for each that an image is described by."""


class KeptRange(Record):
    """Where the own images of a source lie, in a framing."""

    source: str
    framing: str | None
    data: str
    images: int
    held_out: int
    mean: Looks
    covariance: Annotated[list[Looks], Field(min_length=8, max_length=8)]
    limit: PositiveFloat


class Ranges(Record):
    """`ranges.json`."""

    ranges: list[KeptRange]


class DoneScenario(Record):
    """What a run on disk was trained on."""

    source: str


class Done(Record):
    """`run.json`, as far as it is read beside its fingerprint."""

    run_id: RunId
    outcome: str
    training_fingerprint: str
    method: dict[str, str]
    scenario: DoneScenario
    settings: dict[str, Any]


class Find(Record):
    """A find of the audit."""

    check: str
    text: str


class AuditedDomain(Record):
    """A domain as the audit saw it."""

    images: int


class Audit(Record):
    """`audit.json`."""

    verdict: str
    domains: dict[str, AuditedDomain]
    failures: list[Find]
    warnings: list[Find]
    known: list[Find]
    pairs_kept_together_by_their_group: int


def read_plan(path: Path) -> dict[str, Any]:
    """A plan: `results/<profile>/plans/<experiment>.json`."""
    return read_record(path, Plan, f"run `wbc-shift plan -p {Path(path).parent.parent.name}`")


def read_prepared(path: Path) -> dict[str, Any]:
    """What `prepare` made: `results/<profile>/data.json`."""
    return read_record(path, Prepared, f"run `wbc-shift prepare -p {Path(path).parent.name}`")


def read_kept_ranges(path: Path) -> list[dict[str, Any]]:
    """The ranges of the sources' own images: `results/<profile>/ranges.json`."""
    again = f"run `wbc-shift prepare -p {Path(path).parent.name}`"
    return read_record(path, Ranges, again)["ranges"]


def read_audit(path: Path) -> dict[str, Any]:
    """What the audit found: `results/<profile>/audit.json`."""
    return read_record(path, Audit, f"run `wbc-shift audit -p {Path(path).parent.name}`")


def read_done(path: Path) -> dict[str, Any]:
    """The record of a run: `results/<profile>/runs/<run id>/run.json`."""
    profile = Path(path).parents[4].name
    return read_record(path, Done, f"delete it, and run `wbc-shift train -p {profile}`")
