"""The corruptions of BloodMNIST-C by their names and severities (Di Salvo et al. 2024, arXiv
2406.17536; the published parameters are those of its package `medmnistc` 0.1.0).

The code is this project's own, without ImageMagick and OpenCV. What differs, for each corruption,
stands in docs/corruptions.md; two things differ everywhere. Each image has random numbers of its
own, where the original has one stream for all. The original's lengths are pixels of images of 224
pixels: an image of another side is enlarged to that, corrupted and reduced again, where lengths
matter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from benchmark.data.stain import jpeg_round_trip
from benchmark.errors import UserError

SIDE = 224
"""Pixels of the images that the original's lengths are of."""
MARGIN = 10
"""Pixels that deposits keep from the image's edges."""
DEPOSIT_SHARE = 0.63
"""Of its square that a deposit covers, on average: that of the ten published silhouettes."""
FEWEST_BUBBLES, SMALLEST_BUBBLE, RIM = 7, 3, 2
"""Bubbles of an image; radius of one, and width of its rim, in pixels."""
WHITE, WHITE_RIM = 100 / 255, 130 / 255
"""Share of white within a bubble, and on its rim."""
LARGEST_ANGLE = 45
"""Degrees between a motion and the horizontal."""

OfImage = Callable[..., np.ndarray]
"""uint8 [S, S, 3], random generator, parameters → uint8 [S, S, 3]."""
OfImages = Callable[[np.ndarray, list[np.random.Generator], tuple], np.ndarray]
"""As a `Corruption` applies: light [N, S, S, 3], a generator per image, parameters."""


def by_image(corrupted: OfImage) -> OfImages:
    """A corruption of a single image in eight bits, as one of the light of many."""

    @wraps(corrupted)
    def of_images(light: np.ndarray, generators: list, strength: tuple) -> np.ndarray:
        pixels = np.rint(255 * light).astype(np.uint8)
        pairs = zip(pixels, generators, strict=True)
        return np.stack([corrupted(image, own, *strength) for image, own in pairs]) / 255

    return of_images


def at_224(corrupted: OfImage) -> OfImage:
    """A corruption whose lengths are pixels of an image of 224 pixels, for images of any side."""

    @wraps(corrupted)
    def at_any_side(image: np.ndarray, generator: np.random.Generator, *strength) -> np.ndarray:
        side = len(image)
        found = corrupted(resized(image, SIDE), generator, *strength)
        return resized(found, side)

    return at_any_side


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """An image of another side, as preparation resizes."""
    if len(image) == side:
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


# --------------------------------------------------------------------------- digital


@at_224
def pixelate(image: np.ndarray, generator: np.random.Generator, factor: float) -> np.ndarray:
    """Reduced by a factor and enlarged again, by averages over boxes."""
    small = (int(SIDE * factor),) * 2
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize((SIDE, SIDE), Image.Resampling.BOX))


@at_224
def jpeg_compression(image: np.ndarray, generator: np.random.Generator, quality: int) -> np.ndarray:
    """A JPEG round trip at a quality of libjpeg's scale."""
    return jpeg_round_trip(image[None], quality)[0]


# --------------------------------------------------------------------------- blur


@at_224
def defocus_blur(
    image: np.ndarray, generator: np.random.Generator, radius: int, sigma: float
) -> np.ndarray:
    """The mean over a disc of whole pixels; mirrored at the edges.

    Args:
        sigma: of the disc's own blur over 3 × 3 pixels. At the published values, 0.01 and 0.1, a
            neighbour's weight is exp(-50) or less: the disc stays as it is.
    """
    from scipy.ndimage import correlate  # Lazy: as in `benchmark.data.corruptions`.

    if sigma > 0.1:
        raise UserError(f"defocus_blur: a sigma above 0.1 is not built: {sigma}")
    along = np.arange(-radius, radius + 1)
    disc = (along**2 + along[:, None] ** 2 <= radius**2).astype(float)
    blurred = correlate(image / 255, disc[..., None] / disc.sum(), mode="mirror")
    return cut(blurred)


@at_224
def motion_blur(
    image: np.ndarray, generator: np.random.Generator, radius: int, sigma: float
) -> np.ndarray:
    """Half a Gaussian along a random direction, one-sided, as ImageMagick defines motion blur.

    The weight of the point i pixels away is exp(-i² / 2 sigma²), i = 0 … 2 radius, of the nearest
    whole pixel; edges are repeated.
    """
    angle = np.deg2rad(generator.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights /= weights.sum()
    across, down = (
        np.ceil(steps * part - 0.5).astype(int) for part in (np.cos(angle), np.sin(angle))
    )
    place = np.arange(SIDE)
    blurred = np.zeros(image.shape)
    for weight, x, y in zip(weights, across, down, strict=True):
        rows, columns = (np.clip(place + shift, 0, SIDE - 1) for shift in (y, x))
        blurred += weight * image[rows[:, None], columns]
    return np.rint(blurred).astype(np.uint8)


# --------------------------------------------------------------------------- colour


def brightness(image: np.ndarray, generator: np.random.Generator, factor: float) -> np.ndarray:
    """Values times a factor."""
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(image)).enhance(factor))


def contrast(image: np.ndarray, generator: np.random.Generator, factor: float) -> np.ndarray:
    """Distance from the image's mean grey value, times a factor."""
    return np.asarray(ImageEnhance.Contrast(Image.fromarray(image)).enhance(factor))


def saturate(image: np.ndarray, generator: np.random.Generator, more: float) -> np.ndarray:
    """More saturation, of HSV at the same value and hue; a grey without hue becomes red."""
    light = image / 255
    value = light.max(axis=2, keepdims=True)
    # How far each channel stands below the highest, as a fraction of what it may.
    below = 1 - np.divide(light, value, out=np.ones_like(light), where=value > 0)
    saturation = below.max(axis=2, keepdims=True)
    red = np.array([0.0, 1.0, 1.0])
    hue = np.divide(below, saturation, out=np.broadcast_to(red, light.shape).copy(),
                    where=saturation > 0)  # fmt: skip
    return cut(value * (1 - hue * np.minimum(saturation + more, 1)))


def cut(light: np.ndarray) -> np.ndarray:
    """Light in eight bits as the original cuts it: down to the whole number below."""
    return (255 * light.clip(0, 1) + 1e-6).astype(np.uint8)


# --------------------------------------------------------------------------- the slide


@at_224
def stain_deposit(
    image: np.ndarray, generator: np.random.Generator, most: int, side: int
) -> np.ndarray:
    """One to `most` black deposits, each within a square of `side` pixels."""
    image = image.copy()
    for _ in range(generator.integers(1, most + 1)):
        deposit = blot(generator, side)
        left, top = generator.integers(MARGIN, SIDE - side - MARGIN + 1, 2)
        image[top : top + side, left : left + side][deposit] = 0
    return image


def blot(generator: np.random.Generator, side: int) -> np.ndarray:
    """The silhouette of a deposit: a disc with a wavy edge, bool [side, side]."""
    waves = np.arange(2, 7)
    height = 0.35 * generator.standard_normal(len(waves)) / waves
    phase = generator.uniform(0, 2 * np.pi, len(waves))
    place = np.arange(side) - (side - 1) / 2
    angle = np.arctan2(place[:, None], place)
    edge = 1 + (height * np.cos(waves * angle[..., None] + phase)).sum(axis=2)
    area = DEPOSIT_SHARE * side**2 * np.exp(0.15 * generator.standard_normal())
    radius = np.sqrt(area / np.pi) / np.sqrt(1 + (height**2).sum() / 2)
    return np.hypot(place[:, None], place) <= radius * edge


@at_224
def bubble(
    image: np.ndarray, generator: np.random.Generator, largest: int, most: int
) -> np.ndarray:
    """Seven to `most` pale discs with a paler rim, of a radius of up to `largest` pixels; a later
    one lies upon an earlier."""
    white = Image.new("L", (SIDE, SIDE), 0)
    brush = ImageDraw.Draw(white)
    for _ in range(generator.integers(FEWEST_BUBBLES, most + 1)):
        radius = int(generator.integers(SMALLEST_BUBBLE, largest + 1))
        x, y = (int(place) for place in generator.integers(radius, SIDE - radius + 1, 2))
        for reach, share in ((radius + RIM, WHITE_RIM), (radius, WHITE)):
            brush.ellipse((x - reach, y - reach, x + reach, y + reach), fill=round(255 * share))
    overlay = Image.new("RGB", (SIDE, SIDE), "white")
    return np.asarray(Image.composite(overlay, Image.fromarray(image), white))


MEDMNIST_C: dict[str, tuple[OfImage, tuple[tuple, ...]]] = {
    "pixelate": (pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": (jpeg_compression, ((50,), (30,), (15,), (10,), (7,))),
    "defocus_blur": (defocus_blur, ((2, 0.01), (3, 0.1), (4, 0.1), (5, 0.1), (6, 0.1))),
    "motion_blur": (motion_blur, ((3, 3), (5, 5), (10, 5), (10, 7), (10, 9))),
    "brightness_up": (brightness, ((1.1,), (1.2,), (1.3,), (1.35,), (1.4,))),
    "brightness_down": (brightness, ((0.9,), (0.8,), (0.7,), (0.6,), (0.5,))),
    "contrast_up": (contrast, ((1.1,), (1.15,), (1.2,), (1.25,), (1.3,))),
    "contrast_down": (contrast, ((0.9,), (0.8,), (0.7,), (0.6,), (0.5,))),
    "saturate": (saturate, ((0.05,), (0.10,), (0.15,), (0.17,), (0.20,))),
    # The side of the square is no published parameter, but that of the published silhouettes.
    "stain_deposit": (stain_deposit, ((1, 24), (2, 24), (3, 24), (3, 24), (3, 32))),
    "bubble": (bubble, ((5, 10), (7, 10), (10, 10), (12, 12), (15, 12))),
}
"""Published name → what it does, and its parameters at severities 1 to 5."""
