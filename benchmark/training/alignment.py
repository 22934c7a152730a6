"""Recipes that align the features of several source domains."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from benchmark.schema import BelowOne, Share
from benchmark.training.contracts import Batch, Loss, Recipe, membership


class Coral(Recipe):
    """CORAL: loss + weight · discrepancy of the domains' features (Sun & Saenko, ECCV 2016).

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


class ImbalancedDomains(Recipe):
    """Mean over domains of class-balanced CE + coral · discrepancy + boda · alignment.

    Inspired by umer2023, no reproduction of it: only its abstract (arXiv 2303.07771) could be read,
    with one loss against class imbalance across domains and one against domain shift. Formulas and
    constants are those of the work it builds on, BoDA (Yang et al., On Multi-Domain Long-Tailed
    Recognition, ECCV 2022), and of its code.

    Decisions: classes are balanced within a domain by weights 1/N_dc, and a domain's CE divides by
    its sum of weights. Centroids are the means over an epoch of the training features themselves,
    μ ← momentum·μ + (1 - momentum)·mean, at its end and without a second pass (the authors take
    one, in evaluation mode). Alignment starts after a tenth of the epochs (the authors: 500 of
    5,000 steps), and not before centroids are there.

    Args:
        coral: weight of the discrepancy of means and covariances.
        boda: weight of the alignment.
        momentum: what is left of a centroid at each renewal.
        nu: ν, how much a frequent class of a domain repels one that is rare.
        temperature: τ.
        warmup: epochs without alignment, as a share of all.
    """

    needs_features = True
    needs_domains = True
    replaces_loss = True

    def __init__(
        self,
        coral: NonNegativeFloat = 1.0,
        boda: NonNegativeFloat = 0.1,
        momentum: BelowOne = 0.2,
        nu: NonNegativeFloat = 0.5,
        temperature: PositiveFloat = 1.0,
        warmup: Share = 0.1,
    ) -> None:
        super().__init__()
        self.coral, self.boda, self.momentum = coral, boda, momentum
        self.nu, self.temperature, self.warmup = nu, temperature, warmup
        self.sums: Tensor | None = None

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        self.shape = counts.shape
        self.register_buffer("counts", counts.to(torch.float32).flatten())
        self.register_buffer("seen", torch.zeros(counts.numel(), dtype=torch.bool))
        self.register_buffer("shown", torch.zeros(counts.numel()))
        self.wait = max(1, round(self.warmup * epochs))
        self.done = 0

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        pairs = self.pairs(batch)
        entropies = F.cross_entropy(batch.logits, batch.labels, reduction="none")
        value = domain_balanced_mean(entropies, 1 / self.counts[pairs], batch.groups)
        value = value + self.coral * discrepancy(batch.features, batch.groups)
        if self.done >= self.wait:
            value = value + self.boda * alignment(
                batch.features,
                pairs,
                self.centroids,
                self.counts,
                self.seen,
                self.shape[1],
                self.nu,
                self.temperature,
            )
        return value

    def pairs(self, batch: Batch) -> Tensor:
        """Domain · classes + class of each image, int64 [N]."""
        offset = torch.zeros_like(batch.labels)
        for domain, positions in enumerate(batch.groups):
            offset[positions] = domain * self.shape[1]
        return offset + batch.labels

    def update(self, batch: Batch) -> None:
        """Add the batch's features to the epoch's sums."""
        members = membership(self.pairs(batch), len(self.counts)).to(batch.features.dtype)
        if self.sums is None:
            self.sums = torch.zeros_like(members.T @ batch.features)
            self.centroids = torch.zeros_like(self.sums)
        self.sums += members.T @ batch.features
        self.shown += members.sum(0)

    def end_epoch(self) -> None:
        """Renew the centroids of the pairs that were shown."""
        means = self.sums / self.shown.clamp_min(1)[:, None]
        kept = self.momentum * self.seen.to(means.dtype)[:, None]
        renewed = kept * self.centroids + (1 - kept) * means
        self.centroids = torch.where(self.shown[:, None] > 0, renewed, self.centroids)
        self.seen |= self.shown > 0
        self.sums.zero_()
        self.shown.zero_()
        self.done += 1


def domain_balanced_mean(values: Tensor, weights: Tensor, groups: list[Tensor]) -> Tensor:
    """Mean over the domains present of Σ w_i v_i / Σ w_i over a domain's images."""
    return torch.stack(
        [(weights[g] * values[g]).sum() / weights[g].sum() for g in groups if len(g)]
    ).mean()


def alignment(
    features: Tensor,
    pairs: Tensor,
    centroids: Tensor,
    counts: Tensor,
    seen: Tensor,
    classes: int,
    nu: float,
    temperature: float,
) -> Tensor:
    """Balanced domain-class distribution alignment, calibrated (Yang et al., and their code).

    logit_{dc,i} = -||μ_dc - z_i|| / N_i · (N_dc / N_i)^ν / τ, N_i the count of i's own pair;
    log p_{dc,i} = logit_{dc,i} - log Σ_{pairs other than i's own} exp logit;
    minus the mean of log p over i and the pairs of i's class in another domain. Zero without any.

    Args:
        features: z, float [N, D].
        pairs: int64 [N], domain · classes + class of each image.
        centroids: μ, [domains · classes, D].
        counts: N_dc, float [domains · classes].
        seen: bool [domains · classes], whether a pair has a centroid; others do not count.
    """
    every = torch.arange(len(counts), device=pairs.device)
    itself = pairs[:, None] == every
    own = counts[pairs][:, None]
    distances = torch.linalg.vector_norm(features[:, None] - centroids, dim=2)
    logits = -distances / own * (counts / own) ** nu / temperature
    others = logits.masked_fill(itself | ~seen, torch.finfo(logits.dtype).min)
    log_p = logits - others.logsumexp(1, keepdim=True)
    positive = ((pairs % classes)[:, None] == every % classes) & ~itself & seen
    return -log_p.masked_fill(~positive, 0).sum() / positive.sum().clamp_min(1)
