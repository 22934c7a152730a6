"""Decode every image of a profile once into uint8 arrays, with the table that names their rows.

`datasets/raw/` → `datasets/cache/<profile>/{<domain>.npy, manifest.parquet}`; the digests of the
arrays, which are part of every run's fingerprint, go to `results/<profile>/data.json`. Cells of no
class of the label space lie apart, as `<domain>.open_set`; other framings of the same cells, in the
same order, as `<domain>@<framing>`.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.config import Profile
from benchmark.data.arrays import (
    OPEN_SET_SUFFIX,
    array_path,
    cache_folder,
    open_set_of,
    table_path,
)
from benchmark.data.card import Domain
from benchmark.data.cards import Card, card_of, domain_images, open_set_images
from benchmark.data.crop import Crop, crop_box, crop_facts, crop_fraction, scaled
from benchmark.data.image_files import Unreadable, bits_of_set, image_file, read_image
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, digest, read_json, sha256_file, write_json
from benchmark.progress import say, track

DECODER = "Pillow, draft scale ≥ 2 × target, centre crop, Lanczos; version 1"
"""Named in every array's digest: another decoder or resizer is another protocol."""
READER = 2
"""Version of what image files are taken for: arrays made by another one are made again. Only an
array whose pixels it moved gets another digest."""
SMALLEST_SIDE = 16
"""Pixels below which an image is refused: no cell can be seen in it."""


def decode(path: Path, crop: Crop, size: int) -> np.ndarray:
    """Read one image as uint8 [size, size, 3]: the square that `crop` keeps, resized.

    JPEGs are decoded at the smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that keeps at least
    twice the target's resolution; the rest is an antialiased Lanczos resize.

    Raises:
        UserError: missing, truncated, not an image, or too small to show a cell.
    """
    return decode_and_tell(path, crop, size)[0]


def decode_and_tell(path: Path, crop: Crop, size: int, bits: int = 0) -> tuple[np.ndarray, str]:
    """As `decode`, and what had to be converted to 8-bit RGB, in words, if anything.

    Args:
        bits: of the values of a 16-bit file, where the whole set tells it.
    """

    def least(whole: tuple[int, int]) -> int:
        if min(whole) < SMALLEST_SIDE:
            raise Unreadable(f"is {whole[0]} x {whole[1]} px, too small to show a cell")
        return int(np.ceil(2 * size / crop_fraction(crop, whole)))

    try:
        with image_file(path) as file:
            picture = read_image(file, least, bits)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `wbc-shift fetch`") from None
    except Unreadable as why:
        raise UserError(f"{path} {why}: delete it and run `wbc-shift fetch`") from None
    box = crop_box(picture.image, crop, crop_fraction(crop, picture.size))
    square = picture.image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(square), picture.conversion


def prepare(root: Path, profile_name: str, profile: Profile, cards: dict[str, Card]) -> None:
    """Decode the profile's domains; a domain whose images and settings are unchanged is kept.

    Raises:
        UserError: the first missing or damaged image, with how many more there are.
    """
    datasets = root / "datasets"
    cache = cache_folder(root, profile_name)
    tables: list[pd.DataFrame] = []
    facts: dict[str | None, dict[str, dict[str, Any]]] = {
        framing: {} for framing in (None, *profile.framings)
    }
    for domain in profile.domains:
        card = card_of(cards, domain)
        asked = datasets, card, domain, profile.label_space, profile.subset
        images = domain_images(*asked)
        tables.append(rows_of(domain, images))
        cells = open_set_images(*asked).rename(columns={"open_set": "class_name"})
        if len(cells):
            tables.append(rows_of(open_set_of(domain), cells))
        for framing, own in facts.items():
            how = shown(profile, card.domains[domain], framing)
            make = partial(make_array, datasets, cache, card, how, pd.concat([images, cells]))
            own[domain] = make(domain, images)
            if len(cells):
                own[domain]["open_set"] = make(open_set_of(domain), cells)
    rows = pd.concat(tables, ignore_index=True)
    names = rows["domain"].unique()
    remove_unknown(cache, [array_path(cache, *both) for both in product(names, facts)])
    with atomic(table_path(cache)) as temporary:
        rows.to_parquet(temporary, index=False)
    framings = {
        name: framing.model_dump() | {"domains": facts[name]}
        for name, framing in profile.framings.items()
    }
    write_json(
        root / "results" / profile_name / "data.json",
        {
            "schema_version": 1,
            "subset": profile.subset,
            "image_size": profile.image_size,
            "label_space": profile.label_space,
            "decoder": DECODER,
            "domains": facts.pop(None),
            **({"framings": framings} if framings else {}),
        },
    )


class Shown(NamedTuple):
    """How a domain's cells are shown."""

    framing: str | None
    image_size: int
    crop: Crop


def shown(profile: Profile, domain: Domain, framing: str | None) -> Shown:
    """How the cells of a domain are shown in a framing, or without one as the profile does."""
    crop = domain.crop_for(profile.label_space)
    factor = profile.framings[framing].crop if framing else 1.0
    return Shown(framing, profile.size_of(framing), scaled(crop, factor))


def make_array(
    datasets: Path,
    cache: Path,
    card: Card,
    how: Shown,
    whole: pd.DataFrame,
    name: str,
    images: pd.DataFrame,
) -> dict[str, Any]:
    """Decode images into an array, or keep the one that was made of the same.

    Args:
        whole: path and sha256 of every image of the domain, which together tell how many bits the
            values of 16-bit files have.
        name: of the domain, or of its cells of no class.
        images: path, sha256, group and class_name of each.

    Returns:
        What data.json says of the array.
    """
    domain = card.domains[name.removesuffix(OPEN_SET_SUFFIX)]
    key = digest(
        [
            DECODER,
            how.image_size,
            crop_facts(how.crop),
            images[["path", "sha256", "class_name"]].to_numpy().tolist(),
            domain.model_dump(mode="json")["acquisition"],
        ]
    )
    array = array_path(cache, name, how.framing)
    receipt = array.with_suffix(".json")
    known = read_json(receipt) if is_receipt(receipt) else {}
    made = {"key": key, "reader": READER, "whole": digest(sorted(whole["sha256"]))}
    unchanged = made.items() <= known.items() and array.exists()
    if unchanged and known["sha256"] == sha256_file(array):
        say(f"prepare {array.stem}: {len(images)} images, unchanged")
    else:
        raw = datasets / "raw" / card.folder
        paths = [raw / path for path in images["path"]]
        bits = bits_of_set([raw / path for path in whole["path"]])
        pixels = decode_all(paths, how.crop, how.image_size, array.stem, bits)
        with atomic(array) as temporary, temporary.open("wb") as file:
            np.save(file, pixels)
        known = made | {"sha256": sha256_file(array)}
        write_json(receipt, known)
    both = known["sha256"] + digest(rows_of(name, images).to_numpy().tolist())
    return {
        "dataset": card.name,
        "images": len(images),
        "classes": images["class_name"].value_counts().sort_index().to_dict(),
        "crop": crop_facts(how.crop),
        "digest": hashlib.sha256(both.encode()).hexdigest()[:16],
    }


def rows_of(name: str, images: pd.DataFrame) -> pd.DataFrame:
    """Which image stands in which row of a domain's arrays."""
    return pd.DataFrame(
        {
            "domain": name,
            "row": np.arange(len(images)),
            "image": images["path"],
            "group": images["group"],
            "class_name": images["class_name"],
        }
    )


def decode_all(
    paths: list[Path], crop: Crop, size: int, domain: str, bits: int | None = None
) -> np.ndarray:
    """Decode images in parallel (Pillow frees the interpreter lock): uint8 [N, size, size, 3].

    What had to be converted is said once.

    Args:
        bits: of the values of 16-bit files, 0 if there are none; by default, what the highest of
            these images needs.
    """
    bits = bits_of_set(paths) if bits is None else bits
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    faults: list[str] = []
    conversions: list[str] = []

    def one(row: int) -> None:
        try:
            pixels[row], conversion = decode_and_tell(paths[row], crop, size, bits)
        except UserError as fault:
            faults.append(str(fault))
        else:
            if conversion:
                conversions.append(conversion)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in track(pool.map(one, range(len(paths))), f"prepare {domain}", len(paths)):
            pass
    if faults:
        more = f" ({len(faults)} such images in {domain})" if len(faults) > 1 else ""
        raise UserError(f"{domain}: {min(faults)}{more}")
    if conversions:
        kinds = [f"{number} {kind}" for kind, number in sorted(Counter(conversions).items())]
        say(f"prepare {domain}: converted to 8-bit RGB: {'; '.join(kinds)}")
    return pixels


def remove_unknown(cache: Path, arrays: list[Path]) -> None:
    """Delete arrays that the profile no longer has, each with the receipt that `make_array` wrote:
    a file without one is not of this command and stays.
    """
    for receipt in cache.glob("*.json"):
        array = receipt.with_suffix(".npy")
        if array in arrays or not is_receipt(receipt):
            continue
        try:
            array.unlink(missing_ok=True)
            receipt.unlink()
        except OSError as error:
            raise cannot_write(array, error) from error


def is_receipt(path: Path) -> bool:
    """Whether a file is the receipt of an array."""
    try:
        known = read_json(path)
    except UserError:
        return False
    return isinstance(known, dict) and {"key", "sha256"} <= set(known)
