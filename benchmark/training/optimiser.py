"""What steps a network's weights, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmark.config import Training

MOMENTUM = 0.9


def adamw(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """AdamW, decoupled weight decay (Loshchilov & Hutter, ICLR 2019)."""
    return torch.optim.AdamW(
        model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def sgd(model: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum 0.9 (ma2020)."""
    return torch.optim.SGD(
        model.parameters(), settings.learning_rate, MOMENTUM, weight_decay=settings.weight_decay
    )


OPTIMISERS: dict[str, Callable[[nn.Module, Training], torch.optim.Optimizer]] = {
    "adamw": adamw,
    "sgd": sgd,
}
