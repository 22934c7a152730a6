"""The page in a real browser: it sorts, filters, can be operated and read, and asks for nothing."""

from __future__ import annotations

import shutil

import pytest
from support.results import write_gaps

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


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

    def opened(viewport, **options):
        contexts.append(browser.new_context(viewport=viewport, offline=True, **options))
        page = contexts[-1].new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page, said, asked

    yield opened
    for context in contexts:
        context.close()


def methods(page):
    return page.locator("#board tbody th").all_inner_texts()


def values(page, column):
    """The numbers of a column, without the rows that have none."""
    cells = page.locator(f"#board tbody tr td:nth-child({column})").all_inner_texts()
    return [float(cell.split()[0].replace("−", "-")) for cell in cells if cell != "–"]


def test_it_asks_for_nothing_and_reports_no_error(open_page, address):
    page, said, asked = open_page(DESK)
    page.locator("#board button").first.click()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_it_sorts_by_keyboard_and_says_so(open_page):
    page, *_ = open_page(DESK)
    mean = page.locator("#board button[data-key=mean_target]")
    heading = page.locator("#board th:has(button[data-key=mean_target])")
    assert heading.get_attribute("aria-sort") == "descending"
    shown = values(page, 5)
    assert len(shown) == 2
    assert shown == sorted(shown, reverse=True)
    mean.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert values(page, 5) == sorted(shown)
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
    assert "majority constant" in majority.inner_text()
    page.get_by_label("Method contains").fill("")
    page.locator("#board-experiment").select_option("losses")
    assert methods(page) == ["resnet18-bn-ce"]
    page.locator("#board-experiment").select_option("")
    before = values(page, 4)
    page.locator("#board-metric").select_option("accuracy")
    assert values(page, 4) != before
    assert majority.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_check_finds_nothing(open_page, scheme):
    page, *_ = open_page(PHONE, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], rule["nodes"][0]["target"]) for rule in found] == []


def test_a_phone_scrolls_tables_and_never_the_page(open_page):
    page, *_ = open_page(PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    targets = page.locator("#board thead button, select, summary").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(targets) >= 24  # WCAG 2.2, 2.5.8


def test_print_shows_what_the_screen_scrolls(open_page):
    page, *_ = open_page(DESK)
    page.emulate_media(media="print")
    assert page.locator("#board-form").is_hidden()
    overflow = "part => getComputedStyle(part).overflow"
    assert page.locator(".board").evaluate(overflow) == "visible"
