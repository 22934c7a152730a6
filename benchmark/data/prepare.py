"""Decode every image of a profile once into uint8 arrays, with the table that names their rows.

The arrays, `<domain>.npy`, and the table, `manifest.parquet`, lie in `datasets/cache/<profile>/`;
the arrays' digests, which are part of every run's fingerprint, in `results/<profile>/data.json`.
Cells of no class of the label space lie apart, as `<domain>.open_set`; other framings of the same
cells, in the same order, as `<domain>@<framing>`. Where a cell must be found in its field,
`fields.parquet` says where it was; a field without one is left out, and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.data.arrays import (
    array_path,
    cache_folder,
    data_digest,
    facts_path,
    fields_path,
    open_set_of,
    table_path,
)
from benchmark.data.cards import (
    AroundBox,
    AroundCell,
    Card,
    CentredPixels,
    Crop,
    card_of,
    raw_folder,
)
from benchmark.data.cell_finder import FINDER, LEAST_CONTRAST, Found, find_cell
from benchmark.data.fields import Square, cut, squares_around
from benchmark.data.image_files import Picture, Unreadable, bits_of_set, image_file, read_image
from benchmark.data.manifests import domain_images, open_set_images
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, digest, read_json, sha256_file, write_json
from benchmark.parallel import in_threads
from benchmark.progress import say
from benchmark.settings import Profile

DECODER = "Pillow, draft scale ≥ 2 × target, centre crop, Lanczos; version 1"
"""Named in every array's digest: another decoder or resizer is another protocol."""
READER = 2
"""Version of what image files are taken for: arrays made by another one are made again. Only an
array whose pixels it moved gets another digest."""
SMALLEST_SIDE = 16
"""Pixels below which an image is refused: no cell can be seen in it."""


class UnusableImage(UserError):
    """An image is missing, damaged, or too small to show a cell."""


SIDES = {CentredPixels: "pixels", AroundCell: "around_cell", AroundBox: "around_box"}
"""What the side of its square is called in a crop that states it in pixels."""


def scaled(crop: Crop, factor: float) -> Crop:
    """The crop whose square has `factor` times the side, around the same centre."""
    if factor == 1:
        return crop
    if isinstance(crop, int | float):
        return min(1.0, crop * factor)
    side = SIDES[type(crop)]
    return crop.model_copy(update={side: round(getattr(crop, side) * factor)})


def placed(crop: Crop, images: pd.DataFrame, where: str) -> Crop | list[Square]:
    """The square of each image where the manifest says what it is around; else the crop itself.

    Args:
        images: rows of a manifest, path and the columns of `fields.BOX`.
        where: its name, for messages.

    Raises:
        UserError: as `squares_around`.
    """
    if not isinstance(crop, AroundBox):
        return crop
    return squares_around(images, crop.around_box, where)


def crop_facts(crop: Crop) -> float | dict[str, int | str]:
    """A crop as it stands in digests and reports; a fraction stands for itself."""
    if isinstance(crop, int | float):
        return crop
    finder = {"finder": FINDER} if isinstance(crop, AroundCell) else {}
    return crop.model_dump() | finder


def crop_fraction(crop: Crop, size: tuple[int, int]) -> float:
    """Side of the square as a fraction of the shorter side of an image of (width, height).

    At most 1, but around a box, where a square may be larger than the field.
    """
    if isinstance(crop, int | float):
        return crop
    fraction = getattr(crop, SIDES[type(crop)]) / min(size)
    return fraction if isinstance(crop, AroundBox) else min(1.0, fraction)


def crop_box(
    size: tuple[int, int], fraction: float, centre: tuple[float, float] | None = None
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square, in pixels of an image of (width, height).

    Args:
        fraction: the square's side as a fraction of the image's shorter side.
        centre: (x, y) that the square is around, as far as it stays in the image; None: its middle.
    """
    side = fraction * min(size)
    x, y = centre or (size[0] / 2, size[1] / 2)
    left = min(max(x - side / 2, 0.0), size[0] - side)
    top = min(max(y - side / 2, 0.0), size[1] - side)
    return (left, top, left + side, top + side)


def decode(path: Path, crop: Crop | Square, size: int, bits: int = 0) -> tuple[np.ndarray, str]:
    """Read one image as uint8 [size, size, 3]: the square that `crop` keeps, resized.

    JPEGs are decoded at the smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that keeps at least
    twice the target's resolution; the rest is an antialiased Lanczos resize.

    Args:
        crop: around a box, the square itself (`placed`).
        bits: of the values of a 16-bit file, where the whole set tells it.

    Returns:
        The pixels, and what had to be converted to 8-bit RGB, in words, if anything.

    Raises:
        UnusableImage: missing, truncated, not an image, or too small to show a cell.
    """
    if isinstance(crop, Square):
        picture = opened(path, max, bits)
        return np.asarray(cut(picture.image, crop, size)), picture.conversion
    centre = None
    if isinstance(crop, AroundCell):
        picture = opened(path, max, bits)
        centre = find_cell(picture.image, crop.cell_diameter).centre
    else:
        picture = opened(path, lambda whole: ceil(2 * size / crop_fraction(crop, whole)), bits)
    image = picture.image
    box = crop_box(image.size, crop_fraction(crop, picture.size), centre)
    square = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(square), picture.conversion


def opened(path: Path, needed: Callable[[tuple[int, int]], int], bits: int) -> Picture:
    """An image file that shows a cell; else an `UnusableImage` that says what is wrong with it.

    Args:
        needed: from (width, height) to the side in pixels that is needed; `max`, all there are.
        bits: as in `decode`.
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
    cache = cache_folder(root, profile_name)
    tables: list[pd.DataFrame] = []
    fields: list[pd.DataFrame] = []
    facts: dict[str | None, dict[str, Any]] = {None: {}} | {name: {} for name in profile.framings}
    try:
        for domain in profile.domains:
            work = Preparation(root / "datasets", cache, card_of(cards, domain), domain, profile)
            if isinstance(work.crop, AroundCell):
                fields += work.find_cells()
            tables += [rows_of(name, images) for name, images in work.sets.items()]
            for framing, made in facts.items():
                made[domain] = work.make_arrays(framing)
    except UnusableImage as fault:
        raise UserError(f"{fault}: run `wbc-shift fetch -p {profile_name}`") from None
    rows = pd.concat(tables, ignore_index=True)
    fields_path(cache).unlink(missing_ok=True)
    if fields:
        with atomic(fields_path(cache)) as temporary:
            pd.concat(fields, ignore_index=True).to_parquet(temporary, index=False)
    names = product(rows["domain"].unique(), facts)
    remove_unknown(cache, [array_path(cache, name, framing) for name, framing in names])
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
            "domains": facts[None],
            **({"framings": framings} if framings else {}),
        },
    )


class Preparation:
    """The images of one domain that a profile uses, on their way into arrays.

    Attributes:
        crop: as the profile's label space prescribes.
        sets: the domain's name → its images of the label space's classes, and the name of its open
            set → its other cells, if there are any; columns path, sha256, group, class_name.
        whole: all of them, found or not.
    """

    def __init__(
        self, datasets: Path, cache: Path, card: Card, domain: str, profile: Profile
    ) -> None:
        self.cache, self.card, self.domain, self.profile = cache, card, domain, profile
        self.raw = raw_folder(datasets, card)
        self.crop = card.domains[domain].crop_for(profile.label_space)
        asked = datasets, card, domain, profile.label_space, profile.subset
        self.sets = {domain: domain_images(*asked)}
        if len(cells := open_set_images(*asked)):
            self.sets[open_set_of(domain)] = cells
        self.whole = pd.concat(self.sets.values())
        self.fields: dict[str, dict[str, Any]] = {}

    @cached_property
    def bits(self) -> int:
        """Of the values of 16-bit files, which only all images of a domain together tell."""
        return bits_of_set([self.raw / path for path in self.whole["path"]])

    def find_cells(self) -> list[pd.DataFrame]:
        """Look for the white cell of every field, and leave out those that have none.

        Returns:
            A table per set: domain, image, x and y in pixels of the field, contrast, and found.

        Raises:
            UnusableImage: a missing or damaged image.
            UserError: no cell in any field.
        """
        tables = []
        for name, images in self.sets.items():
            table = self.search(name, images["path"])
            self.fields[name] = field_facts(table)
            self.sets[name] = images[table["found"].to_numpy()]
            tables.append(table)
        return tables

    def search(self, name: str, images: pd.Series) -> pd.DataFrame:
        """Look for the white cell of every field of a set, and say which have none."""

        def one(image: str) -> Found:
            return find_cell(opened(self.raw / image, max, self.bits).image, diameter)

        diameter = self.crop.cell_diameter
        _ = self.bits  # once, before the threads ask for it
        cells = each(one, images.tolist(), f"finding cells of {name}", name)
        table = pd.DataFrame(cells, columns=Found._fields)
        table.insert(0, "domain", name)
        table.insert(1, "image", images.to_numpy())
        table["found"] = [cell.is_cell for cell in cells]
        missed = table[~table["found"]].sort_values("contrast")
        if len(missed) == len(table):
            raise UserError(
                f"{name}: no white cell in any of {len(table)} fields: check crop.cell_diameter "
                f"({diameter} px) in datasets/{self.card.name}.yaml"
            )
        if len(missed):
            some = ", ".join(missed["image"][:5]) + (", …" if len(missed) > 5 else "")
            say(
                f"note: prepare {name}: no cell stands out in {len(missed)} of {len(table)} "
                f"fields, which are left out: {some}"
            )
        least = table[table["found"]].sort_values("contrast")[:3]
        some = ", ".join(f"{row.image} ({row.contrast:.1f})" for row in least.itertuples())
        say(
            f"prepare {name}: cells found least surely: {some}; `wbc-shift domain cards` shows them"
        )
        return table

    def make_arrays(self, framing: str | None) -> dict[str, Any]:
        """Decode the domain's sets, shown in a framing or as the profile does, into arrays.

        Returns:
            What data.json says of the domain, its open set within.
        """
        facts, *foreign = (
            self.make_array(framing, name, images)
            | ({"fields": self.fields[name]} if name in self.fields else {})
            for name, images in self.sets.items()
        )
        return facts | ({"open_set": foreign[0]} if foreign else {})

    def make_array(self, framing: str | None, name: str, images: pd.DataFrame) -> dict[str, Any]:
        """Decode images into an array, or keep the one that was made of the same."""
        size = self.profile.size_of(framing)
        crop = scaled(self.crop, self.profile.framings[framing].crop if framing else 1.0)
        look = self.card.domains[self.domain].acquisition
        squares = placed(crop, images, f"datasets/{self.card.manifest}")
        facts = images[["path", "sha256", "class_name"]].to_numpy().tolist()
        facts += squares if isinstance(squares, list) else []
        look = None if look is None else look.model_dump(mode="json")
        made = {
            "key": digest([DECODER, size, crop_facts(crop), facts, look]),
            "reader": READER,
            "whole": digest(sorted(self.whole["sha256"])),
        }
        array = array_path(self.cache, name, framing)
        receipt = array.with_suffix(".json")
        known = read_receipt(receipt)
        unchanged = made.items() <= known.items() and array.exists()
        if unchanged and known["sha256"] == sha256_file(array):
            say(f"prepare {array.stem}: {len(images)} images, unchanged")
        else:
            paths = [self.raw / path for path in images["path"]]
            pixels = decode_all(paths, squares, size, array.stem, self.bits)
            with atomic(array) as temporary, temporary.open("wb") as file:
                np.save(file, pixels)
            known = made | {"sha256": sha256_file(array)}
            write_json(receipt, known)
        return {
            "dataset": self.card.name,
            "images": len(images),
            "classes": images["class_name"].value_counts().sort_index().to_dict(),
            "crop": crop_facts(crop),
            "digest": data_digest(known["sha256"], rows_of(name, images)),
        }


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
    paths: list[Path],
    crop: Crop | list[Square],
    size: int,
    domain: str,
    bits: int | None = None,
) -> np.ndarray:
    """Decode images in parallel: uint8 [N, size, size, 3]. What had to be converted is said once.

    Args:
        crop: of all images, or the square of each (`placed`).
        bits: of the values of 16-bit files, 0 if there are none; by default, what the highest of
            these images needs.

    Raises:
        UnusableImage: the first, with how many more there are.
    """
    bits = bits_of_set(paths) if bits is None else bits
    pixels = np.empty((len(paths), size, size, 3), np.uint8)

    def one(row: int) -> str:
        square = crop[row] if isinstance(crop, list) else crop
        pixels[row], conversion = decode(paths[row], square, size, bits)
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

    results = in_threads(tried, things, progress)
    if faults := [str(result) for result in results if isinstance(result, UnusableImage)]:
        more = f" ({len(faults)} such images in {domain})" if len(faults) > 1 else ""
        raise UnusableImage(f"{domain}: {min(faults)}{more}")
    return results


def remove_unknown(cache: Path, arrays: list[Path]) -> None:
    """Delete arrays that the profile no longer has; one without the receipt that `make_array` wrote
    is not of this command and stays."""
    for receipt in cache.glob("*.json"):
        array = receipt.with_suffix(".npy")
        if array in arrays or not read_receipt(receipt):
            continue
        try:
            array.unlink(missing_ok=True)
            receipt.unlink()
        except OSError as error:
            raise cannot_write(array, error) from error


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt of an array; empty if the file is none."""
    try:
        known = read_json(path)
    except UserError:
        return {}
    return known if isinstance(known, dict) and {"key", "sha256"} <= set(known) else {}
