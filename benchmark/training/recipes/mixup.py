"""Convex combinations of images and of their labels (Zhang et al., ICLR 2018)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from benchmark.errors import UserError
from benchmark.training.loss import Loss
from benchmark.training.recipe import Batch, Recipe


class Mixup(Recipe):
    """λ·x + (1 - λ)·x' under the loss λ·L(y) + (1 - λ)·L(y'), one λ ~ Beta(α, α) a batch.

    As timm's Mixup in batch mode (tsutsui2023): x' is the batch in reverse. The loss is the
    method's: with `label_smoothing` at 0.1 it is timm's cross-entropy to soft targets, which is
    linear in them. Departure: a batch of odd size keeps its middle image as it is, where timm
    refuses the batch and tsutsui2023 drops an image.

    Args:
        alpha: α, above 0; 1 is the uniform distribution.
    """

    mixes = True

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha <= 0:
            raise UserError(f"params.yaml: recipes.mixup: alpha {alpha}: give a number above 0")
        self.alpha = alpha
        self.share = 1.0

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def mix(self, images: Tensor) -> Tensor:
        self.share = float(self.generator.beta(self.alpha, self.alpha))
        return self.share * images + (1 - self.share) * images.flip(0)

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        first = loss(batch.logits, batch.labels, batch.features)
        second = loss(batch.logits, batch.labels.flip(0), batch.features)
        return self.share * first + (1 - self.share) * second
