"""The pages in a real browser: they sort, filter, can be operated and read, and ask for nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest
from support.results import show_large, write_gaps

from benchmark.report.page import MOST_BYTES

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)})")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return (
        write_gaps(tmp_path_factory.mktemp("shown") / "results" / "toy") / "report.html"
    ).as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page without a network and gives it with all it said and asked for."""
    contexts = []

    def opened(viewport, there="", **options):
        contexts.append(browser.new_context(viewport=viewport, offline=True, **options))
        page = contexts[-1].new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(urljoin(address, there))
        return page, said, asked

    yield opened
    for context in contexts:
        context.close()


PAGES = ("", *(f"pages/{name}.html" for name in ("overview", "methods", "errors", "data", "runs")))
PAGES += ("pages/experiment-losses.html", "pages/experiment-norms.html")


MEAN = 3
"""The column of the mean of targets, behind method and rank."""


def methods(page):
    return page.locator("#board tbody th button").all_inner_texts()


def values(page, column):
    """The numbers of a column, without the rows that have none."""
    cells = page.locator(f"#board tbody tr td:nth-child({column})").all_inner_texts()
    return [float(cell.split()[0].replace("−", "-")) for cell in cells if cell != "–"]


def test_it_asks_for_nothing_and_reports_no_error(open_page, address):
    page, said, asked = open_page(DESK)
    page.locator("#board button").first.click()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


@pytest.mark.parametrize("there", PAGES)
def test_a_page_weighs_little_until_it_is_scrolled(open_page, there):
    _, said, asked = open_page(DESK, there)
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    files = [Path(unquote(urlparse(url).path)) for url in asked if url.startswith("file:")]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES


def test_a_desk_shows_eight_other_domains_without_scrolling_sideways(open_page, tmp_path):
    folder = show_large(tmp_path / "results" / "large", seeds=2)
    for path in (folder / "pages").glob("experiment-*.html"):
        page, *_ = open_page(DESK, path.as_uri())
        tables = page.locator(".scroll")
        assert tables.count() == 2  # a table for each source
        assert tables.evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_first_screen_says_what_this_is_and_shows_scores(open_page, viewport):
    page, *_ = open_page(viewport)
    for element in ("h1", ".lead", "#card-falls", ".fall .home", ".fall .away"):
        box = page.locator(element).first.bounding_box()
        assert box["y"] >= 0, element
        assert box["y"] + box["height"] <= viewport["height"], element
        assert box["x"] + box["width"] <= viewport["width"], element


def test_the_first_screen_of_a_desk_shows_the_cards_and_the_first_of_the_leaderboard(open_page):
    page, *_ = open_page(DESK)
    assert page.locator(".card").count() == 4
    for element in (*page.locator(".card").all(), page.locator("#board tbody tr").first):
        box = element.bounding_box()
        assert box["y"] + box["height"] <= DESK["height"]


def test_what_is_shown_is_in_the_address_and_back_again(open_page):
    page, *_ = open_page(DESK)
    page.get_by_label("Method contains").fill("gn")
    page.locator("#board-metric").select_option("accuracy")
    expect(page.locator("#board caption")).to_contain_text("accuracy in %")
    page.get_by_label("Each test set").check()
    page.locator("#board button[data-key=bccd]").click()
    page.locator("#board button.name").click()
    shown = page.locator("#board").inner_text()
    there = urlparse(page.url).fragment
    again, *_ = open_page(DESK, f"#{there}")
    expect(again.locator("#board caption")).to_contain_text("accuracy in %")
    assert again.locator("#board").inner_text() == shown
    assert again.get_by_label("Method contains").input_value() == "gn"
    assert again.locator("#board-metric").input_value() == "accuracy"
    assert again.locator("#board th[aria-sort=descending]").inner_text().startswith("bccd")
    page.get_by_label("Method contains").fill("")
    assert "words" not in urlparse(page.url).fragment


def test_a_method_is_explained_where_its_name_is_pressed(open_page):
    page, *_ = open_page(PHONE)
    name = page.get_by_role("button", name="resnet18-gn-ce")
    assert name.get_attribute("aria-expanded") == "false"
    name.press("Enter")
    name = page.get_by_role("button", name="resnet18-gn-ce")
    assert name.get_attribute("aria-expanded") == "true"
    assert name.evaluate("button => button === document.activeElement")
    about = page.locator("#board .about")
    assert "Group normalisation" in about.inner_text()
    assert about.get_by_role("link").all_inner_texts() == ["Normalisation at fixed architecture"]
    name.press("Enter")
    assert about.count() == 0


def test_ten_methods_are_shown_until_all_are_asked_for(open_page):
    page, *_ = open_page(DESK)
    board = "document.getElementById('board-data')"
    page.evaluate(
        f"""() => {{
          const data = JSON.parse({board}.textContent);
          const [board] = data.boards;
          const row = board.rows[0];
          for (let i = 0; i < 12; i += 1) {{
            board.rows.push({{ ...row, method: `more-${{i}}` }});
            data.scores[0].cells.push(data.scores[0].cells[0]);
            data.methods[`more-${{i}}`] = data.methods[row.method];
          }}
          {board}.textContent = JSON.stringify(data);
          const script = document.createElement('script');
          script.textContent = [...document.scripts].at(-1).textContent;
          document.body.append(script);
        }}"""
    )
    every = page.get_by_role("button", name="Show all 15 methods")
    assert len(methods(page)) == 10
    every.press("Enter")
    assert len(methods(page)) == 15
    page.get_by_role("button", name="Show the first 10").click()
    assert len(methods(page)) == 10


def test_it_sorts_by_keyboard_and_says_so(open_page):
    page, *_ = open_page(DESK)
    mean = page.locator("#board button[data-key=mean_target]")
    heading = page.locator("#board th:has(button[data-key=mean_target])")
    rank = page.locator("#board th:has(button[data-key=rank])")
    assert rank.get_attribute("aria-sort") == "ascending"
    shown = values(page, MEAN)
    assert len(shown) == 2
    assert shown == sorted(shown, reverse=True)
    mean.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert values(page, MEAN) == sorted(shown)
    assert methods(page)[-1] == "resnet18-in-ce"  # no value comes last both ways
    assert mean.evaluate("button => button === document.activeElement")
    assert "ordered by mean of targets, ascending" in page.get_by_role("status").inner_text()
    page.locator("#board button[data-key=method]").press("Space")
    assert methods(page) == sorted(methods(page))
    assert page.locator("#board th[aria-sort]").count() == 1


def test_it_filters_and_the_majority_row_stays(open_page):
    page, *_ = open_page(DESK)
    majority = page.locator("#board tfoot tr")
    page.get_by_label("Method contains").fill("gn")
    assert methods(page) == ["resnet18-gn-ce"]
    assert page.get_by_role("status").inner_text().startswith("1 of 3 methods")
    page.get_by_label("Method contains").fill("nothing like it")
    assert methods(page) == []
    assert "majority" in majority.inner_text()
    page.get_by_label("Method contains").fill("")
    page.locator("#board-experiment").select_option("losses")
    assert methods(page) == ["resnet18-bn-ce"]
    page.locator("#board-experiment").select_option("")
    before = values(page, MEAN)
    page.locator("#board-metric").select_option("accuracy")
    expect(page.locator("#board caption")).to_contain_text("accuracy in %")
    assert values(page, MEAN) != before
    assert majority.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("there", PAGES)
def test_an_accessibility_check_finds_nothing(open_page, there, scheme):
    page, *_ = open_page(PHONE, there, color_scheme=scheme)
    for name in page.locator("#board button.name").all()[:1]:
        name.click()
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["target"]) for rule in found] == []


@pytest.mark.parametrize("there", PAGES)
def test_a_phone_scrolls_tables_and_never_the_page(open_page, there):
    page, *_ = open_page(PHONE, there)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    targets = page.locator("#board button, .wide:visible, select, summary").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(targets, default=24) >= 24  # WCAG 2.2, 2.5.8


def test_print_shows_what_the_screen_scrolls(open_page):
    page, *_ = open_page(DESK)
    page.emulate_media(media="print")
    assert page.locator("#board-form").is_hidden()
    overflow = "part => getComputedStyle(part).overflow"
    assert page.locator(".board").evaluate(overflow) == "visible"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_text(file.read_text()[:99]), "is not of this page"),
        (lambda file: file.write_text(file.read_text().replace('"edition":"', '"edition":"0')),
         "is not of this page"),
    ],
    ids=["missing", "cut off", "of another edition"],
)  # fmt: skip
def test_a_file_of_scores_that_cannot_be_shown_is_named_and_read_once(
    browser, address, tmp_path, damage, says
):
    folder = shutil.copytree(Path(unquote(urlparse(address).path)).parent, tmp_path / "shown")
    damage(folder / "pages" / "scores-accuracy.js")
    page = browser.new_page(viewport=DESK)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "report.html").as_uri())
    page.locator("#board-metric").select_option("accuracy")
    expect(page.get_by_role("status")).to_contain_text(f"pages/scores-accuracy.js {says}")
    assert methods(page) == []
    page.locator("#board-metric").select_option("macro_f1")
    assert len(methods(page)) == 3
    assert sum("scores-accuracy" in url for url in asked) == 1
    page.close()
