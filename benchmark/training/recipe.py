"""What a recipe may change about training: declared here, so that the loop knows none by name.

A recipe stands between the batches and the loss: it may mix the images, weigh the source domains
against each other, or add a term on the features. Most of them work with any loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.training.loss import Loss, LossFunction


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


class Recipe(nn.Module):
    """A recipe and what it needs. A subclass overrides what it uses and leaves the rest."""

    needs_features = False
    """Whether the batch has the features that the classifier sees."""

    needs_domains = False
    """Whether it compares source domains, and makes no sense with one."""

    mixes = False
    """Whether an image may have two labels, so that a loss cannot follow single images."""

    replaces_loss = False
    """Whether it brings its own cross-entropy, and no other loss may be asked for."""

    remedy = "lower the learning rate"
    """What to try where one of the `facts` is no longer finite."""

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

    def mix(self, images: Tensor, groups: list[Tensor]) -> Tensor:
        """Change the standardised images [N, 3, S, S] of a batch; `groups` as in `Batch`."""
        return images

    def forward(self, loss: Loss, batch: Batch) -> Tensor:
        """Scalar that the step lowers."""
        raise NotImplementedError

    def update(self, batch: Batch) -> None:
        """After each optimiser step, without gradient."""

    def end_epoch(self) -> None:
        """After an epoch's last step, without gradient."""

    def facts(self) -> dict[str, float]:
        """What the history of an epoch records beside the loss; a value not finite ends the run."""
        return {}
