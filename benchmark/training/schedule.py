"""Training settings → the factor on the learning rate at every step."""

from __future__ import annotations

import math
from collections.abc import Callable

from benchmark.config import Training

Schedule = Callable[[int], float]


def schedule_of(settings: Training, steps_per_epoch: int) -> Schedule:
    """The schedule that the settings name: step, counted from 0, → factor."""
    return SCHEDULES[settings.schedule](settings, steps_per_epoch)


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
