"""Class counts of the source's training part → weights and priors, float32 [C].

Each raises a `UserError` where a class has no image: its weight or prior would be infinite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import UserError


def median_frequency(class_counts: Tensor) -> Tensor:
    """w_c = median(n) / n_c; of an even number of classes, the mean of the middle two."""
    counts = present(class_counts).to(torch.float32)
    return torch.quantile(counts, 0.5) / counts


def effective_number(class_counts: Tensor, beta: float) -> Tensor:
    """w_c = (1 - β) / (1 - β^n_c), divided by its mean over classes (Cui et al., CVPR 2019).

    β = 0 weighs all classes alike; β → 1 weighs by 1 / n_c.
    """
    # In float32, 1 - β^n keeps three digits at β = 0.9999.
    weights = (1 - beta) / (1 - beta ** present(class_counts).to(torch.float64))
    return (weights / weights.mean()).to(torch.float32)


def log_prior(class_counts: Tensor) -> Tensor:
    """log π_c, π the source's class shares."""
    return (present(class_counts) / class_counts.sum()).log()


def present(class_counts: Tensor) -> Tensor:
    """The counts, none of which is zero."""
    absent = (class_counts == 0).nonzero().flatten().tolist()
    if absent:
        raise UserError(
            f"class {absent[0]} (counted from 0) has no training image, and this loss or readout "
            "needs some of every class: leave the class out of the label space, or take another"
        )
    return class_counts
