"""A MedMNIST archive (one .npz) → PNG files beside it, with their labels, one image at a time.

The files belong to one archive, whose hash is kept beside them: of another one, all are made anew.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, sha256_file, write_text
from benchmark.progress import track

MOST_IMAGES = 1_000_000
MOST_SIDE = 1024
ARCHIVE = ".unpacked-of"
"""File that holds the SHA-256 of the archive that the images are of."""


def unpack_npz(folder: Path, archive: Path, parts: Sequence[str]) -> pd.DataFrame:
    """Write `<part>/<number>.png` below `folder` for every image of this archive not there yet.

    Images are streamed: the arrays of a part, up to gigabytes, are never in memory.

    Returns:
        Columns path, label (the number as text) and part.

    Raises:
        UserError: no such file, not an archive of uint8 images [N, S, S, 3] and labels [N, 1].
    """
    rows = []
    try:
        with zipfile.ZipFile(archive) as opened:
            named = [(part, read_labels(opened, f"{part}_labels.npy")) for part in parts]
            remove_those_of_another(folder, sha256_file(archive), parts)
            for part, labels in named:
                paths = [f"{part}/{number:05d}.png" for number in range(len(labels))]
                unpack_images(opened, f"{part}_images.npy", [folder / path for path in paths])
                rows.append(pd.DataFrame({"path": paths, "label": labels, "part": part}))
    except FileNotFoundError:
        raise UserError(f"{archive} is missing: it is the published archive") from None
    except KeyError as error:
        raise UserError(f"{archive}: {error.args[0]}: it is not the published archive") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(f"{archive} is damaged or no .npz ({error}): get it again") from None
    return pd.concat(rows, ignore_index=True)


def remove_those_of_another(folder: Path, sha256: str, parts: Sequence[str]) -> None:
    """Remove the images that were unpacked of another archive, or of one that is not known.

    Raises:
        UserError: the folder cannot be written.
    """
    of = folder / ARCHIVE
    if of.is_file() and of.read_text(encoding="utf-8", errors="replace").strip() == sha256:
        return
    try:
        # First what vouches for them: killed in between, the next run begins here again.
        of.unlink(missing_ok=True)
        for part in parts:
            for image in (folder / part).glob("*.png"):
                if image.stem.isdigit():
                    image.unlink()
    except OSError as error:
        raise cannot_write(folder, error) from error
    write_text(of, sha256 + "\n")


def read_header(file: zipfile.ZipExtFile) -> tuple[int, ...]:
    """The shape of the uint8 array in C order that follows; a ValueError if it is another."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"array format {version}")
    shape, fortran, dtype = read[version](file)
    plain = dtype == np.uint8 and not fortran and len(shape) > 0 and min(shape) > 0
    if not plain or shape[0] > MOST_IMAGES:
        raise ValueError(f"an array {shape} of {dtype}")
    return shape


def read_labels(opened: zipfile.ZipFile, member: str) -> list[str]:
    """The labels [N, 1] as text."""
    with opened.open(member) as file:
        shape = read_header(file)
        if shape[1:] not in ((), (1,)):
            raise ValueError(f"labels of shape {shape}")
        return [str(label) for label in read_exactly(file, shape[0])]


def unpack_images(opened: zipfile.ZipFile, member: str, targets: list[Path]) -> None:
    """Write the images [N, S, S, 3] to their places, keeping those that are there."""
    with opened.open(member) as file:
        shape = read_header(file)
        fits = len(shape) == 4 and shape[0] == len(targets) and shape[3] == 3
        if not fits or max(shape[1:]) > MOST_SIDE:
            raise ValueError(f"images of shape {shape}, {len(targets)} labels")
        for target in track(targets, f"unpacking {member}", len(targets)):
            pixels = read_exactly(file, int(np.prod(shape[1:])))
            if not target.exists():
                picture = Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(shape[1:]))
                with atomic(target) as temporary:
                    picture.save(temporary, "png")


def read_exactly(file: zipfile.ZipExtFile, count: int) -> bytes:
    """So many bytes; an EOFError if there are fewer."""
    found = file.read(count)
    if len(found) < count:
        raise EOFError("it ends too early")
    return found
