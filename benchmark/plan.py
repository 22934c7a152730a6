"""Expand a profile's experiments into planned runs, each with its fingerprint."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from benchmark.config import (
    PARAMS,
    SCRATCH,
    Method,
    Params,
    Profile,
    Training,
    corruption_of,
    expand_scenario,
    grid,
    scenario_folder,
)
from benchmark.data.cards import Card, load_cards, load_label_spaces, share_cells
from benchmark.data.split import split_digest
from benchmark.errors import UserError
from benchmark.files import digest, read_json, write_json
from benchmark.models.weights import Weights
from benchmark.numerics import PROTOCOL, version
from benchmark.schema import parse

Run = dict[str, Any]


def profile_folder(root: Path, profile: str) -> Path:
    """Everything the pipeline writes for a profile."""
    return Path(root) / "results" / profile


def plan_path(root: Path, profile: str, experiment: str) -> Path:
    """The planned runs of an experiment."""
    return profile_folder(root, profile) / "plans" / f"{experiment}.json"


def plan_profile(root: Path, params: Params, name: str) -> dict[str, list[Run]]:
    """Write `results/<profile>/plans/<experiment>.json` and return the runs by experiment.

    Raises:
        UserError: unknown building block or parameter, data not prepared, split missing.
    """
    profile = params.profile(name)
    data = read_data(root, name, profile)
    plans = {}
    for experiment in profile.experiments:
        plans[experiment] = expand(root, params, name, experiment, data["domains"])
        write_json(
            plan_path(root, name, experiment),
            {
                "schema_version": 1,
                "experiment": experiment,
                "title": profile.experiments[experiment].title,
                "profile": name,
                "label_space": profile.label_space,
                "classes": load_label_spaces(root / "datasets")[profile.label_space],
                "runs": plans[experiment],
            },
        )
    for path in (profile_folder(root, name) / "plans").glob("*.json"):
        if path.stem not in plans:
            path.unlink()
    return plans


def check_plan(root: Path, params: Params, name: str, experiment: str) -> None:
    """Refuse a plan that is missing or is not what settings, data and splits give today."""
    path = plan_path(root, name, experiment)
    mend = f"run `wbc-shift plan --profile {name}`"
    if not path.exists():
        raise UserError(f"{path} is missing: {mend}")
    data = read_data(root, name, params.profile(name))
    if read_json(path)["runs"] != expand(root, params, name, experiment, data["domains"]):
        raise UserError(f"{path} is older than the settings, data or splits: {mend}")


def read_data(root: Path, name: str, profile: Profile) -> dict[str, Any]:
    """What `prepare` made for a profile; stale or missing data is a `UserError`."""
    path = profile_folder(root, name) / "data.json"
    mend = f"run `wbc-shift prepare --profile {name}`"
    if not path.exists():
        raise UserError(f"{path} is missing: {mend}")
    data = read_json(path)
    made = (data["image_size"], data["label_space"], data["subset"])
    if made != (profile.image_size, profile.label_space, profile.subset):
        raise UserError(f"{path} was made with other settings than params.yaml: {mend}")
    if missing := [d for d in profile.domains if d not in data["domains"]]:
        raise UserError(f"{path} lacks domain '{missing[0]}': {mend}")
    return data


def expand(
    root: Path, params: Params, profile_name: str, experiment_name: str, domains: dict[str, Any]
) -> list[Run]:
    """The runs of one experiment: scenario × method × seed.

    Args:
        domains: facts of the prepared domains (their digests enter the fingerprints).
    """
    import torch

    from benchmark.models.build import check_parameters, skip_reason
    from benchmark.training.losses import LOSSES

    profile = params.profile(profile_name)
    experiment = profile.experiments[experiment_name]
    methods = {method.canonical_name: method for method in grid(experiment)}
    methods |= {name: params.methods[name] for name in experiment.methods}
    for method in methods.values():
        parameters = params.losses[method.loss]
        check_parameters("losses", LOSSES, method.loss, parameters, positional=1)
        LOSSES[method.loss](torch.ones(2), **parameters)  # values are checked where they are used
    skips = {
        name: skip_reason(
            method.backbone,
            method.normalisation,
            params.normalisations[method.normalisation],
            profile.image_size,
            weights=initial_weights(params, method),
            head=method.head,
            freezing=method.freezing,
        )
        for name, method in methods.items()
    }
    runs = []
    for scenario in experiment.scenarios:
        source, targets = expand_scenario(scenario, profile.domains)
        refuse_shared_cells(load_cards(root / "datasets"), scenario, source, targets)
        split = split_digest(root / "datasets", source)
        for (name, method), seed in product(methods.items(), range(experiment.seeds)):
            parts, settings = describe(params, profile, method)
            # The canonical name stands for the parts: a named method shares the grid's training.
            training = {
                "protocol": PROTOCOL,
                "numerics": training_versions(method),
                "method": {"name": method.canonical_name} | parts,
                **settings,
                "label_space": profile.label_space,
                "source": source,
                "source_data": domains[source]["digest"],
                "split": split,
                "seed": seed,
            }
            prediction = {
                "numerics": version("inference"),
                "targets": {target: target_digest(target, domains, split) for target in targets},
            }
            runs.append(
                {
                    "run_id": f"{name}/{scenario_folder(scenario)}/seed{seed}",
                    "fingerprint": digest([training, prediction]),
                    "training_fingerprint": digest(training),
                    "skip": skips[name],
                    "method": {"name": name} | parts,
                    "track": "inductive",
                    "scenario": {"name": scenario, "source": source, "targets": targets},
                    "seed": seed,
                    "settings": settings,
                }
            )
    return runs


def refuse_shared_cells(
    cards: dict[str, Card], scenario: str, source: str, targets: list[str]
) -> None:
    """Raise a `UserError` if a target holds the cells of the source under another name."""
    for target in targets:
        if corruption_of(target) is None and share_cells(cards, source, target):
            raise UserError(
                f"scenario '{scenario}': {source} and {target} are sets of the same cells: "
                f"leave {target} out of its targets"
            )


def describe(
    params: Params, profile: Profile, method: Method
) -> tuple[dict[str, str], dict[str, Any]]:
    """A method's parts by name, and the settings of each.

    A part as in plain training from scratch, and an option at its default, is left out: a new
    kind of part makes no finished run stale.
    """
    parts = {
        "backbone": method.backbone,
        "normalisation": method.normalisation,
        "loss": method.loss,
        "recipe": "erm",
        "weights": method.weights,
    }
    parts |= method.model_dump(include={"head", "freezing", "stain"}, exclude_defaults=True)
    training = profile.training.model_dump(mode="json", exclude_defaults=True)
    if method.augmentation is not None:
        parts["augmentation"] = method.augmentation
        block = params.augmentations[method.augmentation]
        training["augmentation"] = block.model_dump(mode="json", exclude_defaults=True)
    where = f"{PARAMS}: methods: training of {method.canonical_name}"
    training = parse(Training, training | method.training, where)
    settings = {
        "normalisation": params.normalisations[method.normalisation],
        "loss": params.losses[method.loss],
        "training": training.model_dump(mode="json", exclude_defaults=True),
        "image_size": profile.image_size,
    }
    if method.weights != SCRATCH:
        weights = initial_weights(params, method)
        settings["weights"] = weights.model_dump(mode="json", exclude_defaults=True)
    return parts, settings


def initial_weights(params: Params, method: Method) -> Weights:
    """The block of `weights` that a method starts from."""
    return Weights() if method.weights == SCRATCH else params.weights[method.weights]


def target_digest(target: str, domains: dict[str, Any], split: str) -> str:
    """Digest of a test set: of a prepared domain, or of a corruption of the source's id_test."""
    corruption = corruption_of(target)
    if corruption is None:
        return domains[target]["digest"]
    source, name, severity = corruption
    versions = version("corruption", name)
    return digest([domains[source]["digest"], split, name, severity, versions])


def training_versions(method: Method) -> dict[str, int]:
    """Numerics versions of the parts and building blocks that a method's training uses."""
    parts = {part: version(part) for part in ("data", "model", "augmentation", "training")}
    blocks = {"normalisation": method.normalisation, "loss": method.loss}
    blocks |= method.model_dump(include={"head", "freezing", "stain"}, exclude_defaults=True)
    return parts | {f"{kind}.{name}": version(kind, name) for kind, name in blocks.items()}
