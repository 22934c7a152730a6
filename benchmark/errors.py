"""Errors a user can mend: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, told in one line. The command line prints it without a traceback and exits 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class ChangedInput(UserError):
    """An input is missing, or is not as it was made: nothing can be said of a run that wants it.

    No outcome of the run is recorded, so that a record that is whole stays.
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of an error line about an unknown `name`: the nearest known names.

    >>> suggest("resnet81", ["resnet18", "vgg16"])
    "; did you mean 'resnet18'?"
    """
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name)[:100], known)
    if near:
        return "; did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    if len(known) > 12:
        return ""
    return f"; known: {', '.join(known)}" if known else ""
