"""Runs: what one is, from the plan to its record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from benchmark.parts import (
    RECORDED,
    Block,
    Parts,
    build,
)
from benchmark.scenarios import corruption_of, scenario_folder
from benchmark.schema import Record, RunId, read_shape
from benchmark.settings import (
    FROM_SCRATCH,
    Training,
    Weights,
)


class Scenario(Record):
    """What is trained on and what is tested on."""

    name: str
    source: str
    targets: tuple[str, ...]
    own: tuple[str, ...] = ()
    """Targets that are a laboratory's own images (`domain add`) and no published set."""
    folds: int | None = None
    """Into how many the source is cut for cross-fitting."""

    @property
    def file_name(self) -> str:
        """The scenario's name as a part of a file name: `raabin->*` gives `raabin_to_others`."""
        return scenario_folder(self.name)

    @property
    def corrupted(self) -> bool:
        """Whether its targets are the source's images under corruptions, and not other domains."""
        return any(map(corruption_of, self.targets))

    @property
    def test_sets(self) -> tuple[tuple[str, str], ...]:
        """(domain, part) of every test set, the in-domain one first."""
        return ((self.source, "id_test"), *((target, "shifted") for target in self.targets))

    @property
    def target_groups(self) -> dict[str, list[int]]:
        """Places of the targets that are averaged together: corruptions by severity and by kind."""
        groups: dict[str, list[int]] = {}
        for part, prefix in ((2, "severity "), (1, "")):
            for place, target in enumerate(self.targets):
                if found := corruption_of(target):
                    groups.setdefault(f"{prefix}{found[part]}", []).append(place)
        return groups


class RunMethod(Parts):
    """The parts of a run's method, under one name; an ensemble's are those of its members."""

    model_config = ConfigDict(extra="ignore")

    name: str

    @property
    def is_ensemble(self) -> bool:
        """Whether it averages what others predicted."""
        return self.recipe == "ensemble"

    def record(self) -> dict[str, str]:
        """As it is written: a part as in plain training is left out, but for `RECORDED`."""
        order = ("recipe", *RECORDED) if self.is_ensemble else RECORDED
        chosen = self.chosen(RECORDED)
        return {"name": self.name} | {part: chosen[part] for part in order} | chosen


class Member(Record):
    """A run that an ensemble averages."""

    run_id: RunId
    fingerprint: str
    skip: None = None


class RunSettings(Record):
    """The settings of each part of a run, and of its training; of an ensemble, its members."""

    # The block of a part that is declared in `parts` alone is kept under the part's name.
    model_config = ConfigDict(extra="allow")

    members: tuple[Member, ...] = ()
    normalisation: Block = Field(default_factory=dict)
    loss: Block = Field(default_factory=dict)
    training: Training | None = None
    image_size: int = 0
    crop: float = 1.0
    recipe: Block = Field(default_factory=dict)
    weights: Weights = FROM_SCRATCH
    readout: Block = Field(default_factory=dict)
    inference: Block = Field(default_factory=dict)

    def block(self, part: str) -> Block:
        """The parameters of a part."""
        return getattr(self, part, {})


class Run(Record):
    """Scenario × method × seed: the same object when it is planned, written and read.

    Attributes:
        fingerprint: of everything that its predictions follow from.
        training_fingerprint: of everything that its network follows from.
        answering: of what a prediction on one test set follows from, whatever the other test sets.
        tested: test set → digest of its images.
        skip: why it makes no sense; None if it does.
    """

    run_id: RunId
    fingerprint: str
    training_fingerprint: str
    skip: str | None = None
    method: RunMethod
    track: Literal["inductive", "transductive"]
    scenario: Scenario
    seed: int
    settings: RunSettings
    answering: str
    tested: dict[str, str]

    def record(self) -> dict[str, Any]:
        """As it is written: what is at its default is left out of method and settings."""
        whole = self.model_dump(mode="json", exclude_unset=True)
        return whole | {"method": self.method.record()}

    def build(self, part: str) -> Callable[..., Any]:
        """What its block of a part builds, with its parameters."""
        return build(part, getattr(self.method, part), self.settings.block(part))


class RunRecord(Run):
    """`run.json`: a run, what became of it, where, and of which network."""

    outcome: str
    predictions_sha256: str | None = None
    network_sha256: str | None = None
    """None in records from before networks were hashed."""
    environment: dict[str, Any] = Field(default_factory=dict)
    answered_in: list[dict[str, Any]] = Field(default_factory=list)
    """Where its predictions were made, if not where the network was trained."""
    selection: Any = None
    history: list[dict[str, Any]] = Field(default_factory=list)
    """By epoch; empty where nothing was trained."""
    train_images_per_s: float | None = None
    time: dict[str, float] = Field(default_factory=dict)
    members: list[dict[str, Any]] = Field(default_factory=list)


def read_run_record(path: Path) -> RunRecord:
    """The record of a run: `results/<profile>/runs/<run id>/run.json`."""
    profile = Path(path).parents[4].name
    return read_shape(path, RunRecord, f"delete it, and run `wbc-shift train -p {profile}`")
