"""What `wbc-shift domain` writes, all of it or nothing, by one command at a time.

What is to be done is written down first (`datasets/raw/.<name>.unfinished`); if the process is
killed, the next `domain` command does the rest. `params.yaml` gets one domain more or fewer, every
other character as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from benchmark.acquire.manifest import write_manifest
from benchmark.data.cards import Card, load_cards
from benchmark.data.fields import BOX, ORIGIN
from benchmark.errors import UserError
from benchmark.files import (
    atomic,
    cannot_write,
    parsed_yaml,
    read_json,
    read_yaml,
    write_json,
    write_text,
)
from benchmark.progress import say, track
from benchmark.schema import parse
from benchmark.settings import PARAMS, Params, load_params
from benchmark.study.pipeline import write_pipelines
from benchmark.texts import csv_cell, csv_path, file_name

LABELS, FOUND = "labels.csv", "audit.csv"
"""What lies beside the copied images: their labels, and what was found in them."""
MANIFEST = "raw/.manifests/{}.csv"
"""Of a domain, below `datasets/`: made here, and so not for git."""
COMMENT = """\
# Own images, added by `wbc-shift domain add`. They lie in datasets/raw/{name} of the machine that
# made this card, with labels.csv and audit.csv; git ignores them.
"""


@contextmanager
def alone(root: Path) -> Iterator[list[str]]:
    """Let one `domain` command work at a time, after what a killed one left undone is done.

    Yields:
        the domains that were finished so.
    """
    raw = root / "datasets" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    lock = FileLock(raw / ".domains.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another `wbc-shift domain` command to end")
        lock.acquire()
    try:
        finished = []
        for path in sorted(raw.glob(".*.unfinished")):
            task = read_json(path)
            carry_out(root, **task)
            say(f"note: finished what was interrupted: domain {task['name']}")
            finished.append(task["name"])
        for left in (*raw.glob(".*.adding"), *raw.glob(".*.replaced")):
            shutil.rmtree(left, ignore_errors=True)
        yield finished
    finally:
        lock.release()


def place(
    root: Path,
    folder: Path,
    images: pd.DataFrame,
    found: pd.DataFrame,
    card: dict[str, Any],
    profile: str | None,
) -> None:
    """Copy the images, and write labels, findings, manifest, card and settings.

    Args:
        profile: gets the domain, unless it has it; none does if it is None.
    """
    raw, name = root / "datasets" / "raw", card["name"]
    parse(Card, card, f"datasets/{name}.yaml")
    buffer = StringIO(COMMENT.format(name=name))
    buffer.seek(0, os.SEEK_END)
    writer = YAML()
    writer.width = 100
    writer.dump(card, buffer)
    work = raw / f".{name}.adding"
    try:
        for path in track(images["path"], f"copying images of {name}"):
            with atomic(work / file_name(path)) as temporary:
                shutil.copyfile(folder / path, temporary)
        # Read again by the harness, so nothing is added to a cell; names are as copied.
        columns = ["path", "label", "group", "excluded"]
        columns += [column for column in ORIGIN if column in images]
        texts = [column for column in columns if column not in BOX]
        labels = images[columns].assign(**images[texts].map(file_name))
        write_text(work / LABELS, labels.to_csv(index=False, lineterminator="\n"))
        found = found.map(csv_cell).assign(path=found["path"].map(csv_path))
        write_text(work / FOUND, found.to_csv(index=False, lineterminator="\n"))
        task = {"name": name, "card": buffer.getvalue(), "profile": profile}
        write_json(raw / f".{name}.unfinished", task)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    carry_out(root, **task)


def carry_out(root: Path, name: str, card: str, profile: str | None) -> None:
    """Put copied images in their place, with manifest, card, settings and pipelines.

    Every step may have been taken already: what a killed process began is finished by another.
    An error takes all steps back.

    Args:
        card: the text of the card.
        profile: as in `place`.
    """
    datasets, params_path = root / "datasets", root / PARAMS
    raw, target, card_path = datasets / "raw", datasets / "raw" / name, datasets / f"{name}.yaml"
    work, replaced = raw / f".{name}.adding", raw / f".{name}.replaced"
    manifest = datasets / MANIFEST.format(name)
    before = {path: content_of(path) for path in (params_path, manifest, card_path)}
    # It may not have been moved yet.
    had_images = work.exists() and target.exists()
    try:
        try:
            if work.exists():
                if target.exists():
                    target.rename(replaced)
                work.rename(target)
        except OSError as error:
            raise cannot_write(target, error) from error
        write_text(card_path, card)
        write_manifest(datasets, parse(Card, read_yaml(card_path), str(card_path)))
        params = load_params(params_path)
        if profile is not None and name not in params.profile(profile).domains:
            write_text(params_path, with_domain(params_path, profile, name))
            params = load_params(params_path)
        write_pipelines(root, params, load_cards(datasets), check=False)
    except BaseException:
        for path, content in before.items():
            restore(path, content)
        if replaced.exists() or not had_images:
            shutil.rmtree(target, ignore_errors=True)
        if replaced.exists():
            replaced.rename(target)
        shutil.rmtree(work, ignore_errors=True)
        (raw / f".{name}.unfinished").unlink(missing_ok=True)
        raise
    (raw / f".{name}.unfinished").unlink()
    shutil.rmtree(replaced, ignore_errors=True)


def content_of(path: Path) -> bytes | None:
    """What a file holds; None if there is none."""
    return path.read_bytes() if path.exists() else None


def restore(path: Path, content: bytes | None) -> None:
    """Give a file the content it had, if it has another."""
    if content is None:
        path.unlink(missing_ok=True)
    elif content != content_of(path):
        with atomic(path) as temporary:
            temporary.write_bytes(content)


def with_domain(path: Path, profile: str, name: str) -> str:
    """The text of the settings with one more domain in a profile.

    Raises:
        UserError: the profile has no list of its own.
    """
    text, domains = settings_text(path, profile)
    # A name that YAML takes for a number or a date is a name in quotation marks alone.
    written = name if YAML(typ="safe", pure=True).load(name) == name else f'"{name}"'
    if not domains.value:
        start = text.index("[", domains.start_mark.index) + 1
        text = text[:start] + written + text[start:]
        return checked(path, text, profile, lambda listed: [name])
    last = domains.value[-1]
    start, end = last.start_mark.index, last.end_mark.index
    if domains.flow_style:
        text = f"{text[:end]}, {written}{text[end:]}"
    else:
        # After the line of the last one, whose comment stays behind it.
        line, stop = text.rindex("\n", 0, start) + 1, text.find("\n", end)
        stop = len(text) if stop < 0 else stop
        ending = "\r\n" if "\r\n" in text else "\n"
        body = text[:stop].removesuffix("\r")
        text = body + ending + text[line:start] + written + text[len(body) :]
    return checked(path, text, profile, lambda listed: [*listed, name])


def without_domain(path: Path, profile: str, name: str) -> str:
    """The text of the settings without a domain of a profile.

    Raises:
        UserError: the profile has no list of its own; something else names the domain.
    """
    text, domains = settings_text(path, profile)
    row = [item.value for item in domains.value].index(name)
    start, end = domains.value[row].start_mark.index, domains.value[row].end_mark.index
    line = text.rindex("\n", 0, start) + 1
    stop = text.find("\n", end) + 1 or len(text)
    before = domains.value[row - 1].end_mark.index if row else line
    if not domains.flow_style:
        start, end = line, stop
    elif row and text[before:start].strip(" ") == ",":
        start = before
    else:
        if (comma := comma_after(text, end)) is not None:
            end = comma + 1
            end += len(text[end:]) - len(text[end:].lstrip(" "))
        elif row:
            # The comma before it goes; comments in between are not its own.
            comma = comma_after(text, before)
            text = text[:comma] + text[comma + 1 :]
            line, start, end, stop = (place - (place > comma) for place in (line, start, end, stop))
        rest = text[end:stop].strip()
        # Alone on its line, it goes with the line, and its comment with it.
        if not text[line:start].strip() and (not rest or rest.startswith("#")):
            start, end = line, stop
    text = text[:start] + text[end:]
    return checked(path, text, profile, lambda listed: [d for d in listed if d != name])


def comma_after(text: str, end: int) -> int | None:
    """Where the comma after an entry of a list in brackets stands; None if the list ends first."""
    while end < len(text) and text[end] not in ",]":
        # A comment may hold either.
        end = text.find("\n", end) if text[end] == "#" else end + 1
    return end if text[end] == "," else None


def settings_text(path: Path, profile: str) -> tuple[str, SequenceNode]:
    """The settings with their own line ends, and in them the list of a profile's domains."""
    text = path.read_bytes().decode("utf-8")
    node: Node | None = YAML().compose(text)
    for key in ("profiles", profile, "domains"):
        children = node.value if isinstance(node, MappingNode) else []
        node = next((value for name, value in children if name.value == key), None)
    if not isinstance(node, SequenceNode):
        raise shared(path, profile)
    return text, node


def checked(path: Path, text: str, profile: str, change: Callable[[list[str]], list[str]]) -> str:
    """A changed text, if it says what is meant: one list is another, all else is the same."""
    after = parsed_yaml(text)
    # Through JSON, in which nothing is shared: an anchor's list is one object in two profiles.
    wanted = json.loads(json.dumps(parsed_yaml(path.read_text(encoding="utf-8")), default=str))
    wanted["profiles"][profile]["domains"] = change(wanted["profiles"][profile]["domains"])
    if json.loads(json.dumps(after, default=str)) != wanted:
        raise shared(path, profile)
    parse(Params, deepcopy(after), str(path))
    return text


def shared(path: Path, profile: str) -> UserError:
    """That a list cannot be changed for one profile alone."""
    return UserError(
        f"{path}: profile {profile} shares its list of domains with another: "
        f"give {profile} one of its own"
    )
