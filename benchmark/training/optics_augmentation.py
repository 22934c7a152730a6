"""Random microscopes and cameras: a batch blurred, coarser, noisier and compressed."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

NOISE_OFFSETS = 2**18
"""Places in the epoch's noise at which an image's noise can begin."""

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)
"""Steps of quantisation at quality 50 (ITU-T T.81, annex K)."""
YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""R, G, B → luma and the two chromas (JFIF)."""
RGB = torch.linalg.inv(YCBCR)


def optics(batch: Tensor, deviation: Tensor | None, loss: Tensor | None, most: float) -> Tensor:
    """Blur, then lose resolution: one matrix [S, S] per image, along y and along x.

    Args:
        batch: float [N, 3, S, S].
        deviation: standard deviation of the Gaussian, px, [N]; or None.
        loss: which share of the range of sides is lost, on [0, 1), [N]; or None.
        most: the largest loss, as a fraction of the side.
    """
    size, matrix = batch.shape[-1], None
    if deviation is not None:
        pixel = torch.arange(size, device=batch.device, dtype=batch.dtype)
        distance = (pixel[:, None] - pixel) / deviation.clamp(min=1e-3)[:, None, None]
        # Beyond 7 deviations nothing is left; arithmetic on denormal numbers is ten times slower.
        weight = torch.exp(-0.5 * distance.clamp(-7, 7) ** 2)
        matrix = weight / weight.sum(2, keepdim=True)
    if loss is not None:
        resamplings = resampling_matrices(size, size - round(most * size), batch.device)
        # Rounding can take the largest draw to the end.
        row = (loss * len(resamplings)).long().clamp(max=len(resamplings) - 1)
        chosen = resamplings[row]
        matrix = chosen if matrix is None else chosen @ matrix
    return matrix[:, None] @ batch @ matrix.mT[:, None]


@lru_cache(maxsize=4)
def resampling_matrices(size: int, least: int, device: torch.device) -> Tensor:
    """Matrices [K, size, size]: reduction to size, size - 1, … least pixels, and back."""
    matrices = []
    for side in range(size, max(1, least) - 1, -1):
        down = resize_rows(torch.eye(size), side)
        matrices.append(resize_rows(torch.eye(side), size) @ down)
    return torch.stack(matrices).to(device)


def resize_rows(matrix: Tensor, rows: int) -> Tensor:
    """Bilinear, antialiased resizing of a matrix along its rows."""
    shape = (rows, matrix.shape[1])
    return F.interpolate(matrix[None, None], shape, mode="bilinear", antialias=True)[0, 0]


def add_noise(batch: Tensor, noise: Tensor, offset: Tensor, deviation: Tensor) -> Tensor:
    """Add to each image its stretch of the epoch's noise.

    Args:
        batch: float [N, 3, S, S].
        noise: standard normal numbers, at least 3 S² + NOISE_OFFSETS.
        offset: where an image's noise begins, on [0, 1), [N].
        deviation: as a fraction of full scale, [N].
    """
    stretches = noise.unfold(0, batch[0].numel(), 1)
    chosen = stretches[(offset * NOISE_OFFSETS).long()].view(batch.shape)
    return torch.addcmul(batch, chosen, deviation[:, None, None, None]).clamp_(0, 1)


def compress(batch: Tensor, quality: Tensor) -> Tensor:
    """What JPEG loses: quantised cosine coefficients of 8 × 8 blocks, at each image's quality [N].

    Like libjpeg at the same quality, but for chroma, which keeps its resolution here.
    """
    size = batch.shape[-1]
    edge = -size % 8
    padded = F.pad(batch, (0, edge, 0, edge), mode="replicate")
    blocks = padded.shape[-1] // 8
    cosine = cosines(batch)
    planes = torch.matmul(YCBCR.to(batch), padded.flatten(2) * 255)
    planes[:, 0] -= 128
    planes = planes.view(-1, 3, blocks, 8, blocks, 8).transpose(3, 4)
    coefficients = planes.reshape(len(batch), 3, -1, 64) @ cosine.T
    steps = quantisation(batch, quality)
    coefficients = (coefficients / steps).round_().mul_(steps)
    planes = (coefficients @ cosine).view(-1, 3, blocks, blocks, 8, 8).transpose(3, 4)
    planes = planes.reshape(len(batch), 3, -1)
    planes[:, 0] += 128
    light = torch.matmul(RGB.to(batch), planes).div_(255).clamp_(0, 1)
    return light.view(padded.shape)[:, :, :size, :size]


def cosines(like: Tensor) -> Tensor:
    """The orthonormal cosine transform of an 8 × 8 block as a matrix [64, 64] of its pixels."""
    place = torch.arange(8, device=like.device, dtype=like.dtype)
    basis = torch.cos(torch.pi / 8 * (place + 0.5) * place[:, None]) / 2
    basis[0] /= 2**0.5
    return torch.kron(basis, basis)


def quantisation(like: Tensor, quality: Tensor) -> Tensor:
    """Steps [N, 3, 1, 64] of luma and both chromas at libjpeg's quality, 1 to 100."""
    quality = quality.clamp(min=1).floor()
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    tables = like.new_tensor([LUMA, CHROMA, CHROMA]).view(3, 1, 64)
    return ((tables * percent[:, None, None, None] + 50) / 100).floor().clamp(1, 255)
