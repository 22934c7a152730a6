"""Files that are whole or absent: atomic writes, digests, and the one reader for YAML and JSON."""

from __future__ import annotations

import copy
import errno
import functools
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    ScalarEvent,
)

from benchmark.errors import UserError
from benchmark.texts import HIDDEN, SURROGATES, shortened, visible, written_out

YAML_BYTES = 2_000_000
"""A settings file or card has a few tens of thousands."""
YAML_CHARACTERS = 5_000_000
"""What a file may become once its aliases are written out."""
TEXT_CHARACTERS = 20_000
"""Of one value: the longest are BibTeX entries."""
MOST_DIGITS = 18
"""Of an integer: what 64 bits hold."""

try:
    import fcntl
except ImportError:  # Windows, where what a killed process leaves stays
    fcntl = None

TEMPORARY = ".wbc-shift.tmp"
"""End of the names of what is being made; git ignores *.tmp."""
TEMPORARY_NAME = re.compile(r"\..*\.[a-z0-9_]{8}" + re.escape(TEMPORARY))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` once it is complete and on disk.

    A reader sees the old file or the new one, never a part, also after `kill -9`.
    """
    path = Path(path)
    try:
        with temporary_beside(path) as temporary:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            # Temporary files are private; what the pipeline writes is for all who may read it.
            temporary.chmod(0o644)
            temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def temporary_beside(path: Path, folder: bool = False) -> Iterator[Path]:
    """Give a new, hidden file or folder in the folder of `path`, on its way to be called that.

    What still bears the temporary name in the end is removed. What a killed process left is removed
    when the next one makes something in the same place.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    parent = Path(path).parent
    # A name may be as long as the file system takes: the temporary one is longer.
    start = os.fsencode(Path(path).name)[:100].decode(errors="ignore")
    how = {"prefix": f".{start}.", "suffix": TEMPORARY, "dir": parent}
    lock = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent.absolute())
        # Another process may sweep between the making and the locking: then once more.
        while lock is None:
            if folder:
                name = tempfile.mkdtemp(**how)
            else:
                descriptor, name = tempfile.mkstemp(**how)
                os.close(descriptor)
            lock = locked(name)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield Path(name)
    finally:
        if folder:
            shutil.rmtree(name, ignore_errors=True)
        else:
            Path(name).unlink(missing_ok=True)
        if lock >= 0:
            os.close(lock)


def locked(name: str) -> int | None:
    """Lock a file or folder for as long as this process lives, which the system ends by itself.

    Returns:
        A descriptor to close, -1 where nothing can be locked; None if it is another's, or gone.
    """
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        whole = os.path.lexists(name)
    except BlockingIOError:
        whole = False
    except OSError:  # a file system without locks
        os.close(descriptor)
        return -1
    if not whole:
        os.close(descriptor)
        return None
    return descriptor


@functools.cache
def sweep(folder: Path) -> None:
    """Remove, once in a process, what processes that are dead were making in a folder."""
    try:
        names = [name for name in os.listdir(folder) if TEMPORARY_NAME.fullmatch(name)]
    except OSError:
        return
    for left in (folder / name for name in names):
        try:
            lock = locked(str(left))
            if lock is None or lock < 0:
                continue
            try:
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink(missing_ok=True)
            finally:
                os.close(lock)
        except OSError:  # another's file
            continue


def writable_folder(path: Path) -> Path:
    """Make a folder, and see that files can be made in it before any work is spent.

    Raises:
        UserError: they cannot: a read-only disk, a full one, a file in the folder's place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error
    return path


def cannot_write(path: Path, error: OSError) -> UserError:
    """Say why `path` cannot be written; everything written before it stays."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = next((p for p in Path(path).absolute().parents if p.exists()), Path("/"))
        free = shutil.disk_usage(where).free // 2**20
        return UserError(
            f"disk full while writing {path} ({free} MiB free): "
            "make room and run the same command again; what was finished is kept"
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return UserError(f"{path} cannot be written ({error.strerror}): make the folder writable")
    return UserError(f"{path}: {error.strerror or error}")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; a byte that is none, as in some file names, as `\\xe9`."""
    with atomic(path) as temporary:
        temporary.write_text(SURROGATES.sub(written_out, text), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, in the order given; NaN is refused, for JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, again: str = "delete it and run again") -> Any:
    """Read JSON; a missing or broken file is a `UserError` that names it.

    Args:
        again: what makes the file anew.
    """
    try:
        return json.loads(
            Path(path).read_text(encoding="utf-8"), parse_constant=finite, parse_float=finite
        )
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (ValueError, RecursionError) as error:
        reason = shortened(str(error), 120)
        raise UserError(f"{path} is not valid JSON ({reason}): {again}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {again}") from error


def finite(text: str) -> float:
    """A number of JSON, which knows neither NaN nor infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shortened(text)} is no finite number")
    return value


def read_yaml(path: Path) -> Any:
    """Read YAML 1.2 as DVC does (`1e-4` is a number, a key given twice is an error).

    Sizes are looked at before anything is built: aliases can make a kilobyte a thousand gigabytes.

    Raises:
        UserError: not a file, no YAML, too large, a number that is not finite, a text
            with control characters.
    """
    try:
        if Path(path).stat().st_size > YAML_BYTES:
            raise UserError(f"{path} is larger than {YAML_BYTES:,} bytes: no file of settings is")
        return copy.deepcopy(parsed_yaml(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a file of settings") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {shortened(str(error), 300)}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


@functools.cache  # a plan asks for every card once an experiment, and parsing one takes 0.1 s
def parsed_yaml(text: str) -> Any:
    """The value of a YAML text; not to be changed.

    Raises:
        YAMLError, ValueError: no YAML, or not as settings are.
    """
    if "&" in text and "*" in text:
        refuse_large(text)
    value = YAML(typ="safe", pure=True).load(text)
    refuse_strange(value, "")
    return value


def refuse_large(text: str) -> None:
    """Raise a `ValueError` if a YAML text is too large once its aliases are written out."""
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = [(None, 0)]
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, CollectionStartEvent):
            opened.append((event.anchor, 1))
            continue
        if isinstance(event, ScalarEvent):
            size, anchor = 1 + len(event.value), event.anchor
        elif isinstance(event, CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"alias '{shortened(event.anchor)}' stands for nothing before it")
            size, anchor = sizes[event.anchor], None
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        opened[-1] = (opened[-1][0], opened[-1][1] + size)
        if opened[-1][1] > YAML_CHARACTERS:
            raise ValueError("its aliases make it too large")


def refuse_strange(value: Any, where: str) -> None:
    """Raise a `ValueError` if a value, or one in it, is nothing that settings hold."""
    if isinstance(value, dict):
        for key, one in value.items():
            refuse_strange(key, where)
            refuse_strange(one, f"{where}.{shortened(str(key), 40)}".lstrip("."))
    elif isinstance(value, list):
        for one in value:
            refuse_strange(one, where)
    elif isinstance(value, str):
        if found := HIDDEN.search(value):
            raise ValueError(f"{where}: a text holds the character {visible(found[0])}")
        if len(value) > TEXT_CHARACTERS:
            raise ValueError(f"{where}: a text has more than {TEXT_CHARACTERS:,} characters")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is no finite number")
    elif isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        raise ValueError(f"{where}: a number has more than {MOST_DIGITS} digits")
    elif value is not None and not isinstance(value, int | float):
        raise ValueError(f"{where}: a {type(value).__name__}: put it in quotes")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys), first 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
