"""Texts that others wrote, made fit for where they are shown: one rule per form, in its writer.

Titles, citations, class labels and the file names of laboratories may hold anything: markup,
formulas, escape sequences of terminals, bytes that are no UTF-8. What cannot be seen is written
out (`\\x1b`) in every form; what a form would take for an instruction is escaped there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

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


def csv_path(path: str) -> str:
    """A path for such a table: `./=a.png` is the same file as `=a.png`, and no formula."""
    path = visible(path)
    return f"./{path}" if FORMULA.match(path) else path


def markdown(text: str, emphasis: bool = False) -> str:
    """A text for a line or cell of Markdown: no HTML, link, or end of a cell comes of it.

    Args:
        emphasis: stars and underscores mean what they do in Markdown.
    """
    text = one_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))
    return text if emphasis else text.replace("*", "\\*").replace("_", "\\_")


LATEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "%": "\\%",
    "&": "\\&",
    "#": "\\#",
    "_": "\\_",
    "$": "\\$",
    "^": "\\^{}",
    "~": "\\~{}",
    "±": "$\\pm$",
    "−": "$-$",
    "°": "$^\\circ$",
    "–": "--",
    "†": "$^\\dagger$",
    "<": "$<$",
    ">": "$>$",
    "*": "$*$",
}
LATEX_LETTERS = re.compile(
    "[ -~\u00a0-\u017e‘’“”—…‚„‹›‡•™≥≤≠≈∝∈∑→αβγεηλμνπρστΔΣ]"  # beyond Latin: see paper/preamble.tex
)
LATEX_LACKS = "\u00ad\u0126\u0127\u0138\u013f\u0140\u0149\u0166\u0167\u017f"
"""Letters of this range that the fonts of the paper do not have."""


def latex(text: str) -> str:
    """A text for LaTeX; an arrow `->` becomes a real one, and backticks a pair of quotes.

    A letter that the paper's fonts lack stands as its number (U+4E2D): LaTeX would stop at it.
    """
    text = re.sub(r"`([^`]*)`", r"`\1'", one_line(text))
    text = "$\\to$".join("".join(map(latex_letter, part)) for part in text.split("->"))
    # Behind the end of a line of a table, a bracket would be taken for its option.
    return f"{{[}}{text[1:]}" if text.startswith("[") else text


def latex_letter(letter: str) -> str:
    """What LaTeX prints as this letter."""
    if letter in LATEX:
        return LATEX[letter]
    known = LATEX_LETTERS.fullmatch(letter) and letter not in LATEX_LACKS
    return letter if known else f"U+{ord(letter):04X}"


def link(address: str) -> bool:
    """Whether a page may make a link of an address: `javascript:` would run in it."""
    return address.lower().startswith(("http://", "https://"))


def file_name(path: str) -> str:
    """A path that tables, pages and other systems can hold: `%E9` for a byte that is no UTF-8,
    `%0A` for a line feed, `%5C` for a backslash, which stands between folders elsewhere.
    """
    kept = HIDDEN.sub(lambda found: percent(found[0]), path)
    return re.sub(r"[\n\t\\]", lambda found: percent(found[0]), kept)


def percent(character: str) -> str:
    """The bytes of a character as in an address."""
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))


COMPACT = {"sort_keys": True, "separators": (",", ":")}
"""How JSON is written for a page."""


def templates_beside(module: str) -> Environment:
    """The templates in a module's folder (`__file__`), and what pages of images share: texts are
    escaped, what cannot be seen in them is written out, and a missing value is an error.
    """
    # Lazy: every command imports this module, few write pages.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([Path(module).parent, Path(__file__).parent / "audit"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=as_shown,
    )
    environment.policies["json.dumps_kwargs"] = COMPACT
    environment.tests["link"] = link
    return environment


def as_shown(value: Any) -> Any:
    """A value as a page shows it."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
