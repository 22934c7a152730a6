"""Corruptions: prepared images as a worse microscope or camera would give them.

Ten corruptions at four severities, like the noise, blur and illumination faults of WBCBench 2026
(arXiv 2604.10797); the strengths are this benchmark's own and part of its protocol. Lengths are
fractions of the image's side. Beside them stand those of BloodMNIST-C at five severities
(`medmnist_corruptions.py`), which a scenario asks for by another word. Every image has its own
random numbers, seeded by its path, the corruption and the severity: the same on every machine, in
any order and number. What each does, and pictures: docs/corruptions.md.

Own code: the corruptions of imagecorruptions know neither uneven light nor a colour cast, draw from
numpy's global generator, fix lengths in pixels, and would bring OpenCV and numba.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.data.medmnist_corruptions import MEDMNIST_C, by_image
from benchmark.data.stain import by_chunks, jpeg_round_trip
from benchmark.errors import UserError, suggest
from benchmark.scenarios import MEDMNIST, OURS


@dataclass(frozen=True)
class Corruption:
    """One fault: what it does to light [N, S, S, 3] in [0, 1], and how strongly at 1, 2, 3, …

    `apply` takes the light, one random generator per image, and the strength. It may leave [0, 1].
    """

    apply: Callable[[np.ndarray, list[np.random.Generator], Any], np.ndarray]
    strengths: tuple[Any, ...]
    family: str = OURS
    """The targets of a scenario that it is one of."""

    @property
    def severities(self) -> range:
        """From mild to strong."""
        return range(1, len(self.strengths) + 1)


def corrupt(pixels: np.ndarray, images: list[str], name: str, severity: int) -> np.ndarray:
    """Corrupt images uint8 [N, S, S, 3], each named by its path.

    Raises:
        UserError: an unknown corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise UserError(f"unknown corruption '{name}'{suggest(name, CORRUPTIONS)}")
    corruption = CORRUPTIONS[name]
    if severity not in corruption.severities:
        last = corruption.severities[-1]
        raise UserError(f"corruption {name}: no severity {severity}: choose one from 1 to {last}")
    strength = corruption.strengths[severity - 1]

    def one_chunk(pixels: np.ndarray, images: list[str]) -> tuple[np.ndarray]:
        generators = [generator_of(image, name, severity) for image in images]
        light = corruption.apply(pixels / 255, generators, strength)
        return (np.rint(255 * light.clip(0, 1)).astype(np.uint8),)

    return by_chunks(one_chunk, pixels, images)[0]


def generator_of(image: str, name: str, severity: int) -> np.random.Generator:
    """The random numbers of one image under one corruption at one severity."""
    seed = hashlib.sha256(f"{image}:{name}:{severity}".encode()).digest()
    return np.random.default_rng(np.frombuffer(seed, "<u4"))


def drawn(
    generators: list[np.random.Generator], draw: Callable[[np.random.Generator], np.ndarray]
) -> np.ndarray:
    """One draw per image, stacked: [N, …]."""
    return np.stack([draw(generator) for generator in generators])


# --------------------------------------------------------------------------- sensor


def gaussian_noise(light: np.ndarray, generators: list, deviation: float) -> np.ndarray:
    """Independent in every value; deviation as a fraction of full scale."""
    return light + deviation * drawn(generators, lambda g: g.standard_normal(light.shape[1:]))


def salt_and_pepper(light: np.ndarray, generators: list, share: float) -> np.ndarray:
    """A share of the pixels is white or black, each equally likely."""
    uniform = drawn(generators, lambda g: g.random(light.shape[1:3]))[..., None]
    return np.where(uniform < share, (uniform < share / 2).astype(float), light)


# --------------------------------------------------------------------------- optics


def through(
    light: np.ndarray, margin: float, transfer: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Blur by a transfer function of frequency along y and x, in cycles per pixel.

    The image is mirrored at its edges by `margin` pixels. A transfer function, unlike a kernel on
    the pixel grid, needs no rounding of a radius or a length to whole pixels.
    """
    # Lazy: settings are checked against the names in this module; few commands corrupt.
    from scipy import fft

    edge = min(int(np.ceil(margin)), light.shape[1])
    padded = np.pad(light, ((0, 0), (edge, edge), (edge, edge), (0, 0)), mode="symmetric")
    side = padded.shape[1]
    gain = transfer(fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None])
    spectrum = fft.rfft2(padded, axes=(1, 2)) * gain[..., None]
    inner = slice(edge, side - edge)
    return fft.irfft2(spectrum, (side, side), axes=(1, 2))[:, inner, inner]


def gaussian_blur(light: np.ndarray, generators: list, deviation: float) -> np.ndarray:
    """Deviation as a fraction of the side."""
    sd = deviation * light.shape[1]
    return through(light, 4 * sd, lambda y, x: np.exp(-2 * (np.pi * sd) ** 2 * (x**2 + y**2)))


def defocus_blur(light: np.ndarray, generators: list, radius: float) -> np.ndarray:
    """A point becomes a disc; radius as a fraction of the side."""
    from scipy.special import j1

    def transfer(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        phase = np.maximum(2 * np.pi * radius * light.shape[1] * np.hypot(x, y), 1e-9)
        return 2 * j1(phase) / phase

    return through(light, radius * light.shape[1] + 1, transfer)


def motion_blur(light: np.ndarray, generators: list, length: float) -> np.ndarray:
    """A point becomes a line in a random direction; length as a fraction of the side."""
    angle = drawn(generators, lambda g: g.uniform(0, np.pi))[:, None, None]
    run = length * light.shape[1]
    along = lambda y, x: np.sinc(run * (x * np.cos(angle) + y * np.sin(angle)))  # noqa: E731
    return through(light, run / 2 + 1, along)


# --------------------------------------------------------------------------- light and camera


def brightness(light: np.ndarray, generators: list, factor: float) -> np.ndarray:
    """Exposure times or divided by a factor, each equally likely."""
    power = drawn(generators, lambda g: g.choice([-1, 1]))[:, None, None, None]
    return light * factor ** power.astype(float)


def contrast(light: np.ndarray, generators: list, factor: float) -> np.ndarray:
    """Distance from the image's mean, times a factor."""
    mean = light.mean(axis=(1, 2, 3), keepdims=True)
    return mean + factor * (light - mean)


def uneven_illumination(light: np.ndarray, generators: list, fall: float) -> np.ndarray:
    """Light that falls along a random direction; fall from edge to edge, fraction of its mean."""
    angle = drawn(generators, lambda g: g.uniform(0, 2 * np.pi))[:, None, None, None]
    ramp = np.linspace(-0.5, 0.5, light.shape[1])
    ramp = ramp[:, None, None] * np.sin(angle) + ramp[None, :, None] * np.cos(angle)
    return light * (1 + fall * ramp)


def colour_cast(light: np.ndarray, generators: list, density: float) -> np.ndarray:
    """A coloured filter: optical density of a given length in a random direction across grey.

    Grey is added until the filter passes all of one channel, so that no light is clipped.
    """
    angle = drawn(generators, lambda g: g.uniform(0, 2 * np.pi))[:, None]
    red_green, blue_yellow = np.array([1, -1, 0]) / 2**0.5, np.array([1, 1, -2]) / 6**0.5
    tint = density * (np.cos(angle) * red_green + np.sin(angle) * blue_yellow)
    return light * np.exp(tint.min(1, keepdims=True) - tint)[:, None, None]


def jpeg(light: np.ndarray, generators: list, quality: float) -> np.ndarray:
    """A JPEG round trip at a quality of libjpeg's scale."""
    return jpeg_round_trip(np.rint(255 * light).astype(np.uint8), int(quality)) / 255


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(gaussian_noise, (0.03, 0.06, 0.10, 0.16)),
    "salt_and_pepper": Corruption(salt_and_pepper, (0.01, 0.03, 0.06, 0.12)),
    "gaussian_blur": Corruption(gaussian_blur, (0.01, 0.02, 0.03, 0.045)),
    "defocus_blur": Corruption(defocus_blur, (0.015, 0.03, 0.045, 0.065)),
    "motion_blur": Corruption(motion_blur, (0.05, 0.10, 0.15, 0.22)),
    "brightness": Corruption(brightness, (1.15, 1.3, 1.5, 1.8)),
    "contrast": Corruption(contrast, (0.8, 0.6, 0.4, 0.25)),
    "uneven_illumination": Corruption(uneven_illumination, (0.25, 0.5, 0.75, 1.0)),
    "colour_cast": Corruption(colour_cast, (0.1, 0.2, 0.35, 0.5)),
    "jpeg": Corruption(jpeg, (60, 35, 20, 10)),
} | {
    f"medmnist_{name}": Corruption(by_image(corrupted), strengths, MEDMNIST)
    for name, (corrupted, strengths) in MEDMNIST_C.items()
}
