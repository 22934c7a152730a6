"""Decode every image of a profile once into uint8 arrays, with the table that names their rows.

`datasets/raw/` → `datasets/cache/<profile>/{<domain>.npy, manifest.parquet}`; the digests of the
arrays, which are part of every run's fingerprint, go to `results/<profile>/data.json`. Cells of no
class of the label space lie apart, as `<domain>.open_set`; other framings of the same cells, in the
same order, as `<domain>@<framing>`. Where a cell must be found in its field, `fields.parquet` says
where it was; a field without one is left out, and named.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
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
    data_digest,
    facts_path,
    fields_path,
    open_set_of,
    table_path,
)
from benchmark.data.card import Domain
from benchmark.data.cards import Card, card_of, domain_images, open_set_images
from benchmark.data.cell_finder import LEAST_CONTRAST, Found, find_cell
from benchmark.data.crop import AroundCell, Crop, crop_box, crop_facts, crop_fraction, scaled
from benchmark.data.image_files import Picture, Unreadable, bits_of_set, image_file, read_image
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


class UnusableImage(UserError):
    """An image is missing, damaged, or too small to show a cell."""


def decode(path: Path, crop: Crop, size: int) -> np.ndarray:
    """Read one image as uint8 [size, size, 3]: the square that `crop` keeps, resized.

    JPEGs are decoded at the smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that keeps at least
    twice the target's resolution; the rest is an antialiased Lanczos resize.

    Raises:
        UnusableImage: missing, truncated, not an image, or too small to show a cell.
    """
    return decode_and_tell(path, crop, size)[0]


def decode_and_tell(path: Path, crop: Crop, size: int, bits: int = 0) -> tuple[np.ndarray, str]:
    """As `decode`, and what had to be converted to 8-bit RGB, in words, if anything.

    Args:
        bits: of the values of a 16-bit file, where the whole set tells it.
    """
    if isinstance(crop, AroundCell):
        picture = opened(path, max, bits)
        centre = find_cell(picture.image, crop.cell_diameter).centre
    else:
        picture = opened(
            path, lambda whole: int(np.ceil(2 * size / crop_fraction(crop, whole))), bits
        )
        centre = None
    image = picture.image
    box = crop_box(image.size, crop_fraction(crop, picture.size), centre)
    square = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(square), picture.conversion


def opened(path: Path, needed: Callable[[tuple[int, int]], int], bits: int) -> Picture:
    """An image file that shows a cell; else an `UnusableImage` that says what is wrong with it.

    Args:
        needed: from (width, height) to the side in pixels that is needed; `max`, all there are.
        bits: as in `decode_and_tell`.
    """

    def least(whole: tuple[int, int]) -> int:
        if min(whole) < SMALLEST_SIDE:
            raise Unreadable(f"is {whole[0]} x {whole[1]} px, too small to show a cell")
        return needed(whole)

    try:
        with image_file(path) as file:
            return read_image(file, least, bits)
    except FileNotFoundError:
        raise UnusableImage(f"{path} is missing") from None
    except Unreadable as why:
        raise UnusableImage(f"{path} {why}") from None


def prepare(root: Path, profile_name: str, profile: Profile, cards: dict[str, Card]) -> None:
    """Decode the profile's domains; a domain whose images and settings are unchanged is kept.

    Raises:
        UserError: the first missing or damaged image, with how many more there are.
    """
    try:
        decode_domains(root, profile_name, profile, cards)
    except UnusableImage as fault:
        raise UserError(f"{fault}: run `wbc-shift fetch -p {profile_name}`") from None


def decode_domains(root: Path, profile_name: str, profile: Profile, cards: dict[str, Card]) -> None:
    """The work of `prepare`."""
    datasets = root / "datasets"
    cache = cache_folder(root, profile_name)
    tables: list[pd.DataFrame] = []
    facts: dict[str | None, dict[str, dict[str, Any]]] = {
        framing: {} for framing in (None, *profile.framings)
    }
    searched: list[pd.DataFrame] = []
    for domain in profile.domains:
        card = card_of(cards, domain)
        asked = datasets, card, domain, profile.label_space, profile.subset
        sets = {domain: domain_images(*asked)}
        cells = open_set_images(*asked).rename(columns={"open_set": "class_name"})
        if len(cells):
            sets[open_set_of(domain)] = cells
        whole = pd.concat(sets.values())
        crop = card.domains[domain].crop_for(profile.label_space)
        fields = {}
        if isinstance(crop, AroundCell):
            look = partial(search, datasets, card, crop, whole)
            fields = {name: look(name, images) for name, images in sets.items()}
            sets = {name: sets[name][fields[name]["found"].to_numpy()] for name in sets}
            searched += fields.values()
        tables += [rows_of(name, images) for name, images in sets.items()]
        for framing, own in facts.items():
            how = shown(profile, card.domains[domain], framing)
            make = partial(make_array, datasets, cache, card, how, whole)
            made = {name: make(name, images) for name, images in sets.items()}
            for name, table in fields.items():
                made[name]["fields"] = field_facts(table)
            own[domain], *foreign = made.values()
            if foreign:
                own[domain]["open_set"] = foreign[0]
    rows = pd.concat(tables, ignore_index=True)
    names = rows["domain"].unique()
    fields_path(cache).unlink(missing_ok=True)
    if searched:
        with atomic(fields_path(cache)) as temporary:
            pd.concat(searched, ignore_index=True).to_parquet(temporary, index=False)
    remove_unknown(cache, [array_path(cache, *both) for both in product(names, facts)])
    with atomic(table_path(cache)) as temporary:
        rows.to_parquet(temporary, index=False)
    framings = {
        name: framing.model_dump() | {"domains": facts[name]}
        for name, framing in profile.framings.items()
    }
    write_json(
        facts_path(root, profile_name),
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


def search(
    datasets: Path,
    card: Card,
    crop: AroundCell,
    whole: pd.DataFrame,
    name: str,
    images: pd.DataFrame,
) -> pd.DataFrame:
    """Look for the white cell of every field, and say which fields have none.

    Args:
        whole: path of every image of the domain, as in `make_array`.

    Returns:
        domain, image, x and y in pixels of the field, contrast, and found, in the images' order.

    Raises:
        UnusableImage: a missing or damaged image.
        UserError: no cell in any field.
    """
    raw = datasets / "raw" / card.folder
    bits = bits_of_set([raw / path for path in whole["path"]])

    def one(path: Path) -> Found:
        return find_cell(opened(path, max, bits).image, crop.cell_diameter)

    paths = [raw / path for path in images["path"]]
    cells = each(one, paths, f"finding cells of {name}", name)
    table = pd.DataFrame(cells, columns=Found._fields)
    table.insert(0, "domain", name)
    table.insert(1, "image", images["path"].to_numpy())
    table["found"] = [cell.is_cell for cell in cells]
    missed = table[~table["found"]].sort_values("contrast")
    if len(missed) == len(table):
        raise UserError(
            f"{name}: no white cell in any of {len(table)} fields: check crop.cell_diameter "
            f"({crop.cell_diameter} px) in datasets/{card.name}.yaml"
        )
    if len(missed):
        named = ", ".join(missed["image"][:5]) + (", …" if len(missed) > 5 else "")
        say(
            f"note: prepare {name}: no cell stands out in {len(missed)} of {len(table)} fields, "
            f"which are left out: {named}"
        )
    least = table[table["found"]].sort_values("contrast")[:3]
    named = ", ".join(f"{row.image} ({row.contrast:.1f})" for row in least.itertuples())
    say(f"prepare {name}: cells found least surely: {named}; `wbc-shift domain cards` shows them")
    return table


def field_facts(table: pd.DataFrame) -> dict[str, Any]:
    """What data.json says of the fields that were searched: how surely, and which have no cell."""
    found = table.loc[table["found"], "contrast"]
    missed = table[~table["found"]].set_index("image")["contrast"].round(2)
    return {
        "searched": len(table),
        "least_contrast": LEAST_CONTRAST,
        "contrast, quartiles": found.quantile([0.25, 0.5, 0.75]).round(2).tolist(),
        "left_out": missed.to_dict(),
    }


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
    return {
        "dataset": card.name,
        "images": len(images),
        "classes": images["class_name"].value_counts().sort_index().to_dict(),
        "crop": crop_facts(how.crop),
        "digest": data_digest(known["sha256"], rows_of(name, images)),
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
    """Decode images in parallel: uint8 [N, size, size, 3]. What had to be converted is said once.

    Args:
        bits: of the values of 16-bit files, 0 if there are none; by default, what the highest of
            these images needs.

    Raises:
        UnusableImage: the first, with how many more there are.
    """
    bits = bits_of_set(paths) if bits is None else bits
    pixels = np.empty((len(paths), size, size, 3), np.uint8)

    def one(row: int) -> str:
        pixels[row], conversion = decode_and_tell(paths[row], crop, size, bits)
        return conversion

    told = filter(None, each(one, range(len(paths)), f"prepare {domain}", domain))
    if kinds := [f"{number} {kind}" for kind, number in sorted(Counter(told).items())]:
        say(f"prepare {domain}: converted to 8-bit RGB: {'; '.join(kinds)}")
    return pixels


def each(one: Callable, things: Sequence, progress: str, domain: str) -> list:
    """The results of a function of images, in threads (Pillow frees the interpreter lock).

    Raises:
        UnusableImage: the first by name of those that it raised, with how many more there are.
    """

    def tried(thing: Any) -> Any:
        try:
            return one(thing)
        except UnusableImage as fault:
            return fault

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(track(pool.map(tried, things), progress, len(things)))
    if faults := [str(result) for result in results if isinstance(result, UnusableImage)]:
        more = f" ({len(faults)} such images in {domain})" if len(faults) > 1 else ""
        raise UnusableImage(f"{domain}: {min(faults)}{more}")
    return results


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
