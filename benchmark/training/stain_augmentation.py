"""Random stains: a batch as other laboratories would have stained and lit it.

Every change is affine in optical density, OD = -ln(light), where stains add up (Beer and Lambert),
so that all of them together are one 3 × 3 matrix and one shift per image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.config import Augmentation

HED = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]).T
"""Optical density in R, G, B of haematoxylin, eosin, DAB, as columns (Ruifrok & Johnston 2001)."""
UNMIX = torch.linalg.inv(HED)
"""Optical density of R, G, B → concentrations of haematoxylin, eosin, DAB."""


def changes_stain(settings: Augmentation) -> bool:
    """Whether any of the changes below is switched on."""
    s = settings
    return bool(s.stain_mixing or s.hed_jitter or s.stain_gain or s.background)


def stain_change(settings: Augmentation, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Compose mixing, HED jitter, gain and background, in this order.

    The published HED jitter (Tellez et al. 2018: c' = (1 ± σ) c ± σ for each concentration c) works
    on scikit-image's scale of the time; here concentrations are of natural optical density.

    Args:
        drawn: option → draws [N, k] on [-1, 1).

    Returns:
        Matrix [N, 3, 3] and shift [N, 3, 1] of OD' = matrix OD + shift.
    """
    s = settings
    mixing = drawn["stain_mixing"]
    one = torch.eye(3, device=mixing.device, dtype=mixing.dtype)
    matrix = one + s.stain_mixing * mixing.view(-1, 3, 3)
    shift = torch.zeros_like(matrix[:, :, :1])
    if s.hed_jitter:
        density, unmix = HED.to(one), UNMIX.to(one)
        factor, offset = (s.hed_jitter * drawn["hed_jitter"]).view(-1, 2, 3, 1).unbind(1)
        matrix = density @ ((1 + factor) * (unmix @ matrix))
        shift = density @ offset
    gain = torch.exp(s.stain_gain * drawn["stain_gain"])[:, :, None]
    return gain * matrix, gain * shift + s.background * drawn["background"][:, :, None]


def restain(batch: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Apply OD' = matrix OD + shift to a float batch [N, 3, S, S] in [0, 1].

    Light is (255 v + 1) / 256, so that black has a density (5.5).
    """
    light = batch.flatten(2).mul(255 / 256).add_(1 / 256).log_()
    light = torch.baddbmm(-shift, matrix, light).exp_()
    return light.mul_(256 / 255).sub_(1 / 255).clamp_(0, 1).view(batch.shape)
