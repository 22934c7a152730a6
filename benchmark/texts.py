"""Texts that others wrote, made fit for where they are shown: one rule per form, in its writer.

Titles, citations, class labels and the file names of laboratories may hold anything: markup,
formulas, escape sequences of terminals, bytes that are no UTF-8. What cannot be seen is written
out (`\\x1b`) in every form; what a form would take for an instruction is escaped there.
"""

from __future__ import annotations

import re

HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"  # line ends and changes of direction
    "\ud800-\udfff]"  # lone surrogates, with which Python holds bytes that are no UTF-8
)
SURROGATES = re.compile("[\ud800-\udfff]")
FORMULA = re.compile(r"[=+\-@＝＋－＠\t]")
"""What a spreadsheet takes for the beginning of a formula."""
NUMBER = re.compile(r"[+\-−]?\d[\d.,]*(?:[eE][+-]?\d+)?(?: ?%)?°?(?: \[[−+\d., –-]*\])?")
"""A number, perhaps with its interval: no formula."""


def visible(text: str) -> str:
    """A text whose control characters and undecodable bytes are written out; it has any lines."""
    return HIDDEN.sub(written_out, text)


def written_out(found: re.Match[str]) -> str:
    """`\\x1b` for an escape character, `\\xe9` for a byte E9 that is no UTF-8."""
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """A visible text on one line."""
    return re.sub(r"\s*[\n\t]\s*", " ", visible(text))


def shortened(text: str, most: int = 60) -> str:
    """A text on one line that leaves room for what is said about it."""
    text = one_line(text[: 4 * most])
    return text if len(text) <= most else f"{text[: most - 1]}…"


def csv_cell(value: object) -> object:
    """A cell for a table that people open: a text is never a formula, a number stays one."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def file_name(path: str) -> str:
    """A path that any file system, table and page can hold: `%E9` for a byte that is no UTF-8,
    `%0A` for a line feed.
    """
    kept = HIDDEN.sub(lambda found: percent(found[0]), path)
    return re.sub("[\n\t]", lambda found: percent(found[0]), kept)


def percent(character: str) -> str:
    """The bytes of a character as in an address."""
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
