"""Recipes by name: what training does with images, losses and source domains.

To add one, write a `Recipe` in a file of its own (see `benchmark/training/recipe.py`), register it
below and name it with its parameters under `recipes` in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmark.training.recipe import Recipe
from benchmark.training.recipes.coral import Coral
from benchmark.training.recipes.erm import EmpiricalRisk
from benchmark.training.recipes.groupdro import GroupDRO
from benchmark.training.recipes.idg_boda import ImbalancedDomains
from benchmark.training.recipes.mixup import InterDomainMixup, Mixup

RECIPES: dict[str, Callable[..., Recipe]] = {
    "erm": EmpiricalRisk,
    "mixup": Mixup,
    "interdomain_mixup": InterDomainMixup,
    "coral": Coral,
    "groupdro": GroupDRO,
    "idg_boda": ImbalancedDomains,
}
