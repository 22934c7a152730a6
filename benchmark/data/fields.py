"""Cells in fields: boxes that mark them, and squares around boxes, in which cells keep their size.

A field shows many cells, and a box says where one of them lies: Pascal VOC (an XML per field), YOLO
(a TXT per field), COCO (a JSON) and tables are read. What is cut is a square of one size for all
cells of a set, around the centre of the box: cut tight around each box, a lymphocyte would be as
large as a monocyte. Where the square leaves the field, its pixels are mirrored at the edge.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from math import ceil, isfinite
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from benchmark.data.annotations import FORMS, LEFT_OUT, READERS, Marked, counted, forms_of
from benchmark.data.image_files import (
    Unreadable,
    bits_of_set,
    find_images,
    image_file,
    opened,
    orientation,
    read_image,
)
from benchmark.errors import UserError
from benchmark.files import atomic
from benchmark.parallel import in_threads
from benchmark.tables import plain

BOX = ("box_x", "box_y", "box_w", "box_h")
"""Columns of a manifest: left, top, width and height of a cell's box, in pixels of its field."""
ORIGIN = ("field", *BOX)
"""Columns that say where a cell was cut."""
MARGIN = 2.0
"""Side of a cut square, in median longer edges of the boxes: room for a wider crop than `SHOWN`."""
SHOWN = 0.7
"""Of that side, what shows a cell as large as the published sets do: 1.4 times a box's longer edge,
as of `bccd-wide`, whose card says how it was measured."""
NO_LEUCOCYTES = ("rbc", "red blood cell", "red cell", "erythrocyte", "platelet", "thrombocyte")
NO_LEUCOCYTES += ("artefact", "artifact")
"""What else is boxed in fields, hundreds in each; left out unless it is asked for."""
SAME_BOX = 0.9
"""Overlap (intersection over union) from which on two boxes mark one cell."""
FAR_FROM_MEDIAN = 3.0
"""Factor from the median longer edge beyond which a box is spoken of."""
OF_A_SET = re.compile(r"(jpeg)?images?|annotations?|labels?|(train|val|valid|test|voc|coco)[\d_-]*")
"""Folders that are part of a form, and tell of no patient."""


class Fields(NamedTuple):
    """The usable boxes of a folder of annotated fields.

    Attributes:
        form: one of `FORMS`, or "table".
        table: path (of the field, below the folder, with `/`), label, and the box: x, y (left and
            top), width, height, in pixels of the upright field; by path.
        left_out: what is not used: path ("" for several fields), finding, because.
        notes: what else a user must know.
    """

    form: str
    table: pd.DataFrame
    left_out: list[tuple[str, str, str]]
    notes: list[str]


class Cells(NamedTuple):
    """Cells that were cut from their fields.

    Attributes:
        table: path (of the cell's PNG), label, field, the box (`BOX`), and mirrored: whether its
            square leaves the field; in the order of the boxes.
        left_out: fields that could not be decoded: path, finding, because.
        side: of every square, in pixels.
    """

    table: pd.DataFrame
    left_out: list[tuple[str, str, str]]
    side: int


class Square(NamedTuple):
    """A square of a published image, in its pixels; it may lie partly outside."""

    x: float
    """Of its centre, from the left."""
    y: float
    """Of its centre, from the top."""
    side: float

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def squares_around(table: pd.DataFrame, side: float, where: str) -> list[Square]:
    """The square around the box of each row.

    Args:
        table: columns path and those of `BOX`, as text or numbers.
        side: in pixels of the published images.
        where: the table's name, for messages.

    Raises:
        UserError: a column is missing; a row has no box, or one without area.
    """
    if missing := [column for column in BOX if column not in table]:
        raise UserError(f"{where} has no column {missing[0]}: a crop around boxes needs them")
    numbers = table[list(BOX)].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    found = []
    for path, (left, top, width, height) in zip(table["path"], numbers, strict=True):
        if not all(map(isfinite, (left, top, width, height))) or min(width, height) <= 0:
            raise UserError(f"{where}: {path} has no box with an area: correct {', '.join(BOX)}")
        found.append(Square(left + width / 2, top + height / 2, side))
    return found


def cut(image: Image.Image, square: Square, size: int) -> Image.Image:
    """What a square shows, resized (antialiased, Lanczos) to `size` pixels.

    Outside the image its pixels are mirrored, without the outermost line twice.
    """
    left, top, right, bottom = square.edges
    # Lanczos looks three pixels of the coarser of the two images beyond what it resizes.
    reach = ceil(3 * max(1.0, square.side / size))
    over = (reach - left, reach - top, reach + right - image.width, reach + bottom - image.height)
    west, north, east, south = (max(0, ceil(beyond)) for beyond in over)
    if west or north or east or south:
        beyond = ((north, south), (west, east), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), beyond, mode="reflect"))
    box = (left + west, top + north, right + west, bottom + north)
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)


# --------------------------------------------------------------------------- reading boxes


def read_fields(folder: Path, form: str | None = None, keep: Collection[str] = ()) -> Fields:
    """The boxes of a folder of annotated fields.

    Args:
        form: one of `FORMS`; None: what lies there tells.
        keep: labels that are used although they are no leucocytes.

    Raises:
        UserError: no annotation; those of several forms; class names that differ; a JSON that is
            none; no usable box.
    """
    images = find_images(folder).images
    found = forms_of(folder, images)
    if form is None and len(found) != 1:
        which = " and ".join(FORMS[one] for one in found)
        raise UserError(
            f"{folder}: boxes in the form of {which}: keep the files of one of them"
            if found
            else f"{folder}: no boxes of cells: {', '.join(FORMS.values())} are read"
        )
    form = form or found[0]
    read = READERS[form](folder, images)
    bare = sorted(set(images) - read.annotated)
    left_out = [*read.left_out, *((path, LEFT_OUT, "has no annotation") for path in bare)]
    fields = checked(folder, form, read.boxes, left_out, read.notes, keep)
    if without := len(read.annotated - set(fields.table["path"])):
        counted = f"{without} of {len(read.annotated)} annotated fields"
        fields.notes.append(f"{counted} have no box of a white cell that is used")
    return fields


# --------------------------------------------------------------------------- which are usable


def checked(
    folder: Path,
    form: str,
    boxes: Iterable[Marked],
    left_out: list[tuple[str, str, str]],
    notes: list[str],
    keep: Collection[str] = (),
) -> Fields:
    """The boxes that can be used, and why the others cannot.

    Raises:
        UserError: none can.
    """
    left_out, notes = list(left_out), list(notes)
    wanted, others = [], Counter()
    kept = {plain(label) for label in keep}
    for box in boxes:
        if is_no_leucocyte(box.label) and plain(box.label) not in kept:
            others[box.label] += 1
        else:
            wanted.append(box)
    for label, times in others.most_common():
        left_out.append(("", LEFT_OUT, f"{counted(times)} labelled {label}: no leucocytes"))
    paths = sorted({box.path for box in wanted})
    sizes = dict(zip(paths, in_threads(size_of, [folder / p for p in paths]), strict=True))
    usable: list[tuple[Marked, tuple[float, float, float, float]]] = []
    unlike: Counter[tuple[str, str]] = Counter()
    for box in wanted:
        size = sizes[box.path]
        if isinstance(size, str):
            unlike[box.path, f"the field {size}"] += 1
        elif box.size is not None and box.size != size:
            stated, real = (f"{width} x {height} px" for width, height in (box.size, size))
            unlike[box.path, f"the annotation is of a field of {stated}, this has {real}"] += 1
        elif why := box_fault(box, pixels := in_pixels(box, size), size):
            left_out.append((box.path, LEFT_OUT, f"{box.named} {why}"))
        else:
            usable.append((box, pixels))
    for (path, why), times in unlike.items():
        left_out.append((path, LEFT_OUT, f"{why} ({counted(times)})"))
    usable, twice = without_doubles(usable)
    left_out += twice
    rows = [(box.path, box.label, *pixels) for box, pixels in usable]
    if not rows:
        why = (
            f", the first: {left_out[0][0]} {left_out[0][2]}".replace("  ", " ") if left_out else ""
        )
        raise UserError(f"{folder}: no box of a white cell can be used{why}")
    table = pd.DataFrame(rows, columns=["path", "label", "x", "y", "width", "height"])
    table = table.sort_values("path", kind="stable", ignore_index=True)
    notes += notes_on_sizes(table)
    return Fields(form, table, left_out, notes)


def is_no_leucocyte(label: str) -> bool:
    """Whether a label is of what else is boxed in fields, in singular or plural."""
    name = re.sub(r"[\s_-]+", " ", plain(label))
    return name in NO_LEUCOCYTES or name.removesuffix("s") in NO_LEUCOCYTES


def size_of(path: Path) -> tuple[int, int] | str:
    """Width and height of an upright image, or why it is not read."""
    try:
        with image_file(path) as file, opened(file) as image:
            width, height = image.size
            # What EXIF turns by a quarter is shown so by the programs that boxes are drawn with.
            turned = image.format != "TIFF" and orientation(image) >= 5
            return (height, width) if turned else (width, height)
    except Unreadable as why:
        return str(why)
    except FileNotFoundError:
        return "is missing"


def in_pixels(box: Marked, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of the field."""
    if not box.relative:
        return (box.x, box.y, box.width, box.height)
    width, height = box.width * size[0], box.height * size[1]
    return (box.x * size[0] - width / 2, box.y * size[1] - height / 2, width, height)


def box_fault(
    box: Marked, pixels: tuple[float, float, float, float], size: tuple[int, int]
) -> str | None:
    """Why a box cannot be used, as the end of a sentence about it."""
    x, y, width, height = pixels
    told = f"({box.label})" if box.label else "(without a label)"
    if not all(map(isfinite, pixels)):
        return f"{told} is not four numbers"
    if not box.label:
        return "has no label"
    if width <= 0 or height <= 0:
        return f"{told} has no area"
    middle = (x + width / 2, y + height / 2)
    if not all(0 <= place <= side for place, side in zip(middle, size, strict=True)):
        return f"{told} lies outside the field"
    # A pixel more is how some programs count.
    if width > size[0] + 1 or height > size[1] + 1:
        return f"{told} is larger than the field"
    return None


def without_doubles(
    boxes: list[tuple[Marked, tuple[float, float, float, float]]],
) -> tuple[list, list[tuple[str, str, str]]]:
    """Boxes of which no two mark one cell: of two with one label the first stays, of two with
    different labels neither."""
    fields: dict[str, list[int]] = defaultdict(list)
    for row, (box, _) in enumerate(boxes):
        fields[box.path].append(row)
    out: dict[int, str] = {}
    for rows in fields.values():
        for place, one in enumerate(rows):
            for other in rows[place + 1 :]:
                first, second = boxes[one], boxes[other]
                if overlap(first[1], second[1]) < SAME_BOX:
                    continue
                if first[0].label == second[0].label:
                    out.setdefault(other, f"marks the same cell as {first[0].named}")
                    continue
                for row, this, that in ((one, first, second), (other, second, first)):
                    labels = f"labelled {this[0].label} here and {that[0].label} there"
                    out[row] = f"marks the same cell as {that[0].named}, {labels}"
    left_out = [
        (boxes[row][0].path, LEFT_OUT, f"{boxes[row][0].named} {out[row]}") for row in sorted(out)
    ]
    return [box for row, box in enumerate(boxes) if row not in out], left_out


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    sides = [
        max(0.0, min(one[i] + one[i + 2], other[i] + other[i + 2]) - max(one[i], other[i]))
        for i in (0, 1)
    ]
    common = sides[0] * sides[1]
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def notes_on_sizes(table: pd.DataFrame) -> list[str]:
    """Boxes that are far smaller or larger than the rest: marks of no cell, or of several."""
    edges = table[["width", "height"]].max(axis=1)
    middle = edges.median()
    notes = []
    for word, chosen in (
        ("smaller", edges < middle / FAR_FROM_MEDIAN),
        ("larger", edges > middle * FAR_FROM_MEDIAN),
    ):
        if chosen.any():
            row = table[chosen].iloc[0]
            box = f"{row['width']:.0f} x {row['height']:.0f} px, {row['label']} in {row['path']}"
            notes.append(
                f"{counted(chosen.sum())} more than {FAR_FROM_MEDIAN:g} times {word} than the "
                f"median ({middle:.0f} px), the first {box}: look at these cells"
            )
    return notes


# --------------------------------------------------------------------------- cutting cells


def cut_cells(folder: Path, table: pd.DataFrame, to: Path, margin: float = MARGIN) -> Cells:
    """Cut a square around every box, of one size for all, and write it as a lossless PNG.

    Args:
        folder: of the fields.
        table: of `Fields`.
        to: the folder to write; a cell is called as its field, with a number, from 1.
        margin: the square's side, in median longer edges of the boxes.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    side = max(1, round(margin * table[["width", "height"]].max(axis=1).median()))
    paths = table["path"].unique().tolist()
    bits = bits_of_set([folder / path for path in paths])
    stems = table["path"].map(lambda path: PurePosixPath(path).with_suffix("").as_posix())
    numbers = stems.groupby(stems).cumcount() + 1
    names = [f"{stem}_{count}.png" for stem, count in zip(stems, numbers, strict=True)]
    cells = pd.DataFrame(
        {
            "path": names,
            "label": table["label"].to_numpy(),
            "field": table["path"].to_numpy(),
            **dict(zip(BOX, table[["x", "y", "width", "height"]].to_numpy().T, strict=True)),
        }
    )
    groups = {path: rows.index for path, rows in cells.groupby("field")}

    def one(path: str) -> str | tuple[int, int]:
        try:
            with image_file(folder / path) as file:
                image = read_image(file, bits=bits).image
        except Unreadable as why:
            return str(why)
        except FileNotFoundError:
            return "is missing"
        for name, box in zip(cells.loc[groups[path], "path"], boxes_of(path), strict=True):
            left, top = (round(box[i] + box[i + 2] / 2 - side / 2) for i in (0, 1))
            square = Square(left + side / 2, top + side / 2, side)
            with atomic(to / name) as temporary:
                cut(image, square, side).save(temporary, format="PNG")
        return image.size

    def boxes_of(path: str) -> np.ndarray:
        return cells.loc[groups[path], list(BOX)].to_numpy(float)

    sizes = dict(zip(paths, in_threads(one, paths, "cutting cells"), strict=True))
    faults = {path: size for path, size in sizes.items() if isinstance(size, str)}
    left_out = [
        (path, LEFT_OUT, f"the field {why} ({counted(len(groups[path]))})")
        for path, why in faults.items()
    ]
    cells = cells[~cells["field"].isin(list(faults))].reset_index(drop=True)
    half = side / 2
    whole = np.array([sizes[path] for path in cells["field"]], float).reshape(-1, 2)
    middle = cells[["box_x", "box_y"]].to_numpy() + cells[["box_w", "box_h"]].to_numpy() / 2
    beyond = (middle - half < -0.5) | (middle + half > whole + 0.5)
    return Cells(cells.assign(mirrored=beyond.any(axis=1)), left_out, side)


def groups_of(fields: pd.Series) -> tuple[pd.Series, list[str]]:
    """The group of each field: the folder of a patient or slide above it, else the field itself.

    A folder is taken for one if its name holds a digit and is not part of a form (`train2017`), and
    if not all fields lie in it.

    Returns:
        The groups, and the folders that were taken for patients or slides.
    """

    def folders(path: str) -> str:
        parts = PurePosixPath(path).parts[:-1]
        return "/".join(
            part for part in parts if re.search(r"\d", part) and not OF_A_SET.fullmatch(plain(part))
        )

    above = fields.map(folders)
    if above.nunique() < 2:
        return fields, []
    return above.where(above != "", fields), sorted(set(above) - {""})
