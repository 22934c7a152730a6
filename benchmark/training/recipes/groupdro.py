"""The worst source domain counts most (Sagawa et al., ICLR 2020)."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from benchmark.training.loss import Loss
from benchmark.training.recipe import Batch, Recipe


class GroupDRO(Recipe):
    """Σ_g q_g·L_g over source domains, q_g ∝ q_g·exp(η·L_g) at every step (algorithm 1).

    Decision: groups are domains, not pairs of domain and class. As in the authors' code, a step
    sees a batch of all groups, not of one drawn at random, and q moves before it is used. A domain
    that is absent from a batch has no loss: its q changes by the normalisation alone.

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
