"""The one reader of the tables that people bring: labels, predictions, true labels, splits.

Spreadsheets write one table in many ways. The separator, the line ends and the encoding are told by
the file itself; the header is the row that names the columns asked for. Cells stay text as they
stand: nothing is taken for a number or for "no value". What cannot be read in one way only is
refused, with its line.
"""

from __future__ import annotations

import codecs
import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from io import StringIO
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from benchmark.errors import UserError, suggest
from benchmark.texts import shortened

SEPARATORS = ",;\t"
"""Tried in this order; a first line `sep=…`, which Excel understands, may name another."""
TITLE_ROWS = 30
"""The header is looked for in so many rows: titles and dates may stand above it."""
NAMED = 3
"""Lines or names that a message lists; of the others it tells the number."""
MARKS = [
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
]
ONE_BYTE = {"cp1252": "Windows-1252", "mac_roman": "Mac Roman"}
"""What spreadsheets write where they do not write Unicode; of equally likely ones the first."""
CELL_LIMIT = 1_000_000
"""Characters of one cell, beyond which a file is no table."""


class Table(NamedTuple):
    """A table of text.

    Attributes:
        rows: the columns asked for, by the names asked for, and the table's other ones by their
            own, all text. The index, `line`, is the line of the file in which a row begins.
        notes: what a reader must know of how the file was read.
    """

    rows: pd.DataFrame
    notes: list[str]


def read_table(path: Path, required: Collection[str], optional: Collection[str] = ()) -> Table:
    """Read a table with a header.

    Names of columns are compared without regard to case, to spaces around them, and to how
    accented letters are encoded. Rows without any text are passed over.

    Args:
        required: columns without which the table is refused.
        optional: further columns that tell the header from the rows above it, and are renamed.

    Raises:
        UserError: one line: no such file; not a table of text; a required column that is not there
            or is there twice; a row with more cells than the header; a quotation without its end.
    """
    path = Path(path)
    text, notes = decoded(path)
    separators, above = SEPARATORS, 0
    if stated := re.match(r'"?sep=(.)"?[,;\t ]*(\r\n?|\n)', text, re.IGNORECASE):
        separators, above, text = stated[1], 1, text[stated.end() :]
    wanted = {plain(name): name for name in (*required, *optional)}
    needed = {plain(name) for name in required}
    candidates, faults = [], []
    for separator in separators:
        try:
            first = list(islice(cut(text, separator, above), TITLE_ROWS))
        except csv.Error as error:
            faults.append(str(error))
            continue
        for place, (_, cells) in enumerate(first):
            names = {plain(cell) for cell in cells}
            # Of equally fit rows the first, cut into as many cells as possible: a table without our
            # columns is then told by its own.
            fit = (needed <= names, len(wanted.keys() & names), -place, len(cells))
            candidates.append((fit, separator, first, place))
    if not candidates:
        why = faults[0] if faults else "it is empty"
        raise UserError(f"{path} is not a CSV table: {why}: save it as CSV (UTF-8)")
    _, separator, first, place = max(candidates, key=lambda candidate: candidate[0])
    head_line, header = first[place]
    names = [plain(cell) for cell in header]
    if missing := [name for name in required if plain(name) not in names]:
        known = [cell.strip() for cell in header if cell.strip()]
        raise UserError(
            f"{path}: line {head_line}: no column '{missing[0]}'{suggest(missing[0], known)}"
        )
    for name, number in Counter(names).items():
        if number > 1 and name in wanted:
            raise UserError(
                f"{path}: line {head_line}: the column '{wanted[name]}' stands there {number} "
                "times: rename or remove all but one"
            )
    if place:
        above_it = shown(separator.join(cells).strip() for _, cells in first[:place])
        notes.append(f"{path}: the header is line {head_line}; above it, passed over: {above_it}")
    # A table that pads its header pads its rows: then spaces after separators are no content.
    padded = any(cell[:1] == " " and cell.strip() for cell in header[1:])
    lines, cells, width = [], [], len(header)
    try:
        for line, row in islice(cut(text, separator, above, padded), place + 1, None):
            if any(cell.strip() for cell in row[width:]):
                raise UserError(
                    f"{path}: line {line} has {len(row)} cells, the header {width}: put cells "
                    f"that hold '{separator}' in quotation marks, or name the column that is "
                    "missing"
                )
            lines.append(line)
            cells.append(row[:width] + [""] * (width - len(row)))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV table: {error}: mend that line") from None
    titles = [wanted.get(name, cell.strip()) for name, cell in zip(names, header, strict=True)]
    table = pd.DataFrame(cells, index=pd.Index(lines, name="line"), columns=titles, dtype=str)
    return Table(table.loc[:, ~table.columns.duplicated()], notes)


def read_strings(path: Path, columns: Collection[str], meaning: str) -> pd.DataFrame:
    """A table of this project as text, every cell as it stands.

    Args:
        columns: that it must have.
        meaning: the end of the line that says that it is missing.

    Raises:
        UserError: no file, no CSV table, a missing column.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {meaning}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV table: {error}") from None
    for column in columns:
        if column not in table:
            raise UserError(f"{path}: no column '{column}'{suggest(column, table.columns)}")
    return table


def cut(
    text: str, separator: str, above: int, padded: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold any text, each with the line it begins in.

    Args:
        above: lines of the file before `text`.
        padded: spaces after a separator are no content.

    Raises:
        csv.Error: with the line in the message.
    """
    csv.field_size_limit(CELL_LIMIT)
    reader = csv.reader(
        StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=padded
    )
    line = above + 1
    try:
        for cells in reader:
            if "".join(cells).strip():
                yield line, cells
            line = above + reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {line}: {error}") from None


def decoded(path: Path) -> tuple[str, list[str]]:
    """The text of a file, and a note where its encoding had to be assumed.

    Raises:
        UserError: no such file, or one that is not text.
    """
    try:
        if not path.is_file():
            what = "is not a file" if path.exists() else "is missing"
            raise UserError(f"{path} {what}: name a CSV file")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(f"{path} is a workbook, not a CSV table: save its sheet as CSV (UTF-8)")
    text, notes = as_text(content)
    if text is None or "\0" in text:
        raise UserError(f"{path} is not a CSV table, nor any text: save it as CSV (UTF-8)")
    return text, [f"{path}: {note}" for note in notes]


def as_text(content: bytes) -> tuple[str | None, list[str]]:
    """Bytes as text, by their mark, else as UTF-8, else UTF-16, else as one byte per letter."""
    for mark, encoding in MARKS:
        if content.startswith(mark):
            try:
                return content[len(mark) :].decode(encoding), []
            except UnicodeDecodeError:
                return None, []
    if b"\0" not in content:
        try:
            return content.decode("utf-8"), []
        except UnicodeDecodeError:
            return one_byte_text(content)
    for encoding, high in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
        # A table is for the most part of separators and digits: their high bytes are 0.
        if high.count(0) > len(high) / 2:
            try:
                return content.decode(encoding), []
            except UnicodeDecodeError:
                pass
    return None, []


def one_byte_text(content: bytes) -> tuple[str | None, list[str]]:
    """The likelier of the encodings of `ONE_BYTE`: that in which words are of letters."""
    texts = {}
    for encoding in ONE_BYTE:
        try:
            texts[encoding] = content.decode(encoding)
        except UnicodeDecodeError:
            continue
    if not texts:
        return None, []
    likeliest = min(texts, key=lambda encoding: strangeness(texts[encoding]))
    foreign = sorted(set(re.findall(r"\w*[^\x00-\x7f]+\w*", texts[likeliest])))
    note = f"not in UTF-8; read as {ONE_BYTE[likeliest]}, in which it says {shown(foreign)}"
    return texts[likeliest], [note]


def strangeness(text: str) -> int:
    """How much of a text is what a wrong encoding makes of accented letters: signs, letters beyond
    Latin-1, and capitals that follow a small letter."""
    found = 0
    for before, sign in pairwise(f" {text}"):
        if sign > "\x7f":
            letter = unicodedata.category(sign) in ("Ll", "Lu") and sign <= "\xff"
            found += not letter or (sign.isupper() and before.islower())
    return found


def plain(text: str) -> str:
    """A name as names are compared: NFC, without spaces around it, in small letters."""
    return tidy(text).casefold()


def tidy(text: str) -> str:
    """A cell without spaces around it, its accented letters composed (NFC)."""
    return unicodedata.normalize("NFC", text).strip().strip("\ufeff\u200b").strip()


def tidy_path(text: str) -> str:
    """A path with `/` between its parts, without `./` before and within it.

    >>> tidy_path(".\\\\img\\\\a.png ")
    'img/a.png'
    """
    text = tidy(text).replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return ("/" if text.startswith("/") else "") + "/".join(parts)


def leads_elsewhere(path: str) -> bool:
    """Whether a tidy path is absolute, names a drive, or climbs out of its folder."""
    return path.startswith("/") or bool(re.match("[a-zA-Z]:", path)) or ".." in path.split("/")


def shown(names: Iterable[object]) -> str:
    """The first few of some names, and how many there are besides.

    >>> shown([1, 2, 3, 4, 5])
    '1, 2, 3 and 2 more'
    """
    names = [shortened(str(name)) for name in names]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def left_out(path: Path, lines: Iterable[int], why: str) -> list[str]:
    """A note of rows that are not used, with their number and the first of their lines; or none."""
    lines = list(lines)
    word = "row" if len(lines) == 1 else "rows"
    where = f"{'line' if len(lines) == 1 else 'lines'} {shown(lines)}"
    return [f"{path}: {len(lines)} {word} left out, {why}: {where}"] if lines else []
