"""Train one network: the loop from first to last step, with the images resident on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.data.arrays import Images
from benchmark.errors import UserError
from benchmark.metrics import confusion_matrix, macro_f1_present
from benchmark.models.heads import features_and_logits
from benchmark.models.predict import autocast, predict
from benchmark.models.weights import IMAGENET, Preprocessing
from benchmark.progress import track
from benchmark.settings import Training
from benchmark.training.averaging import AVERAGINGS, renew_statistics
from benchmark.training.batches import Batches
from benchmark.training.contracts import Batch, Loss, LossFunction, Recipe, as_loss


class NotFinite(Exception):
    """Training produced a NaN or an infinity: an outcome of the method, not a fault of the code."""


@dataclass
class Fit:
    """What training left: the state that was chosen on id_val, and how it came about."""

    state: dict[str, Tensor]
    best_epoch: int = -1
    id_val_macro_f1: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)
    images_per_s: float = 0.0
    environment: dict[str, Any] | None = None
    """Where it was trained, if a checkpoint says so."""

    @property
    def selection(self) -> dict[str, float] | None:
        """The epoch that was chosen and its score; None where nothing was trained."""
        chosen = {"best_epoch": self.best_epoch, "id_val_macro_f1": self.id_val_macro_f1}
        return chosen if self.history else None

    def keep(self, epoch: int, score: float, network: nn.Module) -> None:
        """Take a network's state as the one chosen so far."""
        self.best_epoch, self.id_val_macro_f1 = epoch, score
        self.state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}


def fit(
    model: nn.Module,
    loss: Loss | LossFunction,
    train: Images,
    id_val: Images,
    settings: Training,
    order_seed: int,
    device: torch.device,
    description: str = "training",
    preprocessing: Preprocessing = IMAGENET,
    recipe: Recipe | None = None,
) -> Fit:
    """Train as the settings say; keep the epoch, or the average, chosen by source validation.

    All images lie on the device as uint8; nothing is decoded, copied or synchronised per step.

    Args:
        loss: maps logits float32 [N, C] and labels int64 [N] to a scalar; a `Loss` has been joined
            to the model (`join`).
        order_seed: seeds order and augmentation, the same for every method.
        description: names the run in the progress shown, epoch by epoch.
        preprocessing: the input that the initial weights expect.
        recipe: what to do with images, loss and source domains; without one, plain training.

    Raises:
        NotFinite: the loss, one of the facts or the validation logits are not finite.
        UserError: the recipe does not go with the loss, the network or the number of domains.
    """
    batches = Batches(train, settings, device, preprocessing)
    recipe = recipe or Recipe()
    recipe.check(len(batches.counts), loss)
    recipe.attach(batches.counts, settings.epochs, order_seed)
    recipe.to(device)
    model.to(device, memory_format=torch.channels_last)
    loss = as_loss(loss).to(device)
    needs_features = loss.needs_features or recipe.needs_features
    optimiser = OPTIMISERS[settings.optimiser](model, settings)
    optimisers = [optimiser]
    if own := loss.own_optimiser():
        optimisers.append(own)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, SCHEDULES[settings.schedule](settings, batches.steps)
    )
    averaging = AVERAGINGS[settings.averaging](model, settings)
    generator = torch.Generator().manual_seed(order_seed)

    def validated(network: nn.Module) -> tuple[float, float]:
        """Macro-F1 and cross-entropy on id_val; the former over all classes present there, rare
        ones included: id_val is small, and what is selected for was fixed before the headline."""
        if network is not model:
            # The draws of the first epoch again: averaging moves none of the training's own.
            again = batches.epoch(torch.Generator().manual_seed(order_seed))
            renew_statistics(network, (images for images, *_ in again), settings.precision)
        logits = predict(network, id_val.pixels, settings.precision, device, preprocessing)
        if not np.isfinite(logits).all():
            raise NotFinite(f"logits on id_val not finite after epoch {epoch}")
        score = macro_f1_present(confusion_matrix(id_val.labels, logits.argmax(1), logits.shape[1]))
        entropy = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(id_val.labels))
        return score, entropy.item()

    result = Fit({})
    all_seen, seconds = 0, 0.0
    for epoch in track(range(settings.epochs), description):
        started = time.perf_counter()
        model.train()
        total, seen = torch.zeros((), device=device), 0
        for images, labels, groups in batches.epoch(generator):
            mixed = recipe.mix(images, groups)
            with recipe.inside(model):
                logits, features = outputs(model, needs_features, mixed, settings.precision)
            batch = Batch(logits, labels, features, groups)
            value = recipe(loss, batch)
            for stepped in optimisers:
                stepped.zero_grad(set_to_none=True)
            value.backward()
            for stepped in optimisers:
                stepped.step()
            schedule.step()
            with torch.no_grad():
                averaging.step()
                recipe.update(batch)
                if loss.recomputes_features:
                    _, features = outputs(model, True, images, settings.precision)
                loss.update(features, labels)
            total += value.detach() * len(labels)
            seen += len(labels)
        with torch.no_grad():
            recipe.end_epoch()
        train_loss = (total / seen).item()
        all_seen, seconds = all_seen + seen, seconds + time.perf_counter() - started
        facts = {}
        for part in (loss, recipe):
            for name, fact in part.facts().items():
                if not math.isfinite(fact):
                    raise NotFinite(f"{name} {fact} in epoch {epoch}: {part.remedy}")
                facts[name] = fact
        if not math.isfinite(train_loss):
            raise NotFinite(f"loss {train_loss} in epoch {epoch}: lower the learning rate")
        score, id_val_loss = validated(averaging.network)
        result.history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "id_val_macro_f1": score,
                "learning_rate": schedule.get_last_lr()[0],
                **facts,
            }
        )
        if averaging.chooses_window:
            result.history[-1]["id_val_loss"] = id_val_loss
            if averaging.end_epoch(id_val_loss):
                break
        elif settings.selection == "last" or score > result.id_val_macro_f1:
            result.keep(epoch, score, averaging.network)
        elif epoch - result.best_epoch >= settings.patience:
            break
    if averaging.chooses_window:
        first, last = averaging.window()
        for row in result.history:
            row["averaged"] = float(first <= row["epoch"] <= last)
        network = averaging.averaged()
        result.keep(last, validated(network)[0], network)
    result.images_per_s = all_seen / seconds
    return result


def outputs(
    model: nn.Module, needs_features: bool, images: Tensor, precision: str
) -> tuple[Tensor, Tensor | None]:
    """Logits float32 [N, C] and, where they are needed, features float32 [N, D]."""
    with autocast(images.device, precision):
        if not needs_features:
            return model(images).float(), None
        features, logits = features_and_logits(model, images)
    if features is None:
        raise UserError(
            f"{type(model).__name__} does not tell features from logits, which the loss or the"
            " recipe needs: take another backbone"
        )
    return logits.float(), features.float()


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


Schedule = Callable[[int], float]
"""Step, counted from 0, → factor on the learning rate."""


def cosine(settings: Training, steps_per_epoch: int) -> Schedule:
    """Linear from 1/warm-up to 1, then half a cosine to 0."""
    warmup = settings.warmup_epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def steps(settings: Training, steps_per_epoch: int) -> Schedule:
    """Linear warm-up, then a tenth at each of the milestones (he2023: 0.3 and 0.6)."""
    warmup = settings.warmup_epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch
    drops = [round(fraction * total) for fraction in settings.milestones]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.1 ** sum(step >= drop for drop in drops)

    return factor


def as_released(settings: Training, steps_per_epoch: int) -> Schedule:
    """Epoch by epoch as in the code of tsutsui2023, which is off by one.

    The factors k/(w + 1) of w warm-up epochs, then a cosine; epoch e runs at the factor meant for
    e - 1, and epoch 0 at the very last one, nearly zero.
    """
    epochs = settings.epochs
    warmup = settings.warmup_epochs if settings.warmup_epochs <= epochs else 0
    falling = epochs - warmup
    meant = [k / (warmup + 1) for k in range(1, warmup + 1)]
    meant += [0.5 * (1 + math.cos(math.pi * i / falling)) for i in range(falling)]
    return lambda step: meant[(step // steps_per_epoch - 1) % epochs]


SCHEDULES: dict[str, Callable[[Training, int], Schedule]] = {
    "cosine": cosine,
    "steps": steps,
    "as_released": as_released,
}
