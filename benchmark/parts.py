"""The parts of a method: one declaration each, which settings, runs, tables and the page read.

A new axis of methods is a field of `Parts` and the place where the part acts. A new building block
is a function or class in the registry of its part, named with its parameters in `params.yaml`.
Registries are given by name, so that settings are read without loading PyTorch.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from benchmark.errors import UserError, suggest
from benchmark.memory import remembered
from benchmark.schema import Strict
from benchmark.texts import shortened

Block = dict[str, Any]
"""Parameters of a building block, and under `of` what is registered if its name does not say so."""


@dataclass(frozen=True)
class Part:
    """What is declared of a part, beside its name and its plain value (those of its field)."""

    plural: str
    """Key of an experiment that lists values, and of `params.yaml` that holds blocks."""
    registry: str = ""
    """`module:NAME` of the functions or classes by name."""
    passed: int = 0
    """How many leading arguments of a registered function the harness passes."""
    blocks: bool = False
    """Whether `params.yaml` holds blocks of it; the plain value needs none."""
    axis: bool = True
    """Whether a grid varies it."""
    trained: bool = True
    """False of what answers: methods that differ in it alone share one training."""
    compared: bool = True
    """Whether effects of it are told, against the plain value as the baseline."""
    more_baselines: tuple[str, ...] = ()
    """With which others are compared too; one of them is itself compared with those before it."""


class Parts(Strict):
    """What a method is made of, each part by the name of its building block.

    The order is that of a canonical name, and of the axes of a grid, the slowest first. What is
    said of each part is shown where a method's name is explained.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    backbone: Annotated[str, Part("backbones", compared=False)] = ""
    """The network: a timm name, or one of `benchmark/models`."""
    normalisation: Annotated[
        str, Part("normalisations", "benchmark.models.normalisation:NORMALISATIONS", 1, blocks=True)
    ] = "bn"
    """How features are normalised inside the network."""
    loss: Annotated[str, Part("losses", "benchmark.training.losses:LOSSES", 1, blocks=True)] = "ce"
    """What training minimises."""
    augmentation: Annotated[str | None, Part("augmentations", blocks=True)] = None
    """Random changes of the training images; without a name, the profile's own."""
    framing: Annotated[str | None, Part("framings")] = None
    """Image size and crop: one of the profile's `framings`; without a name, the profile's own."""
    recipe: Annotated[str, Part("recipes", "benchmark.training.recipes:RECIPES", blocks=True)] = (
        "erm"
    )
    """What training does with images, losses and source domains."""
    weights: Annotated[str, Part("weights", blocks=True, axis=False)] = "scratch"
    """What the network starts from."""
    head: Annotated[
        str, Part("heads", "benchmark.models.heads:HEADS", 2, axis=False, compared=False)
    ] = "linear"
    """The layers that classify the features."""
    freezing: Annotated[
        str, Part("freezings", "benchmark.models.heads:FREEZING", 1, axis=False, compared=False)
    ] = "none"
    """Which parameters are trained."""
    stain: Annotated[str, Part("stains", "benchmark.data.stain:STAINS")] = "none"
    """Stain normalisation of all images, fitted on the source."""
    readout: Annotated[
        str,
        # Retraining the same head on the same features costs as much as the second stage that it
        # replaces: the classifiers of a second stage are compared with that, too.
        Part(
            "readouts",
            "benchmark.training.readouts:READOUTS",
            blocks=True,
            trained=False,
            more_baselines=("decoupled_neither",),
        ),
    ] = "head"
    """What answers from the features; `head` is the trained classifier."""
    inference: Annotated[
        str, Part("inferences", "benchmark.models.predict:INFERENCES", blocks=True, trained=False)
    ] = "single"
    """How an image is answered; `single` is in one view."""

    def chosen(self, always: Collection[str] = ()) -> dict[str, str]:
        """The parts that are not plain, and those of `always`."""
        return {
            part: value
            for part, plain in PLAIN.items()
            if (value := getattr(self, part)) != plain or part in always
        }


PARTS: dict[str, Part] = {
    name: next(one for one in field.metadata if isinstance(one, Part))
    for name, field in Parts.model_fields.items()
}
PLAIN: dict[str, str | None] = {name: field.default for name, field in Parts.model_fields.items()}
"""Plain training from scratch, answered by the trained classifier in one view."""
AXES = [name for name, part in PARTS.items() if part.axis]
BLOCKS = {name: part.plural for name, part in PARTS.items() if part.blocks}
"""Part → the key of `params.yaml` that holds its blocks."""
BUILT = [name for name, part in PARTS.items() if part.blocks and part.registry]
"""Parts whose block is the parameters of something registered."""
ANSWERING = [name for name, part in PARTS.items() if not part.trained]
NAMED = ("backbone", "normalisation", "loss")
"""Parts that stand in a method's canonical name whatever they are; others where not plain."""
RECORDED = (*NAMED, "recipe", "weights")
"""The same of a run's record."""
SETTINGS = {
    "optimiser": "benchmark.training.fit:OPTIMISERS",
    "schedule": "benchmark.training.fit:SCHEDULES",
    "sampler": "benchmark.training.batches:SAMPLERS",
    "averaging": "benchmark.training.averaging:AVERAGINGS",
}
"""Settings of a training that are chosen by name, and where they are registered."""
REGISTRIES = (
    {name: part.registry for name, part in PARTS.items() if part.registry}
    | SETTINGS
    | {"corruption": "benchmark.data.corruptions:CORRUPTIONS"}
)
"""Kind of building block → where those of the kind are registered."""


def registry(kind: str) -> dict[str, Callable[..., Any]]:
    """The building blocks of a kind by name."""
    return resolved(REGISTRIES[kind])


resolved = functools.cache(pkgutil.resolve_name)  # a plan asks some thousand times


@remembered
def registered(kind: str) -> list[str]:
    """The names of the building blocks of a kind."""
    return list(registry(kind))


def function_of(kind: str, name: str, block: Mapping[str, Any]) -> str:
    """The registered name of what a block builds: its `of`, or what its name stands for."""
    return block.get("of") or implied(kind, name) or name


def implied(kind: str, name: str) -> str | None:
    """What a block's name stands for: itself, or the longest registered name that it continues
    (`decoupled_loss` is a `decoupled`)."""
    known = registered(kind)
    continued = [one for one in known if name == one or name.startswith(f"{one}_")]
    return name if name in known else max(continued, key=len, default=None)


def recorded_block(kind: str, name: str, block: Block) -> Block:
    """A block as runs record and hash it: without an `of` that its name implies."""
    if block.get("of", "") == implied(kind, name):
        return {key: value for key, value in block.items() if key != "of"}
    return block


def build(kind: str, name: str, block: Block) -> Callable[..., Any]:
    """What a block builds, with its parameters; takes the arguments that the harness passes."""
    parameters = {key: value for key, value in block.items() if key != "of"}
    return functools.partial(registry(kind)[function_of(kind, name, block)], **parameters)


@remembered
def capability(kind: str, name: str, fact: str, block: Mapping[str, Any] | None = None) -> Any:
    """An attribute by which a registered class or function says what it needs or does.

    None where it does not say so, or nothing of this name is registered (any more).
    """
    entry = registry(kind).get(function_of(kind, name, block or {}))
    return getattr(getattr(entry, "func", entry), fact, None)


@remembered
def check_block(kind: str, name: str, block: Block) -> None:
    """Raise a `UserError` if a block builds nothing that is registered, or has a parameter or value
    that does not exist. Kinds and bounds of values are those of the function's annotations.
    """
    known, where = registry(kind), f"params.yaml: {PARTS[kind].plural}"
    function = block.get("of", name)
    if not isinstance(function, str) or function not in known:
        told = shortened(str(function))
        if "of" in block:
            raise UserError(f"{where}.{name}.of: unknown '{told}'{suggest(told, known)}")
        mend = " (a second set of parameters says of what it is: `of: …`)"
        raise UserError(f"{where}: unknown '{told}'{suggest(told, known)}{mend}")
    taken = inspect.signature(known[function], eval_str=True).parameters
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [n for n, parameter in taken.items() if parameter.kind not in various]
    names = names[PARTS[kind].passed :]
    for parameter, value in block.items():
        if parameter == "of":
            continue
        if parameter not in names:
            near = suggest(parameter, names) or "; it takes none"
            raise UserError(f"{where}.{name}: unknown parameter '{parameter}'{near}")
        annotation = taken[parameter].annotation
        kind_of_value = Any if annotation is inspect.Parameter.empty else annotation
        finite = ConfigDict(allow_inf_nan=False)
        try:
            TypeAdapter(kind_of_value, config=finite).validate_python(value, strict=True)
        except ValidationError as error:
            said = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UserError(
                f"{where}.{name}.{parameter}: {said}, found {shortened(repr(value))}"
            ) from None


def check_registered(kind: str, name: str) -> str:
    """The name itself, if it is registered; else a `ValueError` with the nearest."""
    if name not in (known := registered(kind)):
        raise ValueError(f"no {kind} '{shortened(name)}'{suggest(shortened(name), known)}")
    return name
