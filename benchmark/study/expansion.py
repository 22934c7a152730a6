"""Expansion: from settings to runs, with the fingerprints that say when each is stale."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.data.arrays import open_set_of
from benchmark.data.cards import Card, load_cards, share_cells
from benchmark.data.split import fold_of, split_digest
from benchmark.errors import UserError, suggest
from benchmark.files import digest, sha256_file
from benchmark.memory import remembered
from benchmark.parts import (
    ANSWERING,
    BUILT,
    NAMED,
    PARTS,
    PLAIN,
    RECORDED,
    REGISTRIES,
    SETTINGS,
    Block,
    build,
    capability,
    check_block,
    function_of,
    recorded_block,
    registered,
)
from benchmark.scenarios import corruption_of, expand_scenario, scenario_folder, sources_of
from benchmark.schema import parse
from benchmark.settings import (
    PARAMS,
    ExperimentSettings,
    Method,
    Params,
    Profile,
    Training,
    Weights,
)
from benchmark.study.numerics import PROTOCOL, version
from benchmark.study.runs import Run


def expand(
    root: Path, params: Params, profile_name: str, experiment_name: str, prepared: dict[str, Any]
) -> list[Run]:
    """The runs of one experiment: scenario × method × seed.

    Args:
        prepared: `data.json` (the digests of its arrays enter the fingerprints).
    """
    profile = params.profile(profile_name)
    experiment = profile.experiments[experiment_name]
    methods = methods_of(params, experiment, f"profiles.{profile_name}.{experiment_name}")
    for method in methods.values():
        check_blocks(params, method)
    skips = {name: skip(params, profile, method) for name, method in methods.items()}
    cards = load_cards(root / "datasets")
    runs = []
    for scenario in experiment.scenarios:
        source, targets = expand_scenario(scenario, profile.domains)
        refuse_shared_cells(cards, scenario, source, targets)
        where = {"name": scenario, "source": source, "targets": targets}
        # Left out where there is none: a published scenario is the same in every clone.
        where |= {"own": owned} if (owned := own_domains(cards, targets)) else {}
        where |= {"folds": profile.folds} if profile.folds else {}
        folds = dict.fromkeys(fold_of(seed, profile.folds) for seed in range(experiment.seeds))
        shown = {None: prepared} | prepared.get("framings", {})
        used = {}
        for fold in folds:
            split = joined(source, partial(split_digest, root / "datasets", fold=fold))
            for framing, facts in shown.items():
                used[framing, fold] = what_is_used(source, targets, split, facts["domains"])
        planned: dict[tuple[str, int], Run] = {}
        # Members stand before the ensembles that ask for them.
        ordered = sorted(methods.items(), key=lambda item: bool(item[1].members))
        for (name, method), seed in product(ordered, range(experiment.seeds)):
            run_id = f"{name}/{scenario_folder(scenario)}/seed{seed}"
            own: dict[str, Any] = {"run_id": run_id, "scenario": where, "seed": seed}
            if method.members:
                own |= ensemble(name, [planned[member, seed] for member in method.members])
            else:
                facts = used[method.framing, fold_of(seed, profile.folds)]
                own |= network(params, profile, (name, method), facts, seed)
                own["skip"] = skips[name] or too_few_sources(params, method, source)
                check_sampler(own["settings"]["training"], source)
            planned[name, seed] = Run.model_validate(own)
            runs.append(planned[name, seed])
    return runs


def own_domains(cards: dict[str, Card], targets: list[str]) -> list[str]:
    """The targets that are a laboratory's own images."""
    owned = {domain for card in cards.values() if card.own for domain in card.domains}
    return [target for target in targets if target in owned]


class Used(NamedTuple):
    """What a run's answers follow from, beside its method and seed.

    Attributes:
        data: source, digest of its images and of its split.
        tested: target → digest of its images.
        foreign: the same of the cells of no class that come with the domains.
    """

    data: dict[str, Any]
    tested: dict[str, str]
    foreign: dict[str, str]


def what_is_used(source: str, targets: list[str], split: str, domains: dict[str, Any]) -> Used:
    """What the runs of a scenario use of the domains as prepared in one framing."""
    images = joined(source, lambda domain: domains[domain]["digest"])
    return Used(
        {"source": source, "source_data": images, "split": split},
        {target: target_digest(target, domains, split) for target in targets},
        {
            open_set_of(domain): domains[domain]["open_set"]["digest"]
            for domain in (*sources_of(source), *targets)
            if "open_set" in domains.get(domain, ())
        },
    )


def methods_of(params: Params, experiment: ExperimentSettings, where: str) -> dict[str, Method]:
    """The methods of an experiment by name.

    Raises:
        UserError: a member of an ensemble is not a network of the same experiment.
    """
    methods = params.methods_of(experiment)
    networks = [name for name, method in methods.items() if not method.members]
    for name, method in methods.items():
        for member in method.members:
            if member not in networks:
                raise UserError(
                    f"{PARAMS}: {where}: {name} needs '{member}', which is no network of this "
                    f"experiment{suggest(member, networks)}"
                )
    return methods


def check_blocks(params: Params, method: Method) -> None:
    """Raise a `UserError` if a block of a method has a parameter or value that does not exist."""
    if method.members:
        return
    check_weights(params, method)
    for part in filter(REGISTRIES.__contains__, PARTS):
        name = getattr(method, part)
        if part in BUILT:
            check_block(part, name, params.block(part, name))
        elif name not in registered(part):
            near = suggest(name, registered(part))
            raise UserError(f"{PARAMS}: methods: no {part} '{name}'{near}")
    loss, recipe = (
        [name, params.block(part, name)]
        for part, name in (("loss", method.loss), ("recipe", method.recipe))
    )
    check_together(*loss, *recipe, method.head)


@remembered
def check_together(
    loss_name: str, loss_block: Block, recipe: str, recipe_block: Block, head: str
) -> None:
    """Raise a `UserError` if a loss does not go with a recipe or a head."""
    import torch

    loss = build("loss", loss_name, loss_block)(torch.ones(2))
    if head != PLAIN["head"] and getattr(loss, "brings_head", False):
        raise UserError(
            f"{PARAMS}: methods: head {head}: loss {loss_name} brings its own: "
            "leave head at linear, or take another loss"
        )
    build("recipe", recipe, recipe_block)().check(2, loss)


def check_weights(params: Params, method: Method) -> None:
    """Raise a `UserError` if a method starts from a file that could be exchanged unnoticed."""
    weights = params.weights_of(method)
    if (chosen := weights.file or weights.package) and not weights.sha256:
        path = Path(chosen)
        found = sha256_file(path) if path.is_file() else "what `sha256sum` says of the file"
        raise UserError(
            f"{PARAMS}: weights.{method.weights}: {chosen} has no sha256, so another file "
            f"under its name would go unnoticed: add `sha256: {found}`"
        )


def skip(params: Params, profile: Profile, method: Method) -> str | None:
    """Why a method makes no sense at a profile's image size, or None."""
    if method.members:
        return None
    return reason_to_skip(
        method.backbone,
        method.normalisation,
        params.block("normalisation", method.normalisation),
        profile.size_of(method.framing),
        params.weights_of(method).model_dump(mode="json"),
        method.head,
        method.freezing,
        bool(fact_of(params, method, "inference", "batch_statistics")),
    )


@remembered
def reason_to_skip(
    backbone: str,
    normalisation: str,
    parameters: Block,
    image_size: int,
    weights: dict[str, Any],
    head: str,
    freezing: str,
    batch_statistics: bool,
) -> str | None:
    """Why a network makes no sense, or None; see `benchmark.models.build.skip_reason`."""
    from benchmark.models.build import skip_reason

    return skip_reason(
        backbone,
        normalisation,
        parameters,
        image_size,
        weights=Weights.model_validate(weights),
        head=head,
        freezing=freezing,
        batch_statistics=batch_statistics,
    )


def fact_of(params: Params, method: Method, part: str, fact: str) -> Any:
    """What a part of a method says of itself; see `benchmark.parts.capability`."""
    name = getattr(method, part)
    return capability(part, name, fact, params.block(part, name))


def too_few_sources(params: Params, method: Method, source: str) -> str | None:
    """Why a recipe that compares domains cannot be trained on this source, or None."""
    if fact_of(params, method, "recipe", "needs_domains") and len(sources_of(source)) < 2:
        return f"{method.recipe}: compares source domains, and {source} is one"
    return None


def check_sampler(training: dict[str, Any], source: str) -> None:
    """Raise a `UserError` if a batch cannot hold an image of each source domain that it is to."""
    domains, size = len(sources_of(source)), training["batch_size"]
    if training.get("sampler") == "domain_balanced" and size < domains:
        raise UserError(
            f"{PARAMS}: training: batch_size {size} is less than one image of each of {domains} "
            "domains: raise it, or take another sampler"
        )


def network(
    params: Params,
    profile: Profile,
    named: tuple[str, Method],
    used: Used,
    seed: int,
) -> dict[str, Any]:
    """Fingerprints, parts and settings of a run of one network.

    What answers is no part of the training's fingerprint: methods that differ in readout or
    inference alone share one training.
    """
    name, method = named
    transductive = fact_of(params, method, "inference", "transductive")
    # What adapts to the test images would adapt to foreign cells alone.
    tested = used.tested | ({} if transductive else used.foreign)
    parts, settings = describe(params, profile, method.trained)
    # The canonical name stands for the parts: a named method shares the grid's training.
    training = {
        "protocol": PROTOCOL,
        "numerics": training_versions(params, method) | setting_versions(settings["training"]),
        "method": {"name": method.trained.canonical_name} | parts,
        **settings,
        "label_space": profile.label_space,
        **used.data,
        "seed": seed,
    }
    answering = {
        part: {
            "name": name,
            "version": version(part, function_of(part, name, params.block(part, name))),
            "parameters": recorded_block(part, name, params.block(part, name)),
        }
        for part, name in method.chosen().items()
        if part in ANSWERING
    }
    prediction = {"numerics": version("inference"), "targets": tested} | answering
    parts |= {part: block["name"] for part, block in answering.items()}
    settings |= {part: block["parameters"] for part, block in answering.items()}
    return {
        "fingerprint": digest([training, prediction]),
        "training_fingerprint": digest(training),
        # What an answer on one test set follows from: it stands while these stand, whatever
        # becomes of the other test sets.
        "answering": digest([training, prediction | {"targets": None}]),
        "tested": tested,
        "method": {"name": name} | parts,
        "track": "transductive" if transductive else "inductive",
        "settings": settings,
    }


def ensemble(name: str, members: list[Run]) -> dict[str, Any]:
    """Fingerprints, parts and settings of a run that averages the probabilities of others."""
    skips = [run.skip for run in members if run.skip]
    shown = ("backbone", "normalisation", "loss", "weights")
    together = {
        part: " + ".join(dict.fromkeys(getattr(run.method, part) for run in members))
        for part in shown
    }
    transductive = any(run.track == "transductive" for run in members)
    return {
        "fingerprint": digest(["ensemble", *(run.fingerprint for run in members)]),
        "training_fingerprint": digest([run.training_fingerprint for run in members]),
        "answering": digest([run.answering for run in members]),
        "tested": members[0].tested,
        "skip": skips[0] if skips else None,
        "method": {"name": name, "recipe": "ensemble"} | together,
        "track": "transductive" if transductive else "inductive",
        "settings": {
            "members": [run.model_dump(include={"run_id", "fingerprint"}) for run in members]
        },
    }


def joined(source: str, fact: Callable[[str], str]) -> str:
    """A digest of a source: that of its one domain, or one over those of several."""
    facts = [fact(domain) for domain in sources_of(source)]
    return facts[0] if len(facts) == 1 else digest(facts)


def refuse_shared_cells(
    cards: dict[str, Card], scenario: str, source: str, targets: list[str]
) -> None:
    """Raise a `UserError` if a target holds the cells of the source under another name."""
    for domain, target in product(sources_of(source), targets):
        if corruption_of(target) is None and share_cells(cards, domain, target):
            raise UserError(
                f"scenario '{scenario}': {domain} and {target} are sets of the same cells: "
                f"leave one of them out"
            )


def describe(
    params: Params, profile: Profile, method: Method
) -> tuple[dict[str, str], dict[str, Any]]:
    """A method's parts by name, and the settings of each.

    A part as in plain training from scratch, and an option at its default, is left out: a new
    kind of part makes no finished run stale.
    """
    chosen = method.chosen(RECORDED)
    parts = {part: chosen[part] for part in RECORDED} | chosen
    training = profile.training.model_dump(mode="json", exclude_defaults=True)
    if method.augmentation is not None:
        block = params.augmentations[method.augmentation]
        training["augmentation"] = block.model_dump(mode="json", exclude_defaults=True)
    where = f"{PARAMS}: methods: training of {method.canonical_name}"
    training = parse(Training, training | method.training, where)
    settings = {part: parameters_of(params, method, part) for part in ("normalisation", "loss")}
    settings["training"] = training.model_dump(mode="json", exclude_defaults=True)
    settings["image_size"] = profile.size_of(method.framing)
    if method.framing is not None and (crop := profile.framings[method.framing].crop) != 1:
        settings["crop"] = crop
    settings |= {
        part: parameters_of(params, method, part)
        for part in method.trained.chosen()
        if part in BUILT and part not in settings
    }
    if "weights" in method.chosen():
        weights = params.weights_of(method)
        settings["weights"] = weights.model_dump(mode="json", exclude_defaults=True)
    return parts, settings


def parameters_of(params: Params, method: Method, part: str) -> Block:
    """The block of a part, as runs record it."""
    name = getattr(method, part)
    return recorded_block(part, name, params.block(part, name))


def target_digest(target: str, domains: dict[str, Any], split: str) -> str:
    """Digest of a test set: of a prepared domain, or of a corruption of the source's id_test."""
    corruption = corruption_of(target)
    if corruption is None:
        return domains[target]["digest"]
    source, name, severity = corruption
    versions = version("corruption", name)
    return digest([domains[source]["digest"], split, name, severity, versions])


def training_versions(params: Params, method: Method) -> dict[str, int | str]:
    """Numerics versions of the parts and building blocks that a method's training uses."""
    versions = {part: version(part) for part in ("data", "model", "augmentation", "training")}
    for part, name in method.trained.chosen(NAMED).items():
        if part in REGISTRIES:
            block = params.block(part, name) if part in BUILT else {}
            function = function_of(part, name, block)
            versions[f"{part}.{function}"] = version(part, function)
    return versions


def setting_versions(training: dict[str, Any]) -> dict[str, int | str]:
    """Numerics versions of the named settings of a training that are not the default."""
    chosen = {f"{key}.{training[key]}": key for key in SETTINGS if key in training}
    return {name: version(key, name.partition(".")[2]) for name, key in chosen.items()}
