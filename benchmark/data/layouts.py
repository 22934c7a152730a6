"""Layouts: how a published folder states the labels and groups of its images, and its readers.

Few ways of publishing labels are in use, and each has one reader here; a card says which one is
meant and with what parameters. Readers name files that exist inside the folder, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import Field, field_validator

from benchmark.data.image_files import MOST_DEPTH, find_images
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, sha256_file, write_text
from benchmark.progress import track
from benchmark.schema import Strict
from benchmark.tables import leads_elsewhere, read_table, tidy, tidy_path

MOST_IMAGES, MOST_SIDE = 1_000_000, 1024
"""Of a NumPy archive."""
UNPACKED_OF = ".unpacked-of"
"""File beside unpacked images that holds the SHA-256 of their archive."""


class Reader(Strict):
    """What every layout may state besides where the labels are."""

    labels: dict[str, str | None] = Field(default_factory=dict)
    """Published label or code → the label meant: typing errors, numbers; null leaves images out."""
    size: tuple[int, int] | None = None
    """Width and height of every published image: others are of another set."""
    mask: str | None = None
    """Where each image's mask is, in a copy of the set that has them: `{parent}` folder, `{folder}`
    its name, `{stem}` of the image."""


class Paths(Reader):
    """Labels in the paths: a folder per class, or a prefix of the file name."""

    reader: Literal["class_folders", "file_prefix"]
    files: str | None = None
    """Path of an image with `{label}`, `{group}` and other columns in it; `*` is any text, `**`
    also over folders. By default `**/{label}/*`, and `**/{label}_*` for prefixes."""

    @field_validator("files")
    @classmethod
    def _names_the_label(cls, files: str | None) -> str | None:
        columns = re.findall(r"\{(\w+)\}", files or "{label}")
        if "label" not in columns or len(set(columns)) < len(columns):
            raise ValueError("name the place of {label}, and every column once")
        return files


class CsvLabels(Reader):
    """Labels in one or more CSV tables."""

    reader: Literal["csv_labels"]
    tables: dict[str, str]
    """CSV file → path of an image, with the table's column `image` in it as `{image}`
    (`{image:0>3}` is padded to three digits). Of several, the column `part` tells which."""
    image: str
    """Column that names the image."""
    label: str
    """Column of the label; images without one are left out."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the manifest (group, fine_label) → column of the table."""

    @field_validator("tables")
    @classmethod
    def _names_the_image(cls, tables: dict[str, str]) -> dict[str, str]:
        for form in tables.values():
            try:
                form.format(image="")
            except (KeyError, IndexError, ValueError):
                raise ValueError(f"'{form}': only {{image}} can stand in it") from None
        return tables


class JsonIndex(Reader):
    """Labels in JSON objects: file name → label."""

    reader: Literal["json_index"]
    files: dict[str, str]
    """JSON file → folder of its images. The column `part` tells which."""


class Npz(Reader):
    """Images and labels in one NumPy archive (`train_images`, `train_labels`, …), as in MedMNIST.

    The images are unpacked beside it as `train/00000.png`, …, losslessly.
    """

    reader: Literal["npz"]
    file: str
    parts: tuple[str, ...] = ("train", "val", "test")


Layout = Annotated[Paths | CsvLabels | JsonIndex | Npz, Field(discriminator="reader")]


def read_layout(folder: Path, layout: Layout) -> pd.DataFrame:
    """The labelled images of a published folder.

    Returns:
        Columns path (below `folder`, with `/`), label, and what else the layout gives (group,
        fine_label, part; mask, "" where it is not there), sorted by path.

    Raises:
        UserError: no such folder, no image in the published layout, an image named but missing, a
            link that leaves the folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: place the published images there")
    refuse_links_outwards(folder)
    table = READERS[layout.reader](folder, layout)
    table["label"] = table["label"].map(lambda label: layout.labels.get(label, label))
    table = table[table["label"].notna()]
    if table.empty:
        raise UserError(f"{folder}: no image has a label that is used")
    if table["path"].duplicated().any():
        twice = table.loc[table["path"].duplicated(), "path"].iloc[0]
        raise UserError(f"{folder}: {twice} is labelled twice: remove one of its rows")
    if layout.mask is not None:
        places = [PurePosixPath(path) for path in table["path"]]
        masks = [
            layout.mask.format(parent=p.parent.as_posix(), folder=p.parent.name, stem=p.stem)
            for p in places
        ]
        table["mask"] = [mask if (folder / mask).is_file() else "" for mask in masks]
    return table.sort_values("path", ignore_index=True)


def read_paths(folder: Path, layout: Paths) -> pd.DataFrame:
    """Images whose path has the layout's form; other files are passed over."""
    default = {"class_folders": "**/{label}/*", "file_prefix": "**/{label}_*"}[layout.reader]
    form = layout.files or default
    pattern = path_pattern(form)
    found = find_images(folder)
    rows = [
        {"path": path} | match.groupdict()
        for path in found.images
        if (match := pattern.fullmatch(path)) is not None
    ]
    if not rows:
        others = [*found.images, *(f"{path} {why}" for path, why in found.passed_over.items())]
        others = f"{len(others)} others, first {others[0]}" if others else "no image at all"
        raise UserError(f"{folder}: no image of the form {form}, {others}: unpack it as published")
    return pd.DataFrame(rows)


def path_pattern(form: str) -> re.Pattern[str]:
    """A path with `{column}`, `*` and `**` in it as a regular expression, in any case of letters.

    >>> path_pattern("{label}/{group}_*").fullmatch("mono/12_3.png").groupdict()
    {'label': 'mono', 'group': '12'}
    """
    parts = re.split(r"(\{\w+\}|\*\*/?|\*)", form)
    wild = {"*": "[^/]*", "**": ".*", "**/": "(?:.*/)?"}
    return re.compile(
        "".join(
            # Lazily, so that `{group}_*` ends at the first underscore.
            f"(?P<{part[1:-1]}>[^/]+?)"
            if part.startswith("{") and part.endswith("}")
            else wild.get(part, re.escape(part))
            for part in parts
        ),
        re.IGNORECASE,
    )


def read_csv_labels(folder: Path, layout: CsvLabels) -> pd.DataFrame:
    """Images that the tables name, each of which must be there."""
    rows = []
    for file, form in layout.tables.items():
        wanted = {"image": layout.image, "label": layout.label} | layout.columns
        table = read_table(folder / file, list(dict.fromkeys(wanted.values()))).rows
        table = pd.DataFrame({name: table[column] for name, column in wanted.items()})
        table["label"] = table["label"].map(tidy)
        table = table[(table["label"] != "") & (table["image"].str.strip() != "")]
        names = table.pop("image").map(lambda image: form.format(image=image))  # noqa: B023
        table.insert(0, "path", located(folder, names, f"named in {file}"))
        if len(layout.tables) > 1:
            table["part"] = PurePosixPath(file).stem
        rows.append(table)
    return pd.concat(rows, ignore_index=True)


def located(folder: Path, names: pd.Series, what: str) -> list[str]:
    """The files that a table names, as paths below a folder.

    A name stands for the file of that name, else for the only one that is called so but for
    backslashes, `./`, spaces around it, and how accented letters are encoded.

    Args:
        names: by line of the table; the index is named after what it counts.
        what: where they are named, for the message.

    Raises:
        UserError: a name leads out of the folder, stands for several files, or for none.
    """
    found, missing, known = [], [], None
    for line, name in names.items():
        path = tidy_path(name)
        if Path(path).is_absolute() and Path(path).is_relative_to(folder.absolute()):
            name = path = Path(path).relative_to(folder.absolute()).as_posix()
        if leads_elsewhere(path):
            parts = path.split("/")
            tails = ("/".join(parts[start:]) for start in range(1, len(parts)))
            meant = next((tail for tail in tails if os.path.isfile(folder / tail)), None)
            example = f", as in {meant}" if meant else ""
            raise UserError(
                f"{folder}: {name.strip()} ({what}): leads out of its folder: write the path "
                f"below {folder}{example}"
            )
        if "\\" not in name and os.path.isfile(folder / name):
            found.append(PurePosixPath(name).as_posix())
            continue
        if known is None:
            known = {}
            for place, _, files in os.walk(folder):
                for file in files:
                    own = Path(place, file).relative_to(folder).as_posix()
                    known.setdefault(tidy_path(own), []).append(own)
        meant = known.get(path, [])
        if len(meant) > 1:
            raise UserError(
                f"{folder}: {path} ({what}, {names.index.name} {line}) may be any of "
                f"{len(meant)} files whose names look alike: rename them"
            )
        if meant:
            found.append(meant[0])
        else:
            missing.append(f"{path} ({names.index.name} {line})")
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} files are missing ({what}), "
            f"first {missing[0]}: place them there, or correct the table"
        )
    return found


def read_json_index(folder: Path, layout: JsonIndex) -> pd.DataFrame:
    """Images that the JSON objects name, each of which must be there."""
    tables = []
    for file, where in layout.files.items():
        try:
            # Of bytes, JSON tells its Unicode encoding itself, with a mark or without.
            index = json.loads((folder / file).read_bytes(), object_pairs_hook=once)
        except FileNotFoundError:
            raise UserError(f"{folder / file} is missing: it is part of the set") from None
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"{folder / file} is not valid JSON: {error}") from None
        if not isinstance(index, dict):
            raise UserError(f"{folder / file}: expected an object, file name → label")
        numbers = pd.RangeIndex(1, len(index) + 1, name="entry")
        names = pd.Series([f"{where}/{name}" for name in index], numbers, dtype=str)
        paths = located(folder, names, f"named in {file}")
        labels, part = map(str, index.values()), PurePosixPath(file).stem
        tables.append(pd.DataFrame({"path": paths, "label": list(labels), "part": part}))
    return pd.concat(tables, ignore_index=True)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names differ; of two values of one name, JSON takes the last."""
    for name, number in Counter(name for name, _ in pairs).items():
        if number > 1:
            raise ValueError(f"'{name}' stands there {number} times: remove all but one")
    return dict(pairs)


def refuse_links_outwards(folder: Path) -> None:
    """Refuse a folder in which a link leads out of it; the folder itself may be one."""
    whole = folder.resolve()
    for place, folders, files in os.walk(folder):
        if len(Path(place).relative_to(folder).parts) >= MOST_DEPTH:
            folders.clear()  # where nobody looks
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(whole):
                raise UserError(f"{path} is a link that leaves {folder}: copy what it points to")


def read_npz(folder: Path, layout: Npz) -> pd.DataFrame:
    """Images of a NumPy archive, unpacked as `<part>/<number>.png` where they are not yet.

    Images are streamed: the arrays of a part, up to gigabytes, are never in memory. The files
    belong to one archive, whose hash is kept beside them: of another one, all are made anew.

    Raises:
        UserError: no such file, not an archive of uint8 images [N, S, S, 3] and labels [N, 1].
    """
    archive, parts = folder / layout.file, layout.parts
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


def remove_those_of_another(folder: Path, sha256: str, parts: tuple[str, ...]) -> None:
    """Remove the images that were unpacked of another archive, or of one that is not known.

    Raises:
        UserError: the folder cannot be written.
    """
    of = folder / UNPACKED_OF
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


READERS: dict[str, Callable[[Path, Any], pd.DataFrame]] = {
    "class_folders": read_paths,
    "file_prefix": read_paths,
    "csv_labels": read_csv_labels,
    "json_index": read_json_index,
    "npz": read_npz,
}
