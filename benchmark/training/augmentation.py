"""Random changes to whole batches of uint8 images on their device; no loop over images."""

from __future__ import annotations

import hashlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.config import Augmentation
from benchmark.training.optics_augmentation import NOISE_OFFSETS, add_noise, compress, optics
from benchmark.training.stain_augmentation import changes_stain, restain, stain_change

GREY = (0.299, 0.587, 0.114)
DRAWS = {
    "rotation": 1,
    "stain_mixing": 9,
    "hed_jitter": 6,
    "stain_gain": 1,
    "background": 3,
    "blur": 1,
    "resolution_loss": 1,
    "noise": 2,
    "jpeg": 1,
}
"""Option → random numbers per image. A new one goes to the end, or those below it change."""


class Augmenter:
    """Draws one epoch's random numbers at once, then augments its batches.

    The numbers are drawn on the processor from a seeded generator, so that every method sees the
    same images in the same order at the same seed, on every device. The options of `DRAWS` have a
    generator of their own, seeded by the epoch's first draws: switching one of them changes neither
    the order of the images nor what any other option draws.
    """

    def __init__(self, settings: Augmentation, images: int, generator: torch.Generator) -> None:
        self.settings = settings
        self.view = torch.randint(8, (images,), generator=generator)
        # scale, shift x, shift y, brightness, contrast, saturation: uniform on [-1, 1)
        self.draws = torch.rand((images, 6), generator=generator) * 2 - 1
        if any(getattr(settings, option) for option in DRAWS):
            seed = hashlib.sha256(self.draws.numpy().tobytes()).digest()
            self.own = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") >> 1)
            rows = (sum(DRAWS.values()), images)
            self.more = (torch.rand(rows, generator=self.own) * 2 - 1).T
        else:
            self.more = torch.zeros(images, sum(DRAWS.values()))
        self.noise: Tensor | None = None

    def __call__(self, batch: Tensor, start: int) -> Tensor:
        """Augment images `start … start + N` of the epoch.

        Args:
            batch: float [N, 3, S, S] in [0, 1], channels last.

        Returns:
            The same shape, in [0, 1].
        """
        chosen = slice(start, start + len(batch))
        draws = self.draws[chosen].to(batch.device, non_blocking=True)
        more = self.more[chosen].to(batch.device, non_blocking=True)
        drawn = dict(zip(DRAWS, more.split(list(DRAWS.values()), 1), strict=True))
        s = self.settings
        if s.dihedral or s.scale or s.shift or s.rotation:
            batch = self._move(batch, self.view[chosen], draws, drawn["rotation"])
        if changes_stain(s):
            batch = restain(batch, *stain_change(s, drawn))
        if s.blur or s.resolution_loss:
            batch = self._optics(batch, drawn)
        if s.brightness or s.contrast or s.saturation:
            batch = self._colour(batch, draws)
        if s.noise:
            batch = self._noise(batch, drawn["noise"])
        if s.jpeg:
            batch = compress(batch, 100 * (1 - s.jpeg * share(drawn["jpeg"])))
        return batch

    def _move(self, batch: Tensor, view: Tensor, draws: Tensor, turn: Tensor) -> Tensor:
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
        linear = theta[:, :, :2] * zoom[:, None, None]
        if s.rotation:
            angle = math.radians(s.rotation) * turn
            rows = [
                torch.cat([angle.cos(), -angle.sin()], 1),
                torch.cat([angle.sin(), angle.cos()], 1),
            ]
            linear = linear @ torch.stack(rows, 1)
        theta = torch.cat([linear, theta[:, :, 2:]], 2)
        grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
        return F.grid_sample(
            batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )

    def _optics(self, batch: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        s = self.settings
        deviation = s.blur * batch.shape[-1] * share(drawn["blur"]) if s.blur else None
        loss = share(drawn["resolution_loss"]) if s.resolution_loss else None
        return optics(batch, deviation, loss, s.resolution_loss)

    def _noise(self, batch: Tensor, drawn: Tensor) -> Tensor:
        if self.noise is None:
            # A number per value of every image would take longer than the training step.
            count = batch[0].numel() + NOISE_OFFSETS
            self.noise = torch.randn(count, generator=self.own).to(batch.device)
        strength, offset = share(drawn).unbind(1)
        return add_noise(batch, self.noise, offset, self.settings.noise * strength)

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


def share(draws: Tensor) -> Tensor:
    """Draws on [-1, 1) → on [0, 1); one column [N, 1] → [N]."""
    return (draws.squeeze(1) + 1) / 2
