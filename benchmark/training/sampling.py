"""Which training images an epoch shows, in which order: positions int64 [M] for its batches.

A sampler draws on the processor from a seeded generator, so that every method sees the same images
at the same seed, on every device. The loop cuts the positions into `steps` nearly equal batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[Tensor, Tensor, int, torch.Generator], Tensor]
"""(labels int64 [N], domains int64 [N], batch size, generator) → positions int64 [M]."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Steps of an epoch, the same for every sampler: methods are compared at equal budget."""
    return math.ceil(images / batch_size)


def instance(
    labels: Tensor, domains: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """Every image once, in random order."""
    return torch.randperm(len(labels), generator=generator)


def class_balanced(
    labels: Tensor, domains: Tensor, batch_size: int, generator: torch.Generator
) -> Tensor:
    """N draws with replacement, an image's chance ∝ 1/n of its class (le2026, stage 2)."""
    chances = 1 / torch.bincount(labels)[labels].to(torch.float64)
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
