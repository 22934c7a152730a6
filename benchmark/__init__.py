"""WBC-Shift: does this white-blood-cell classifier survive a change of laboratory?

In a notebook, in the project's root folder:

    import benchmark

    table = benchmark.predictions("core", experiment="norms")  # a row per run and image
    benchmark.score(table)                                     # a row per run and test set
    print(benchmark.compare("resnet18-gn-ce", "resnet18-bn-ce", "core"))

These three stay as they are from version to version; so do the commands of `wbc-shift` and the
files that they write. Everything else in this package may change.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["compare", "predictions", "score"]


def __dir__() -> list[str]:
    """What a notebook completes."""
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """Load what a notebook uses when it is asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from benchmark import notebook

    return getattr(notebook, name)
