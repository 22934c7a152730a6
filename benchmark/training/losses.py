"""Losses by name: those of logits [N, C] and labels [N], and the registry of all.

To add one, write a function `build(class_counts, …parameters) -> loss(logits, labels)` here, the
parameters annotated with the values they may have, by which settings are checked (or a
`Loss`, where it needs more than logits: see `contracts.py`), register it below and name it under
`losses` in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from benchmark.schema import BelowOne, Share
from benchmark.training.centre_losses import (
    Centre,
    CentroidLearning,
    FocalCentroidLearning,
    SupervisedContrast,
    TripletCentreHard,
)
from benchmark.training.contracts import (
    Loss,
    LossFunction,
    effective_number,
    log_prior,
    median_frequency,
    membership,
    present,
)


def cross_entropy(class_counts: Tensor) -> LossFunction:
    """Softmax cross-entropy."""
    return F.cross_entropy


def weighted_cross_entropy(class_counts: Tensor) -> LossFunction:
    """Cross-entropy with median-frequency weights w_c = median(n) / n_c (he2023, table of losses).

    The batch mean divides by the sum of weights, as `torch.nn.CrossEntropyLoss` does.
    """
    weights = median_frequency(class_counts)
    return lambda logits, labels: F.cross_entropy(logits, labels, weight=weights.to(logits.dtype))


def label_smoothing(class_counts: Tensor, smoothing: BelowOne = 0.1) -> LossFunction:
    """Cross-entropy with targets (1 - ε)·onehot + ε/C (Szegedy et al., CVPR 2016)."""
    return lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=smoothing)


def focal(class_counts: Tensor, gamma: NonNegativeFloat = 2.0) -> LossFunction:
    """Focal loss: mean of -(1 - p_y)^γ log p_y (Lin et al., ICCV 2017); γ = 0 is cross-entropy."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
        return (-(complement(log_p) ** gamma) * log_p).mean()

    return loss


def complement(log_p: Tensor) -> Tensor:
    """1 - p, exact where p rounds to 1, and its powers' gradients finite."""
    return (-torch.expm1(log_p)).clamp_min(1e-12)


def balanced_softmax(class_counts: Tensor) -> LossFunction:
    """Balanced softmax: cross-entropy of π_j e^{z_j}, π the source's class shares (Ren 2020)."""
    prior = log_prior(class_counts)
    return lambda logits, labels: F.cross_entropy(logits + prior, labels)


def logit_adjusted(class_counts: Tensor, tau: NonNegativeFloat = 1.0) -> LossFunction:
    """Logit adjustment: cross-entropy of π_j^τ e^{z_j} (Menon et al., ICLR 2021, eq. 10).

    τ = 1 is the balanced softmax, τ = 0 the cross-entropy.
    """
    adjustment = tau * log_prior(class_counts)
    return lambda logits, labels: F.cross_entropy(logits + adjustment, labels)


def class_balanced(class_counts: Tensor, beta: BelowOne = 0.9999) -> LossFunction:
    """Class-balanced loss: w_y·CE, w by the effective number of samples (Cui et al., CVPR 2019).

    The equation; the released code for "softmax" takes a binary cross-entropy of the softmax.
    """
    weights = effective_number(class_counts, beta)
    return lambda logits, labels: (
        weights.to(logits.dtype)[labels] * F.cross_entropy(logits, labels, reduction="none")
    ).mean()


def hybrid(
    class_counts: Tensor,
    r: Share = 0.5,
    beta: BelowOne = 0.9999,
    gamma: NonNegativeFloat = 2.0,
    p_t: Literal["plain", "released"] = "plain",
) -> LossFunction:
    """Hybrid loss: mean[(1 - r)·ce + r·(1 - p)^γ·ce], ce = w_y·CE, w by effective number (le2026).

    Args:
        p_t: `plain` takes p = softmax(z)_y; `released` takes p = exp(-ce), as le2026's code does.
    """
    weights = effective_number(class_counts, beta)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        plain = F.cross_entropy(logits, labels, reduction="none")
        weighted = weights.to(logits.dtype)[labels] * plain
        far = complement(-(plain if p_t == "plain" else weighted)) ** gamma
        return ((1 - r) * weighted + r * far * weighted).mean()

    return loss


class LabelDistributionAwareMargin(Loss):
    """LDAM: CE of s·(cos θ_c - m_y·1[c = y]), m_c ∝ n_c^(-1/4), the largest `max_margin`.

    Cao et al., Learning Imbalanced Datasets with LDAM Loss, NeurIPS 2019.

    θ_c is the angle between features and class weights: the loss brings the normalised head that
    its margins are defined on. The head's logits are s·cos θ, so that their softmax is the
    network's probability. Without the deferred re-weighting that the paper adds as a schedule.
    """

    brings_head = True

    def __init__(
        self,
        class_counts: Tensor,
        max_margin: NonNegativeFloat = 0.5,
        scale: PositiveFloat = 30.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        rarity = present(class_counts).to(torch.float64) ** -0.25
        margins = (max_margin * rarity / rarity.max()).to(torch.float32)
        self.register_buffer("margins", margins)

    def new_head(self, width: int) -> nn.Module:
        return NormalisedHead(width, len(self.margins), self.scale)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        own = membership(labels, len(self.margins)).to(logits.dtype)
        return F.cross_entropy(logits - self.scale * self.margins.to(logits.dtype) * own, labels)


class NormalisedHead(nn.Module):
    """s·cos θ_c of features [N, D] and class weights [C, D] → logits [N, C].

    float32 under autocast too: at s = 30, bfloat16 would round a cosine to the next 1/240.
    """

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(F.normalize(torch.randn(classes, width), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            directions = F.normalize(features.to(self.weight.dtype), dim=1)
            return self.scale * F.linear(directions, F.normalize(self.weight, dim=1))


LOSSES: dict[str, Callable[..., Loss | LossFunction]] = {
    "ce": cross_entropy,
    "weighted_ce": weighted_cross_entropy,
    "label_smoothing": label_smoothing,
    "focal": focal,
    "balanced_softmax": balanced_softmax,
    "logit_adjusted": logit_adjusted,
    "class_balanced": class_balanced,
    "hybrid": hybrid,
    "ldam": LabelDistributionAwareMargin,
    "centre": Centre,
    "triplet_centre_hard": TripletCentreHard,
    "supcon": SupervisedContrast,
    "ccl": CentroidLearning,
    "focal_ccl": FocalCentroidLearning,
}
