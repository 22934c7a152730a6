"""Annotations of fields: what Pascal VOC, YOLO and COCO say of boxes, as it stands there.

Whether a box can be used is not asked here (`benchmark/data/fields.py`), only what it says, and of
which field.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

from benchmark.errors import UserError
from benchmark.files import read_yaml
from benchmark.tables import tidy, tidy_path
from benchmark.texts import shortened

MOST_BYTES, MOST_BYTES_OF_ALL = 2**24, 2**28
"""Of the annotation of a field, and of one file for all fields."""
CLASS_NAMES = ("classes.txt", "obj.names")
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
"""Files that name the classes of YOLO, in the order of their numbers."""
BESIDE = {"Annotations": "JPEGImages", "labels": "images"}
"""Folder of annotations → that of their fields, as the forms prescribe."""
LEFT_OUT = "left out"
MISSING = "is missing, or several images may be it"


class Marked(NamedTuple):
    """A box as its annotation states it, and the size of the field that it was drawn on, if said.

    Attributes:
        named: what names the box in a message.
        relative: whether x, y are the centre and all four fractions of the field (YOLO).
    """

    path: str
    label: str
    x: float
    y: float
    width: float
    height: float
    named: str
    size: tuple[int, int] | None = None
    relative: bool = False


class Annotations(NamedTuple):
    """What a folder's annotations say, before any field is looked at."""

    boxes: list[Marked]
    left_out: list[tuple[str, str, str]]
    annotated: set[str]
    """Fields that have an annotation, with boxes in it or without."""
    notes: list[str]


def forms_of(folder: Path, images: Sequence[str]) -> list[str]:
    """Which forms of annotations lie in a folder, by what the files say."""
    stems = {PurePosixPath(path).stem for path in images}
    found = []
    if any(is_voc(path) for path in files_like(folder, "*.xml")):
        found.append("voc")
    texts = [path for path in files_like(folder, "*.txt") if path.stem in stems]
    if texts and any(is_yolo(path) for path in texts):
        found.append("yolo")
    if any(read_json_of_coco(path) is not None for path in files_like(folder, "*.json")):
        found.append("coco")
    return found


def files_like(folder: Path, pattern: str) -> list[Path]:
    """Annotation files of a name below a folder, sorted; hidden ones are passed over."""
    return [
        path
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


class Fieldnames:
    """Finds the field that an annotation is of."""

    def __init__(self, images: Sequence[str]) -> None:
        self.by_name, self.by_stem = defaultdict(list), defaultdict(list)
        for path in images:
            self.by_name[tidy(PurePosixPath(path).name)].append(path)
            self.by_stem[tidy(PurePosixPath(path).stem)].append(path)

    def find(self, name: str, beside: str, by_stem: bool = False) -> str | None:
        """The image of a name; of several the nearest to the annotation, None if none is nearest.

        Args:
            name: a path or file name; its last part counts first, the rest if that is not enough.
            beside: path of the annotation.
            by_stem: `name` is without its suffix.
        """
        name = tidy_path(name)
        known = self.by_stem if by_stem else self.by_name
        candidates = known.get(PurePosixPath(name).name, [])
        ending = [p for p in candidates if p == name or p.endswith("/" + name)]
        candidates = ending or candidates
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        own = beside.split("/")[:-1]
        own += [BESIDE.get(part, part) for part in own]
        near = [len(set(path.split("/")[:-1]) & set(own)) for path in candidates]
        best = [p for p, n in zip(candidates, near, strict=True) if n == max(near)]
        return best[0] if len(best) == 1 else None


# --------------------------------------------------------------------------- Pascal VOC


class NoDocumentType(ElementTree.TreeBuilder):
    """Refuses a document type, and with it entities, which may grow without bound or read files."""

    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type, which annotations never need")


def read_xml(path: Path) -> ElementTree.Element:
    """An XML document without a document type.

    Raises:
        ValueError: it is none, or has one.
    """
    refuse_large(path)
    parser = ElementTree.XMLParser(target=NoDocumentType())
    try:
        with path.open("rb") as file:
            # In small pieces: it stops at the document type, before what follows is expanded.
            while piece := file.read(512):
                parser.feed(piece)
        return parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML ({error})") from None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None


def refuse_large(path: Path) -> None:
    """Raise a ValueError if a file is larger than the annotation of a field."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it has {path.stat().st_size:,} bytes")


def is_voc(path: Path) -> bool:
    """Whether a file is an annotation of Pascal VOC, broken or hostile ones included."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).replace(b"\0", b"")
    except OSError:
        return False
    return b"<annotation" in head


def read_voc(folder: Path, images: Sequence[str]) -> Annotations:
    """Boxes of Pascal VOC: an XML per field, `object` with `name` and `bndbox` in pixels."""
    names = Fieldnames(images)
    boxes, left_out, annotated = [], [], set()
    for file in files_like(folder, "*.xml"):
        if not is_voc(file):
            continue
        own = file.relative_to(folder).as_posix()
        field = names.find(file.stem, own, by_stem=True)
        try:
            root = read_xml(file)
        except ValueError as why:
            left_out.append((field or own, LEFT_OUT, f"{own} is not read: {why}"))
            annotated |= {field} if field else set()
            continue
        stated = (root.findtext("filename") or "").strip()
        field = field or (names.find(stated, own) if stated else None)
        if field is None:
            left_out.append((own, LEFT_OUT, f"its field {stated or file.stem} {MISSING}"))
            continue
        annotated.add(field)
        sides = [as_number(root.findtext(f"size/{side}")) for side in ("width", "height")]
        size = tuple(map(int, sides)) if all(isfinite(s) and s > 0 for s in sides) else None
        for place, item in enumerate(root.iter("object"), 1):
            left, top, right, bottom = (
                as_number(item.findtext(f"bndbox/{edge}"))
                for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            label = tidy(item.findtext("name") or "")
            box = (left, top, right - left, bottom - top)
            boxes.append(Marked(field, label, *box, f"box {place} of {own}", size))
    return Annotations(boxes, left_out, annotated, [])


def counted(boxes: int) -> str:
    """How many boxes, in words."""
    return "1 box" if boxes == 1 else f"{boxes} boxes"


def as_number(text: object) -> float:
    """A number; NaN for anything else."""
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


# --------------------------------------------------------------------------- YOLO


def lines_of(path: Path) -> list[list[str]]:
    """The words of each line of a text; a ValueError if it is none."""
    refuse_large(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    return [line.split() for line in text.splitlines()]


def is_yolo(path: Path) -> bool:
    """Whether the first line with anything in it is a class number and four numbers."""
    try:
        first = next((words for words in lines_of(path) if words), [])
    except ValueError:
        return False
    return len(first) >= 5 and all(isfinite(as_number(word)) for word in first)


def read_yolo(folder: Path, images: Sequence[str]) -> Annotations:
    """Boxes of YOLO: a TXT per field, a line per box: class number, then centre, width and height
    as fractions of the field. Class names are those of data.yaml, classes.txt or obj.names."""
    names, (classes, source) = Fieldnames(images), class_names(folder)
    notes = []
    if not classes:
        files = f"{YAML_NAMES[0]}, {', '.join(CLASS_NAMES)}"
        notes.append(f"no names of classes ({files}): the labels are their numbers")
    boxes, left_out, annotated = [], [], set()
    for file in files_like(folder, "*.txt"):
        own = file.relative_to(folder).as_posix()
        field = names.find(file.stem, own, by_stem=True)
        if field is None:
            if file.name not in CLASS_NAMES and is_yolo(file):
                left_out.append((own, LEFT_OUT, f"its field {file.stem} {MISSING}"))
            continue
        annotated.add(field)
        try:
            lines = lines_of(file)
        except ValueError as why:
            left_out.append((field, LEFT_OUT, f"{own} is not read: {why}"))
            continue
        for place, words in enumerate(lines, 1):
            named = f"line {place} of {own}"
            if not words:
                continue
            if len(words) != 5:
                because = f"{named} has {len(words)} numbers, a box has 5"
                left_out.append((field, LEFT_OUT, because))
                continue
            label = classes.get(words[0]) if classes else words[0]
            if label is None:
                because = f"{named}: class number {shortened(words[0])} is not in {source}"
                left_out.append((field, LEFT_OUT, because))
                continue
            box = map(as_number, words[1:])
            boxes.append(Marked(field, tidy(label), *box, named, relative=True))
    return Annotations(boxes, left_out, annotated, notes)


def class_names(folder: Path) -> tuple[dict[str, str], str]:
    """YOLO's class number, as text → name, and the file that says so; none where there is none.

    Raises:
        UserError: two files say differently.
    """
    known: dict[str, str] = {}
    source = ""
    for pattern in (*YAML_NAMES, *CLASS_NAMES, "*.names"):
        for file in files_like(folder, pattern):
            own = file.relative_to(folder).as_posix()
            listed: Any
            if pattern in YAML_NAMES:
                content = read_yaml(file)
                listed = content.get("names") if isinstance(content, dict) else None
            else:
                try:
                    listed = [" ".join(words) for words in lines_of(file)]
                except ValueError as why:
                    raise UserError(f"{file}: {why}: name a class in each line") from None
                while listed and not listed[-1]:
                    listed.pop()
            listed = listed if isinstance(listed, dict | list) else []
            pairs = listed.items() if isinstance(listed, dict) else enumerate(listed)
            found = {str(key): tidy(str(name)) for key, name in pairs}
            if known and found and found != known:
                raise UserError(
                    f"{folder}: {source} and {own} name the classes differently: keep one of them"
                )
            if found and not known:
                known, source = found, own
    return known, source


# --------------------------------------------------------------------------- COCO


def read_json_of_coco(path: Path) -> dict[str, Any] | None:
    """A JSON of COCO; None if it is another.

    Raises:
        UserError: its name or beginning says that it is one, and it is broken.
    """
    try:
        if path.stat().st_size > MOST_BYTES_OF_ALL:
            return None
        content = path.read_bytes()
        if b'"annotations"' not in content or b'"images"' not in content:
            return None
        found = json.loads(content)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({shortened(str(error))}): get it again"
        ) from None
    parts = ("images", "annotations")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), list) for part in parts):
        return None
    return found


def read_coco(folder: Path, images: Sequence[str]) -> Annotations:
    """Boxes of COCO: one JSON or several, with `images`, `annotations` (`bbox`: left, top, width
    and height in pixels) and `categories`."""
    names = Fieldnames(images)
    boxes, left_out, annotated = [], [], set()
    for file in files_like(folder, "*.json"):
        content = read_json_of_coco(file)
        if content is None:
            continue
        own = file.relative_to(folder).as_posix()
        categories = {
            str(one.get("id")): tidy(str(one.get("name", "")))
            for one in content.get("categories") or []
            if isinstance(one, dict)
        }
        fields: dict[str, tuple[str, tuple[int, int] | None]] = {}
        missing: dict[str, str] = {}
        for one in content["images"]:
            if not isinstance(one, dict):
                continue
            stated = str(one.get("file_name", ""))
            field = names.find(stated, own) if stated else None
            if field is None:
                missing[str(one.get("id"))] = stated
                continue
            annotated.add(field)
            sides = [as_number(one.get(side)) for side in ("width", "height")]
            known = all(isfinite(side) and side > 0 for side in sides)
            fields[str(one.get("id"))] = (field, tuple(map(int, sides)) if known else None)
        of_missing: Counter[str] = Counter()
        for one in content["annotations"]:
            if not isinstance(one, dict):
                continue
            named, image = f"annotation {one.get('id')} of {own}", str(one.get("image_id"))
            if image in missing:
                of_missing[image] += 1
                continue
            if image not in fields:
                left_out.append((own, LEFT_OUT, f"{named} is of no image of the file"))
                continue
            field, size = fields[image]
            if one.get("iscrowd"):
                left_out.append((field, LEFT_OUT, f"{named} marks a crowd of cells"))
                continue
            label = categories.get(str(one.get("category_id")))
            if label is None:
                because = f"{named}: class number {one.get('category_id')} is no category"
                left_out.append((field, LEFT_OUT, because))
                continue
            box = one.get("bbox")
            box = box if isinstance(box, list) and len(box) == 4 else [float("nan")] * 4
            boxes.append(Marked(field, label, *map(as_number, box), named, size))
        for image, stated in missing.items():
            because = f"its field {stated} {MISSING} ({counted(of_missing[image])})"
            left_out.append((own, LEFT_OUT, because))
    return Annotations(boxes, left_out, annotated, [])


FORMS = {"voc": "Pascal VOC", "yolo": "YOLO", "coco": "COCO"}
READERS = {"voc": read_voc, "yolo": read_yolo, "coco": read_coco}
"""Form → its reader: of a folder, and the paths of the images in it."""
