"""Readouts: what predicts from a network's frozen features, fitted on the source alone.

A representation is trained once; a linear probe, nearest neighbours and a decoupled classifier
share its checkpoint. The network is not touched, but by one readout that le2026 released: it works
on a copy whose batch normalisation drifts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmark.errors import UserError, suggest
from benchmark.metrics import confusion_matrix, macro_f1_present
from benchmark.models.heads import features_and_logits, hidden_layer
from benchmark.models.predict import BATCH, standardise, to_float
from benchmark.models.weights import Preprocessing
from benchmark.training.batches import class_balanced, instance
from benchmark.training.contracts import Loss, present
from benchmark.training.losses import LOSSES


class Source(NamedTuple):
    """Features float32 [N, D] and labels int64 [N] of the source's training part and id_val."""

    features: np.ndarray
    labels: np.ndarray
    id_val_features: np.ndarray
    id_val_labels: np.ndarray
    network: nn.Module | None = None
    """For a readout that drifts: from images, which stand in the place of features, to features."""


class Readout:
    """What predicts from the features of a trained network in place of its own classifier."""

    states_shares = False
    """Whether its logits are logarithms of shares of votes, of which few values occur."""

    drifts = False
    """Whether fitting it moves the network's running statistics, so that it needs the network."""

    def __call__(self, source: Source, classes: int, seed: int) -> nn.Module:
        """Fit a module from features [N, D] to logits [N, C]; of one that drifts, network first."""
        raise NotImplementedError


class Features(nn.Module):
    """Standardised images → the features [N, D] that enter the network's classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        features, _ = features_and_logits(self.model, batch)
        if features is None:
            raise UserError(
                f"{type(self.model).__name__}: does not tell features from logits: "
                "a readout needs another backbone"
            )
        return features


@dataclass
class LinearProbe(Readout):
    """Multinomial logistic regression on standardised features (scikit-learn, L2).

    Args:
        inverse_penalty: C of scikit-learn.
    """

    inverse_penalty: PositiveFloat = 1.0

    def __call__(self, source: Source, classes: int, seed: int) -> nn.Module:
        present(torch.bincount(torch.from_numpy(source.labels), minlength=classes))
        mean, spread = source.features.mean(0), source.features.std(0)
        spread = np.where(spread > 1e-12, spread, 1)
        regression = LogisticRegression(C=self.inverse_penalty, max_iter=2000)
        regression.fit((source.features - mean) / spread, source.labels)
        linear = nn.Linear(source.features.shape[1], classes)
        weight, bias = regression.coef_, regression.intercept_
        if classes == 2:  # scikit-learn fits the difference of the two logits
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / spread
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias - weight @ mean))
        return linear


@dataclass
class NearestNeighbours(Readout):
    """The vote of the nearest training images, by features."""

    states_shares = True
    neighbours: PositiveInt = 20

    def __call__(self, source: Source, classes: int, seed: int) -> nn.Module:
        features, labels = torch.from_numpy(source.features), torch.from_numpy(source.labels)
        return Vote(features, labels, classes, self.neighbours)


class Vote(nn.Module):
    """Log share of each class among the most similar training images by cosine, smoothed by one
    image spread over the classes, so that no class is impossible."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = min(neighbours, len(features))
        self.register_buffer("features", nn.functional.normalize(features))
        self.register_buffer("votes", nn.functional.one_hot(labels, classes).float())

    def forward(self, features: Tensor) -> Tensor:
        similarity = nn.functional.normalize(features.float()) @ self.features.T
        nearest = similarity.topk(self.neighbours, dim=1).indices
        counts = self.votes[nearest].sum(1)
        return ((counts + 1 / counts.shape[1]) / (self.neighbours + 1)).log()


class PixelFeatures(nn.Module):
    """uint8 images [N, S, S, 3] → the features [N, D] of a network, on the processor."""

    def __init__(self, features: Features, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.features, self.preprocessing = features, preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        device = next(self.parameters()).device
        batch = to_float(pixels.permute(0, 3, 1, 2).to(device))
        return self.features(standardise(batch, self.preprocessing)).float().cpu()


def loss_of_logits(name: str) -> str:
    """The name of a loss that needs no more than logits and labels; another is a `ValueError`."""
    known = [n for n, build in LOSSES.items() if not isinstance(build(torch.ones(2)), Loss)]
    if name not in known:
        raise ValueError(f"no loss of logits '{name}'{suggest(name, known)}")
    return name


@dataclass
class Decoupled(Readout):
    """The second stage of le2026: a new classifier on a frozen representation.

    Linear(D → hidden)-BN-ReLU-Linear(hidden → C), Kaiming-normal; AdamW without decay, cosine to
    zero; the state that is best by macro-F1 on id_val. Training images are seen as they are,
    where le2026 augments this stage too.

    Args:
        loss: name of a loss of logits, at its defaults.
        sampler: class_balanced draws with replacement, p ∝ 1 / images of the class; instance
            takes each image once an epoch.
        stage2_bn: drift is what le2026 released: the network stays in training mode, so that its
            batch normalisation uses the statistics of each batch of this stage, and its running
            statistics leave those of the representation although every weight is frozen.
    """

    loss: Annotated[str, AfterValidator(loss_of_logits)] = "hybrid"
    sampler: Literal["class_balanced", "instance"] = "class_balanced"
    stage2_bn: Literal["frozen", "drift"] = "frozen"
    hidden: PositiveInt = 512
    epochs: PositiveInt = 50
    patience: PositiveInt = 10
    learning_rate: PositiveFloat = 1e-3
    batch_size: Annotated[int, Field(ge=2)] = 256

    @property
    def drifts(self) -> bool:
        return self.stage2_bn == "drift"

    def __call__(self, source: Source, classes: int, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        inputs, labels = torch.from_numpy(source.features), torch.from_numpy(source.labels)
        criterion = LOSSES[self.loss](torch.bincount(labels, minlength=classes))
        width = inputs.shape[1]
        if self.drifts:
            with torch.no_grad():
                width = source.network.eval()(inputs[:1]).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = hidden_layer(width, classes, self.hidden)
        optimiser = torch.optim.AdamW(head.parameters(), self.learning_rate, weight_decay=0.0)
        stage = nn.Sequential(source.network, head) if self.drifts else head
        steps = math.ceil(len(labels) / self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs * steps)
        # Chances in float32: in float64, as in the first stage, finished runs would move.
        samplers = {
            "instance": instance,
            "class_balanced": partial(class_balanced, dtype=torch.float32),
        }
        sample = samplers[self.sampler]
        best, best_epoch, state = -1.0, -1, {}
        for epoch in range(self.epochs):
            stage.train()
            order = sample(labels, torch.zeros_like(labels), self.batch_size, generator)
            for chosen in order.tensor_split(steps):
                value = criterion(stage(inputs[chosen]), labels[chosen])
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                schedule.step()
            score = id_val_macro_f1(stage, source, classes)
            if score > best:
                best, best_epoch = score, epoch
                state = {key: tensor.clone() for key, tensor in stage.state_dict().items()}
            elif epoch - best_epoch >= self.patience:
                break
        stage.load_state_dict(state)
        return stage


@torch.inference_mode()
def id_val_macro_f1(stage: nn.Module, source: Source, classes: int) -> float:
    """Macro-F1 over the classes present on the source's id_val."""
    stage.eval()
    inputs = torch.from_numpy(source.id_val_features).split(BATCH)
    predicted = torch.cat([stage(batch).argmax(1) for batch in inputs]).numpy()
    return macro_f1_present(confusion_matrix(source.id_val_labels, predicted, classes))


def head() -> None:
    """The classifier that was trained with the network: nothing is fitted."""


READOUTS: dict[str, Callable[..., Readout | None]] = {
    "head": head,
    "linear_probe": LinearProbe,
    "nearest_neighbours": NearestNeighbours,
    "decoupled": Decoupled,
}
