"""Files that are whole or absent: atomic writes, digests, and the one reader for YAML and JSON."""

from __future__ import annotations

import copy
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from benchmark.errors import UserError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` once it is complete and on disk.

    A reader sees the old file or the new one, never a part, also after `kill -9`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; what the pipeline writes is for everyone who may read it.
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


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
    if error.errno == errno.ENOSPC:
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
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, in the order given; NaN is refused, for JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `UserError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run again") from error


def read_yaml(path: Path) -> Any:
    """Read YAML 1.2 as DVC does (`1e-4` is a number, a key given twice is an error)."""
    try:
        return copy.deepcopy(parsed_yaml(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error


@functools.cache  # a plan asks for every card once an experiment, and parsing one takes 0.1 s
def parsed_yaml(text: str) -> Any:
    """The value of a YAML text; not to be changed."""
    return YAML(typ="safe", pure=True).load(text)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys), first 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
