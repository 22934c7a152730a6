"""How such benchmarks are usually trained: the peer that our training is measured against.

Folders of JPEGs (ImageFolder), decoded, resized and augmented by Pillow in every epoch by worker
processes, float32, the default memory layout, AdamW as it comes, the loss read after every step.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmark.models.weights import IMAGENET


class Habit:
    """Train a network as the habit does.

    Args:
        folder: a folder per class.
    """

    def __init__(self, model: nn.Module, folder: str, size: int, batch_size: int) -> None:
        transform = v2.Compose(
            [
                v2.CenterCrop(345),  # the cell: 0.6 of a 575-px crop, as `prepare` keeps it
                v2.Resize((size, size)),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.ColorJitter(0.1, 0.1, 0.1),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        )
        self.loader = DataLoader(
            ImageFolder(folder, transform), batch_size, shuffle=True, num_workers=os.cpu_count()
        )
        self.model = model
        self.optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
        self.losses: list[float] = []

    def epoch(self) -> None:
        """One epoch."""
        self.model.train()
        for images, labels in self.loader:
            self.optimiser.zero_grad()
            loss = F.cross_entropy(self.model(images), labels)
            loss.backward()
            self.optimiser.step()
            self.losses.append(loss.item())
