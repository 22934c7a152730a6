"""Pages: a Jinja template beside the module that fills it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from benchmark.texts import link, visible


def templates_beside(module: str) -> Environment:
    """The templates in a module's folder (`__file__`), and what pages of images share: texts are
    escaped, what cannot be seen in them is written out, and a missing value is an error.
    """
    environment = Environment(
        loader=FileSystemLoader([Path(module).parent, Path(__file__).parent / "audit"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    environment.tests["link"] = link
    return environment


def shown(value: Any) -> Any:
    """A value as a page shows it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
