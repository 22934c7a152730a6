"""Train one network: the loop from first to last step, with the images resident on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.config import Training
from benchmark.data.arrays import Images
from benchmark.evaluation.metrics import confusion_matrix, macro_f1
from benchmark.inference.predict import autocast, predict, standardise, to_float
from benchmark.models.heads import features_and_logits
from benchmark.models.weights import IMAGENET, Preprocessing
from benchmark.progress import track
from benchmark.training.augmentation import Augmenter
from benchmark.training.loss import Loss, LossFunction, as_loss


class NotFinite(Exception):
    """Training produced a NaN or an infinity: an outcome of the method, not a fault of the code."""


@dataclass
class Fit:
    """What training left: the best state by macro-F1 on id_val, and how it came about."""

    state: dict[str, Tensor]
    best_epoch: int
    id_val_macro_f1: float
    history: list[dict[str, float]] = field(default_factory=list)
    images_per_s: float = 0.0


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
) -> Fit:
    """Train with AdamW, linear warm-up and cosine; keep the best epoch by source validation.

    All images lie on the device as uint8; nothing is decoded, copied or synchronised per step.

    Args:
        loss: maps logits float32 [N, C] and labels int64 [N] to a scalar; a `Loss` has been joined
            to the model (`loss.join`).
        order_seed: seeds order and augmentation, the same for every method.
        description: names the run in the progress shown, epoch by epoch.
        preprocessing: the input that the initial weights expect.

    Raises:
        NotFinite: the loss, one of its facts or the validation logits are not finite.
    """
    pixels, labels = to_device(train, device)
    model.to(device, memory_format=torch.channels_last)
    loss = as_loss(loss).to(device)
    steps = math.ceil(len(train) / settings.batch_size)
    optimiser = torch.optim.AdamW(
        model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    optimisers = [optimiser]
    if own := loss.own_optimiser():
        optimisers.append(own)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule_of(settings, steps))
    generator = torch.Generator().manual_seed(order_seed)
    result = Fit({}, best_epoch=-1, id_val_macro_f1=-1.0)
    seconds = 0.0
    for epoch in track(range(settings.epochs), description):
        started = time.perf_counter()
        model.train()
        order = torch.randperm(len(train), generator=generator).to(device)
        augment = Augmenter(settings.augmentation, len(train), generator)
        total = torch.zeros((), device=device)
        # Chunks of nearly equal size: a last batch of one image would break batch statistics.
        for start, chosen in zip(offsets(order, steps), order.tensor_split(steps), strict=True):
            batch = augment(to_float(pixels[chosen]), start)
            batch = standardise(batch, preprocessing.mean, preprocessing.std)
            logits, features = outputs(model, loss, batch, settings.precision)
            value = loss(logits, labels[chosen], features)
            for stepped in optimisers:
                stepped.zero_grad(set_to_none=True)
            value.backward()
            for stepped in optimisers:
                stepped.step()
            schedule.step()
            with torch.no_grad():
                if loss.recomputes_features:
                    _, features = outputs(model, loss, batch, settings.precision)
                loss.update(features, labels[chosen])
            total += value.detach() * len(chosen)
        train_loss = (total / len(train)).item()
        seconds += time.perf_counter() - started
        facts = loss.facts()
        for name, fact in facts.items():
            if not math.isfinite(fact):
                raise NotFinite(f"{name} {fact} in epoch {epoch}: {loss.remedy}")
        if not math.isfinite(train_loss):
            raise NotFinite(f"loss {train_loss} in epoch {epoch}: lower the learning rate")
        logits = predict(model, id_val.pixels, settings.precision, device, preprocessing)
        if not np.isfinite(logits).all():
            raise NotFinite(f"logits on id_val not finite after epoch {epoch}")
        score = macro_f1(confusion_matrix(id_val.labels, logits.argmax(1), logits.shape[1]))
        result.history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "id_val_macro_f1": score,
                "learning_rate": schedule.get_last_lr()[0],
                **facts,
            }
        )
        if score > result.id_val_macro_f1:
            result.best_epoch, result.id_val_macro_f1 = epoch, score
            result.state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        elif epoch - result.best_epoch >= settings.patience:
            break
    result.images_per_s = len(train) * len(result.history) / seconds
    return result


def outputs(
    model: nn.Module, loss: Loss, batch: Tensor, precision: str
) -> tuple[Tensor, Tensor | None]:
    """Logits float32 [N, C] and, where the loss needs them, features float32 [N, D]."""
    with autocast(batch.device, precision):
        if loss.needs_features:
            features, logits = features_and_logits(model, batch)
            return logits.float(), features.float()
        return model(batch).float(), None


def schedule_of(settings: Training, steps_per_epoch: int) -> Callable[[int], float]:
    """Learning-rate factor at a step: linear from 1/warm-up to 1, then half a cosine to 0."""
    warmup = settings.warmup_epochs * steps_per_epoch
    total = settings.epochs * steps_per_epoch

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def offsets(order: Tensor, steps: int) -> list[int]:
    """First position of each of the chunks that `tensor_split` makes."""
    sizes = [len(chunk) for chunk in order.tensor_split(steps)]
    return [sum(sizes[:i]) for i in range(steps)]


def to_device(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels uint8 [N, 3, S, S] in channels-last memory, and labels int64 [N], on the device."""
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2)
    return pixels.to(device), torch.from_numpy(images.labels).to(device)
