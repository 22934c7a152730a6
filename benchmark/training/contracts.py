"""What training may ask of a loss and of a recipe: all they need is declared here, none in `fit`.

Most losses are functions of logits and labels and declare nothing. A loss that looks at features,
brings its own head, its own parameters or its own update step is a `Loss` that says so. A recipe
stands between the batches and the loss: it may mix the images, weigh the source domains against
each other, or add a term on the features. Most of them work with any loss.

Below are the class weights and priors that losses share, float32 [C], from the class counts of the
source's training part. Each raises a `UserError` where a class has no image: its weight or prior
would be infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.models.heads import replace_classifier

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(logits float [N, C], labels int64 [N]) → scalar mean over the batch."""


class Part(nn.Module):
    """What a loss and a recipe have in common. A subclass overrides what it uses."""

    needs_features = False
    """Whether it is given the features that the classifier sees."""

    remedy = "lower the learning rate"
    """What to try where one of the `facts` is no longer finite."""

    def facts(self) -> dict[str, float]:
        """What the history of an epoch records beside the loss; a value not finite ends the run."""
        return {}


class Loss(Part):
    """A loss and what it needs."""

    recomputes_features = False
    """Whether `update` is given the batch's features anew, after the optimiser's step: a second
    pass in training mode, without gradient. Else it gets those of the step itself."""

    brings_head = False
    """Whether it places its own classifier, so that a method can choose no other head."""

    states_closeness = False
    """Whether the head that it brings gives logit(D) of a closeness D to each class centroid."""

    def new_head(self, width: int) -> nn.Module:
        """The classifier that it brings: features [N, width] → logits [N, C]."""
        raise NotImplementedError

    def attach(self, model: nn.Module) -> None:
        """Before training: place the head, make the parameters that are as wide as the features."""
        if self.brings_head:
            replace_classifier(model, self.new_head)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        """Scalar of logits [N, C], labels int64 [N] and features [N, D]; both float32."""
        raise NotImplementedError

    def own_optimiser(self) -> torch.optim.Optimizer | None:
        """What steps the loss's own parameters, beside the network's optimiser."""
        return None

    def update(self, features: Tensor | None, labels: Tensor) -> None:
        """After each optimiser step, without gradient."""


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


@dataclass(frozen=True)
class Batch:
    """What the network made of a batch.

    Attributes:
        logits: float32 [N, C].
        labels: int64 [N].
        features: float32 [N, D]; None unless the loss or the recipe needs them.
        groups: of each of several source domains, the positions int64 in the batch of its images;
            empty where there is one domain.
    """

    logits: Tensor
    labels: Tensor
    features: Tensor | None
    groups: list[Tensor]

    def of(self, positions: Tensor) -> Batch:
        """The part of the batch at these positions, as one group."""
        features = None if self.features is None else self.features[positions]
        return Batch(self.logits[positions], self.labels[positions], features, [])

    def value(self, loss: Loss) -> Tensor:
        """The loss of these logits, labels and features."""
        return loss(self.logits, self.labels, self.features)


class Recipe(Part):
    """A recipe and what it needs. By itself it is empirical risk minimisation: whatever the source
    domains, one batch and one loss."""

    needs_domains = False
    """Whether it compares source domains, and makes no sense with one."""

    mixes = False
    """Whether an image may have two labels, so that a loss cannot follow single images."""

    replaces_loss = False
    """Whether it brings its own cross-entropy, and no other loss may be asked for."""

    def check(self, domains: int, loss: Loss | LossFunction) -> None:
        """Raise a `UserError` where the recipe makes no sense with so many domains or this loss."""
        name = type(self).__name__
        if self.needs_domains and domains < 2:
            raise UserError(
                f"recipe {name} compares source domains and needs several, this training has one:"
                " name more sources in the scenario ('a+b->c', '*->c'), or take recipe erm"
            )
        plain = loss is F.cross_entropy or getattr(loss, "function", None) is F.cross_entropy
        if self.replaces_loss and not plain:
            raise UserError(f"recipe {name} brings its own loss: take loss ce with it")
        if self.mixes and isinstance(loss, Loss) and type(loss).update is not Loss.update:
            raise UserError(
                f"recipe {name} gives an image two labels, and loss {type(loss).__name__} follows"
                " each image's class: take another loss, or recipe erm"
            )

    def attach(self, counts: Tensor, epochs: int, seed: int) -> None:
        """Before training: what depends on the data.

        Args:
            counts: images of each source domain and class, int64 [domains, classes].
            epochs: the most that will be trained.
            seed: of the recipe's own random numbers.
        """

    def inside(self, model: nn.Module) -> AbstractContextManager[None]:
        """What acts within the network while it sees a training batch, and at no other time."""
        return nullcontext()

    def mix(self, images: Tensor, groups: list[Tensor]) -> Tensor:
        """Change the standardised images [N, 3, S, S] of a batch; `groups` as in `Batch`."""
        return images

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        """Scalar that the step lowers."""
        return batch.value(loss)

    def update(self, batch: Batch) -> None:
        """After each optimiser step, without gradient."""

    def end_epoch(self) -> None:
        """After an epoch's last step, without gradient."""


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
