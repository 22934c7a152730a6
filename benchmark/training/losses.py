"""Losses: functions of logits [N, C] and labels [N], built from the class counts of the source.

To add one, write a function `build(class_counts, …parameters) -> loss` here, register it below and
name it under `losses` in `params.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits float [N, C], labels int64 [N]) → scalar mean over the batch."""


def cross_entropy(class_counts: Tensor) -> Loss:
    """Softmax cross-entropy."""
    return F.cross_entropy


def weighted_cross_entropy(class_counts: Tensor) -> Loss:
    """Cross-entropy with median-frequency weights w_c = median(n) / n_c (he2023, table of losses).

    The batch mean divides by the sum of weights, as `torch.nn.CrossEntropyLoss` does.
    """
    weights = median_frequency(class_counts)
    return lambda logits, labels: F.cross_entropy(logits, labels, weight=weights)


def median_frequency(class_counts: Tensor) -> Tensor:
    """w_c = median(n) / n_c, float [C]; of an even number, the mean of the middle two."""
    counts = class_counts.to(torch.float32)
    return torch.quantile(counts, 0.5) / counts


def focal(class_counts: Tensor, gamma: float = 2.0) -> Loss:
    """-(1 - p_y)^γ log p_y, averaged (Lin et al., ICCV 2017). γ = 0 is the cross-entropy."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None]).squeeze(1)
        # -expm1 keeps 1 - p exact where p rounds to 1, and its gradient finite.
        return (-((-torch.expm1(log_p)).clamp_min(1e-12) ** gamma) * log_p).mean()

    return loss


def balanced_softmax(class_counts: Tensor) -> Loss:
    """-log(π_y e^{z_y} / Σ_j π_j e^{z_j}), π the source's class shares (Ren, NeurIPS 2020)."""
    log_prior = (class_counts / class_counts.sum()).log()
    return lambda logits, labels: F.cross_entropy(logits + log_prior, labels)


LOSSES: dict[str, Callable[..., Loss]] = {
    "ce": cross_entropy,
    "weighted_ce": weighted_cross_entropy,
    "focal": focal,
    "balanced_softmax": balanced_softmax,
}
