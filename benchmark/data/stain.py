"""Stain normalisation: images of any laboratory, as if stained like the source's training set.

`fit_stain(name, train)` looks at the source's training images and nothing else. What it returns
maps uint8 images [N, S, S, 3] to images of the same shape and says which of them could not be
fitted: these come back unchanged. It works on prepared images, after cropping and resizing. Smears
are Romanowsky-stained, and the methods were made for haematoxylin and eosin: count the failures.

Own code: torch-staintools is for non-commercial use only, torchstain takes one image at a time,
fails by exception and truncates. Its numpy Macenko and Reinhard differ from these by rounding only.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmark.errors import UserError, suggest
from benchmark.parallel import in_threads

Stained = tuple[np.ndarray, np.ndarray]
"""Images uint8 [N, S, S, 3] and whether the fit failed, bool [N]."""
Stain = Callable[[np.ndarray], Stained]

LIGHT = 240
"""Transmitted light I_0 of Macenko's method: the grey value of the empty slide."""
ALPHA, BETA = 1, 0.15
"""Percentile of the extreme angles; least optical density of a stained pixel."""
LEAST_STAINED = 0.01
"""Share of stained pixels below which an image has no stain to fit."""
LEAST_ANGLE = np.deg2rad(1.0)
"""Angle between the two stains below which they are one stain."""
CHUNK = 2**18
"""Pixels worked on at once by a thread: its arrays stay below ten megabytes each."""
LEAST_LIKENESS = 0.5
"""Correlation of optical density before and after, below which a picture is turned inside out."""
LEAST_SPREAD = 1e-3
"""Standard deviation in CIELAB below which a channel is flat: grey or blank images."""

LEAST_GREY_SPREAD = 1.0
"""Standard deviation in grey values below which a channel shows nothing."""
LIGHTEST, LEAST_LIGHT = 95, 64
"""Percentile of a channel that is taken for light between cells, and the least that is light."""
LUMA = np.array([0.299, 0.587, 0.114])

DENSITY = -np.log((np.arange(256) + 1) / LIGHT)
"""Optical density of each grey value, natural: OD = -ln((I + 1) / I_0)."""
_VALUE = np.arange(256) / 255
LINEAR = np.where(_VALUE > 0.04045, ((_VALUE + 0.055) / 1.055) ** 2.4, _VALUE / 12.92)
"""Linear light of each sRGB value."""
XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]],
)
"""CIE XYZ of the primaries of sRGB, as columns (IEC 61966-2-1)."""
WHITE = XYZ.sum(1)
"""CIE XYZ of D65, as sRGB has it."""


def fit_stain(name: str, train: np.ndarray) -> Stain:
    """Fit the normalisation called `name` on the source's training images, uint8 [N, S, S, 3].

    Raises:
        UserError: an unknown name; training images of which none can be fitted.
    """
    if name not in STAINS:
        raise UserError(f"unknown stain normalisation '{name}'{suggest(name, STAINS)}")
    return STAINS[name](train)


def by_chunks(function: Callable[..., tuple], pixels: np.ndarray, *others: Sequence) -> tuple:
    """Apply `function` to chunks of images in parallel (numpy frees the lock), join its results.

    Args:
        others: what else it takes of each image, in the images' order.
    """
    size = max(1, CHUNK // (pixels.shape[1] * pixels.shape[2]))
    parts = [slice(start, start + size) for start in range(0, len(pixels), size)]
    results = in_threads(lambda p: function(pixels[p], *(o[p] for o in others)), parts)
    return tuple(np.concatenate(values) for values in zip(*results, strict=True))


def unchanged(pixels: np.ndarray) -> Stained:
    """Every image as it is."""
    return pixels, np.zeros(len(pixels), bool)


def recompressed(pixels: np.ndarray) -> Stained:
    """A JPEG round trip at quality 95: all that the released code of le2026 does."""
    return jpeg_round_trip(pixels, 95), np.zeros(len(pixels), bool)


def jpeg_round_trip(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Images uint8 [N, S, S, 3] after a round trip through JPEG, chroma at half resolution."""

    def one(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling="4:2:0")
        return np.asarray(Image.open(buffer, formats=["JPEG"]))

    return np.stack(in_threads(one, pixels))


# --------------------------------------------------------------------------- Macenko


@dataclass(frozen=True)
class Macenko:
    """Macenko et al. 2009, as in le2026: I' = I_0 exp(-M_ref C max_ref / max).

    A fit counts as failed, beyond the published method, where it turns the picture inside out.
    Pixels with a density below `BETA` in any channel are left out of the fit, which is the empty
    slide in haematoxylin and eosin; in smears of blue nuclei it is the nuclei, which then come out
    as light as if they gave light.

    Attributes:
        matrix: optical density of one unit of each stain of the reference, [3, 2].
        maximum: 99th percentile of each stain's concentration in the reference, [2].
        image: row of the reference image among the training images.
    """

    matrix: tuple[tuple[float, float], ...]
    maximum: tuple[float, float]
    image: int

    def __call__(self, pixels: np.ndarray) -> Stained:
        return by_chunks(self._apply, pixels)

    def _apply(self, pixels: np.ndarray) -> Stained:
        matrix, maximum, failed = stains_of(pixels)
        unmix = np.linalg.pinv(matrix) * (np.array(self.maximum) / maximum)[:, :, None]
        before = DENSITY[pixels.reshape(len(pixels), -1, 3)]
        after = before @ (np.array(self.matrix) @ unmix).transpose(0, 2, 1)
        failed |= ~(correlation(before.sum(2), after.sum(2)) >= LEAST_LIKENESS)
        light = LIGHT * np.exp(-after)
        changed = np.rint(light.clip(0, 255)).astype(np.uint8).reshape(pixels.shape)
        changed[failed] = pixels[failed]
        return changed, failed


def fit_macenko(train: np.ndarray) -> Macenko:
    """Macenko: reference is the one training image whose stains are nearest to the median image's.

    The published code takes any image of the source; the most typical one needs no seed and is
    never a freak.
    """
    matrix, maximum, failed = by_chunks(stains_of, train)
    if failed.all():
        raise UserError("macenko: no training image shows two stains: use stain 'none'")
    facts = np.concatenate([matrix.reshape(-1, 6), np.log(maximum)], 1)
    middle, spread = np.median(facts[~failed], 0), facts[~failed].std(0) + 1e-9
    distance = (((facts - middle) / spread) ** 2).sum(1)
    image = int(np.where(failed, np.inf, distance).argmin())
    return Macenko(tuple(map(tuple, matrix[image].tolist())), tuple(maximum[image].tolist()), image)


def stains_of(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two stains of each image, by the extreme angles in the plane of the top eigenvectors.

    An eigenvector's sign is arbitrary: both are turned towards the mean of the stained pixels, so
    that angles do not wrap and the same image gives the same stains on every machine. First comes
    the stain that absorbs more red: haematoxylin in tissue, azure B in smears.

    Args:
        pixels: uint8 [N, S, S, 3].

    Returns:
        Stain matrix [N, 3, 2] of unit columns, 99th percentile of the concentrations [N, 2], and
        where there are no two stains to be found, bool [N] (values there are placeholders).
    """
    flat = pixels.reshape(len(pixels), -1, 3)
    density, stained = DENSITY[flat], (DENSITY >= BETA)[flat].all(2)
    count = stained.sum(1)
    failed = count < max(3, LEAST_STAINED * stained.shape[1])
    weight = (stained / np.maximum(count, 1)[:, None])[:, None]
    mean = (weight @ density)[:, 0]
    centred = (density - mean[:, None]) * stained[:, :, None]
    _, vectors = np.linalg.eigh(centred.transpose(0, 2, 1) @ centred)
    plane = vectors[:, :, :0:-1]
    plane = plane * np.where(mean[:, None] @ plane < 0, -1, 1)
    along = density @ plane
    angle = np.arctan2(along[:, :, 1], along[:, :, 0])
    extremes = masked_percentiles(angle, stained, (ALPHA, 100 - ALPHA))
    matrix = plane @ np.stack([np.cos(extremes), np.sin(extremes)], 1)
    swap = matrix[:, 0, 0] < matrix[:, 0, 1]
    matrix[swap] = matrix[swap][:, :, ::-1]
    failed |= ~(np.abs(extremes[:, 1] - extremes[:, 0]) > LEAST_ANGLE)
    matrix[failed] = np.eye(3)[:, :2]
    amount = density @ np.linalg.pinv(matrix).transpose(0, 2, 1)
    maximum = np.percentile(amount, 99, axis=1)
    failed |= (maximum <= 0).any(1)
    maximum[failed] = 1
    return matrix, maximum, failed


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of a and b, [N]; 0 where a row is constant."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return (a * b).sum(1) / np.maximum(np.sqrt((a**2).sum(1) * (b**2).sum(1)), 1e-12)


def masked_percentiles(
    values: np.ndarray, kept: np.ndarray, percentiles: tuple[float, ...]
) -> np.ndarray:
    """Percentiles [N, Q] of the kept values of each row, interpolated linearly as numpy does."""
    ordered = np.sort(np.where(kept, values, np.inf), axis=1)
    last = np.maximum(kept.sum(1) - 1, 0)[:, None]
    place = last * np.array(percentiles) / 100
    low = np.floor(place).astype(int)
    below = np.take_along_axis(ordered, low, 1)
    above = np.take_along_axis(ordered, np.minimum(low + 1, last), 1)
    with np.errstate(invalid="ignore"):
        return below + (place - low) * (above - below)


# --------------------------------------------------------------------------- Reinhard


@dataclass(frozen=True)
class Reinhard:
    """Reinhard et al. 2001: each channel's mean and spread become the reference's, in CIELAB.

    The paper works in lαβ; CIELAB is what the field's implementations (StainTools, torchstain) use.

    Attributes:
        mean, spread: of L*, a*, b* in the reference, [3].
    """

    mean: tuple[float, float, float]
    spread: tuple[float, float, float]

    def __call__(self, pixels: np.ndarray) -> Stained:
        return by_chunks(self._apply, pixels)

    def _apply(self, pixels: np.ndarray) -> Stained:
        lab = lab_of(pixels)
        mean, spread = lab.mean(axis=(1, 2)), lab.std(axis=(1, 2))
        failed = (spread < LEAST_SPREAD).any(1)
        gain = np.array(self.spread) / np.maximum(spread, LEAST_SPREAD)
        changed = rgb_of((lab - mean[:, None, None]) * gain[:, None, None] + np.array(self.mean))
        changed[failed] = pixels[failed]
        return changed, failed


def fit_reinhard(train: np.ndarray) -> Reinhard:
    """Reinhard: the median, over training images, of each channel's mean and of its spread."""

    def moments(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lab = lab_of(pixels)
        return lab.mean(axis=(1, 2)), lab.std(axis=(1, 2))

    mean, spread = (np.median(values, 0).tolist() for values in by_chunks(moments, train))
    return Reinhard(tuple(mean), tuple(spread))


def lab_of(pixels: np.ndarray) -> np.ndarray:
    """sRGB uint8 [..., 3] → CIELAB float64 under D65 (IEC 61966-2-1, CIE 15)."""
    xyz = LINEAR[pixels] @ (XYZ / WHITE[:, None]).T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def rgb_of(lab: np.ndarray) -> np.ndarray:
    """CIELAB [..., 3] → sRGB uint8; colours outside the gamut are clipped."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2)
    linear = (xyz @ np.linalg.inv(XYZ / WHITE[:, None]).T).clip(0, 1)
    value = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return np.rint(255 * value).astype(np.uint8)


# --------------------------------------------------------------------------- image by image


@dataclass(frozen=True)
class ImageMoments:
    """Mean and spread of R, G and B of each image become the reference's: what a network sees is
    then standardised image by image, whatever lamp, stain and camera made it.

    Attributes:
        mean, spread: of the grey values in the reference, [3].
    """

    mean: tuple[float, float, float]
    spread: tuple[float, float, float]

    def __call__(self, pixels: np.ndarray) -> Stained:
        return by_chunks(self._apply, pixels)

    def _apply(self, pixels: np.ndarray) -> Stained:
        mean, spread = pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))
        failed = (spread < LEAST_GREY_SPREAD).any(1)
        gain = np.array(self.spread) / np.maximum(spread, LEAST_GREY_SPREAD)
        changed = (pixels - mean[:, None, None]) * gain[:, None, None] + np.array(self.mean)
        changed = np.rint(changed.clip(0, 255)).astype(np.uint8)
        changed[failed] = pixels[failed]
        return changed, failed


def fit_image_moments(train: np.ndarray) -> ImageMoments:
    """The mean, over training images, of each channel's mean and of its spread."""
    moments = train.mean(axis=(1, 2)), train.std(axis=(1, 2))
    mean, spread = (values.mean(0).tolist() for values in moments)
    return ImageMoments(tuple(mean), tuple(spread))


class Moments(NamedTuple):
    """Mean and standard deviation of R, G and B over every pixel of a set of images.

    Attributes:
        mean, spread: in grey values, float64 [3].
    """

    mean: np.ndarray
    spread: np.ndarray


def moments_of(pixels: np.ndarray) -> Moments:
    """The six numbers of images uint8 [N, S, S, 3], from the counts of each grey value: the same
    whatever the order of the images."""
    values = np.arange(256.0)
    counts = np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)])
    mean = counts @ values / counts.sum(1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    return Moments(mean, np.sqrt(variance))


def matched(pixels: np.ndarray, moments: Moments, own: Moments | None = None) -> np.ndarray:
    """Images uint8 [N, S, S, 3] whose six numbers, taken over all of them, become others'.

    One gain and one shift per channel for the whole set, so that its images go on differing from
    each other as they did. What leaves the grey values is clipped; a set of which a channel shows
    nothing stays as it is.

    Args:
        own: the six numbers of other images of the same laboratory, which become `moments` instead.
    """
    own = moments_of(pixels) if own is None else own
    if (own.spread < LEAST_GREY_SPREAD).any():
        return pixels
    values = np.arange(256.0)[:, None]
    changed = (values - own.mean) * (moments.spread / own.spread) + moments.mean
    table = np.rint(changed.clip(0, 255)).astype(np.uint8)
    return np.stack([table[pixels[..., c], c] for c in range(3)], axis=-1)


class Standardised:
    """Channels of each image at zero mean and unit deviation, as the network's input.

    The images stay as they are: the network's input is standardised after the augmentation, when
    grey values are clipped no more, and in place of the mean and spread that its weights expect.
    `image_moments` comes before the augmentation, whose lamps and stains the network then sees.
    """

    standardises_input = True

    def __init__(self, train: np.ndarray) -> None:
        """Nothing is taken from the source."""

    def __call__(self, pixels: np.ndarray) -> Stained:
        return unchanged(pixels)


def white_background(pixels: np.ndarray) -> Stained:
    """The light between cells made white: its optical density is taken off each channel.

    Light is the `LIGHTEST` percentile of a channel; an image without any, or dark, is left alone.
    """

    def apply(some: np.ndarray) -> Stained:
        light = np.percentile(some, LIGHTEST, axis=(1, 2))
        failed = (light < LEAST_LIGHT).any(1)
        scaled = some * (255 / np.maximum(light, LEAST_LIGHT))[:, None, None]
        changed = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        changed[failed] = some[failed]
        return changed, failed

    return by_chunks(apply, pixels)


def grey(pixels: np.ndarray) -> Stained:
    """Luma (ITU-R BT.601) in all three channels: what is left without colour."""
    luma = np.rint(pixels @ LUMA).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=3), np.zeros(len(pixels), bool)


def unfitted(stain: Stain) -> Callable[[np.ndarray], Stain]:
    """What takes training images and fits nothing to them; it says of itself what `stain` says."""

    def fit(train: np.ndarray) -> Stain:
        return stain

    fit.__doc__ = stain.__doc__
    return fit


STAINS: dict[str, Callable[[np.ndarray], Stain]] = {
    "none": unfitted(unchanged),
    "jpeg95": unfitted(recompressed),
    "macenko": fit_macenko,
    "reinhard": fit_reinhard,
    "image_moments": fit_image_moments,
    "standardised": Standardised,
    "white_background": unfitted(white_background),
    "grey": unfitted(grey),
}
FITTED: dict[str, Callable[..., Stain]] = {
    "macenko": Macenko,
    "reinhard": Reinhard,
    "image_moments": ImageMoments,
}
"""Those that are fitted → what is made of their numbers."""


def fitted_numbers(stain: Stain) -> dict[str, Any]:
    """What a normalisation was fitted to, for a JSON file; empty where nothing is fitted."""
    return asdict(stain) if is_dataclass(stain) else {}


def restored_stain(name: str, numbers: Mapping[str, Any]) -> Stain:
    """A normalisation by name and the numbers it was fitted to, without the training images.

    Raises:
        UserError: an unknown name, or numbers of another normalisation.
    """
    if name not in STAINS:
        raise UserError(f"unknown stain normalisation '{name}'{suggest(name, STAINS)}")
    if name not in FITTED:
        return STAINS[name](np.empty((0, 1, 1, 3), np.uint8))
    try:
        return FITTED[name](**numbers)
    except TypeError:
        raise UserError(
            f"stain normalisation '{name}': {dict(numbers)} are not its numbers"
        ) from None
