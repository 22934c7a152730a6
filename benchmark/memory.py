"""What is known of the code itself, kept from one command to the next.

Which parameters a loss takes, or whether a network can be normalised in some way, follows from the
code and its libraries alone. But to ask, PyTorch has to be loaded and networks built: most of the
time that `plan` took. The answers lie in the user's cache, in a file named after the digest of all
code and of the libraries' versions, so that none can be out of date.

A process that has loaded PyTorch asks the code itself, and leaves the file alone: there an answer
costs nothing, and somebody may have registered parts of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, TypeVar

from benchmark.errors import UserError
from benchmark.files import digest, read_json, write_json

LIBRARIES = ("torch", "timm", "torchvision", "scikit-learn", "pydantic")
"""Those that answers follow from."""
KEPT = 8
"""Files kept: as many states of the code."""

Answer = TypeVar("Answer", bound=str | bool | int | float | list | None)


def remembered(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Keep the answers of a function of JSON values that follow from them and the code alone.

    An exception is no answer, nor is a value that JSON does not give back as it was.
    """
    name = f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def answer(*arguments: Any) -> Answer:
        known = answers()
        if known is None:
            return function(*arguments)
        key = digest([name, *arguments])
        if key not in known:
            found = function(*arguments)
            if not isinstance(found, str | bool | int | float | list | None):
                return found
            known[key] = found
        return known[key]

    return answer


@functools.cache
def answers() -> dict[str, Any] | None:
    """The answers by the digest of a question, written when the process ends; None beside PyTorch,
    and of a user without a home.

    What cannot be read or written is asked again: it costs seconds and changes nothing.
    """
    folder = cache_folder()
    if "torch" in sys.modules or folder is None:
        return None
    path = folder / f"parts-{code_digest()}.json"
    try:
        known = read_json(path)
    except UserError:
        known = {}
    if not isinstance(known, dict):
        known = {}
    atexit.register(keep, path, known, len(known))
    return known


def keep(path: Path, known: dict[str, Any], before: int) -> None:
    """Write the answers if there are more than before, and remove those of the oldest code."""
    if len(known) == before:
        return
    with contextlib.suppress(UserError, OSError):
        write_json(path, known)
        files = sorted(path.parent.glob("parts-*.json"), key=lambda one: one.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink()


def cache_folder() -> Path | None:
    """Where this program keeps what it can find again: `$XDG_CACHE_HOME/wbc-shift`, which is to be
    absolute, or that of the home; None without one, as of a number without a name in a container.
    """
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (told if told.is_absolute() else Path.home() / ".cache") / "wbc-shift"
    except RuntimeError:
        return None


def code_digest() -> str:
    """Digest of every module of this package, and of what it runs on."""
    whole = hashlib.sha256(sys.version.encode())
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            whole.update(f"{library} {installed(library)}\n".encode())
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        whole.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()[:16]
