"""Random changes to whole batches of images on their device; no loop over images, but for
RandAugment's.

Geometry and colour, stains as other laboratories would have them, and other microscopes and
cameras: blurred, coarser, noisier, compressed. Every change of stain is affine in optical density,
OD = -ln(light), where stains add up (Beer and Lambert), so that all of them together are one 3 × 3
matrix and one shift per image.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

from benchmark.settings import Augmentation

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
"""Option → random numbers per image, from one generator. A new option belongs in `LATER`, or the
noise of these changes."""
LATER = {"randaugment": 1, "amplitude_mixing": 2}
"""The same of options with a generator each."""


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
        chosen = {name: width for name, width in LATER.items() if getattr(settings, name)}
        self.later = {name: self._drawn_alone(name, width) for name, width in chosen.items()}

    def _drawn_alone(self, option: str, width: int) -> Tensor:
        """Draws float64 [images, width] on [0, 1) that no other option shares."""
        seed = hashlib.sha256(self.draws.numpy().tobytes() + option.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") >> 1)
        shape = (len(self.draws), width)
        return torch.rand(shape, generator=generator, dtype=torch.float64)

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
        if s.randaugment:
            seeds = (self.later["randaugment"][chosen, 0] * 2**53).long().tolist()
            batch = randaugmented(batch, s.randaugment, seeds)
        if s.amplitude_mixing:
            place, strength = self.later["amplitude_mixing"][chosen].to(batch).unbind(1)
            batch = mix_amplitudes(batch, place.argsort(), s.amplitude_mixing * strength)
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


def randaugmented(batch: Tensor, magnitude: int, seeds: list[int]) -> Tensor:
    """RandAugment (Cubuk et al., CVPR 2020 workshops) as torchvision has it: two changes an image.

    It comes first, where an image is still one of grey values, on which torchvision's changes are
    defined. What a change moves into the picture is black. torchvision draws from PyTorch's own
    generator, which is seeded for each image and then put back.

    Args:
        batch: float [N, 3, S, S], multiples of 1 / 255.
        magnitude: 1 to 30.
        seeds: one per image.
    """
    change = RandAugment(magnitude=magnitude)
    grey = batch.mul(255).round_().to(torch.uint8)
    before = torch.get_rng_state()
    try:
        changed = []
        for image, seed in zip(grey, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            changed.append(change(image))
    finally:
        torch.set_rng_state(before)
    whole = torch.stack(changed).to(memory_format=torch.channels_last)
    return whole.to(batch.dtype).div_(255)


LEAST_AMPLITUDE = 1e-6
"""Of a float32 spectrum: below it there is rounding and no phase."""


def mix_amplitudes(batch: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Fourier amplitude mixing: A' = (1 - λ) A + λ A_partner at each frequency, with own phases.

    Xu et al., CVPR 2021, over the whole spectrum. FDA (Yang and Soatto, CVPR 2020) exchanges low
    frequencies for those of target images, which are not seen here.

    Args:
        batch: float [N, 3, S, S] in [0, 1].
        partners: position in the batch of each image's partner, int64 [N].
        shares: λ, [N].
    """
    spectrum = torch.fft.rfft2(batch)
    own = spectrum.abs()
    mixed = torch.lerp(own, own[partners], shares[:, None, None, None])
    spectrum *= mixed / own.clamp(min=LEAST_AMPLITUDE)
    light = torch.fft.irfft2(spectrum, s=batch.shape[-2:]).clamp_(0, 1)
    return light.contiguous(memory_format=torch.channels_last)


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
