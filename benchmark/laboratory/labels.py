"""The labels of a laboratory's images, by its folders or a CSV, and what cell type each means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd

from benchmark.data.annotations import FORMS, Marked, as_number, forms_of
from benchmark.data.cards import LabelSpaces
from benchmark.data.fields import MARGIN, SHOWN, Fields, checked, cut_cells, groups_of, read_fields
from benchmark.data.image_files import find_images
from benchmark.data.layouts import located, refuse_links_outwards
from benchmark.errors import UserError, suggest
from benchmark.tables import plain, read_table, shown, tidy, tidy_path

BOXES = re.compile(r"(x|y)_?(min|max)|bbox.*|left|top|right|bottom|(x|y)_?(center|centre)|box_.*")
"""Columns that say where in a field a cell lies."""
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("box_x", "box_y", "box_w", "box_h"))
"""Columns of boxes that are read, in pixels; `x_min` is `xmin`."""
ALIKE = 0.85
"""How much of a label must be that of a cell type to be taken for a typing error: promonocyte is
0.84 like monocyte."""


class OwnImages(NamedTuple):
    """The labelled images of a laboratory.

    Attributes:
        table: path (below the folder, with `/`), label, and group if there is one, by path. Of a
            cell that was cut: the field, and the box in it (`fields.BOX`).
        left_out: what is not used of what was named: path, finding, because.
        notes: what a user must know of how labels and groups were found.
        folder: where the images lie: the laboratory's, or the one that cells were cut into.
        crop: side of the centred square that shows one cell, as a fraction, if that is known.
    """

    table: pd.DataFrame
    left_out: list[tuple[str, str, str]]
    notes: list[str]
    folder: Path
    crop: float | None = None


def read_images(
    folder: Path,
    labels: Path | None,
    known: LabelSpaces,
    cells: dict[str, str],
    scratch: Path | None = None,
) -> OwnImages:
    """The labelled images of a folder, by a CSV of path, label and perhaps group, or by folders; or
    the cells of its fields, by annotations, or by a CSV that says where in a field each lies.

    Args:
        cells: as in `cell_types`.
        scratch: folder that cells are cut into; None: fields are refused.

    Raises:
        UserError: no folder, no image, a link that leaves the folder; fields of which no box can
            be used; folders of which it cannot be told whether they are labels.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: name the one that holds the images")
    refuse_links_outwards(folder)
    files = find_images(folder)
    if labels is not None:
        found = by_table(folder, files.images, labels, cells, scratch)
    elif files.images and are_fields(folder, files.images, known):
        if scratch is None:
            raise fields_refused(folder, folder)
        found = cells_of(folder, read_fields(folder, keep=cells), scratch)
    elif files.images:
        found = by_folders(folder, files.images, known, cells)
    else:
        others = [f"{path} {why}" for path, why in files.passed_over.items()]
        seen = f": {shown(others)}" if others else ""
        raise UserError(f"{folder}: no image at all in it{seen}: give it a folder per cell type")
    passed_over = [(path, "left out", why) for path, why in files.passed_over.items()]
    return found._replace(left_out=found.left_out + passed_over)


def are_fields(folder: Path, paths: list[str], known: LabelSpaces) -> bool:
    """Whether images are fields with boxes: annotations lie there, and an image that has one is in
    no folder that is called as a cell type."""
    forms = forms_of(folder, paths)
    if not forms:
        return False
    marked = {file.stem for kind in ("*.xml", "*.txt") for file in folder.rglob(kind)}
    beside = [path for path in paths if "coco" in forms or PurePosixPath(path).stem in marked]
    return any(
        all(cell_type_of(name, known) is None for name in folders_of(path)) for path in beside
    )


def boxed_cells(
    folder: Path, known: LabelSpaces, scratch: Path, boxes: Path | None = None
) -> OwnImages | None:
    """The cells of a folder of fields with boxes, whatever their labels; None if it is another.

    Args:
        boxes: CSV of path and box (`CORNERS` or `SIDES`), in pixels; None: annotations tell.

    Raises:
        UserError: a link that leaves the folder; no box can be used; a CSV that states no boxes, or
            names a field that is not there.
    """
    if not folder.is_dir():
        return None
    refuse_links_outwards(folder)
    images = find_images(folder).images
    if boxes is None:
        found = are_fields(folder, images, known)
        return cells_of(folder, read_fields(folder), scratch) if found else None
    table, notes = read_table(boxes, ["path"])
    numbers = boxes_of_table(table, boxes)
    if numbers is None:
        raise UserError(
            f"{boxes}: no boxes of cells: the columns xmin, ymin, xmax, ymax, or x, y (left, top), "
            "width, height, in pixels, are needed"
        )
    named = located(folder, table["path"], f"named in {boxes.name}")
    marked = [
        Marked(path, "white cell", *numbers.loc[line], f"line {line} of {boxes.name}")
        for line, path in zip(table.index, named, strict=True)
    ]
    fields = checked(folder, "table", marked, [], notes)
    bare = sorted(set(images) - set(named))
    fields.left_out.extend((path, "left out", f"has no box in {boxes.name}") for path in bare)
    return cells_of(folder, fields, scratch)


@contextmanager
def cells_cut_in(cache: Path) -> Iterator[Path]:
    """A folder that cells of fields are cut into, below one that git ignores; removed at the end.

    Args:
        cache: `datasets/cache`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="cells-", dir=cache, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def fields_refused(folder: Path, where: Path) -> UserError:
    """That fields were given where images of one cell each are needed."""
    return UserError(
        f"{where}: the images are fields with cells marked in them, and images of one cell each "
        f"are needed here: cut the cells out first (wbc-shift domain add {folder.name} does)"
    )


def cells_of(
    folder: Path, fields: Fields, scratch: Path, groups: dict[str, str] | None = None
) -> OwnImages:
    """The cells of fields, cut into a folder.

    Args:
        groups: field → patient or slide, if they are told.
    """
    cut = cut_cells(folder, fields.table, scratch)
    if cut.table.empty:
        path, _, why = cut.left_out[0]
        raise UserError(f"{folder}: no field can be used, the first {why}: {path}")
    if groups is None:
        group, taken = groups_of(cut.table["field"])
        what = f"the folders {shown(taken)} are taken for" if taken else ""
    else:
        group, what = cut.table["field"].map(groups), "the table names"
    table = cut.table.assign(group=group).sort_values("path", ignore_index=True)
    whose = f"{what} patients or slides" if what else "the cells of a field are one group"
    mirrored = int(cut.table["mirrored"].sum())
    notes = [
        f"{len(table)} cells were cut of {table['field'].nunique()} fields "
        f"({FORMS.get(fields.form, 'table')}): squares of {cut.side} px, {MARGIN:g} times the "
        f"median longer edge of the boxes, of which the centred {SHOWN:g} is shown (--crop); "
        f"{mirrored} leave their field and are mirrored at its edge; {whose}"
    ]
    left_out = fields.left_out + cut.left_out
    return OwnImages(
        table.drop(columns="mirrored"), left_out, [*notes, *fields.notes], scratch, SHOWN
    )


def boxes_of_table(table: pd.DataFrame, labels: Path) -> pd.DataFrame | None:
    """Left, top, width and height that a table states, by its lines; None if it states no boxes.

    Raises:
        UserError: it states them in a way that is not read.
    """
    names = {plain(column).replace("_", ""): column for column in table}

    def columns(wanted: tuple[str, ...]) -> list[str] | None:
        keys = [name.replace("_", "") for name in wanted]
        return [names[key] for key in keys] if all(key in names for key in keys) else None

    for wanted in (*CORNERS, *SIDES):
        if chosen := columns(wanted):
            numbers = table[chosen].map(as_number)
            left, top, third, fourth = (numbers[column] for column in chosen)
            width, height = (third - left, fourth - top) if wanted in CORNERS else (third, fourth)
            return pd.DataFrame({"x": left, "y": top, "width": width, "height": height})
    if boxes := [column for column in table if BOXES.fullmatch(plain(column))]:
        raise UserError(
            f"{labels}: the columns {', '.join(boxes)} say where cells lie in fields, but not as "
            "is read here: name them xmin, ymin, xmax, ymax, or x, y (left, top), width, height, "
            "in pixels"
        )
    return None


def by_table(
    folder: Path,
    paths: list[str],
    labels: Path,
    cells: dict[str, str],
    scratch: Path | None = None,
) -> OwnImages:
    """The images that a CSV names, each of which must be there; or cells, if it states boxes."""
    table, notes = read_table(labels, ["path", "label"], ["group"])
    boxes = boxes_of_table(table, labels)
    if boxes is not None and scratch is None:
        raise fields_refused(folder, labels)
    table["label"] = table["label"].map(tidy)
    named, labelled = table["path"].str.strip() != "", table["label"] != ""
    there = {tidy_path(path): path for path in paths}
    left_out = [
        (
            there.get(tidy_path(path), path.strip()),
            "left out",
            f"has no label in line {line} of {labels.name}",
        )
        for line, path in table.loc[named & ~labelled, "path"].items()
    ]
    left_out += [
        ("", "left out", f"line {line} of {labels.name} names no image (label {label})")
        for line, label in table.loc[labelled & ~named, "label"].items()
    ]
    table = table[named & labelled]
    if table.empty:
        raise UserError(f"{labels}: no row has both a path and a label")
    table = table.assign(path=located(folder, table["path"], f"named in {labels.name}"))
    if boxes is None and table["path"].duplicated().any():
        raise UserError(f"{labels}: {named_twice(table)}")
    if "group" in table:
        table["group"] = table["group"].map(tidy)
        if (table["group"] == "").any():
            line = table.index[table["group"] == ""][0]
            raise UserError(
                f"{labels}: line {line}: {table['path'][line]} has no group: "
                "name its patient or slide, or drop the column"
            )
    told = {path for path, *_ in left_out} | set(table["path"])
    left_out += [(path, "left out", "has no label") for path in paths if path not in told]
    if boxes is not None:
        marked = [
            Marked(row.path, row.label, *boxes.loc[row.Index], f"line {row.Index} of {labels.name}")
            for row in table.itertuples()
        ]
        fields = checked(folder, "table", marked, left_out, notes, cells)
        return cells_of(folder, fields, scratch, groups_told(table, labels))
    columns = [column for column in ("path", "label", "group") if column in table]
    table = table[columns].sort_values("path", ignore_index=True)
    return OwnImages(table, left_out, notes, folder)


def groups_told(table: pd.DataFrame, labels: Path) -> dict[str, str] | None:
    """Field → group, if a table has a column for it; a field is of one patient or slide."""
    if "group" not in table:
        return None
    several = table.groupby("path")["group"].nunique()
    if (several > 1).any():
        path = several.index[several > 1][0]
        named = shown(table.loc[table["path"] == path, "group"].unique())
        raise UserError(f"{labels}: {path} is a field of several groups: {named}: correct them")
    return dict(zip(table["path"], table["group"], strict=True))


def named_twice(table: pd.DataFrame) -> str:
    """What is wrong with a table that names an image in several rows."""
    path = table.loc[table["path"].duplicated(), "path"].iloc[0]
    rows = table[table["path"] == path]
    lines = f"{path} stands in {len(rows)} rows (lines {shown(rows.index)})"
    if rows["label"].nunique() == 1 and len(rows) == 2:
        return f"{lines}: remove one of them"
    return (
        f"{lines}, labelled {shown(rows['label'].unique())}: if it is a field of several cells, "
        "cut them out, for a domain is made of images of one cell each; else keep one of the rows"
    )


def by_folders(
    folder: Path, paths: list[str], known: LabelSpaces, cells: dict[str, str]
) -> OwnImages:
    """Every image of a folder, labelled by the nearest folder above it that is called as a cell.

    Folders below that one are patients or slides, and so groups, if each has a digit in its name;
    what they are otherwise must be told.
    """
    told = {plain(label) for label in cells}

    def is_label(name: str) -> bool:
        return plain(name) in told or cell_type_of(name, known) is not None

    rows, below = [], {}
    for path in paths:
        above = folders_of(path)
        depth = next((i for i in reversed(range(len(above))) if is_label(above[i])), len(above) - 1)
        label, inner = (above[depth] if above else ""), above[depth + 1 :]
        for name in inner:
            below.setdefault(name, path)
        rows.append((path, tidy(label), "/".join(inner) or path))
    loose = [path for path, label, _ in rows if not label]
    if len(loose) == len(rows):
        raise UserError(
            f"{folder}: its {len(loose)} images lie in no folder of a cell type: {shown(loose)}: "
            "make a folder for each, or give --labels (images without labels: wbc-shift predict)"
        )
    nameless = [
        path for path in paths if path.count("/") > 1 and not any(map(is_label, folders_of(path)))
    ]
    if nameless:
        folders = dict.fromkeys(name for path in nameless for name in folders_of(path))
        likely = {name: found for name in folders if (found := likely_type(name, known))}
        proposed = [f"--map '{name}={found}'" for name, found in likely.items()]
        raise UserError(
            f"{folder}: {len(nameless)} images lie in folders none of which is called as a cell "
            f"type, first {nameless[0]}: say which folders are the labels, "
            + (f"perhaps {' '.join(proposed)}" if likely else "as in --map 'FOLDER=CELL_TYPE'")
        )
    for name, path in below.items():
        words = " ".join(re.findall(r"[^\W\d_]+", name))  # `monocytes` of `Monocytes_2`
        if not any(letter.isdigit() for letter in name) or likely_type(words, known):
            raise UserError(
                f"{folder}: the folder '{name}' lies below a folder of a cell type ({path}): "
                f"say what its images are, as in --map '{name}=unusable', or move them up"
            )
    left_out = [(path, "left out", "lies in no folder of a cell type") for path in loose]
    rows = [row for row in rows if row[1]]
    table = pd.DataFrame(rows, columns=["path", "label", "group"])
    notes = []
    if below:
        path, label, group = next(row for row in rows if row[2] != row[0])
        notes.append(
            f"the folders {shown(sorted(below))}, below those of the cell types, are taken for "
            f"patients or slides: {path} is labelled {label}, its group is {group}"
        )
    else:
        table = table.drop(columns="group")
    return OwnImages(table.sort_values("path", ignore_index=True), left_out, notes, folder)


def folders_of(path: str) -> list[str]:
    """The folders of a path, from the outermost."""
    return path.split("/")[:-1]


def cell_types(
    labels: pd.Series, known: LabelSpaces, cells: dict[str, str], where: Path
) -> dict[str, str]:
    """A laboratory's label → cell type: as told, else by its name, singular or plural.

    Raises:
        UserError: one line with every label whose cell type is not known, and how to tell it.
    """
    types = {}
    for label, cell_type in cells.items():
        label, cell_type = tidy(label), tidy(cell_type)
        if label not in set(labels):
            raise UserError(f"--map {label}: no such label{suggest(label, labels.unique())}")
        if cell_type not in known.cell_types:
            near = suggest(cell_type, known.cell_types)
            raise UserError(f"--map {label}={cell_type}: no such cell type{near}")
        types[label] = cell_type
    unknown = {}
    for label, number in labels.value_counts(sort=False).sort_index().items():
        if label not in types and (found := cell_type_of(label, known)) is not None:
            types[label] = found
        elif label not in types:
            unknown[label] = number
    if unknown:
        listed = ", ".join(f"'{label}' ({number} images)" for label, number in unknown.items())
        likely = {label: found for label in unknown if (found := likely_type(label, known))}
        examples = [f"--map '{label}={found}'" for label, found in likely.items()]
        examples = examples or [f"--map '{next(iter(unknown))}=CELL_TYPE'"]
        raise UserError(
            f"{where}: labels whose cell type is not known: {listed}: tell each, "
            f"{'perhaps' if likely else 'as in'} {' '.join(examples)} (unusable leaves images "
            f"out); cell types: {', '.join(known.cell_types)}"
        )
    return types


def cell_type_of(label: str, known: LabelSpaces) -> str | None:
    """The cell type that a label names, in singular or plural; None if it names none."""
    name = re.sub(r"[\s-]+", "_", plain(label))
    return next((c for c in (name, name.removesuffix("s")) if c in known.cell_types), None)


def likely_type(label: str, known: LabelSpaces) -> str | None:
    """The cell type that a label may stand for, to be confirmed; None if it is anybody's guess.

    What published sets call so, and all of them the same; the beginning of one cell type's name; or
    a typing error in one.
    """
    if (found := cell_type_of(label, known)) is not None:
        return found
    name = plain(label)
    types = {
        cell_type
        for labels in known.sets.values()
        for other, cell_type in labels.items()
        if plain(other) in (name, name.removesuffix("s"))
    }
    if types and not name.isdigit():
        return types.pop() if len(types) == 1 else None
    name = re.sub(r"[\s-]+", "_", name)
    begun = sorted((c for c in known.cell_types if c.startswith(name)), key=len)
    if len(name) >= 4 and begun and all(c.startswith(begun[0]) for c in begun):
        return begun[0]
    near = difflib.get_close_matches(name, known.cell_types, n=2, cutoff=ALIKE)
    return near[0] if near else None
