"""The tables that people bring: however they were saved, they are read right or refused."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, REPOSITORY

from benchmark.data.cards import read_label_spaces
from benchmark.errors import UserError
from benchmark.evaluation.submission import CLASSES as CHALLENGE
from benchmark.evaluation.submission import read_labels, read_submission
from benchmark.laboratory.labels import read_images
from benchmark.tables import read_table

TABLES = 240
"""Tables drawn for each reader."""
NAMES = ["img/a {}.png", "Zelle ä {}.png", "célula/ó {}.png", "b,{}.png", "c;{}.png", "NA{}.png"]
NAMES += ["00{}.png", "Größe ß/{}.png", "'{}'.png", "d #{} (copy).png", "niño {}.png"]
LABELS = ["neutrophil", "Neutrófilo", "Linfócito", "007", "NA", "null", "Stäbchen, früh", "a; b"]


@dataclass
class Dialect:
    """One way of writing a table, drawn at random."""

    generator: np.random.Generator
    separator: str = ","
    encoding: str = "utf-8"
    line_end: str = "\n"
    decimal: str = "."

    def __post_init__(self) -> None:
        self.separator = self.one_of(",", ";", "\t")
        encodings = ("utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "mac_roman")
        self.encoding = self.one_of(*encodings)
        self.line_end = self.one_of("\n", "\r\n", "\r\n", "\r")
        self.decimal = self.one_of(".", ",") if self.separator != "," else "."

    def one_of(self, *values: str) -> str:
        """One of some values."""
        return values[self.generator.integers(len(values))]

    def chance(self, part: float) -> bool:
        """Whether something happens."""
        return self.generator.random() < part

    def write(self, header: list[str], rows: list[list[str]]) -> bytes:
        """A table in this dialect: the same content in other bytes."""
        rows = [list(row) for row in rows]
        header = [self.one_of(str, str, str.upper, str.title)(name) for name in header]
        for number in range(self.generator.integers(3)):
            place = self.generator.integers(len(header) + 1)
            header.insert(place, f"remark {number}")
            for row in rows:
                row.insert(place, self.one_of("", "x", "seen twice", '"so"', "1"))
        if self.chance(0.3):
            header = [f" {name} " for name in header]
        if self.chance(0.2):
            rows = [[f"{cell} " for cell in row] for row in rows]
        trailing = self.one_of("none", "none", "rows", "all")
        if trailing != "none":
            rows = [[*row, ""] for row in rows]
        if trailing == "all":
            header = [*header, ""]
        for _ in range(self.generator.integers(3)):
            rows.insert(self.generator.integers(len(rows) + 1), [""] * len(header))
        lines: list[list[str]] = [header, *rows]
        if self.chance(0.3):
            lines.insert(0, ["Slides of May", ""])
        if self.chance(0.1):
            lines.insert(0, [])
        buffer = StringIO(newline="")
        quoting = csv.QUOTE_ALL if self.chance(0.3) else csv.QUOTE_MINIMAL
        writer = csv.writer(
            buffer, delimiter=self.separator, lineterminator=self.line_end, quoting=quoting
        )
        writer.writerows(lines)
        text = buffer.getvalue()
        if self.chance(0.2):
            text = f"sep={self.separator}{self.line_end}{text}"
        if self.chance(0.2) and self.encoding.startswith("utf"):
            text = unicodedata.normalize("NFD", text)
        return text.encode(self.encoding)


def dialects(seed: int) -> Iterator[Dialect]:
    """Seeded dialects, some of them spoilt later by hand of the test."""
    for number in range(TABLES):
        yield Dialect(np.random.default_rng([seed, number]))


def attempt(reader: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a reader gives and "", or None and the line with which it refuses."""
    try:
        return reader(*arguments), ""
    except UserError as error:
        return None, str(error)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are called as images; labels are read without opening them."""
    folder = tmp_path_factory.mktemp("tables") / "lab"
    for form in NAMES:
        for number in range(4):
            file = folder / form.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"x")
    return folder


def test_b16_labels_in_any_dialect_are_read_right_or_refused(lab: Path, tmp_path: Path) -> None:
    known = read_label_spaces(REPOSITORY / "datasets")
    table = tmp_path / "table.csv"
    for dialect in dialects(1):
        names = [form.format(i) for form in NAMES for i in range(4) if dialect.chance(0.4)]
        if not names:
            continue
        labels = [dialect.one_of(*LABELS) for _ in names]
        groups = [dialect.one_of("NA", "null", "007", "7", "nan", "P 1") for _ in names]
        blank = [dialect.chance(0.1) for _ in names]
        rows = []
        for name, label, group, empty in zip(names, labels, groups, blank, strict=True):
            if dialect.chance(0.2):
                name = name.replace("/", "\\")
            if dialect.chance(0.2):
                name = f"./{name}"
            rows.append([name, "" if empty else label, group])
        table.write_bytes(dialect.write(["path", "label", "group"], rows))
        expected = {
            name: (label, group)
            for name, label, group, empty in zip(names, labels, groups, blank, strict=True)
            if not empty
        }
        found, refusal = attempt(read_images, lab, table, known, {})
        if not expected:
            assert "table.csv: no row has both a path and a label" in refusal
            continue
        assert refusal == "", dialect
        read = found.table
        assert dict(
            zip(read["path"], zip(read["label"], read["group"], strict=True), strict=True)
        ) == expected, dialect  # fmt: skip
        assert sum("has no label in line" in why for *_, why in found.left_out) == sum(blank)
        assert sum(why == "has no label" for *_, why in found.left_out) == (
            4 * len(NAMES) - len(names)
        )


def test_b08_b09_b16_predictions_in_any_dialect_are_read_right_or_refused(tmp_path: Path) -> None:
    classes, table = tuple(CLASSES), tmp_path / "table.csv"
    for dialect in dialects(2):
        number = int(dialect.generator.integers(1, 30))
        images = [dialect.one_of(*NAMES).format(place) for place in range(number)]
        chances = dialect.generator.dirichlet(np.full(5, 0.5), number)
        decimals = int(dialect.generator.integers(2, 7))
        written = np.round(chances, decimals)
        kind = dialect.one_of("words", "chances", "both", "predict")
        silent = [dialect.chance(0.05) for _ in images]
        header, columns = ["image"], [images]
        if kind != "chances":
            header.append("label" if kind == "predict" else "prediction")
            columns.append([CLASSES[place] for place in written.argmax(axis=1)])
        if kind != "words":
            header += [f"p_{name}" if kind == "predict" else name for name in CLASSES]
            texts = [[f"{value:.{decimals}f}" for value in column] for column in written.T]
            if dialect.chance(0.5):  # as spreadsheets do: no final zeros
                texts = [[f"{float(text):g}" for text in column] for column in texts]
            columns += [[text.replace(".", dialect.decimal) for text in own] for own in texts]
        rows = [list(row) for row in zip(*columns, strict=True)]
        rows = [
            [row[0], *[""] * (len(row) - 1)] if empty else row
            for row, empty in zip(rows, silent, strict=True)
        ]
        table.write_bytes(dialect.write(header, rows))
        found, refusal = attempt(read_submission, table, classes)
        if all(silent):
            assert "table.csv: no row has an answer" in refusal
            continue
        assert refusal == "", dialect
        answered = ~np.array(silent)
        expected = [image for image, empty in zip(images, silent, strict=True) if not empty]
        assert found.images == expected
        assert found.predicted.tolist() == written.argmax(axis=1)[answered].tolist()
        assert any("without an answer" in note for note in found.notes) == any(silent)
        if kind != "words":
            np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
            np.testing.assert_allclose(
                found.probabilities, chances[answered], atol=6 * 0.5 * 10.0**-decimals
            )


def test_b08_b16_true_labels_in_any_dialect_are_read_right_or_refused(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    for dialect in dialects(3):
        number = int(dialect.generator.integers(1, 40))
        names = [dialect.one_of(*NAMES).format(place) for place in range(number)]
        labels = dialect.generator.integers(0, len(CHALLENGE), number)
        rows = [[name, CHALLENGE[label]] for name, label in zip(names, labels, strict=True)]
        spoilt = dialect.chance(0.2)
        if spoilt:
            rows[int(dialect.generator.integers(number))][1] = dialect.one_of(
                "", "SNEE", "0", "nan"
            )
        table.write_bytes(dialect.write(["ID", "labels"], rows))
        found, refusal = attempt(read_labels, table)
        if spoilt:
            assert "table.csv: line " in refusal
            continue
        assert refusal == "", dialect
        assert found[0] == dict(zip(names, labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is not a CSV table: it is empty"),
        (b"PK\x03\x04 and so on", "is a workbook"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "nor any text"),
        (b"path,label\na,b,c\n", "line 2 has 3 cells, the header 2"),
        (b'path,label\n"a,b\nc,d\n', "line 2: unexpected end of data"),
        (b"path,label,Label\na,b,c\n", "the column 'label' stands there 2 times"),
        (b"filename,class\na,b\n", "line 1: no column 'path'; known: class, filename"),
        (b"path,label\n" + b"a" * 2_000_000 + b",b\n", "field larger than field limit"),
    ],
)
def test_b16_what_cannot_be_read_in_one_way_is_refused_with_its_line(
    tmp_path: Path, content: bytes, told: str
) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(UserError) as refusal:
        read_table(tmp_path / "table.csv", ["path", "label"])
    assert told in str(refusal.value)


def test_b16_rows_have_the_lines_of_the_file(tmp_path: Path) -> None:
    text = 'sep=;\r\nSlides of May\r\npath;label\r\n\r\n"a\r\nb";1\r\nc;2\r\n'
    (tmp_path / "table.csv").write_bytes(text.encode())
    rows, notes = read_table(tmp_path / "table.csv", ["path", "label"])
    assert rows.index.tolist() == [5, 7]
    assert rows["label"].tolist() == ["1", "2"]
    (note,) = notes
    assert "the header is line 3; above it, passed over: Slides of May" in note


@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman"])
def test_b16_the_encoding_that_was_assumed_is_said(tmp_path: Path, encoding: str) -> None:
    text = "path,label\nLöwe.png,Neutrófilo\nniño.png,Größe\n"
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    rows, (note,) = read_table(tmp_path / "table.csv", ["path", "label"])
    assert rows["path"].tolist() == ["Löwe.png", "niño.png"]
    assert rows["label"].tolist() == ["Neutrófilo", "Größe"]
    assert "in which it says Größe, Löwe, Neutrófilo and 1 more" in note


def test_b16_no_table_is_asked_of_what_would_wait_for_ever(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "table.csv")
    with pytest.raises(UserError, match="is not a file"):
        read_table(tmp_path / "table.csv", ["path"])
