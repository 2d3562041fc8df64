from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import re
import shutil

import pytest

from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports.escape import escaped

pytest.importorskip("jinja2", reason="the HTML report needs the extra 'html'")
pytest.importorskip("playwright", reason="playwright drives the browser")

from playwright.sync_api import Browser
from playwright.sync_api import Page
from playwright.sync_api import sync_playwright

from pytest_tempres.reports import html

CHROMIUM = shutil.which("chromium")
ROOT = "/tmp/tempres-abcdefgh"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def show(browser, tmp_path) -> Iterator[Callable[..., Page]]:
    """Show the page of a summary; the browser must load nothing else and report no error."""
    path = tmp_path / "report.html"
    problems: list[str] = []
    requests: list[str] = []
    pages = []

    def show(summary, **options) -> Page:
        path.write_text(html.render(summary), encoding="utf-8")
        page = browser.new_page(**options)
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield show
    for page in pages:
        page.close()
    assert problems == []
    assert requests == [path.as_uri()] * len(pages)


@pytest.fixture
def several(a_leak, summarize):
    """The summary of a session with leaks that have a different order in each column."""
    leaks = [
        a_leak(
            f"{ROOT}/main/{name}",
            size=size,
            seen=seen,
            owner=Owner("test", f"t.py::{owner}"),
            origin=(Frame(f"{file}.py", 1, "make"), Frame("deep.py", 2, f"outer_{name}")),
        )
        for name, size, seen, owner, file in (
            ("x10", 500, 3.0, "b", "m"),
            ("x9", 20, None, "c", "k"),
            ("x1", 3000, 1.0, "a", "l"),
        )
    ]
    return summarize(*leaks, a_leak(f"{ROOT}/main/known", status="known"))


def paths(page: Page) -> list[str]:
    """Return the paths in the visible rows of the table of leaks, in their order."""
    table = page.locator("table.leaks").first
    return table.locator("tbody tr:visible td:nth-child(2)").all_text_contents()


@pytest.mark.parametrize(
    "column, first, second",
    [
        ("Owner", ["x1", "x10", "x9"], ["x9", "x10", "x1"]),
        ("Path", ["x1", "x9", "x10"], ["x10", "x9", "x1"]),
        ("Size", ["x9", "x10", "x1"], ["x1", "x10", "x9"]),
        ("First seen", ["x10", "x1", "x9"], ["x1", "x10", "x9"]),
        ("Created at", ["x9", "x1", "x10"], ["x10", "x1", "x9"]),
    ],
)
def test_a_heading_sorts_by_its_column_and_then_the_other_way(show, several, column, first, second):
    """Numbers in names count as numbers, and a leak without a time is always last."""
    page = show(several)
    assert paths(page) == ["main/x1", "main/x10", "main/x9"]
    table = page.locator("table.leaks").first
    heading = table.get_by_role("columnheader", name=column)
    orders = []
    for expected in (first, second):
        heading.get_by_role("button").press("Enter")
        assert paths(page) == [f"main/{name}" for name in expected]
        orders.append(heading.get_attribute("aria-sort"))
        assert table.locator("[aria-sort]").count() == 1
    assert sorted(orders) == ["ascending", "descending"]


def test_the_filter_searches_every_column_and_the_stack(show, several):
    """All words must occur; the count is announced, and all tables are filtered."""
    page = show(several)
    box = page.get_by_label("Filter")
    shown = page.get_by_role("status")
    assert shown.inner_text() == "4 of 4 shown"
    for text, expected, number in (
        ("T.PY::B", ["main/x10"], 1),
        ("make l.py", ["main/x1"], 1),
        ("outer_x9", ["main/x9"], 1),
        ("known", [], 1),
        ("nowhere", [], 0),
        ("", ["main/x1", "main/x10", "main/x9"], 4),
    ):
        box.fill(text)
        assert paths(page) == expected
        assert shown.inner_text() == f"{number} of 4 shown"


def test_the_order_survives_the_filter(show, several):
    """A filtered row comes back in its place."""
    page = show(several)
    page.get_by_label("Filter").fill("x1")
    page.locator("table.leaks").first.get_by_role("button", name="Path").click()
    assert paths(page) == ["main/x1", "main/x10"]
    page.get_by_label("Filter").fill("")
    assert paths(page) == ["main/x1", "main/x9", "main/x10"]


@pytest.mark.parametrize("most_with_stack", [0, 1000])
def test_a_stack_unfolds_by_keyboard(show, several, monkeypatch, most_with_stack):
    """On a large page the script adds it, once."""
    monkeypatch.setattr(html, "_MOST_WITH_STACK", most_with_stack)
    page = show(several)
    page.locator("table.leaks").first.get_by_role("button", name="Created at").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    frame = page.get_by_text("deep.py:2 in outer_x1", exact=True)
    for _ in range(2):
        page.keyboard.press("Enter")
        frame.wait_for(state="visible")
        page.keyboard.press("Enter")
        frame.wait_for(state="hidden")
    assert frame.count() == 1


def test_the_filter_finds_stacks_that_are_not_in_the_rows_yet(show, several, monkeypatch):
    """On a large page they are in templates."""
    monkeypatch.setattr(html, "_MOST_WITH_STACK", 0)
    page = show(several)
    page.get_by_label("Filter").fill("outer_x9")
    assert paths(page) == ["main/x9"]


HOSTILE = [
    "<img src=x onerror=document.title='hacked'>",
    "</script></template><script>document.title='hacked'</script>",
    "\"'><b>&amp;\u202e\x1b[31m\udcff",
]


@pytest.mark.parametrize("most_with_stack", [0, 1000])
def test_a_hostile_name_is_shown_as_text(show, a_leak, summarize, monkeypatch, most_with_stack):
    """No part of it becomes an element, and invisible characters are visible."""
    monkeypatch.setattr(html, "_MOST_WITH_STACK", most_with_stack)
    leaks = [
        a_leak(f"{ROOT}/main/{name}", owner=Owner("test", name), origin=(Frame(name, 1, name),))
        for name in HOSTILE
    ]
    page = show(summarize(*leaks))
    assert page.title() == "3 leaks in /project"
    for details in page.locator("details").all():
        details.locator("summary").click()
        details.locator("li").wait_for()
    for name in HOSTILE:
        shown = escaped(name, controls=True)
        for text in (f"main/{shown}", f"{ROOT}/main/{shown}", f"{shown}:1 in {shown}"):
            assert page.get_by_text(text, exact=True).first.is_visible()
    assert page.title() == "3 leaks in /project"
    assert page.locator("img, b").count() == 0
    assert page.locator("script").count() == 1


@pytest.fixture
def wide(a_leak, summarize):
    """The summary of a session with names as long as a file system allows."""
    long = "x" * 4000
    leaks = [
        a_leak(f"{ROOT}/main/{long}", owner=Owner("test", f"t.py::{long}"), seen=n, size=n)
        for n in (1, 10**9)
    ]
    facts = summarize().session._replace(rootdir=f"/{long}")
    return summarize(*leaks, session=facts)


@pytest.mark.parametrize("width", [380, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_and_scheme_needs_horizontal_scrolling(show, wide, several, scheme, width):
    """Long names are broken, and both schemes have text on a ground that differs."""
    for summary in (wide, several):
        page = show(summary, viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.locator("summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ground, text = page.evaluate(
            "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
        )
        brightness = [sum(map(int, re.findall(r"\d+", colour))) for colour in (ground, text)]
        assert (brightness[0] > brightness[1] + 300) == (scheme == "light")
        assert abs(brightness[0] - brightness[1]) > 300


def test_text_has_enough_contrast(show, several):
    """At least 4.5 to 1, as WCAG asks for, in both schemes."""
    for scheme in ("light", "dark"):
        page = show(several, color_scheme=scheme)
        names = ("ground", "text", "muted", "bad", "good")
        style = "getComputedStyle(document.documentElement)"
        ground, *colours = [
            page.evaluate(f"{style}.getPropertyValue('--{name}').trim()") for name in names
        ]
        ratios = [contrast(ground, colour) for colour in colours]
        assert min(ratios) >= 4.5, (scheme, ratios)


def contrast(a: str, b: str) -> float:
    """Return the contrast of two colours as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_a_printed_page_has_all_stacks(show, several, monkeypatch):
    """Also those that the script adds; afterwards the page is as before."""
    monkeypatch.setattr(html, "_MOST_WITH_STACK", 0)
    page = show(several)
    page.evaluate("addEventListener('beforeprint', () => { window.stacks = count(); })")
    page.evaluate("window.count = () => document.querySelectorAll('[open] ol.stack').length")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("[window.stacks, count()]") == [4, 0]


def test_a_page_works_without_its_script(show, several):
    """Charts, tables and stacks are there, and what needs the script is not."""
    page = show(several, java_script_enabled=False)
    assert not page.get_by_label("Filter").is_visible()
    assert page.locator("button:enabled").count() == 0
    assert page.locator("rect").first.is_visible()
    assert page.get_by_role("img").is_visible()
    page.emulate_media(media="print")
    assert page.get_by_text("deep.py:2 in outer_x1", exact=True).is_visible()
    page.emulate_media(media="screen")
    assert not page.get_by_text("deep.py:2 in outer_x1", exact=True).is_visible()
    page.get_by_text("l.py:1 in make").first.click()
    assert page.get_by_text("deep.py:2 in outer_x1", exact=True).is_visible()


def test_a_table_is_a_table_for_assistive_technology(show, several):
    """The layout of its rows does not change what they are."""
    page = show(several)
    table = page.get_by_role("table", name=re.compile("^Leaks"))
    assert table.get_by_role("row").count() == 1 + 3
    assert table.get_by_role("columnheader").count() == 5
    assert table.get_by_role("cell").count() == 5 * 3
