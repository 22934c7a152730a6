"""The weights of many steps → one network: a moving average, or the flat part of a training.

An average of weights has no batch statistics of its own: they are taken anew from training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from benchmark.models.predict import autocast
from benchmark.settings import Training

CONVERGED, OVERFITTED, TOLERANCE = 3, 6, 1.3
"""N_s, N_e and r of swad (Cha et al., NeurIPS 2021)."""


class Averaging:
    """None: the network itself is validated and kept. What the loop asks of the others, too."""

    chooses_window = False
    """Whether it decides by itself, by `end_epoch`, when training ends and what is kept."""

    def __init__(self, model: nn.Module, settings: Training) -> None:
        self.model = model
        self.network = model
        """What is validated after an epoch."""

    def step(self) -> None:
        """After each optimiser step."""

    def end_epoch(self, id_val_loss: float) -> bool:
        """Take note of an epoch's loss on id_val; whether training is over."""
        return False


class Ema(Averaging):
    """Exponential moving average of the weights, w' ← d·w' + (1 - d)·w after each step.

    d = min(decay, (1 + t) / (10 + t)) at step t = 1, 2, …: a short training is not held at its
    initial weights. Best epoch and patience go by the average.
    """

    def __init__(self, model: nn.Module, settings: Training) -> None:
        super().__init__(model, settings)
        self.network = deepcopy(model)
        self.decay, self.steps = settings.averaging_decay, 0

    def step(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(numbers(self.network), numbers(self.model), None)


class Swad(Averaging):
    """Mean of all weights between a first and a last epoch, found by the loss on id_val.

    Stochastic weight averaging, densely (Cha et al., NeurIPS 2021): every step counts, and the loss
    is looked at once an epoch, its mean over all images of id_val whatever their domain. The
    network itself goes on training and is what is validated; its window, and with it the end of
    training, follow `loss_valley`, not patience. Where the loss fell to the end, the mean of the
    last epoch is taken, as the authors' code does.
    """

    chooses_window = True

    def __init__(self, model: nn.Module, settings: Training) -> None:
        super().__init__(model, settings)
        self.average = deepcopy(model)
        self.steps = 0
        self.losses: list[float] = []
        self.waiting: dict[int, list[Tensor]] = {}
        """Epoch → its mean weights, while the window may still take or leave it."""
        self.taken: list[Tensor] = []
        self.count = 0

    def step(self) -> None:
        get_swa_multi_avg_fn()(numbers(self.average), numbers(self.model), self.steps)
        self.steps += 1

    def end_epoch(self, id_val_loss: float) -> bool:
        self.waiting[len(self.losses)] = [t.to("cpu", copy=True) for t in numbers(self.average)]
        self.losses.append(id_val_loss)
        self.steps = 0
        first, last = loss_valley(self.losses)
        epochs = len(self.losses)
        if first is None:
            self.waiting.pop(epochs - CONVERGED, None)
        else:
            self.take(epochs - OVERFITTED if last is None else last)
        return last is not None

    def take(self, last: int) -> None:
        """Add the waiting epochs up to `last` to the mean."""
        for epoch in sorted(e for e in self.waiting if e <= last):
            weights = self.waiting.pop(epoch)
            if self.count:
                get_swa_multi_avg_fn()(self.taken, weights, self.count)
            else:
                self.taken = weights
            self.count += 1

    def window(self) -> tuple[int, int]:
        """First and last epoch of the average."""
        first, last = loss_valley(self.losses)
        final = len(self.losses) - 1
        return final if first is None else first, final if last is None else last

    def averaged(self) -> nn.Module:
        """The network of the average; its batch statistics are not those of its weights yet."""
        first, last = self.window()
        self.waiting = {e: w for e, w in self.waiting.items() if first <= e}
        self.take(last)
        for number, mean in zip(numbers(self.average), self.taken, strict=True):
            number.copy_(mean)
        return self.average


def loss_valley(losses: list[float]) -> tuple[int | None, int | None]:
    """First and last epoch of the average (Cha et al., algorithm 1); None: not known yet.

    The first is the first epoch whose loss none of the N_s - 1 after it goes below. The threshold
    is r times the mean loss of these N_s epochs. Once all of the last N_e losses lie above it, the
    average ends with the epoch before them.
    """
    for latest in range(CONVERGED - 1, len(losses)):
        first = latest - CONVERGED + 1
        seen = losses[first : latest + 1]
        if losses[first] == min(seen):
            threshold = TOLERANCE * sum(seen) / CONVERGED
            break
    else:
        return None, None
    for latest in range(first + OVERFITTED, len(losses)):
        if min(losses[latest - OVERFITTED + 1 : latest + 1]) > threshold:
            return first, latest - OVERFITTED
    return first, None


def numbers(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers that can be averaged, all but counters."""
    return [t for t in network.state_dict().values() if t.is_floating_point()]


@torch.no_grad()
def renew_statistics(network: nn.Module, batches: Iterable[Tensor], precision: str) -> None:
    """Take the running statistics of batch normalisation anew, as plain means over the batches.

    Only those that training moves: frozen ones stay. Everything else is in evaluation mode, so that
    the statistics are those of a network without dropout.

    Args:
        batches: standardised training images [N, 3, S, S].
    """
    network.train()
    moving = [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    network.eval()
    if not moving:
        return
    momenta = [module.momentum for module in moving]
    for module in moving:
        module.reset_running_stats()
        module.momentum = None
        module.train()
    for batch in batches:
        with autocast(batch.device, precision):
            network(batch)
    for module, momentum in zip(moving, momenta, strict=True):
        module.momentum = momentum
    network.eval()


AVERAGINGS: dict[str, Callable[[nn.Module, Training], Averaging]] = {
    "none": Averaging,
    "ema": Ema,
    "swad": Swad,
}
