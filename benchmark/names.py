"""Names: one rule for all that become folders, files, parts of a run id, or columns of a table.

Profiles, experiments, methods, cards, domains, framings and blocks are checked where settings and
cards are read, so that no code behind it meets a name that leads out of its folder, is hidden, or
means something else to a file system or to the program.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from benchmark.texts import shortened

LONGEST = 64
LONGEST_METHOD = 128
"""A method's name is made of the names of its parts."""
LONGEST_FOLDER = 200
"""File systems take 255 bytes; temporary files add to a name."""
TAKEN = {
    "domain": {
        "others": "stands for `*` in the folder of a scenario",
        "corruptions": "stands for the targets of a scenario",
    },
    "method": {"majority": "is the row of the commonest class"},
    "profile": {
        "audit": "is a folder of the audit",
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
