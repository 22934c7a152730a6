"""Decode every image of a profile once into uint8 arrays, with the table that names their rows.

`datasets/raw/` → `datasets/cache/<profile>/{<domain>.npy, manifest.parquet}`; the digests of the
arrays, which are part of every run's fingerprint, go to `results/<profile>/data.json`.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from benchmark.config import Profile
from benchmark.data.arrays import array_path, cache_folder, table_path
from benchmark.data.cards import Card, card_of, domain_images
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, digest, read_json, sha256_file, write_json
from benchmark.progress import say, track

DECODER = "Pillow, draft scale ≥ 2 × target, centre crop, Lanczos; version 1"
"""Named in every array's digest: another decoder or resizer is another protocol."""
# A hostile header can claim any size: 64 megapixels is far above every published crop.
Image.MAX_IMAGE_PIXELS = 64_000_000


def decode(path: Path, crop: float, size: int) -> np.ndarray:
    """Read one image as uint8 [size, size, 3]: its centred square, `crop` of the shorter side.

    JPEGs are decoded at the smallest of libjpeg's scales (1, 1/2, 1/4, 1/8) that keeps at least
    twice the target's resolution; the rest is an antialiased Lanczos resize.

    Raises:
        UserError: missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            whole = int(np.ceil(2 * size / crop))
            image.draft("RGB", (whole, whole))
            image = ImageOps.exif_transpose(image).convert("RGB")
            side = crop * min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
            return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `wbc-shift fetch`") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"{path} cannot be decoded ({reason}): delete it and run `wbc-shift fetch`"
        ) from None


def prepare(root: Path, profile_name: str, profile: Profile, cards: dict[str, Card]) -> None:
    """Decode the profile's domains; a domain whose images and settings are unchanged is kept.

    Raises:
        UserError: the first missing or damaged image, with how many more there are.
    """
    datasets = root / "datasets"
    cache = cache_folder(root, profile_name)
    tables, facts = [], {}
    for domain in profile.domains:
        card = card_of(cards, domain)
        images = domain_images(datasets, card, domain, profile.label_space, profile.subset)
        crop = card.domains[domain].crop
        raw = datasets / "raw" / card.folder
        key = digest(
            [
                DECODER,
                profile.image_size,
                crop,
                images[["path", "sha256", "class_name"]].to_numpy().tolist(),
                card.domains[domain].model_dump(mode="json")["acquisition"],
            ]
        )
        array = array_path(cache, domain)
        receipt = array.with_suffix(".json")
        known = read_json(receipt) if receipt.exists() else {}
        if known.get("key") == key and array.exists() and known["sha256"] == sha256_file(array):
            say(f"prepare {domain}: {len(images)} images, unchanged")
        else:
            pixels = decode_all([raw / p for p in images["path"]], crop, profile.image_size, domain)
            with atomic(array) as temporary, temporary.open("wb") as file:
                np.save(file, pixels)
            known = {"key": key, "sha256": sha256_file(array)}
            write_json(receipt, known)
        tables.append(
            pd.DataFrame(
                {
                    "domain": domain,
                    "row": np.arange(len(images)),
                    "image": images["path"],
                    "group": images["group"],
                    "class_name": images["class_name"],
                }
            )
        )
        facts[domain] = {
            "dataset": card.name,
            "images": len(images),
            "classes": images["class_name"].value_counts().sort_index().to_dict(),
            "crop": crop,
            "digest": hashlib.sha256(
                (known["sha256"] + digest(tables[-1].to_numpy().tolist())).encode()
            ).hexdigest()[:16],
        }
    remove_unknown(cache, profile.domains)
    with atomic(table_path(cache)) as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)
    write_json(
        root / "results" / profile_name / "data.json",
        {
            "schema_version": 1,
            "subset": profile.subset,
            "image_size": profile.image_size,
            "label_space": profile.label_space,
            "decoder": DECODER,
            "domains": facts,
        },
    )


def decode_all(paths: list[Path], crop: float, size: int, domain: str) -> np.ndarray:
    """Decode images in parallel (Pillow frees the interpreter lock): uint8 [N, size, size, 3]."""
    pixels = np.empty((len(paths), size, size, 3), np.uint8)
    faults: list[str] = []

    def one(row: int) -> None:
        try:
            pixels[row] = decode(paths[row], crop, size)
        except UserError as fault:
            faults.append(str(fault))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in track(pool.map(one, range(len(paths))), f"prepare {domain}", len(paths)):
            pass
    if faults:
        more = f" ({len(faults)} such images in {domain})" if len(faults) > 1 else ""
        raise UserError(f"{domain}: {min(faults)}{more}")
    return pixels


def remove_unknown(cache: Path, domains: list[str]) -> None:
    """Delete arrays of domains that the profile no longer has: the cache is what the plan says."""
    for path in [*cache.glob("*.npy"), *cache.glob("*.json")]:
        if path.stem not in domains:
            try:
                path.unlink()
            except OSError as error:
                raise cannot_write(path, error) from error
