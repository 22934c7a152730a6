"""Plans: a profile's experiments as files of planned runs, and single runs outside of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from benchmark.data.arrays import facts_path, read_prepared
from benchmark.data.cards import card_of, load_cards, load_label_spaces
from benchmark.data.split import check_split
from benchmark.errors import UserError, suggest
from benchmark.files import write_json
from benchmark.scenarios import expand_scenario, sources_of
from benchmark.schema import Name, ProfileName, Record, read_record, read_shape
from benchmark.settings import ExperimentSettings, Framing, Params, Profile
from benchmark.study.expansion import expand
from benchmark.study.runs import Run


class Plan(Record):
    """`plans/<experiment>.json`."""

    experiment: Name
    profile: ProfileName
    title: str
    classes: Annotated[list[str], Field(min_length=1)]
    runs: list[Run]


def read_plan(path: Path) -> Plan:
    """A plan: `results/<profile>/plans/<experiment>.json`."""
    return read_shape(path, Plan, f"run `wbc-shift plan -p {Path(path).parent.parent.name}`")


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
    check_sources(root, profile)
    plans = {}
    for place, (experiment, settings) in enumerate(profile.experiments.items()):
        plans[experiment] = expand(root, params, name, experiment, data)
        write_json(
            plan_path(root, name, experiment),
            {
                "schema_version": 1,
                "experiment": experiment,
                "place": place,  # params.yaml tells the order in which readers meet them
                "title": settings.title,
                **({"about": settings.about} if settings.about else {}),
                "profile": name,
                "label_space": profile.label_space,
                "classes": load_label_spaces(root / "datasets")[profile.label_space],
                "runs": [run.record() for run in plans[experiment]],
            },
        )
    # Of an experiment that is no more, neither its plan nor what was found of it is reported.
    for kind in ("plans", "experiments"):
        for path in (profile_folder(root, name) / kind).glob("*.json"):
            if path.stem not in plans:
                path.unlink()
    return plans


def check_sources(root: Path, profile: Profile) -> None:
    """Raise a `UserError` if the split of a source is missing or is not of its images of today."""
    cards = load_cards(root / "datasets")
    for source in profile.sources():
        check_split(root / "datasets", card_of(cards, source), source, profile.folds)


def plan_one(
    root: Path, params: Params, profile_name: str, method: str, scenario: str, seed: int
) -> list[Run]:
    """One run outside any experiment, after the members it averages, if it is an ensemble.

    Args:
        method: a name under `methods`, or one that a grid of any profile gives.

    Raises:
        UserError: unknown method or scenario; a source domain without a split.
    """
    profile = params.profile(profile_name)
    known = params.all_methods()
    if method not in known:
        raise UserError(f"no method '{method}'{suggest(method, known)}")
    for domain in sources_of(expand_scenario(scenario, profile.domains)[0]):
        if domain not in params.sources():
            raise UserError(
                f"scenario '{scenario}': {domain} has no split: name the scenario in an experiment "
                "of params.yaml, then run `wbc-shift split`"
            )
    methods = [*known[method].members, method]
    one = ExperimentSettings(title=method, scenarios=[scenario], methods=methods, seeds=seed + 1)
    alone = profile.model_copy(update={"experiments": {"one": one}})
    changed = {"methods": known, "profiles": {profile_name: alone}}
    data = read_data(root, profile_name, profile)
    runs = expand(root, params.model_copy(update=changed), profile_name, "one", data)
    return [run for run in runs if run.seed == seed]


def where_single_runs_stand(root: Path, profile: str, runs: list[Run]) -> list[str]:
    """Lines that say where runs trained by name are found, and how they come into a table."""
    last = runs[-1]
    planned = [
        path.stem
        for path in sorted((profile_folder(root, profile) / "plans").glob("*.json"))
        if last.run_id in {run.run_id for run in read_plan(path).runs}
    ]
    folder = profile_folder(root, profile) / "runs" / last.run_id
    if planned:
        return [
            f"the predictions are in {folder}; tables and `compare` have them after "
            f"`wbc-shift train -p {profile} -e {planned[0]}` and `wbc-shift evaluate -p {profile}`"
        ]
    return [
        f"the predictions are in {folder}, and in no table and no `compare`, which know runs of "
        f"experiments: name {last.method.name} under methods, and the scenario "
        f"{last.scenario.name}, of an experiment of profile {profile} in params.yaml"
    ]


def check_plan(root: Path, params: Params, name: str, experiment: str) -> None:
    """Refuse a plan that is missing or is not what settings, data and splits give today."""
    path = plan_path(root, name, experiment)
    mend = f"run `wbc-shift plan -p {name}`"
    if not path.exists():
        raise UserError(f"{path} is missing: {mend}")
    data = read_data(root, name, params.profile(name))
    planned = [run.record() for run in expand(root, params, name, experiment, data)]
    if read_record(path, Plan, mend)["runs"] != planned:
        raise UserError(f"{path} is older than the settings, data or splits: {mend}")


def read_data(root: Path, name: str, profile: Profile) -> dict[str, Any]:
    """What `prepare` made for a profile; stale or missing data is a `UserError`."""
    path = facts_path(root, name)
    mend = f"run `wbc-shift prepare -p {name}`"
    if not path.exists():
        raise UserError(f"{path} is missing: {mend}")
    data = read_prepared(path)
    made = (data["image_size"], data["label_space"], data["subset"])
    framings = {
        framing: Framing.model_validate({k: v for k, v in facts.items() if k != "domains"})
        for framing, facts in data.get("framings", {}).items()
    }
    wanted = (profile.image_size, profile.label_space, profile.subset)
    if made != wanted or framings != profile.framings:
        raise UserError(f"{path} was made with other settings than params.yaml: {mend}")
    if missing := [d for d in profile.domains if d not in data["domains"]]:
        raise UserError(f"{path} lacks domain '{missing[0]}': {mend}")
    return data
