"""Equal means and covariances of the features of all source domains (Sun & Saenko, ECCV 2016)."""

from __future__ import annotations

from itertools import combinations

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from benchmark.training.loss import Loss
from benchmark.training.recipe import Batch, Recipe


class Coral(Recipe):
    """Loss + weight · discrepancy of the domains' features.

    As in DomainBed (Gulrajani & Lopez-Paz, ICLR 2021), which compares means beside covariances.
    The loss is that of the whole batch, so that weight 0 is plain training to the last bit; with
    `sampler: domain_balanced` it is DomainBed's mean over domains.
    """

    needs_features = True
    needs_domains = True

    def __init__(self, weight: NonNegativeFloat = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        return batch.value(loss) + self.weight * discrepancy(batch.features, batch.groups)


def discrepancy(features: Tensor, groups: list[Tensor]) -> Tensor:
    """Mean over pairs of domains of mean((m_a - m_b)²) + mean((Cov_a - Cov_b)²).

    Covariances divide by n - 1. A domain with less than two images in the batch is left out; zero
    where fewer than two domains are left.

    Args:
        features: float [N, D].
        groups: positions of each domain's images.
    """
    clouds = [features[positions] for positions in groups if len(positions) > 1]
    moments = [(cloud.mean(0), covariance(cloud)) for cloud in clouds]
    if len(moments) < 2:
        return features.new_zeros(())
    distances = [
        (mean_a - mean_b).square().mean() + (covariance_a - covariance_b).square().mean()
        for (mean_a, covariance_a), (mean_b, covariance_b) in combinations(moments, 2)
    ]
    return torch.stack(distances).mean()


def covariance(cloud: Tensor) -> Tensor:
    """Covariance [D, D] of the rows of [n, D]."""
    centred = cloud - cloud.mean(0)
    return centred.T @ centred / (len(cloud) - 1)
