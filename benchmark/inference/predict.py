"""Logits of prepared images from a network, in batches of one fixed size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.models.weights import IMAGENET, Preprocessing, Triple

BATCH = 256
"""Fixed, since a batch's size can move the last bits of a convolution."""


def to_float(pixels: Tensor) -> Tensor:
    """uint8 → float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def standardise(batch: Tensor, mean: Triple = IMAGENET.mean, std: Triple = IMAGENET.std) -> Tensor:
    """[0, 1] float [N, 3, S, S] → the mean and spread that the weights expect."""
    return (batch - batch.new_tensor(mean)[:, None, None]) / batch.new_tensor(std)[:, None, None]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 autocast where asked for, else none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def predict(
    model: nn.Module,
    pixels: np.ndarray,
    precision: str,
    device: torch.device,
    preprocessing: Preprocessing = IMAGENET,
) -> np.ndarray:
    """Logits float32 [N, C] of uint8 images [N, S, S, 3], in evaluation mode."""
    mean, std = preprocessing.mean, preprocessing.std
    model.eval()
    logits = []
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(pixels[start : start + BATCH]).permute(0, 3, 1, 2)
        with autocast(device, precision):
            logits.append(model(standardise(to_float(batch.to(device)), mean, std)).float())
    return torch.cat(logits).cpu().numpy()
