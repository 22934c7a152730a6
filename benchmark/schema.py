"""What settings and records may hold: names, models, and the one line that tells a user what is
wrong.

Settings (`Strict`) refuse a key that they do not know. Of the JSON records that commands leave for
each other only what is read is checked (`Record`), and the line says which command makes it anew.
"""

from __future__ import annotations

import re
import types
import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UserError, suggest
from benchmark.files import read_json
from benchmark.texts import shortened

PARAMS = Path("params.yaml")
DEFAULT_PROFILE = "demo"
"""What a command is about where no profile is named: the first of `params.yaml`, as `dvc repro`."""

# --------------------------------------------------------------------------- names
# One rule for all that become folders, files, parts of a run id, or columns of a table. They are
# checked where settings and cards are read, so that no code behind it meets a name that leads out
# of its folder, is hidden, or means something else to a file system or to the program.

LONGEST = 64
LONGEST_METHOD = 128
"""A method's name is made of the names of its parts."""
LONGEST_FOLDER = 200
"""File systems take 255 bytes; temporary files add to a name."""
TAKEN = {
    "domain": {
        "others": "stands for `*` in the folder of a scenario",
        "corruptions": "stands for the targets of a scenario",
        "corruptions_medmnist": "stands for the targets of a scenario",
    },
    "method": {"majority": "is the row of the commonest class"},
    "profile": {
        "audit": "is a folder of the audit",
        "networks": "is the folder of the networks in the repository",
        "speed": "is a folder of the measured speeds",
    },
}
"""Words that mean something else where a name of this kind stands."""
DEVICES = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def check_name(name: str, kind: str = "", more: str = "", longest: int = LONGEST) -> str:
    """The name itself, if it follows the rule.

    Args:
        kind: domain, method or profile, each of which has words of its own that are taken.
        more: signs that may stand in it beside letters, digits, hyphens and underscores.

    Raises:
        ValueError: what is wrong with it, in words.
    """
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9_\-{re.escape(more)}]*", name):
        signs = "".join(f", '{sign}'" for sign in more)
        raise ValueError(
            f"'{shortened(name)}' cannot be a name: use letters (a-z), digits, '-', '_'{signs}, "
            "and begin with a letter or digit"
        )
    if len(name) > longest:
        raise ValueError(f"'{shortened(name)}' has {len(name)} characters: use {longest} at most")
    if meaning := TAKEN.get(kind, {}).get(name.lower()):
        raise ValueError(f"'{name}' {meaning}: choose another name")
    if DEVICES.fullmatch(name):
        raise ValueError(f"'{name}' is a device on Windows: choose another name")
    return name


def check_method(name: str) -> str:
    """The same of a method or backbone: `resnet50+lstm`, `resnet50.a1_in1k`."""
    return check_name(name, "method", "+.", LONGEST_METHOD)


Name = Annotated[str, AfterValidator(check_name)]
"""Of an experiment, card, framing, label space or block."""
ProfileName = Annotated[str, AfterValidator(partial(check_name, kind="profile"))]
DomainName = Annotated[str, AfterValidator(partial(check_name, kind="domain"))]
MethodName = Annotated[str, AfterValidator(check_method)]
"""Of a method or backbone."""


def check_run_id(run_id: str) -> str:
    """The id itself, if it is `METHOD/SCENARIO/seedK`; else a `ValueError`."""
    method, _, rest = run_id.partition("/")
    folder, _, seed = rest.partition("/")
    try:
        check_method(method)
        check_name(folder, longest=LONGEST_FOLDER)
        if not re.fullmatch("seed[0-9]{1,9}", seed):
            raise ValueError("its last part is no seed")
    except ValueError:
        raise ValueError(
            f"'{shortened(run_id, 90)}' is no run: give METHOD/SCENARIO/seedK, as the folders in "
            "results/<profile>/runs"
        ) from None
    return run_id


RunId = Annotated[str, AfterValidator(check_run_id)]


def refuse_twice(names: Iterable[str], what: str) -> None:
    """Raise a `ValueError` if a name stands twice; some file systems do not tell `A` from `a`."""
    counts = Counter(name.lower() for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{what} '{shortened(twice[0])}' is there twice: keep one of them")


# --------------------------------------------------------------------------- settings

Model = TypeVar("Model", bound=BaseModel)


Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\n]*$")]
"""A title: some words on one line."""
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Subset = Literal["sample", "core", "all"]
"""Of a set's images: the rows of its manifest marked `sample` or `core`, or all."""


class Strict(BaseModel):
    """A model that refuses unknown keys and numbers that are none (NaN, infinity), and cannot be
    changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def parse(model: type[Model], value: object, where: str) -> Model:
    """Validate `value`; the first fault becomes one `UserError` line that names the nearest key.

    Args:
        model: the pydantic model to build.
        value: what a YAML or JSON file held.
        where: file and key, for the message.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected keys and values, found {type(value).__name__}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors()
        # A misspelt key is also a missing one: the spelling is what helps.
        fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        # pydantic marks a fault of a key itself; the message names the key.
        location = fault["loc"][:-2] if fault["loc"][-1:] == ("[key]",) else fault["loc"]
        place = ".".join(shortened(str(part)) for part in location)
        if fault["type"] == "extra_forbidden":
            near = suggest(shortened(str(location[-1])), known_keys(model, location[:-1]))
            raise UserError(f"{where}: unknown key '{place}'{near}") from None
        message = fault["msg"].removeprefix("Value error, ")
        found = f", found {shortened(repr(fault['input']))}"
        found = "" if fault["type"] in ("missing", "value_error") else found
        raise UserError(": ".join(filter(None, [where, place, message])) + found) from None


def known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys accepted at a place inside `model`, through nested models and mappings of models."""
    annotation: Any = model
    for step in location:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(step))
            annotation = field.annotation if field else None
        else:
            annotation = (typing.get_args(annotation) or (None,))[-1]
        if typing.get_origin(annotation) in (types.UnionType, typing.Union):
            annotation = next((a for a in typing.get_args(annotation) if a is not type(None)), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return sorted(annotation.model_fields)
    return []


# --------------------------------------------------------------------------- records


AnyRecord = TypeVar("AnyRecord", bound="Record")


class Record(BaseModel):
    """What is read of a JSON record; it may hold more keys."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


def read_record(path: Path, shape: type[Record], again: str) -> dict[str, Any]:
    """Read a JSON record as it is, if it holds what `shape` says; see `read_shape`."""
    value = read_json(path, again)
    _shaped(value, path, shape, again)
    return value


def read_shape(path: Path, shape: type[AnyRecord], again: str) -> AnyRecord:
    """Read a JSON record.

    Raises:
        UserError: it is missing, broken, a list, or lacks a key; the line says what makes it anew.
    """
    return _shaped(read_json(path, again), path, shape, again)


def _shaped(value: Any, path: Path, shape: type[AnyRecord], again: str) -> AnyRecord:
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__} and no record: {again}")
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(shortened(str(part)) for part in fault["loc"])
        raise UserError(f"{path}: {place}: {fault['msg']}: {again}") from None
