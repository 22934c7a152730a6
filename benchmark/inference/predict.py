"""Logits of prepared images from a network, in batches of one fixed size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 256
"""Fixed, since a batch's size can move the last bits of a convolution."""


def to_float(pixels: Tensor) -> Tensor:
    """uint8 → float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


def standardise(batch: Tensor) -> Tensor:
    """[0, 1] → the mean and spread that timm's models expect by default (ImageNet's)."""
    mean = batch.new_tensor((0.485, 0.456, 0.406))[:, None, None]
    spread = batch.new_tensor((0.229, 0.224, 0.225))[:, None, None]
    return (batch - mean) / spread


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 autocast where asked for, else none."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@torch.inference_mode()
def predict(
    model: nn.Module, pixels: np.ndarray, precision: str, device: torch.device
) -> np.ndarray:
    """Logits float32 [N, C] of uint8 images [N, S, S, 3], in evaluation mode."""
    model.eval()
    logits = []
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(pixels[start : start + BATCH]).permute(0, 3, 1, 2)
        with autocast(device, precision):
            logits.append(model(standardise(to_float(batch.to(device)))).float())
    return torch.cat(logits).cpu().numpy()
