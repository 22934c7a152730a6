"""Pages: a Jinja template beside the module that fills it."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def templates_beside(module: str) -> Environment:
    """The templates in a module's folder (`__file__`), and what pages of images share: escaped, and
    a missing value is an error.
    """
    return Environment(
        loader=FileSystemLoader([Path(module).parent, Path(__file__).parent / "audit"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
