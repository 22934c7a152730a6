"""A laboratory's folder, or its CSV → its images, and each of its labels as a cell type."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from benchmark.data.label_spaces import LabelSpaces
from benchmark.data.layouts import CsvLabels, Paths, read_layout, read_table
from benchmark.errors import UserError, suggest


def read_images(folder: Path, labels: Path | None) -> pd.DataFrame:
    """The labelled images of a folder: path, label, and group if the CSV has that column."""
    if labels is None:
        table = read_layout(folder, Paths(reader="class_folders"))
    elif not labels.is_file():
        raise UserError(f"--labels {labels}: no such file")
    else:
        columns = {"group": "group"} if "group" in read_table(labels) else {}
        tables = {str(labels.resolve()).replace("{", "{{").replace("}", "}}"): "{image}"}
        layout = CsvLabels(
            reader="csv_labels", tables=tables, image="path", label="label", columns=columns
        )
        table = read_layout(folder, layout)
    if "group" in table and (table["group"] == "").any():
        raise UserError(
            f"{labels}: {table.loc[table['group'] == '', 'path'].iloc[0]} has no group: "
            "name its patient or slide, or drop the column"
        )
    return table.assign(label=table["label"].str.strip())


def cell_types(
    labels: pd.Series, known: LabelSpaces, cells: dict[str, str], where: Path
) -> dict[str, str]:
    """A laboratory's label → cell type: as told, else by its name, singular or plural.

    Raises:
        UserError: one line with every label whose cell type is not known, and how to tell it.
    """
    for label, cell_type in cells.items():
        if label not in set(labels):
            raise UserError(f"--map {label}: no such label{suggest(label, labels.unique())}")
        if cell_type not in known.cell_types:
            near = suggest(cell_type, known.cell_types)
            raise UserError(f"--map {label}={cell_type}: no such cell type{near}")
    types, unknown = dict(cells), {}
    for label, number in labels.value_counts(sort=False).sort_index().items():
        plain = re.sub(r"[\s-]+", "_", label.lower())
        nearest = [c for c in (plain, plain.removesuffix("s")) if c in known.cell_types]
        if label not in types and nearest:
            types[label] = nearest[0]
        elif label not in types:
            unknown[label] = number
    if unknown:
        listed = ", ".join(f"'{label}' ({number} images)" for label, number in unknown.items())
        raise UserError(
            f"{where}: labels whose cell type is not known: {listed}: tell it, as in "
            f"--map '{next(iter(unknown))}=neutrophil' (unusable leaves images out); "
            f"cell types: {', '.join(known.cell_types)}"
        )
    return types
