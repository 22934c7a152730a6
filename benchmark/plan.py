"""Expand a profile's experiments into planned runs, each with its fingerprint."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from benchmark.config import Params, Profile, expand_scenario, scenario_folder
from benchmark.data.cards import load_label_spaces
from benchmark.data.split import split_digest
from benchmark.errors import UserError
from benchmark.files import digest, read_json, write_json
from benchmark.numerics import PROTOCOL, version

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
    """The runs of one experiment: scenario × backbone × normalisation × loss × seed.

    Args:
        domains: facts of the prepared domains (their digests enter the fingerprints).
    """
    from benchmark.models.build import check_parameters, skip_reason
    from benchmark.training.losses import LOSSES

    profile = params.profile(profile_name)
    experiment = profile.experiments[experiment_name]
    for loss in experiment.losses:
        check_parameters("losses", LOSSES, loss, params.losses[loss], positional=1)
    runs = []
    for scenario in experiment.scenarios:
        source, targets = expand_scenario(scenario, profile.domains)
        split = split_digest(root / "datasets", source)
        for backbone, norm in product(experiment.backbones, experiment.normalisations):
            skip = skip_reason(backbone, norm, params.normalisations[norm], profile.image_size)
            for loss, seed in product(experiment.losses, range(experiment.seeds)):
                method = {
                    "name": f"{backbone}-{norm}-{loss}",
                    "backbone": backbone,
                    "normalisation": norm,
                    "loss": loss,
                    "recipe": "erm",
                    "weights": "scratch",
                }
                settings = {
                    "normalisation": params.normalisations[norm],
                    "loss": params.losses[loss],
                    "training": profile.training.model_dump(mode="json"),
                    "image_size": profile.image_size,
                }
                training = {
                    "protocol": PROTOCOL,
                    "numerics": training_versions(method),
                    "method": method,
                    **settings,
                    "label_space": profile.label_space,
                    "source": source,
                    "source_data": domains[source]["digest"],
                    "split": split,
                    "seed": seed,
                }
                prediction = {
                    "numerics": version("inference"),
                    "targets": {target: domains[target]["digest"] for target in targets},
                }
                runs.append(
                    {
                        "run_id": f"{method['name']}/{scenario_folder(scenario)}/seed{seed}",
                        "fingerprint": digest([training, prediction]),
                        "training_fingerprint": digest(training),
                        "skip": skip,
                        "method": method,
                        "track": "inductive",
                        "scenario": {"name": scenario, "source": source, "targets": targets},
                        "seed": seed,
                        "settings": settings,
                    }
                )
    return runs


def training_versions(method: dict[str, str]) -> dict[str, int]:
    """Numerics versions of the parts and building blocks that a method's training uses."""
    parts = {part: version(part) for part in ("data", "model", "augmentation", "training")}
    blocks = {
        f"{kind}.{method[kind]}": version(kind, method[kind]) for kind in ("normalisation", "loss")
    }
    return parts | blocks
