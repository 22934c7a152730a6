"""Explained: what a method's name means and what its network costs.

Nothing is written by hand for a method: a part is explained by the first paragraph that its
registered function or class says of itself, and by the settings that its runs record.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections import Counter
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.evaluation.experiments import RecordedMethod, RecordedRun
from benchmark.memory import remembered
from benchmark.parts import NAMED, PARTS, REGISTRIES, Parts, function_of, registry
from benchmark.report.results import Records, Results
from benchmark.settings import Weights
from benchmark.speed.records import Network, inference_speeds

ENSEMBLE = "Mean of the probabilities that several networks predict."
Part = tuple[str, str]
"""Kind and value, such as ("loss", "focal")."""


class Explanation(NamedTuple):
    """What one building block is."""

    text: str
    settings: str
    """its parameters, as `gamma 2.0, beta 0.1`; empty without any"""


class Explained(NamedTuple):
    """A method, taken apart."""

    parts: tuple[Part, ...]
    """network, normalisation and loss, and all else that is not plain"""
    members: tuple[str, ...]
    """of an ensemble, the methods that it averages"""
    training: str
    """settings of its training that most methods do not have, empty without any"""
    parameters: int | None
    """of the network, or of all networks of an ensemble; None where it cannot be built here"""
    speed: float | None
    """images per second, the network alone; None where that was not measured"""

    @property
    def millions(self) -> str:
        """Millions of parameters, in three digits; empty where they are not known."""
        return f"{self.parameters / 1e6:.3g}" if self.parameters else ""

    @property
    def in_short(self) -> str:
        """Its parts on one line."""
        parts = [f"{kind} {value}" for kind, value in self.parts]
        parts += [f"of {', '.join(self.members)}"] if self.members else []
        parts += [f"training: {self.training}"] if self.training else []
        return "; ".join(parts)


class Glossary(NamedTuple):
    blocks: dict[Part, Explanation]
    methods: dict[str, Explained]
    where: str
    """the machine that the speeds were measured on, empty without one"""

    def used_by(self, part: Part) -> int:
        """How many methods have a part."""
        return sum(part in one.parts for one in self.methods.values())


def glossary(results: Results) -> Glossary:
    """Every method of a profile and every building block of one, in the order of the plan."""
    first: dict[str, RecordedRun] = {}
    for run in (run for experiment in results.experiments for run in experiment.runs):
        known = first.get(run.method.name)
        if known is None or (run.done and not known.done):
            first[run.method.name] = run
    classes = {r.run_id: len(e.classes) for e in results.experiments for r in e.runs}
    settings = {
        name: results.records.get(run.run_id, {}).get("settings", {}) for name, run in first.items()
    }
    usual = most_common([own.get("training") or {} for own in settings.values()])
    where, speeds = inference_speeds(results.folder.parents[1])
    blocks: dict[Part, Explanation] = {}
    methods = {}
    for name, run in first.items():
        parts = parts_of(run.method)
        for part in parts:
            blocks.setdefault(part, explanation(*part, run.method, settings[name]))
        network = Network(run.method.backbone, run.method.normalisation, size_of(settings[name]))
        methods[name] = Explained(
            parts,
            members_of(settings[name]),
            differing(settings[name].get("training") or {}, usual),
            parameters_of(run, results.records, classes[run.run_id]),
            speeds.get(network) if run.method.answers_itself else None,
        )
    return Glossary(blocks, methods, where if any(m.speed for m in methods.values()) else "")


def parts_of(method: RecordedMethod) -> tuple[Part, ...]:
    """The parts that a method's explanation names."""
    if method.is_ensemble:
        return (("recipe", method.recipe),)
    chosen = method.chosen(NAMED)
    return tuple((kind, chosen[kind]) for kind in PARTS if chosen.get(kind))


def explanation(kind: str, value: str, method: RecordedMethod, settings: dict) -> Explanation:
    """What a part says of itself, or else what its kind is."""
    if method.is_ensemble:
        return Explanation(ENSEMBLE, "")
    block = settings.get(kind) or {}
    of = {"of": method.of[kind]} if kind in method.of else {}
    of_kind = Parts.model_fields[kind].description.replace("`", "").split(";")[0].rstrip(".") + "."
    if kind == "backbone":
        return Explanation(network_text(value), "")
    if kind == "augmentation":
        block = (settings.get("training") or {}).get("augmentation") or {}
    elif kind == "framing":
        block = {key: settings[key] for key in ("image_size", "crop") if key in settings}
    elif kind == "weights":
        block = {"learnt on": ", ".join(block.get("training_datasets", ()))}
    text = documented(kind, value, of) if kind in REGISTRIES else ""
    return Explanation(text or of_kind, told(block))


@remembered
def documented(kind: str, name: str, block: dict[str, Any]) -> str:
    """The first paragraph of what a registered function or class says of itself."""
    entry = registry(kind).get(function_of(kind, name, block))
    entry = getattr(entry, "func", entry)
    return " ".join(inspect.cleandoc(getattr(entry, "__doc__", "") or "").split("\n\n")[0].split())


@remembered
def network_text(name: str) -> str:
    """A network of this package by its own words, one of timm by its name there."""
    import timm

    import benchmark.models.build  # noqa: F401  its networks are registered with timm there

    entry = name.split("+")[0]
    if timm.is_model(entry):
        function = timm.model_entrypoint(entry)
        if not function.__module__.startswith("timm."):
            return " ".join(inspect.cleandoc(function.__doc__ or "").split("\n\n")[0].split())
    return f"The network {name} of the library timm."


def told(block: dict[str, Any]) -> str:
    """Parameters in one line: `gamma 2.0, p_t plain`."""
    words = {key.replace("_", " "): value for key, value in block.items() if value}
    return ", ".join(key if value is True else f"{key} {value}" for key, value in words.items())


def most_common(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """For each key the value that most blocks have."""
    keys = dict.fromkeys(key for block in blocks for key in block)
    counts = {key: Counter(repr(block.get(key)) for block in blocks if block) for key in keys}
    return {key: own.most_common(1)[0][0] for key, own in counts.items()}


def differing(block: dict[str, Any], usual: dict[str, str]) -> str:
    """Settings of a training that are not the usual ones; augmentation has its own name."""
    own = {k: v for k, v in block.items() if k != "augmentation" and repr(v) != usual[k]}
    # A zero is told too: no weight decay is a setting.
    return told({k: v if v is True or v is None else str(v) for k, v in own.items()})


def members_of(settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(one["run_id"].split("/")[0] for one in settings.get("members", ()))


def parameters_of(run: RecordedRun, records: Records, classes: int) -> int | None:
    """Parameters of the network of a run, or of all networks of an ensemble together."""
    record = records.get(run.run_id, {})
    settings = record.get("settings", {})
    if run.method.is_ensemble:
        members = [records.get(one["run_id"]) for one in settings.get("members", ())]
        counts = [count_of(one["method"], one["settings"], classes) for one in members if one]
        whole = members and len(counts) == len(members) and None not in counts
        return sum(counts) if whole else None
    return count_of(run.method.model_dump(), settings, classes)


def size_of(settings: dict[str, Any]) -> int:
    """Side of its images in pixels; 0 where that was not recorded."""
    return settings.get("image_size", 0)


def count_of(method: dict[str, Any], settings: dict[str, Any], classes: int) -> int | None:
    """Parameters of one network; None where it was not recorded, or cannot be built here."""
    if not size_of(settings):
        return None
    parts = (method["backbone"], method["normalisation"], method.get("head", "linear"))
    blocks = (settings.get("normalisation", {}), settings.get("weights", {}))
    return parameters(*parts, *(json.dumps(own) for own in blocks), size_of(settings), classes)


@functools.cache
@remembered
def parameters(
    backbone: str,
    normalisation: str,
    head: str,
    normalising: str,
    weights: str,
    image_size: int,
    classes: int,
) -> int | None:
    """The same, with the blocks of normalisation and weights as JSON; what a loss brings with it
    is not counted."""
    import torch

    from benchmark.models.build import build_model
    from benchmark.models.normalisation import Skip

    began = Weights.model_validate_json(weights)
    block = json.loads(normalising)
    try:
        with torch.device("meta"):
            model = build_model(
                backbone, normalisation, block, classes, image_size, 0, head=head, weights=began
            )
    except (Skip, UserError, RuntimeError, ValueError):
        return None
    return sum(one.numel() for one in model.parameters())
