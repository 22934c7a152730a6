"""Declared versions of everything that moves a prediction's bits.

A run's fingerprint holds these integers, not the source code: a renamed variable or a comment
retrains nothing. `tests/test_golden_runs.py` pins tiny runs; when a change moves their bits, the
test fails until the version of the changed part is raised here, and exactly the runs that use the
part become stale. A building block that is declared nowhere below, one of one's own, has the hash
of its source in the place of a version, so that it cannot change unnoticed either; declaring it
under `VERSIONS` (`"loss.mine": 1`) makes it stable like the others.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
from types import CodeType, FunctionType, ModuleType
from typing import Any

from benchmark.errors import UserError
from benchmark.parts import registry

PROTOCOL = 1
"""What is trained and tested on what: splits, selection, the parts that are predicted."""

VERSIONS: dict[str, int] = {
    "data": 1,
    "model": 1,
    "augmentation": 1,
    "training": 1,
    "inference": 1,
    "inference.tent": 2,
}
"""A part, or a building block as `<kind>.<name>`; those in `BLOCKS` are at 1 unless named here."""

BLOCKS: dict[str, str] = {
    "normalisation": "bn gn in ibn_a bn_frozen ibn_b ibn_literal none ln evonorm",
    "loss": "ce weighted_ce label_smoothing focal balanced_softmax logit_adjusted class_balanced "
    "hybrid ldam centre triplet_centre_hard supcon ccl focal_ccl",
    "recipe": "erm mixup interdomain_mixup coral groupdro idg_boda mixstyle",
    "head": "linear addfc hidden512",
    "freezing": "none last16 linear",
    "stain": "none jpeg95 macenko reinhard image_moments white_background grey standardised",
    "readout": "head linear_probe nearest_neighbours decoupled",
    "inference": "single tta tta_as_released adabn bn_mix tent prior_correction moments "
    "scale scale_and_moments",
    "optimiser": "adamw sgd",
    "schedule": "cosine steps as_released",
    "sampler": "instance class_balanced domain_balanced",
    "averaging": "none ema swad",
    "corruption": "gaussian_noise salt_and_pepper gaussian_blur defocus_blur motion_blur "
    "brightness contrast uneven_illumination colour_cast jpeg "
    "medmnist_pixelate medmnist_jpeg_compression medmnist_defocus_blur medmnist_motion_blur "
    "medmnist_brightness_up medmnist_brightness_down medmnist_contrast_up medmnist_contrast_down "
    "medmnist_saturate medmnist_stain_deposit medmnist_bubble",
}
"""The building blocks that the golden runs and the tests watch over, by kind."""


def version(kind: str, name: str | None = None) -> int | str:
    """Version of a part (`model`) or of a building block (`loss`, `focal`).

    Returns:
        The declared integer; of a building block that is declared nowhere, a hash of its source.

    Raises:
        UserError: the source of such a block cannot be read.
    """
    if name is None:
        return VERSIONS[kind]
    if name in BLOCKS.get(kind, "").split():
        return VERSIONS.get(f"{kind}.{name}", 1)
    block = registry(kind).get(name)
    if block is None:  # refused by name where the settings are read
        return 1
    return VERSIONS.get(f"{kind}.{name}") or source_digest(block, f"{kind}.{name}")


def source_digest(block: Any, name: str) -> str:
    """SHA-256 of the source of a block and of all that it uses beside libraries, 16 digits.

    Args:
        name: what the block is called, for the message.
    """
    texts: dict[str, str] = {}
    try:
        whole = [told(block, texts), *(f"{place}\n{text}" for place, text in sorted(texts.items()))]
    except (OSError, TypeError, KeyError):
        raise UserError(
            f"{name}: its source cannot be read, so a change of it would go unnoticed: "
            f'declare `"{name}": 1` in VERSIONS of benchmark/study/numerics.py and raise it by hand'
        ) from None
    return hashlib.sha256("\n".join(whole).encode()).hexdigest()[:16]


def told(value: Any, texts: dict[str, str]) -> str:
    """A value in words that do not change from process to process.

    Args:
        texts: takes, by name, the source of every function and class that the value is, or uses,
            beside those of libraries.
    """
    if isinstance(value, FunctionType | type):
        if is_own(value.__module__):
            collect(inspect.unwrap(value), texts)
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return told((value.func, value.args, value.keywords), texts)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, dict):
        return repr([(told(key, texts), told(one, texts)) for key, one in value.items()])
    if isinstance(value, list | tuple):
        return repr([told(type(value), texts), *(told(one, texts) for one in value)])
    if hasattr(value, "tolist"):
        return repr(value.tolist())
    return repr([told(type(value), texts), told(getattr(value, "__dict__", None), texts)])


def collect(part: FunctionType | type, texts: dict[str, str]) -> None:
    """Add the source of a function or class, and of all that it names beside libraries."""
    place = f"{part.__module__}.{part.__qualname__}"
    if place in texts:
        return
    texts[place] = inspect.getsource(part)
    functions = [part] if isinstance(part, FunctionType) else list(vars(part).values())
    functions = [getattr(one, "__func__", getattr(one, "fget", one)) for one in functions]
    codes = [one.__code__ for one in functions if isinstance(one, FunctionType)]
    names = sorted(set().union(*map(names_in, codes)))
    scope = dict(vars(sys.modules[part.__module__]))
    modules = [scope[name] for name in names if isinstance(scope.get(name), ModuleType)]
    for module in modules:
        if is_own(module.__name__):
            scope = vars(module) | scope
    used = {n: scope[n] for n in names if n in scope and not isinstance(scope[n], ModuleType)}
    bases = list(part.__bases__) if isinstance(part, type) else []
    texts[f"used by {place}"] = told([used, bases], texts)


def is_own(module: str) -> bool:
    """Whether a module is this package's or a person's: not a library's, whose version stands in a
    run's environment."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    libraries = tuple(map(sysconfig.get_path, ("purelib", "platlib")))
    installed = file is not None and file.startswith(libraries)
    return not installed or top == __name__.partition(".")[0]


def names_in(code: CodeType) -> set[str]:
    """Global names and attributes that a function uses, functions within it included."""
    within = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(names_in, within))
