"""Phantoms: drawn blood cells, so that the pipeline runs without a download and the shift is known.

A specimen (`benchmark.phantom.specimen`) and an `Acquisition` make an image: light through two
stains by Beer and Lambert, I = I0 * exp(-(azure * od_azure + eosin * od_eosin)) per RGB channel,
then optics, sensor, camera. The same seed is the same cell under every acquisition. Knobs and
pictures:
docs/phantom.md.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from pydantic import Field

from benchmark.errors import UserError, suggest
from benchmark.files import atomic, digest
from benchmark.parallel import in_processes
from benchmark.phantom.specimen import SIZE, SUPERSAMPLING, Specimen, specimen
from benchmark.schema import Strict

VERSION = 1
"""Raise it when, here or in `specimen`, the same seed and acquisition give other pixels."""
EXPOSURE = 0.93
"""Brightness of the empty slide in the reference, as a fraction of full scale."""
OD_AZURE = np.array([0.86, 0.74, 0.17])
OD_EOSIN = np.array([0.06, 0.68, 0.66])
"""Optical density (natural) of one unit of stain in R, G, B. Nuclei bind both dyes: purple."""


Gain = Annotated[float, Field(ge=0.4, le=1.6)]


class Acquisition(Strict):
    """How a slide was stained and photographed. The defaults are the reference (phantom-a)."""

    azure_strength: float = Field(1.0, ge=0, le=3)
    """Azure B (blue; nuclei, basophilic cytoplasm), × reference."""
    eosin_strength: float = Field(1.0, ge=0, le=3)
    """Eosin Y (orange-pink; red cells, eosinophil granules), × reference."""
    ph_shift: float = Field(0.0, ge=-1, le=1)
    """Buffer pH minus the reference: azure × 2^shift, eosin × 2^-shift (alkaline is bluer)."""
    stain_rotation_deg: float = Field(0.0, ge=-45, le=45)
    """Rotation of both stains' optical densities about the grey axis of RGB, degrees."""
    white_balance: tuple[Gain, Gain, Gain] = (1.0, 1.0, 1.0)
    """Gain of the light in R, G, B, × reference."""
    gamma: float = Field(1.0, ge=0.4, le=2.5)
    """Camera curve: value = light^gamma; above 1 darkens the middle tones."""
    contrast: float = Field(1.0, ge=0.3, le=2)
    """Gain about middle grey."""
    saturation: float = Field(1.0, ge=0, le=2)
    """Gain of colour about its own grey: 0 is a grey image."""
    pixel_size_um: float = Field(0.25, ge=0.1, le=0.5)
    """Side of a pixel on the slide, µm: larger means a smaller cell in a wider field."""
    blur_um: float = Field(0.2, ge=0, le=3)
    """Standard deviation of the optical blur, µm."""
    noise_sd: float = Field(0.015, ge=0, le=0.3)
    """Standard deviation of the sensor's noise, fraction of full scale."""
    uneven: float = Field(0.0, ge=0, le=0.8)
    """Fall of the light from one edge of the field to the other, fraction of its mean."""
    jpeg_quality: int | None = Field(None, ge=5, le=100)
    """Quality of a JPEG round trip before the image is stored as PNG; null: none."""


# ------------------------------------------------------------------------------- image


def optical_densities(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray]:
    """Optical density [3] of one unit of azure and of eosin, as this acquisition stains them: both
    vectors turned about the grey axis by Rodrigues' formula, none below zero."""
    angle, grey = np.deg2rad(acquisition.stain_rotation_deg), np.ones(3) / np.sqrt(3)
    strengths = (
        acquisition.azure_strength * 2**acquisition.ph_shift,
        acquisition.eosin_strength * 2**-acquisition.ph_shift,
    )
    turned = []
    for vector, strength in zip((OD_AZURE, OD_EOSIN), strengths, strict=True):
        along = grey * (grey @ vector) * (1 - np.cos(angle))
        turn = vector * np.cos(angle) + np.cross(grey, vector) * np.sin(angle) + along
        turned.append(np.maximum(turn, 0) * strength)
    return turned[0], turned[1]


def through_optics(passed: np.ndarray, blur: float) -> np.ndarray:
    """Blur by a Gaussian (sd in specimen points), then mean over each pixel: [n, n] → [size, size].

    Axis by axis, so that the second axis is blurred on half the rows only.
    """
    # Lazy: the cards import this module, so that every command does; few of them draw.
    from scipy.ndimage import gaussian_filter1d

    for _ in range(2):
        passed = gaussian_filter1d(passed, blur, axis=0, mode="nearest") if blur else passed
        parts = (passed[start::SUPERSAMPLING] for start in range(SUPERSAMPLING))
        passed = (sum(parts) / SUPERSAMPLING).T
    return passed


def photograph(slide: Specimen, acquisition: Acquisition, seed: int) -> np.ndarray:
    """Specimen → image uint8 [size, size, 3].

    In the order of the light: lamp (white balance, unevenness), two stains (Beer and Lambert),
    optics, sensor noise, camera (saturation, contrast, gamma), eight bits, JPEG. The seed gives
    the noise and the direction of the unevenness.
    """
    rng = np.random.default_rng([seed, 1])
    size = len(slide.azure) // SUPERSAMPLING
    azure, eosin = optical_densities(acquisition)
    blur = acquisition.blur_um / acquisition.pixel_size_um * SUPERSAMPLING
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.linspace(-0.5, 0.5, size)
    ramp = ramp[None, :] * np.cos(angle) + ramp[:, None] * np.sin(angle)
    lamp = EXPOSURE * (1 + acquisition.uneven * ramp)
    light = np.empty((size, size, 3))
    for channel, gain in enumerate(acquisition.white_balance):
        passed = np.exp(-(azure[channel] * slide.azure + eosin[channel] * slide.eosin))
        light[..., channel] = gain * lamp * through_optics(passed, blur)
    light += acquisition.noise_sd * rng.standard_normal(light.shape)
    if acquisition.saturation != 1:
        grey = light.mean(2, keepdims=True)
        light = grey + acquisition.saturation * (light - grey)
    light = np.clip(0.5 + acquisition.contrast * (light - 0.5), 0, 1)
    if acquisition.gamma != 1:
        light = light**acquisition.gamma
    image = np.rint(255 * light).astype(np.uint8)
    if acquisition.jpeg_quality is not None:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=acquisition.jpeg_quality)
        image = np.asarray(Image.open(buffer, formats=["JPEG"]))
    return image


def draw(cell_type: str, acquisition: Acquisition, seed: int, size: int = SIZE) -> np.ndarray:
    """One phantom, uint8 [size, size, 3]; the field is size * pixel_size_um wide.

    The same `cell_type` and `seed` is the same cell under every acquisition, on every machine:
    all arithmetic is in double precision, where rounding differences do not reach eight bits.

    Raises:
        UserError: unknown `cell_type`.
    """
    slide = specimen(cell_type, seed, size, acquisition.pixel_size_um)
    return photograph(slide, acquisition, seed)


# ------------------------------------------------------------------------------- files


def seed_of(text: str) -> int:
    """Seed of an image from its path, or of a slide from its group: 63 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class DoseScale(NamedTuple):
    """A knob as the axis of a figure: how a level is read, and that of the reference."""

    label: str
    reference: float


DOSES = {
    "ph_shift": DoseScale("stain: buffer above reference (pH)", 0.0),
    "white_balance": DoseScale("scanner colour: gain of blue light", 1.0),
    "blur_um": DoseScale("focus: SD of the blur (µm)", 0.2),
    "noise_sd": DoseScale("noise: SD (fraction of full scale)", 0.015),
    "uneven": DoseScale("light: fall across the field (fraction)", 0.0),
}
"""Knobs of `datasets/phantom-dose.yaml`; a white balance is its gain of blue, the others at 1."""


def dose_of(acquisition: Acquisition) -> tuple[str, float] | None:
    """The only knob that is not at its reference, and its value; `none` where all are.

    None where several are changed, or one that has no scale.
    """
    changed = acquisition.model_dump(exclude_defaults=True)
    if not changed:
        return "none", 0.0
    knob, value = next(iter(changed.items()))
    if len(changed) > 1 or knob not in DOSES:
        return None
    if knob != "white_balance":
        return knob, value
    return (knob, value[2]) if tuple(value[:2]) == (1, 1) else None


def limits(knob: str) -> tuple[float, float]:
    """Lowest and highest value of a number knob of `Acquisition`."""
    metadata = Acquisition.model_fields[knob].metadata
    bounds = {side: getattr(m, side) for m in metadata for side in ("ge", "le") if hasattr(m, side)}
    return bounds["ge"], bounds["le"]


def slide_acquisition(acquisition: Acquisition, group: str) -> Acquisition:
    """A slide's own small departure from its domain: stain strengths, buffer and lamp."""
    rng = np.random.default_rng(seed_of(group))
    draws = rng.standard_normal(6)
    values = {
        "azure_strength": acquisition.azure_strength * np.exp(0.1 * draws[0]),
        "eosin_strength": acquisition.eosin_strength * np.exp(0.1 * draws[1]),
        "ph_shift": acquisition.ph_shift + 0.07 * draws[2],
    }
    values = {knob: float(np.clip(value, *limits(knob))) for knob, value in values.items()}
    gains = np.array(acquisition.white_balance) * np.exp(0.02 * draws[3:])
    values["white_balance"] = tuple(np.clip(gains, 0.4, 1.6).tolist())
    return acquisition.model_copy(update=values)


def draw_images(rows: pd.DataFrame, acquisitions: Mapping[str, Acquisition], folder: Path) -> int:
    """Draw the images of a manifest that `folder` lacks, as PNG; return how many.

    An image is redrawn when its recipe (label, slide's acquisition, size, `VERSION`), kept in the
    file, is another.

    Args:
        rows: columns path, label, group, acquisition, width; and cell, where several images are of
            one cell: those of one name differ in the acquisition alone.
        acquisitions: value of the column `acquisition` → how it looks.

    Raises:
        UserError: a missing column, an acquisition without knobs, an unknown cell type, a folder
            that cannot be written.
    """
    columns = ["path", "label", "group", "acquisition", "width"]
    for column in columns:
        if column not in rows:
            raise UserError(f"{folder}: the phantom manifest has no column '{column}': add it")
    missing = sorted(set(rows["acquisition"]) - set(acquisitions))
    if missing:
        near = suggest(missing[0], acquisitions)
        raise UserError(f"{folder}: no knobs for the manifest's acquisition '{missing[0]}'{near}")
    jobs = []
    cells = rows["cell"] if "cell" in rows else rows["path"]
    for cell, row in zip(cells, rows[columns].itertuples(index=False), strict=True):
        path, label, group, name, width = row
        acquisition = slide_acquisition(acquisitions[name], group)
        knobs = acquisition.model_dump(mode="json")
        of = {"cell": cell} if cell != path else {}
        recipe = digest({"version": VERSION, "label": label, "size": int(width), **of, **knobs})
        if recipe_of(Path(folder) / path) != recipe:
            job = Path(folder), path, cell, label, acquisition, int(width), recipe
            jobs.append(partial(draw_file, *job))
    in_processes(jobs, "drawing phantoms")
    return len(jobs)


def draw_file(
    folder: Path, path: str, cell: str, label: str, acquisition: Acquisition, size: int, recipe: str
) -> None:
    """Draw one image to folder/path; its seed is the cell's name's."""
    image = Image.fromarray(draw(label, acquisition, seed_of(cell), size))
    note = PngImagePlugin.PngInfo()
    note.add_text("phantom", recipe)
    with atomic(folder / path) as temporary:
        image.save(temporary, "PNG", pnginfo=note)


def recipe_of(path: Path) -> str | None:
    """The recipe kept in a drawn image; None where there is no such image."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("phantom")
    except (FileNotFoundError, UnidentifiedImageError):
        return None
