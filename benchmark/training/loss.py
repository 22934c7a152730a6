"""What training may ask of a loss: everything a loss needs is declared here, nothing in the loop.

Most losses are functions of logits and labels and declare nothing. A loss that looks at features,
brings its own head, its own parameters or its own update step is a `Loss` that says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits float [N, C], labels int64 [N]) → scalar mean over the batch."""


class Loss(nn.Module):
    """A loss and what it needs. A subclass overrides what it uses and leaves the rest."""

    needs_features = False
    """Whether `forward` and `update` are given the features that the classifier sees."""

    recomputes_features = False
    """Whether `update` is given the batch's features anew, after the optimiser's step: a second
    pass in training mode, without gradient. Else it gets those of the step itself."""

    brings_head = False
    """Whether it places its own classifier, so that a method can choose no other head."""

    remedy = "lower the learning rate"
    """What to try where one of the `facts` is no longer finite."""

    def attach(self, model: nn.Module) -> None:
        """Before training: place a head, make the parameters that are as wide as the features."""

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        """Scalar of logits [N, C], labels int64 [N] and features [N, D]; both float32."""
        raise NotImplementedError

    def own_optimiser(self) -> torch.optim.Optimizer | None:
        """What steps the loss's own parameters, beside the network's optimiser."""
        return None

    def update(self, features: Tensor | None, labels: Tensor) -> None:
        """After each optimiser step, without gradient."""

    def facts(self) -> dict[str, float]:
        """What the history of an epoch records beside the loss; a value not finite ends the run."""
        return {}


class OfLogits(Loss):
    """A function of logits and labels as a `Loss`."""

    def __init__(self, function: LossFunction) -> None:
        super().__init__()
        self.function = function

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        return self.function(logits, labels)


def as_loss(loss: Loss | LossFunction) -> Loss:
    """A loss as it is, or a function of logits and labels as one."""
    return loss if isinstance(loss, Loss) else OfLogits(loss)


def join(loss: Loss | LossFunction, model: nn.Module, seed: int) -> Loss:
    """Give the network the head that a loss brings, and the loss what depends on the network.

    Before training and before a trained state is loaded, so that the state finds its head. Changes
    `model` in place; initial values are drawn from `seed`, the global random state is left alone.
    """
    loss = as_loss(loss)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss.attach(model)
    return loss


def membership(labels: Tensor, classes: int) -> Tensor:
    """Whether sample i is of class c, bool [N, C]; no look at the values, so no synchronisation."""
    return labels[:, None] == torch.arange(classes, device=labels.device)
