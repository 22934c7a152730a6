"""Look over a profile before anything is spent: what would run, what is done, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.config import Params, expand_scenario
from benchmark.data.arrays import array_path, cache_folder
from benchmark.data.cards import Card, card_of, domain_images
from benchmark.data.fetch import raw_folder, verify
from benchmark.data.split import split_path
from benchmark.errors import UserError
from benchmark.plan import expand, read_data
from benchmark.training.records import read_outcome


def validate_profile(
    root: Path, params: Params, cards: dict[str, Card], name: str
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Expand a profile without writing anything.

    Returns:
        Outcomes of the planned runs by experiment, and lines that say what is missing.

    Raises:
        UserError: a fault of the settings themselves.
    """
    profile = params.profile(name)
    problems = []
    try:
        domains = read_data(root, name, profile)["domains"]
    except UserError as error:
        problems.append(str(error))
        domains = {domain: {"digest": "unknown"} for domain in profile.domains}
    experiments: dict[str, list[dict[str, Any]]] = {}
    for experiment_name, experiment in profile.experiments.items():
        sources = {expand_scenario(s, profile.domains)[0] for s in experiment.scenarios}
        lacking = [s for s in sources if not split_path(root / "datasets", s).exists()]
        if lacking:
            problems += [f"split of {source}: run `wbc-shift split`" for source in sorted(lacking)]
            continue
        runs = expand(root, params, name, experiment_name, domains)
        experiments[experiment_name] = [read_outcome(root, name, run) for run in runs]
    # Images are missed only where something is left to run: results stand without them.
    outcomes = [outcome["outcome"] for runs in experiments.values() for outcome in runs]
    to_run = bool(problems) or not set(outcomes) <= {"done", "skipped"}
    for domain in profile.domains:
        card = card_of(cards, domain)
        images = domain_images(root / "datasets", card, domain, profile.label_space, profile.subset)
        if not to_run or array_path(cache_folder(root, name), domain).exists():
            continue
        bad = set(verify(root / "datasets", card, profile.subset, domain))
        absent = [path for path in images["path"] if path in bad]
        if absent:
            first = raw_folder(root / "datasets", card) / absent[0]
            problems.append(
                f"{domain}: {len(absent)} of {len(images)} images, first {first}: "
                f"run `wbc-shift fetch --profile {name}`"
            )
    return experiments, list(dict.fromkeys(problems))
