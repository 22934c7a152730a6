"""Training images, resident on the device → the augmented, standardised batches of an epoch.

A sampler says which images an epoch shows, in which order. It draws on the processor from a seeded
generator, so that every method sees the same images at the same seed, on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmark.data.arrays import Images
from benchmark.models.predict import standardise, to_float
from benchmark.models.weights import Preprocessing
from benchmark.settings import Training
from benchmark.training.augmentation import Augmenter


class Batches:
    """The training images as uint8 on the device; nothing is decoded or synchronised per step.

    Attributes:
        counts: images of each source domain and class, int64 [domains, classes].
        steps: batches of an epoch.
    """

    def __init__(
        self, train: Images, settings: Training, device: torch.device, preprocessing: Preprocessing
    ) -> None:
        self.settings, self.device, self.preprocessing = settings, device, preprocessing
        self.pixels = torch.from_numpy(train.pixels).permute(0, 3, 1, 2).to(device)
        self.labels = torch.from_numpy(train.labels)
        one = torch.zeros_like(self.labels)
        self.domains = one if train.domains is None else torch.from_numpy(train.domains)
        domains, classes = int(self.domains.max()) + 1, int(self.labels.max()) + 1
        pairs = self.domains * classes + self.labels
        self.counts = torch.bincount(pairs, minlength=domains * classes).view(domains, classes)
        self.steps = steps_per_epoch(len(train), settings.batch_size)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, list[Tensor]]]:
        """The batches of one epoch; order and augmentation are drawn from the generator.

        Yields:
            Standardised images float32 [N, 3, S, S], channels last; labels int64 [N]; and of each
            of several source domains, the positions int64 in the batch of its images (empty where
            there is one domain).
        """
        settings = self.settings
        sample = SAMPLERS[settings.sampler]
        order = sample(self.labels, self.domains, settings.batch_size, generator)
        augment = Augmenter(settings.augmentation, len(order), generator)
        labels = self.labels[order].to(self.device)
        domains = self.domains[order]
        start = 0
        # Chunks of nearly equal size: a last batch of one image would break batch statistics.
        for chosen in order.to(self.device).tensor_split(self.steps):
            end = start + len(chosen)
            images = augment(to_float(self.pixels[chosen]), start)
            images = standardise(images, self.preprocessing)
            yield images, labels[start:end], self.groups(domains[start:end])
            start = end

    def groups(self, domains: Tensor) -> list[Tensor]:
        """Positions of each domain in a batch, found on the processor: no synchronisation."""
        if len(self.counts) == 1:
            return []
        found = [(domains == d).nonzero().flatten() for d in range(len(self.counts))]
        return [positions.to(self.device, non_blocking=True) for positions in found]


Sampler = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""(labels int64 [N], domains int64 [N], batch size, generator) → positions int64 [M], which the
loop cuts into `steps` nearly equal batches."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Steps of an epoch, the same for every sampler: methods are compared at equal budget."""
    return math.ceil(images / batch_size)


def instance(
    labels: Tensor, domains: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Every image once, in random order."""
    return torch.randperm(len(labels), generator=generator)


def class_balanced(
    labels: Tensor,
    domains: Tensor,
    batch_size: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """N draws with replacement, an image's chance ∝ 1/n of its class (le2026, stage 2)."""
    chances = 1 / torch.bincount(labels)[labels].to(dtype)
    return torch.multinomial(chances, len(labels), replacement=True, generator=generator)


def domain_balanced(
    labels: Tensor, domains: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """As many images of each domain in every batch, the batch size shared out and rounded down.

    Of each domain, its images in random order and over again once all were shown: a small domain's
    are seen more often, a large domain's not all in one epoch (umer2023; DomainBed).
    """
    of_domains = [(domains == d).nonzero().flatten() for d in domains.unique().tolist()]
    share = batch_size // len(of_domains)
    steps = steps_per_epoch(len(labels), batch_size)
    columns = []
    for positions in of_domains:
        rounds = math.ceil(steps * share / len(positions))
        orders = [torch.randperm(len(positions), generator=generator) for _ in range(rounds)]
        shown = positions[torch.cat(orders)[: steps * share]]
        columns.append(shown.reshape(steps, share))
    batches = torch.cat(columns, 1)
    # Mixed within each batch: mixup pairs its first images with its last.
    mixed = torch.rand(batches.shape, generator=generator).argsort(1)
    return batches.gather(1, mixed).flatten()


SAMPLERS: dict[str, Sampler] = {
    "instance": instance,
    "class_balanced": class_balanced,
    "domain_balanced": domain_balanced,
}
