"""Experiment records: `experiments/*.json` as typed objects, and what of their plan is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError, field_validator

from benchmark.errors import UserError
from benchmark.files import digest, read_json
from benchmark.parts import capability
from benchmark.schema import Name, ProfileName, Record, RunId
from benchmark.study.plan import read_plan
from benchmark.study.predictions import (
    RowOrders,
    RunPredictions,
    fault_of_file,
    predictions_path,
    read_predictions,
    train_command,
)
from benchmark.study.runs import RunMethod, Scenario

Outcome = Literal["done", "nan", "oom", "error", "skipped", "missing"]


class RecordedMethod(RunMethod):
    """A method in the record of an experiment."""

    augmentation: str = ""
    """"" is the profile's own"""
    framing: str = ""
    """"" is the profile's own image size and crops"""
    training: str = ""
    """digest of epochs, sampler and all else that has no name among the parts"""
    of: dict[str, str] = {}  # noqa: RUF012  pydantic copies defaults
    """part → what its block builds, where its name does not say so"""

    @property
    def answers_itself(self) -> bool:
        """Whether its predictions are those of its network's own head, in one view."""
        return (self.readout, self.inference) == ("head", "single") and not self.is_ensemble

    @property
    def states_shares(self) -> bool:
        """Whether its logits are logarithms of shares of votes, of which few values occur."""
        return self.says("readout", "states_shares")

    def says(self, part: str, fact: str) -> bool:
        """Whether what a part builds says this of itself; see `benchmark.parts.capability`."""
        return bool(capability(part, getattr(self, part), fact, {"of": self.of.get(part)}))

    def training_parts(self) -> tuple:
        """What it was trained as: the same for methods that share their trainings."""
        return tuple(self.model_dump(exclude={"name", "of", "readout", "inference"}).values())

    def is_plain(self, *apart: str) -> bool:
        """Cross-entropy from scratch, no recipe, nothing added.

        Backbone, normalisation, settings of training and the parts in `apart` may be any.
        """
        plain = RecordedMethod(name="")
        free = {"name", "of", "backbone", "normalisation", "training", *apart}
        return self.model_dump(exclude=free) == plain.model_dump(exclude=free)


class RecordedRun(Record):
    """One planned run: scenario × method × seed, and what became of it."""

    run_id: RunId
    outcome: Outcome
    reason: str | None = None
    predictions_sha256: str | None = None
    method: RecordedMethod
    track: str
    scenario: Scenario
    seed: int

    @property
    def done(self) -> bool:
        return self.outcome == "done"


class Experiment(Record):
    """One question: the runs planned to answer it, in the order of the plan."""

    schema_version: Literal[1]
    experiment: Name
    place: int = 0
    """its place among the experiments of the profile"""
    title: str
    about: tuple[str, ...] = ()
    """notes of `params.yaml` under its tables"""
    profile: ProfileName
    label_space: str
    classes: tuple[str, ...] = Field(min_length=1)
    runs: tuple[RecordedRun, ...] = Field(min_length=1)

    @field_validator("runs")
    @classmethod
    def _each_once(cls, runs: tuple[RecordedRun, ...]) -> tuple[RecordedRun, ...]:
        seen: set[str] = set()
        for run in runs:
            if run.run_id in seen:
                raise ValueError(f"run {run.run_id} stands twice and would count as two seeds")
            seen.add(run.run_id)
        return runs

    @property
    def found(self) -> int:
        """How many of the planned runs are done."""
        return sum(run.done for run in self.runs)

    def blocks(self) -> dict[tuple[Scenario, str], list[RecordedRun]]:
        """Planned runs by (scenario, track), in plan order.

        Tracks are kept apart because a method that saw the target's images is no rival of one
        that did not.
        """
        blocks: dict[tuple[Scenario, str], list[RecordedRun]] = {}
        for run in self.runs:
            blocks.setdefault((run.scenario, run.track), []).append(run)
        return blocks


def load_experiments(results: Path) -> list[Experiment]:
    """Read every `experiments/*.json` of a results folder, in the order of the profile.

    Raises:
        UserError: there is none, or one that does not follow the schema.
    """
    experiments = []
    again = f"`{train_command(results)}` writes it anew"
    for path in sorted((Path(results) / "experiments").glob("*.json")):
        try:
            experiments.append(Experiment.model_validate(read_json(path, again)))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "the whole"
            raise UserError(f"{path}: {place}: {fault['msg']}: {again}") from None
    if not experiments:
        raise UserError(f"{Path(results) / 'experiments'} holds no record: {again}")
    return sorted(experiments, key=lambda experiment: experiment.place)


def planned_since(results: Path, experiments: list[Experiment]) -> list[str]:
    """One line per experiment whose plan was made anew, by what its record lacks."""
    lines = []
    for experiment in experiments:
        path = Path(results) / "plans" / f"{experiment.experiment}.json"
        if not path.is_file():
            continue
        recorded = {(run.run_id, run.scenario.targets) for run in experiment.runs}
        planned = {(run.run_id, run.scenario.targets) for run in read_plan(path).runs}
        if lacking := planned - recorded:
            lines.append(
                f"{experiment.experiment} was planned anew since: {len(lacking)} of its "
                f"{len(planned)} planned runs, or test sets of them, are not in what is computed "
                f"here: `wbc-shift train -p {Path(results).name}` carries them out"
            )
    return lines


def done_runs(experiments: list[Experiment]) -> dict[str, tuple[RecordedRun, tuple[str, ...]]]:
    """Every done run once, with the classes of its label space, by run id.

    Raises:
        UserError: two experiments hold different records of the same run.
    """
    runs: dict[str, tuple[RecordedRun, tuple[str, ...]]] = {}
    for experiment in experiments:
        for run in filter(lambda run: run.done, experiment.runs):
            known, classes = runs.setdefault(run.run_id, (run, experiment.classes))
            if known != run or classes != experiment.classes:
                raise UserError(
                    f"run {run.run_id}: experiment '{experiment.experiment}' and another one hold "
                    f"different records of it: `wbc-shift train -p {experiment.profile}` brings "
                    "both up to date"
                )
    return dict(sorted(runs.items()))


class ScenarioRuns(NamedTuple):
    """The done runs of one scenario, each once, in the order in which the profile plans them."""

    scenario: Scenario
    classes: tuple[str, ...]
    runs: tuple[RecordedRun, ...]

    @property
    def members(self) -> dict[str, list[tuple[int, str]]]:
        """method → (seed, run id) by seed, whichever experiment planned it first"""
        members: dict[str, list[tuple[int, str]]] = {}
        for run in self.runs:
            members.setdefault(run.method.name, []).append((run.seed, run.run_id))
        return {method: sorted(own) for method, own in members.items()}

    @property
    def methods(self) -> dict[str, RecordedRun]:
        """method → one of its runs"""
        return {run.method.name: run for run in self.runs}


def by_scenario(experiments: list[Experiment]) -> list[ScenarioRuns]:
    found = {(run.scenario, classes): {} for run, classes in done_runs(experiments).values()}
    for experiment in experiments:
        for run in experiment.runs:
            if run.done:
                found[run.scenario, experiment.classes][run.run_id] = run
    return [ScenarioRuns(*key, tuple(runs.values())) for key, runs in found.items()]


def predictions_of(
    results: Path, run: RecordedRun, classes: tuple[str, ...], orders: RowOrders | None = None
) -> RunPredictions:
    """The predictions of a done run, if they are those that were recorded.

    Raises:
        UserError: the file is missing, is not the one recorded, does not follow the schema, or
            lacks a test set of the run's scenario.
    """
    check_recorded(results, run)
    shares = run.method.states_shares
    return read_predictions(results, run.run_id, classes, run.scenario.test_sets, shares, orders)


def check_recorded(results: Path, run: RecordedRun) -> None:
    """Refuse predictions that are not what both the experiment's index and the record mean.

    Raises:
        UserError: the file is missing or another one; index and record name different runs.
    """
    path = predictions_path(results, run.run_id)
    train = train_command(results)
    record_path = path.with_name("run.json")
    if not record_path.is_file():
        record = run.model_dump(include={"run_id", "predictions_sha256"})
    else:
        record = read_json(record_path)
        try:
            told = RecordedRun.model_validate(record)
        except ValidationError:
            raise UserError(
                f"run {run.run_id}: {record_path} is no record of a run: `{train}` makes it again"
            ) from None
        indexed = run.model_copy(update={"method": run.method.model_copy(update={"training": ""})})
        of_both = ("run_id", "method", "track", "scenario", "seed")
        if any(getattr(told, key) != getattr(indexed, key) for key in of_both):
            raise UserError(
                f"run {run.run_id}, {run.method.name} in the experiment's index: {record_path} is "
                f"of {told.run_id}, {told.method.name}: `{train}` writes the index anew"
            )
    if fault := fault_of_file(path, record):
        raise UserError(f"run {run.run_id}: {path} {fault}: `{train}` makes it again")
    if record["predictions_sha256"] != run.predictions_sha256:
        raise UserError(
            f"run {run.run_id}: the experiment's index is older than the run: `{train} "
            f"--method {run.method.name} --scenario '{run.scenario.name}' --seed {run.seed}` "
            "brings it up to date, and trains nothing"
        )


def predictions_digest(experiments: list[Experiment]) -> str:
    """Identifies the predictions that metrics belong to, so that stale metrics are noticed."""
    runs = done_runs(experiments)
    return digest({run_id: run.predictions_sha256 for run_id, (run, _) in runs.items()})


def content_digest(table: pa.Table) -> str:
    """SHA-256 of a table's values, that an edited file is noticed where it is read.

    Of the values alone: how they are cut into chunks and compressed is left open.
    """
    whole = hashlib.sha256()
    for name in table.column_names:
        column = table[name].combine_chunks()
        whole.update(f"{name} {column.type} {len(column)}\n".encode())
        whole.update(pc.is_null(column).cast(pa.uint8()).to_numpy())
        if pa.types.is_string(column.type):
            codes = column.dictionary_encode()
            whole.update("\0".join(map(str, codes.dictionary.to_pylist())).encode())
            column = codes.indices
        whole.update(
            np.ascontiguousarray(
                column.fill_null(pa.scalar(0).cast(column.type)).to_numpy(zero_copy_only=False)
            )
        )
    return whole.hexdigest()


def gaps(experiments: list[Experiment], skips: bool = True) -> list[str]:
    """One line per planned run that is not done: run id, outcome and reason.

    Args:
        skips: list skipped runs too; they are no failure, since there is nothing to run.
    """
    lines = {
        run.run_id: f"{run.run_id} ({run.outcome}{f': {run.reason}' if run.reason else ''})"
        for experiment in experiments
        for run in experiment.runs
        if not run.done and (skips or run.outcome != "skipped")
    }
    return list(lines.values())
