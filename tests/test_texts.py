"""Texts and file names that others chose: each writer shows them readably, none obeys them."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from conftest import CARD, CLASSES, REPOSITORY
from support.laboratory import cell
from support.trained import RUN

from benchmark.data.cards import Card
from benchmark.errors import UserError
from benchmark.files import read_yaml
from benchmark.report.table import Table, sheet
from benchmark.report.write import markdown_rows, to_latex, to_markdown
from benchmark.schema import parse
from benchmark.texts import (
    HIDDEN,
    LATEX_LACKS,
    LATEX_LETTERS,
    csv_cell,
    csv_path,
    file_name,
    latex,
    markdown,
    one_line,
    visible,
)

PAYLOADS = [
    "=cmd|' /C calc'!A0", "+1+cmd|'x'!A0", "-2+3", "@SUM(A1)", "\t=1+1", "＝1+1", '=HYPERLINK("x")',
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "a|b", "a\\|b",
    "[x](javascript:alert(1))", "![x](http://x/y.png)", "<http://x>", "# a", "a\n\n# b", "a\r\nb",
    "\\input{/etc/passwd}", "\\write18{id}", "$x$", "$\\frac{", "%", "a & b", "a_b^c~d#e{f}", "[x]",
    "}{", "\\\\", "^^5c", "a\x1b[31mb", "\x07", "\x00", "\u202eabc", "a\u2028b", "\ud800", "\udce9",
    "中文", "😀", "ñandú", "ﬁ", "\ufeffa", "'", '"', "a,b;c", "x" * 500, "", " ", "NA", "1e4",
    "*", "`a|b`",
]  # fmt: skip


def hostile(count: int = 250) -> list[str]:
    """Payloads, and seeded mixtures of their pieces."""
    generator = random.Random(4)
    letters = "aZ0 _*|<>&\\$%#^~{}[]()`'\"=+-@\n\t\r\x1b\x00\x9b\u202e\udce9é中😀.,;:/"
    texts = list(PAYLOADS)
    while len(texts) < count:
        parts = generator.choices(PAYLOADS[:40], k=generator.randint(1, 3))
        parts.append("".join(generator.choices(letters, k=generator.randint(0, 12))))
        generator.shuffle(parts)
        texts.append("".join(parts))
    return texts


HOSTILE = hostile()


def sheet_of(texts: list[str]) -> Table:
    """A sheet with every text as a cell, in the header, caption and notes too."""
    rows = tuple((text, f"{place}", text) for place, text in enumerate(texts))
    return sheet("hostile", texts[0] or "-", ("a", *texts[1:3]), rows, tuple(texts[:60]))


def test_d4_no_cell_of_a_csv_is_a_formula_and_no_number_a_text() -> None:
    for text in HOSTILE:
        cell = csv_cell(text)
        assert not cell[:1] or cell[0] not in "=@\t\r＝＋－＠"
        assert not re.match(r"[+-](?!\d[\d.,]*$)", cell)
        assert cell.removeprefix("'") == visible(text).removeprefix("'")
    assert [csv_cell(number) for number in (1.5, -2)] == [1.5, -2]
    for number in (
        "-0.6",
        "+3.2",
        "-3.4 [-5.0, 1.2]",
        "−3.4 [−5.0, 1.2]",
        "-1e-5",
        "12 %",
        "-9.37",
    ):
        assert csv_cell(number) == number


def test_d4_a_path_in_a_csv_names_the_same_file_and_is_no_formula() -> None:
    assert csv_path("=cmd.png") == "./=cmd.png"
    assert csv_path("-a/b.png") == "./-a/b.png"
    assert csv_path("neutrophil/1.png") == "neutrophil/1.png"


def test_d4_markdown_cells_stay_cells_and_hold_no_html_and_no_link() -> None:
    for text in HOSTILE:
        line = markdown_rows(["a", "b"], [[markdown(text), "1"]]).split("\n")
        assert len(line) == 3
        cells = re.split(r"(?<!\\)(?:\\\\)*\|", line[2])
        assert len(cells) == 4
        assert not re.search(r"<[A-Za-z/!?]", line[2])
        assert not re.search(r"\]\(", line[2])
        assert not HIDDEN.search(line[2])
    written = to_markdown(sheet_of(HOSTILE))
    assert not re.search(r"<[A-Za-z/!?]", written)
    assert len([line for line in written.split("\n") if line.startswith("| ")]) == len(HOSTILE) + 1


class Page(HTMLParser):
    """What a browser would make of a page: its tags, its text, the addresses of its links."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_d4_a_page_shows_any_text_and_obeys_none(tmp_path: Path) -> None:
    from benchmark.texts import templates_beside

    (tmp_path / "p.jinja").write_text(
        '{% for t in texts %}<p title="{{ t }}">{{ t }}</p>'
        '{% if t is link %}<a href="{{ t }}">{{ t }}</a>{% endif %}{% endfor %}'
    )
    template = templates_beside(str(tmp_path / "module.py")).get_template("p.jinja")
    addresses = ["javascript:alert(1)", "JavaScript:x", "data:text/html,x", "https://example.org"]
    text = template.render(texts=[*HOSTILE, *addresses])
    text.encode("utf-8")
    page = Page()
    page.feed(text)
    assert set(page.tags) == {"p", "a"}
    assert page.links == ["https://example.org"]
    assert not HIDDEN.search(page.text)
    for one in HOSTILE:
        assert visible(one) in page.text


@pytest.mark.parametrize("address", ["javascript:alert(1)", " javascript:x", "data:text/html,x"])
def test_d4_a_card_names_no_address_that_runs(tmp_path: Path, address: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(CARD.replace("https://example.org/toy", f"'{address}'"))
    with pytest.raises(UserError, match=r"homepage.*is no address of the web"):
        parse(Card, read_yaml(path), str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("key: toy2020", "key: 'a}\\input{b'", "citation.key"),
        ("key: toy2020", "key: toy2021", "begins with @type{toy2021,"),
        ("title={Toy discs}", r"title={\\input{/etc/passwd}}", r"\input is no letter"),
        ("title={Toy discs}", r"note={\\immediate\\write18{id}}", r"\immediate is no letter"),
    ],
)
def test_d4_a_citation_is_no_program_of_tex(tmp_path: Path, old: str, new: str, message) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(CARD.replace(old, new))
    with pytest.raises(UserError) as fault:
        parse(Card, read_yaml(path), str(path))
    assert message in str(fault.value)


def test_letters_that_latex_is_given_are_declared_in_the_preamble() -> None:
    preamble = (REPOSITORY / "paper" / "preamble.tex").read_text()
    declared = {chr(int(code, 16)) for code in re.findall(r"UnicodeCharacter\{(\w+)\}", preamble)}
    known = {chr(c) for c in range(0x180, 0x3000) if LATEX_LETTERS.fullmatch(chr(c))}
    assert {letter for letter in known if not "\u2010" <= letter <= "\u2122"} <= declared
    assert all(latex(letter).startswith("U+") for letter in LATEX_LACKS)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_d4_latex_prints_any_text(tmp_path: Path) -> None:
    """Every text in caption, header, cells and notes of a table, through LaTeX itself."""
    letters = "".join(chr(c) for c in range(0xA1, 0x3000) if LATEX_LETTERS.fullmatch(chr(c)))
    preamble = (REPOSITORY / "paper" / "preamble.tex").read_text()
    needed = re.findall(
        r"^\\(?:usepackage.*\{(?:fontenc|inputenc|textcomp|mathptmx|amsmath.*)\}|Declare.*)$",
        preamble, re.MULTILINE,
    )  # fmt: skip
    lines = [line for line in preamble.split("\n") if line.lstrip("\\") in needed or any(
        package in line for package in ("fontenc", "inputenc", "textcomp", "mathptmx", "amsmath")
    ) or line.startswith("\\DeclareUnicode")]  # fmt: skip
    document = ["\\documentclass[twocolumn]{article}", *lines, "\\usepackage{longtable}"]
    document += ["\\begin{document}", f"\\section{{{latex(letters)}}}"]
    for start in range(0, len(HOSTILE), 40):
        document.append(to_latex(sheet_of(HOSTILE[start : start + 40])))
        document.append("\\clearpage")
    (tmp_path / "hostile.tex").write_text("\n".join([*document, "\\end{document}"]), "utf-8")
    done = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "hostile"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_d13_figures_take_any_title_and_any_name(tmp_path: Path) -> None:
    import matplotlib.style

    from benchmark.drawing import STYLE, page, save

    for number in range(0, 250, 25):
        with matplotlib.style.context(STYLE):
            figure = page(60)
            axes = figure.add_subplot()
            axes.set_title("".join(HOSTILE[number : number + 5])[:300])
            axes.set_yticks(range(25), [one_line(text)[:40] for text in HOSTILE[number:][:25]])
            axes.text(0, 0, HOSTILE[number + 7][:100])
        save(figure, tmp_path / f"{number}")
        assert (tmp_path / f"{number}.pdf").stat().st_size > 1000


FILES = [
    b"caf\xe9.png", b"\xff\xfe.png", b"=cmd.png", b"-rf.png", b"+1.png", b"@a.png", b"a\nb.png",
    b"a\tb.png", b"\x1b[31mred.png", b"$(id).png", b"`id`.png", b"a'b\"c.png", b"<b>a.png",
    b"NA.png", b"null.png", b" a .png", b"a%20b.png", b"#1.png", b"{x}.png", b"[1].png", b"a*?.png",
    "中文.png".encode(), "😀.png".encode(), "e\u0301.png".encode(), b"n" * 251 + b".png",
    b"~a.png", b"a&b.png", b"$x$.png", b"a|b.png", b"nul.png", "\u202egnp.png".encode(),
    b"a\rb.png", b"a,b;c.png",
]  # fmt: skip


def lab_of_strange_names(folder: Path, names: list[bytes]) -> tuple[int, int]:
    """Class folders whose images have these names; how many of them are UTF-8, and are not."""
    made = [0, 0]
    for place, name in enumerate(names):
        below = folder / CLASSES[place % 5]
        below.mkdir(parents=True, exist_ok=True)
        cell(CLASSES[place % 5], place).save(below / "plain.png")
        try:
            os.rename(below / "plain.png", os.path.join(os.fsencode(below), name))
        except OSError:
            (below / "plain.png").unlink()  # this file system does not take the name
        else:
            made[name.decode("utf-8", "ignore").encode() != name] += 1
    return made[0], made[1]


def test_any_legal_file_name_is_added_prepared_and_audited(prepared: Path, wbc_shift) -> None:
    """Generated: 200 names of any bytes; those not in UTF-8 are left out, counted and named."""
    generator = random.Random(8)
    names = set(FILES)
    while len(names) < 200:
        signs = [*range(1, 46), *range(58, 128), 0xE9, 0x4E2D, 0x1F600, 0x202E, 0xDCE9]
        text = "".join(map(chr, generator.choices(signs, k=generator.randint(1, 30))))
        names.add(f"{text}.png".encode("utf-8", "surrogateescape"))
    made, strange = lab_of_strange_names(Path("lab"), sorted(names))
    outcome = wbc_shift("domain", "add", "lab", "--name", "our-lab", "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert f"our-lab: {made} images used" in outcome.out
    assert f"{strange} left out" in outcome.out
    audit = pd.read_csv("datasets/raw/our-lab/audit.csv", keep_default_na=False)
    assert "neutrophil/caf\\xe9.png" in {re.sub("^.*/", "neutrophil/", p) for p in audit["path"]}
    for command in ("fetch", "prepare", "plan", "audit"):
        outcome = wbc_shift(command, "-p", "tiny")
        assert outcome.status == 0, (command, outcome.err)
        assert "\x1b" not in outcome.out
    table = pd.read_parquet("datasets/cache/tiny/manifest.parquet").query("domain == 'our-lab'")
    assert len(table) == made
    for path, name in zip(table["image"], table["class_name"], strict=True):
        assert not HIDDEN.search(path)
        assert (Path("datasets/raw/our-lab") / path).is_file()
        assert path.split("/")[0] == name


def test_any_legal_file_name_is_answered(trained: Path, wbc_shift) -> None:
    shutil.rmtree("new")
    made, strange = lab_of_strange_names(Path("new"), FILES)
    outcome = wbc_shift("predict", "new", "--run", RUN, "-p", "tiny")
    assert outcome.status == 0, outcome.err
    assert "\x1b" not in outcome.out
    table = pd.read_csv("predictions.csv", keep_default_na=False)
    assert (table["label"] != "").sum() == made
    assert not table["image"].str.match(r"[=+\-@\t]").any()
    page = Page()
    page.feed(Path("predictions.html").read_text(encoding="utf-8"))
    assert "b" not in page.tags
    assert strange == 2
    assert re.search(r"/caf\\xe9\.png", page.text + "".join(table["image"]) + outcome.out)


def test_a_copy_of_a_file_has_a_name_that_every_system_takes() -> None:
    assert file_name("a/caf\udce9.png") == "a/caf%E9.png"
    assert file_name("a\nb.png") == "a%0Ab.png"
    assert file_name("a\\b.png") == "a%5Cb.png"
    assert file_name("中文/é.png") == "中文/é.png"
