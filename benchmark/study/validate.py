"""Look over a profile before anything is spent: what would run, what is done, what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.acquire.fetch import verify
from benchmark.data.arrays import array_path, cache_folder
from benchmark.data.cards import Card, card_of, raw_folder
from benchmark.data.manifests import domain_images
from benchmark.data.split import check_split, split_path
from benchmark.errors import UserError
from benchmark.parts import BLOCKS, BUILT, check_block
from benchmark.scenarios import expand_scenario, sources_of
from benchmark.settings import Params
from benchmark.study.expansion import expand
from benchmark.study.plan import profile_folder, read_data
from benchmark.study.predictions import networks_apart
from benchmark.study.records import (
    checkpoints_folder,
    find_record,
    kind_of_work,
    read_outcome,
    work_of,
)
from benchmark.study.runs import Run


def validate_profile(
    root: Path, params: Params, cards: dict[str, Card], name: str
) -> tuple[dict[str, list[dict[str, Any]]], list[str], list[Run]]:
    """Expand a profile without writing anything.

    Returns:
        Outcomes of the planned runs by experiment, each with its `run_id` and the `work` that is
        left (`predict`, `train` or None); lines that say what is missing; and the runs to be done,
        each once.

    Raises:
        UserError: a fault of the settings themselves.
    """
    profile = params.profile(name)
    # Of blocks that no run uses, too: a slip of the pen would wait there.
    for part in BUILT:
        for block_name, block in getattr(params, BLOCKS[part]).items():
            check_block(part, block_name, block)
    problems = []
    unprepared = False
    try:
        prepared = read_data(root, name, profile)
    except UserError as error:
        unprepared = True
        problems.append(str(error))
        unknown = {"domains": {domain: {"digest": "unknown"} for domain in profile.domains}}
        prepared = unknown | {"framings": dict.fromkeys(profile.framings, unknown)}
    for source in profile.sources():
        if split_path(root / "datasets", source).exists():
            check_split(root / "datasets", card_of(cards, source), source, profile.folds)
    experiments: dict[str, list[dict[str, Any]]] = {}
    to_do: dict[str, Run] = {}
    for experiment_name, experiment in profile.experiments.items():
        sources = {
            source
            for scenario in experiment.scenarios
            for source in sources_of(expand_scenario(scenario, profile.domains)[0])
        }
        lacking = [s for s in sources if not split_path(root / "datasets", s).exists()]
        if lacking:
            problems += [f"split of {source}: run `wbc-shift split`" for source in sorted(lacking)]
            continue
        runs = expand(root, params, name, experiment_name, prepared)
        if unprepared:
            runs = [as_recorded(root, name, run) for run in runs]
        outcomes = [read_outcome(root, name, run) for run in runs]
        experiments[experiment_name] = outcomes
        for run, outcome in zip(runs, outcomes, strict=True):
            outcome |= {"run_id": run.run_id, "work": None}
            if outcome["outcome"] not in ("done", "skipped"):
                outcome["work"] = kind_of_work(root, name, run)
                to_do[run.run_id] = run
    # Images are missed only where something is left to run: results stand without them.
    to_run = bool(problems or to_do)
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
                f"run `wbc-shift fetch -p {name}`"
            )
    return experiments, list(dict.fromkeys(problems)), list(to_do.values())


def as_recorded(root: Path, name: str, run: Run) -> Run:
    """A run as its record has it, if they differ in nothing but digests of images.

    Where nothing is prepared yet these are not known, and a finished run is not to be done again.
    """
    record = find_record(root, name, run.run_id)
    same = ("method", "track", "scenario", "seed", "settings")
    if record is None or any(getattr(record, key) != getattr(run, key) for key in same):
        return run
    known = ("fingerprint", "training_fingerprint", "answering", "tested")
    return run.model_copy(update={key: getattr(record, key) for key in known})


def tell_work(root: Path, name: str, to_do: list[Run], run_ids: list[str]) -> list[str]:
    """Lines that say what the runs to be done come to, and what becomes of recorded answers.

    Args:
        run_ids: of every planned run.
    """
    work = work_of(root, name, to_do)
    lines = []
    if work["train"]:
        lines.append(
            f"{work['train']} runs need a network that is not here (checkpoints are not in git): "
            f"they come to {work['trainings']} trainings"
        )
    if work["replace"]:
        lines.append(
            f"{work['replace']} of them have recorded answers of networks that are not here: all "
            "of these are replaced by answers of the network trained here. To keep them, copy "
            f"{checkpoints_folder(root, name)} from where they were trained"
        )
    return [*lines, *networks_apart(profile_folder(root, name), run_ids)]
