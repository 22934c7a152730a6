"""Training images, resident on the device → the augmented, standardised batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.config import Training
from benchmark.data.arrays import Images
from benchmark.inference.predict import standardise, to_float
from benchmark.models.weights import Preprocessing
from benchmark.training.augmentation import Augmenter
from benchmark.training.sampling import SAMPLERS, steps_per_epoch


@dataclass(frozen=True)
class Shown:
    """One batch on its way to the network.

    Attributes:
        images: float32 [N, 3, S, S], standardised, channels last.
        labels: int64 [N].
        groups: of each of several source domains, the positions int64 in the batch of its images;
            empty where there is one domain.
    """

    images: Tensor
    labels: Tensor
    groups: list[Tensor]

    def __len__(self) -> int:
        return len(self.labels)


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

    def epoch(self, generator: torch.Generator) -> Iterator[Shown]:
        """The batches of one epoch; order and augmentation are drawn from the generator."""
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
            images = standardise(images, self.preprocessing.mean, self.preprocessing.std)
            yield Shown(images, labels[start:end], self.groups(domains[start:end]))
            start = end

    def groups(self, domains: Tensor) -> list[Tensor]:
        """Positions of each domain in a batch, found on the processor: no synchronisation."""
        if len(self.counts) == 1:
            return []
        found = [(domains == d).nonzero().flatten() for d in range(len(self.counts))]
        return [positions.to(self.device, non_blocking=True) for positions in found]
