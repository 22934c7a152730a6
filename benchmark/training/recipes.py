"""Recipes by name: what training does with images, losses and source domains.

To add one, write a `Recipe` (see `contracts.py`) here or in a file of its own, register it below
and name it with its parameters under `recipes` in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from benchmark.training.alignment import Coral, ImbalancedDomains
from benchmark.training.contracts import Batch, Loss, Recipe
from benchmark.training.mixing import InterDomainMixup, MixStyle


class Mixup(Recipe):
    """Mixup: λ·x + (1 - λ)·x' under λ·L(y) + (1 - λ)·L(y'), one λ ~ Beta(α, α) a batch.

    Zhang et al., ICLR 2018; as timm's in batch mode (tsutsui2023): x' is the batch in reverse.
    The loss is the method's: with `label_smoothing` at 0.1 it is timm's cross-entropy to soft
    targets, which is linear in them. Departure: a batch of odd size keeps its middle image as it
    is, where timm refuses the batch and tsutsui2023 drops an image.

    Args:
        alpha: α, above 0; 1 is the uniform distribution.
    """

    mixes = True

    def __init__(self, alpha: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.share = 1.0

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def mix(self, images: Tensor, groups: list[Tensor]) -> Tensor:
        self.share = float(self.generator.beta(self.alpha, self.alpha))
        return self.share * images + (1 - self.share) * images.flip(0)

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        first = loss(batch.logits, batch.labels, batch.features)
        second = loss(batch.logits, batch.labels.flip(0), batch.features)
        return self.share * first + (1 - self.share) * second


class GroupDRO(Recipe):
    """GroupDRO: Σ_g q_g·L_g over source domains, q_g ∝ q_g·exp(η·L_g): the worst counts most.

    Sagawa et al., ICLR 2020, algorithm 1. Decision: groups are domains, not pairs of domain and
    class. As in the authors' code, a step sees a batch of all groups, not of one drawn at random,
    and q moves before it is used. A domain that is absent from a batch has no loss: its q changes
    by the normalisation alone.

    Args:
        eta: η, the rate of the weights.
    """

    needs_domains = True
    remedy = "lower eta or the learning rate"

    def __init__(self, eta: NonNegativeFloat = 0.01) -> None:
        super().__init__()
        self.eta = eta

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.register_buffer("weights", torch.full((len(counts),), 1 / len(counts)))

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        zero = batch.logits.new_zeros(())
        risks = torch.stack(
            [batch.of(group).value(loss) if len(group) else zero for group in batch.groups]
        )
        raised = self.weights * (self.eta * risks.detach()).exp()
        self.weights = raised / raised.sum()
        return self.weights @ risks

    def facts(self) -> dict[str, float]:
        return {f"domain_weight_{d}": q for d, q in enumerate(self.weights.tolist())}


RECIPES: dict[str, Callable[..., Recipe]] = {
    "erm": Recipe,
    "mixup": Mixup,
    "interdomain_mixup": InterDomainMixup,
    "mixstyle": MixStyle,
    "coral": Coral,
    "groupdro": GroupDRO,
    "idg_boda": ImbalancedDomains,
}
