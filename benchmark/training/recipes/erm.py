"""Plain training: the loss of the batch as it is."""

from __future__ import annotations

from torch import Tensor

from benchmark.training.loss import Loss
from benchmark.training.recipe import Batch, Recipe


class EmpiricalRisk(Recipe):
    """Empirical risk minimisation: whatever the source domains, one batch and one loss."""

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        return batch.value(loss)
