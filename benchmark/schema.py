"""Typed settings: models that refuse unknown keys, and the one line that tells a user which key."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import UserError, suggest
from benchmark.texts import shortened

Model = TypeVar("Model", bound=BaseModel)


Line = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[^\n]*$")]
"""A title: some words on one line."""
Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


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
