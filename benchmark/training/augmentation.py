"""Random changes to whole batches of uint8 images on their device; no loop over images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.config import Augmentation

GREY = (0.299, 0.587, 0.114)


class Augmenter:
    """Draws one epoch's random numbers at once, then augments its batches.

    The numbers are drawn on the processor from a seeded generator, so that every method sees the
    same images in the same order at the same seed, on every device.
    """

    def __init__(self, settings: Augmentation, images: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.view = torch.randint(8, (images,), generator=generator)
        # scale, shift x, shift y, brightness, contrast, saturation: uniform on [-1, 1)
        self.draws = torch.rand((images, 6), generator=generator) * 2 - 1

    def __call__(self, batch: Tensor, start: int) -> Tensor:
        """Augment images `start … start + N` of the epoch.

        Args:
            batch: float [N, 3, S, S] in [0, 1], channels last.

        Returns:
            The same shape, in [0, 1].
        """
        chosen = slice(start, start + len(batch))
        draws = self.draws[chosen].to(batch.device, non_blocking=True)
        s = self.settings
        if s.dihedral or s.scale or s.shift:
            batch = self._move(batch, self.view[chosen], draws)
        if s.brightness or s.contrast or s.saturation:
            batch = self._colour(batch, draws)
        return batch

    def _move(self, batch: Tensor, view: Tensor, draws: Tensor) -> Tensor:
        s = self.settings
        if s.dihedral:
            # Views 0–7 as signed permutation matrices of (x, y): exact, no interpolation of angles.
            swap = (view >= 4).to(batch.device, batch.dtype)
            sign_x = 1 - 2 * (view % 2).to(batch.device, batch.dtype)
            sign_y = 1 - 2 * (view // 2 % 2).to(batch.device, batch.dtype)
        else:
            swap = torch.zeros(len(batch), device=batch.device, dtype=batch.dtype)
            sign_x = sign_y = torch.ones_like(swap)
        zoom = 1 / (1 + s.scale * draws[:, 0])
        theta = torch.stack(
            [
                torch.stack([(1 - swap) * sign_x, swap * sign_x, s.shift * 2 * draws[:, 1]], 1),
                torch.stack([swap * sign_y, (1 - swap) * sign_y, s.shift * 2 * draws[:, 2]], 1),
            ],
            1,
        )
        theta = torch.cat([theta[:, :, :2] * zoom[:, None, None], theta[:, :, 2:]], 2)
        grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
        return F.grid_sample(
            batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )

    def _colour(self, batch: Tensor, draws: Tensor) -> Tensor:
        s = self.settings
        brightness = (1 + s.brightness * draws[:, 3])[:, None, None, None]
        contrast = (1 + s.contrast * draws[:, 4])[:, None, None, None]
        saturation = (1 + s.saturation * draws[:, 5])[:, None, None, None]
        batch = batch * brightness
        mean = batch.mean(dim=(1, 2, 3), keepdim=True)
        batch = mean + contrast * (batch - mean)
        grey = (batch * batch.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)
        return (grey + saturation * (batch - grey)).clamp_(0, 1)
