"""Label spaces: what each set calls a cell → the class it is scored as, per label space.

`datasets/label_spaces.yaml` holds all of it for review in one place: the classes of every space;
each cell type's class in every space; each published set's own labels as cell types.
"""

from __future__ import annotations

from pathlib import Path

from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.schema import Line, Name, Strict, parse

LABEL_SPACES = "label_spaces.yaml"
OPEN_SET = ("near", "far")
"""What a label may be that is no class of a space: a leucocyte outside it, or no leucocyte. Both
are scored as unknown (open set); null is neither, and left out."""

Labels = dict[str, str | None]
"""A set's own label → a class of the space, `near`, `far`, or None."""


class LabelSpaces(Strict):
    """The content of `datasets/label_spaces.yaml`."""

    spaces: dict[Name, list[Line]]
    """Label space → its classes, in the order of the logits."""
    cell_types: dict[str, Labels]
    """Cell type → label space → class, `near`, `far` or null: every space is named."""
    sets: dict[str, dict[str, str]]
    """Card → the set's own label → cell type."""


def read_label_spaces(datasets: Path) -> LabelSpaces:
    """Read and check the file.

    Raises:
        UserError: an unknown class, cell type or space; a cell type that leaves a space out.
    """
    path = Path(datasets) / LABEL_SPACES
    found = parse(LabelSpaces, read_yaml(path), str(path))
    for space, classes in found.spaces.items():
        if len(set(classes)) != len(classes) or len(classes) < 2 or set(classes) & set(OPEN_SET):
            raise UserError(
                f"{path}: spaces.{space}: needs two or more different classes, none of them "
                f"{' or '.join(OPEN_SET)}"
            )
    for cell_type, row in found.cell_types.items():
        for space in row:
            if space not in found.spaces:
                near = suggest(space, found.spaces)
                raise UserError(f"{path}: cell_types.{cell_type}: no space '{space}'{near}")
        if missing := [space for space in found.spaces if space not in row]:
            raise UserError(
                f"{path}: cell_types.{cell_type}: '{missing[0]}' is not given: "
                f"name its class, {', '.join(OPEN_SET)} or null"
            )
        for space, target in row.items():
            check_target(target, found.spaces[space], f"{path}: cell_types.{cell_type}.{space}")
    for card, labels in found.sets.items():
        for label, cell_type in labels.items():
            if cell_type not in found.cell_types:
                near = suggest(cell_type, found.cell_types)
                raise UserError(f"{path}: sets.{card}.{label}: no cell type '{cell_type}'{near}")
    return found


def check_target(target: str | None, classes: list[str], where: str) -> None:
    """Raise a `UserError` if a label's target is neither a class nor near, far or None."""
    if target is not None and target not in (*classes, *OPEN_SET):
        raise UserError(f"{where}: no class '{target}'{suggest(target, [*classes, *OPEN_SET])}")


def labels_of_cells(found: LabelSpaces, cells: dict[str, str]) -> dict[str, Labels]:
    """For every label space, a set's own labels → class, `near`, `far` or None.

    Args:
        cells: the set's own label → cell type.
    """
    return {
        space: {label: found.cell_types[cell_type][space] for label, cell_type in cells.items()}
        for space in found.spaces
    }
