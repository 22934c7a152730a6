"""`params.yaml` with one domain more or fewer in a profile, every other character as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from benchmark.config import Params
from benchmark.errors import UserError
from benchmark.schema import parse


def with_domain(path: Path, profile: str, name: str) -> str:
    """The text of the settings with one more domain in a profile.

    Raises:
        UserError: the profile has no list of its own.
    """
    text = read(path)
    domains = domains_of(path, text, profile)
    if domains.value:
        last = domains.value[-1]
        start, end = last.start_mark.index, last.end_mark.index
        if domains.flow_style:
            text = f"{text[:end]}, {name}{text[end:]}"
        else:
            # After the line of the last one, whose comment stays behind it.
            line, stop = text.rindex("\n", 0, start) + 1, text.find("\n", end)
            stop = len(text) if stop < 0 else stop
            ending = "\r\n" if text[:stop].endswith("\r") else "\n"
            body = text[:stop].removesuffix("\r")
            text = body + ending + text[line:start] + name + text[len(body) :]
    else:
        place = domains.start_mark.index + 1
        text = text[:place] + name + text[place:]
    return checked(path, text, profile, lambda listed: [*listed, name])


def without_domain(path: Path, profile: str, name: str) -> str:
    """The text of the settings without a domain of a profile.

    Raises:
        UserError: the profile has no list of its own; something else names the domain.
    """
    text = read(path)
    domains = domains_of(path, text, profile)
    place = [item.value for item in domains.value].index(name)
    own = domains.value[place]
    start, end = own.start_mark.index, own.end_mark.index
    if not domains.flow_style:
        start = text.rindex("\n", 0, start) + 1
        end = text.find("\n", end) + 1 or len(text)
    elif place:
        start = domains.value[place - 1].end_mark.index
    elif len(domains.value) > 1:
        end = domains.value[1].start_mark.index
    text = text[:start] + text[end:]
    return checked(path, text, profile, lambda listed: [d for d in listed if d != name])


def read(path: Path) -> str:
    """The text with its own line ends."""
    return path.read_bytes().decode("utf-8")


def domains_of(path: Path, text: str, profile: str) -> SequenceNode:
    """The list of a profile's domains, with its place in the text."""
    node: Node | None = YAML().compose(text)
    for key in ("profiles", profile, "domains"):
        children = node.value if isinstance(node, MappingNode) else []
        node = next((value for name, value in children if name.value == key), None)
    if not isinstance(node, SequenceNode):
        raise shared(path, profile)
    return node


def checked(path: Path, text: str, profile: str, change: Any) -> str:
    """A changed text, if it says what is meant: one list is another, all else is the same."""
    before, after = (YAML(typ="safe", pure=True).load(t) for t in (read(path), text))
    # Through JSON, in which nothing is shared: an anchor's list is one object in two profiles.
    wanted = json.loads(json.dumps(before, default=str))
    domains = wanted["profiles"][profile]["domains"]
    wanted["profiles"][profile]["domains"] = change(domains)
    if json.loads(json.dumps(after, default=str)) != wanted:
        raise shared(path, profile)
    parse(Params, after, str(path))
    return text


def shared(path: Path, profile: str) -> UserError:
    """That a list cannot be changed for one profile alone."""
    return UserError(
        f"{path}: profile {profile} shares its list of domains with another: "
        f"give {profile} one of its own"
    )
