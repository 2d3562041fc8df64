from __future__ import annotations

import base64
from collections import Counter
import hashlib
from html.parser import HTMLParser
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import SESSION
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.model import Process
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.workspace.retention import Artifacts
from pytest_tempres.workspace.retention import Kept

pytest.importorskip("jinja2", reason="the HTML report needs the extra 'html'")

from pytest_tempres.reports import html

ROOT = "/tmp/tempres-abcdefgh"
#: Elements that have no end tag.
VOID = {"br", "input", "link", "meta"}


class Element:
    """An element of a page, and what is in it."""

    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Element | str] = []

    @property
    def text(self) -> str:
        """All text in the element."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements in this one that have this tag and these attributes."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                if child.tag == tag and attributes.items() <= child.attributes.items():
                    found.append(child)
                found += child.all(tag, **attributes)
        return found

    def texts(self, tag: str, **attributes: str) -> list[str]:
        """Return the texts of the elements with this tag and these attributes."""
        return [each.text.strip() for each in self.all(tag, **attributes)]


class Parser(HTMLParser):
    """Builds the tree of a page, and checks that each element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag, attrs):
        """Add an element, and open it."""
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        """Add an element of SVG that has no contents."""
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag):
        """Close the innermost element, which must be this one."""
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        """Add text."""
        self.open[-1].children.append(data)


def parse(text: str) -> Element:
    """Return the tree of a page."""
    parser = Parser()
    parser.feed(text)
    parser.close()
    (page,) = parser.open
    return page


def section(page: Element, name: str) -> Element:
    """Return the section of a page whose heading has this id."""
    (found,) = page.all("section", **{"aria-labelledby": name})
    return found


def rows(element: Element) -> list[list[str]]:
    """Return the texts of the cells of each row below the heading."""
    (body,) = element.all("tbody")
    return [[cell.text.strip() for cell in row.all("td")] for row in body.all("tr")]


@pytest.fixture
def full(a_leak, summarize) -> Summary:
    """The summary of a session that has something of everything."""
    test = Owner("test", "t.py::other", None, "t.py:9")
    return summarize(
        a_leak(size=700, seen=0.5),
        a_leak(f"{ROOT}/main/y", kind="directory", size=1_500_000, items=3, owner=test, seen=1.25),
        a_leak(f"{ROOT}/main/k", status="known", size=1),
        a_leak(f"{ROOT}/main/d", status="deferred", size=2),
        a_leak(f"{ROOT}/main/f", status="failed-test", size=3),
        kept=(Kept("t.py::test", f"{ROOT}/main.d/test-1", "failed", "main", "/art/test-1"),),
        artifacts=Artifacts("/art", 1, 2, 3, 4, "manifest.json"),
        stale=(Known("test", "t.py::gone", "file", "lib.py:make", "0123456789abcdef"),),
        abandoned=("far:/tmp/tempres-zzzzzzzz",),
        gate_failed=True,
    )


# -- contents


def test_the_totals_are_those_of_the_summary(full):
    """The reader sees first how bad it is."""
    page = parse(html.render(full))
    assert dict(zip(page.texts("dt"), page.texts("dd"), strict=True)) == {
        "Leaks": "2",
        "Size": "1.5 MB",
        "Left by failed tests": "1",
        "Known": "1",
        "Deferred": "1",
        "Kept": "1",
    }
    (verdict,) = page.all("p", **{"class": "verdict failed"})
    assert verdict.text == "2 leaks from 2 tests, 1.5 MB. The run fails because of leaks."


def test_a_session_without_leaks_has_no_tables_of_leaks(summarize):
    """The page says so instead."""
    page = parse(html.render(summarize()))
    assert page.texts("p", **{"class": "verdict clean"}) == ["No leaks."]
    assert not page.all("table")
    assert not page.all("form")


def test_the_verdict_counts_owners_of_each_kind(a_leak, summarize):
    """A fixture or an import is no test."""
    owners = [
        Owner("test", "a"),
        Owner("test", "b"),
        Owner("fixture", "f", "module"),
        Owner("collection", "t.py"),
        SESSION,
    ]
    page = parse(html.render(summarize(*(a_leak(owner=owner) for owner in owners))))
    assert page.texts("p", **{"class": "verdict"}) == [
        "5 leaks from 2 tests, 1 fixture, 1 collected module, the session, 0 bytes."
    ]
    assert [row[0] for row in rows(section(page, "leak"))] == [
        "a",
        "b",
        "fixture f (module)",
        "collecting t.py",
        "the session",
    ]


def test_a_row_has_everything_about_a_leak(a_leak, summarize):
    """Owner, path, size, time and line are columns; the rest and the stack unfold."""
    leak = a_leak(
        f"{ROOT}/gw0/x",
        kind="directory",
        size=1200,
        items=2,
        owner=Owner("fixture", "cache", "module", "conftest.py:20"),
        phase="setup",
        origin=(Frame("lib.py", 7, "make"), Frame("conftest.py", 21, "cache")),
        worker="gw0",
        seen=75.25,
    )
    page = section(parse(html.render(summarize(leak))), "leak")
    ((owner, path, size, seen, _),) = rows(page)
    assert (owner, path, size) == ("fixture cache (module)", "gw0/x", "1.2 kB")
    assert seen == "1 min 15 s"
    assert [cell.attributes["data-value"] for cell in page.all("td", **{"class": "number"})] == [
        "1200",
        "75.25",
    ]
    (details,) = page.all("details")
    assert details.texts("summary") == ["lib.py:7 in make"]
    facts = "directory with 2 files · owner at conftest.py:20 · in the setup phase · worker gw0"
    (shown,) = details.texts("p")
    assert shown == f"{facts} · fingerprint {leak.fingerprint}{leak.path}"
    assert details.texts("li") == ["lib.py:7 in make", "conftest.py:21 in cache"]


def test_a_leak_of_a_subprocess_names_the_processes(a_leak, summarize):
    """No line of Python created it."""
    server = Process("python serve.py", Owner("test", "t.py::server"))
    leak = a_leak(
        origin=(), made_by="other", command="sh pack.sh", processes=(server, server), complete=False
    )
    (details,) = parse(html.render(summarize(leak))).all("details")
    assert details.texts("summary") == ["made by a subprocess or native code"]
    processes = "last process: sh pack.sh · still running then: python serve.py of t.py::server"
    assert f"{processes} · fingerprint" in details.text
    assert not details.all("ol")


def test_sizes_that_are_lower_bounds_are_marked(a_leak, summarize):
    """The walk through a large tree stops early."""
    leak = a_leak(kind="directory", size=5_000, items=10_000, complete=False)
    page = section(parse(html.render(summarize(leak))), "leak")
    assert rows(page)[0][2] == "≥ 5.0 kB"
    assert "directory with at least 10,000 files" in page.text


def test_a_descriptor_has_no_line_of_a_subprocess(a_leak, summarize):
    """Its opening was not seen, and no subprocess can open it."""
    leak = a_leak("fd 14: /dev/null", kind="descriptor", origin=(), made_by="other")
    page = section(parse(html.render(summarize(leak))), "leak")
    assert rows(page)[0][1] == "fd 14: /dev/null"
    assert page.texts("summary") == ["the line is unknown"]


def test_each_status_has_a_section_of_its_own(full):
    """Only leaks count; what is known, deferred or from failed tests stands apart."""
    page = parse(html.render(full))
    paths = {
        name: [row[1] for row in rows(section(page, name))]
        for name in ("leak", "known", "deferred", "failed-test")
    }
    assert paths == {
        "leak": ["main/y", "main/x"],
        "known": ["main/k"],
        "deferred": ["main/d"],
        "failed-test": ["main/f"],
    }


def test_the_largest_leak_is_first_and_the_heading_says_so(a_leak, summarize):
    """The order of equal ones is that of the summary."""
    sizes = {"a": 5, "b": 70, "c": 5, "d": 600}
    leaks = (a_leak(f"{ROOT}/main/{name}", size=size) for name, size in sizes.items())
    page = section(parse(html.render(summarize(*leaks))), "leak")
    assert [row[1] for row in rows(page)] == ["main/d", "main/b", "main/a", "main/c"]
    assert page.texts("th", **{"aria-sort": "descending"}) == ["Size"]
    assert page.texts("button", type="button") == [
        "Owner",
        "Path",
        "Size",
        "First seen",
        "Created at",
    ]


def test_paths_of_remote_workers_have_their_host(a_leak, summarize):
    """The paths of two hosts may be the same."""
    there = "far:/tmp/tempres-zzzzzzzz"
    summary = summarize(
        a_leak(f"{there}/gw1/x", worker="gw1"),
        a_leak("/elsewhere/y"),
        hosts={"gw1": "far"},
        other_roots=(there,),
    )
    page = parse(html.render(summary))
    assert [row[1] for row in rows(section(page, "leak"))] == ["far:gw1/x", "/elsewhere/y"]


def test_kept_paths_copies_and_stale_lines_are_listed(full):
    """They are all that the summary has besides leaks."""
    page = parse(html.render(full))
    assert rows(section(page, "kept")) == [
        ["t.py::test", f"{ROOT}/main.d/test-1copied to /art/test-1", "failed", "main"]
    ]
    assert section(page, "kept").texts("p")[-1] == (
        "Copied to /art: 1 directory, 2 files, 3 bytes; 4 not copied."
    )
    assert rows(section(page, "stale")) == [
        ["t.py::gone", "file", "lib.py:make", "0123456789abcdef"]
    ]
    assert section(page, "abandoned").texts("li") == ["far:/tmp/tempres-zzzzzzzz"]


def test_a_table_lists_only_so_many_leaks(a_leak, summarize, monkeypatch):
    """A browser must be able to show the page; the totals count all."""
    monkeypatch.setattr(html, "_MOST_ROWS", 2)
    leaks = (a_leak(f"{ROOT}/main/{size}", size=size) for size in range(5))
    page = parse(html.render(summarize(*leaks)))
    assert [row[1] for row in rows(section(page, "leak"))] == ["main/4", "main/3"]
    assert "The largest 2 are listed here; 3 more are" in section(page, "leak").text
    assert page.texts("dd")[0] == "5"


def test_the_other_tables_list_only_so_many_too(full, monkeypatch):
    """They say so."""
    monkeypatch.setattr(html, "_MOST_ROWS", 0)
    page = parse(html.render(full))
    for name in ("kept", "stale"):
        assert rows(section(page, name)) == []
        assert "The first 0 are listed here." in section(page, name).text


def test_many_leaks_have_their_stacks_in_templates(a_leak, summarize, monkeypatch):
    """Each stack is in the page once, and a row says which is its own."""
    monkeypatch.setattr(html, "_MOST_WITH_STACK", 2)
    stacks = [(Frame("a.py", 1, "f"),), (Frame("b.py", 2, "g"), Frame("a.py", 3, "f")), ()]
    leaks = [a_leak(origin=stacks[number]) for number in (0, 1, 0, 2)]
    page = parse(html.render(summarize(*leaks)))
    numbers = [details.attributes.get("data-stack") for details in page.all("details")]
    assert numbers == ["0", "1", "0", None]
    templates = {each.attributes["id"]: each.texts("li") for each in page.all("template")}
    assert templates == {
        "stack-0": ["a.py:1 in f"],
        "stack-1": ["b.py:2 in g", "a.py:3 in f"],
    }
    assert not section(page, "leak").all("ol")
    assert len(page.all("noscript")) == 1


# -- charts


def test_bars_are_as_long_as_the_sizes(a_leak, summarize):
    """The owner with the most bytes has the longest bar, and is first."""
    sizes = {"a": (10, 15), "b": (100,), "c": (0,)}
    leaks = (a_leak(owner=Owner("test", n), size=s) for n, each in sizes.items() for s in each)
    bars = section(parse(html.render(summarize(*leaks))), "by-owner")
    assert bars.texts("th", scope="row") == ["b", "a", "c"]
    assert [bar.attributes["width"] for bar in bars.all("rect")] == ["100.0", "25.0", "0.0"]
    assert rows(bars) == [["1", "100 bytes"], ["2", "25 bytes"], ["1", "0 bytes"]]


def test_owners_beyond_the_chart_have_one_bar(a_leak, summarize):
    """No leak is missing from it."""
    leaks = [a_leak(owner=Owner("test", f"t{n}"), size=100 - n) for n in range(20)]
    bars = section(parse(html.render(summarize(*leaks))), "by-owner")
    names = bars.texts("th", scope="row")
    assert names == [*(f"t{n}" for n in range(8)), "12 more owners"]
    assert rows(bars)[-1] == ["12", "1.0 kB"]


def test_the_chart_over_time_rises_with_each_leak(a_leak, summarize):
    """Its right end is the end of the session, or the last leak if the clocks disagree."""
    leaks = [a_leak(seen=seen) for seen in (0.15, 0.75, 0.3, None)]
    chart = section(parse(html.render(summarize(*leaks))), "over-time")
    (line,) = chart.all("path", **{"class": "line"})
    assert line.attributes["d"] == "M0 100H40V66.67H80V33.33H200V0H400"
    assert chart.texts("span") == ["3", "0 s", "1.50 s"]
    assert (
        "first was seen after 0.15 s, half of them by 0.30 s, the last after 0.75 s" in chart.text
    )
    late = section(parse(html.render(summarize(a_leak(seen=1), a_leak(seen=3)))), "over-time")
    assert late.texts("span")[-1] == "3.00 s"


def test_the_chart_over_time_stays_small(a_leak, summarize):
    """Ten thousand leaks need no more steps than the chart is wide."""
    leaks = [a_leak(seen=1.5 * number / 2000) for number in range(2000)]
    (line,) = parse(html.render(summarize(*leaks))).all("path", **{"class": "line"})
    assert line.attributes["d"].count("V") <= 401


@pytest.mark.parametrize("seen", [None, 0.5])
def test_without_two_times_there_is_no_chart_over_time(a_leak, summarize, seen):
    """A report of an older version has no times, and one leak makes no course."""
    page = parse(html.render(summarize(a_leak(seen=seen))))
    assert not page.all("section", **{"aria-labelledby": "over-time"})


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.00 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 0 s"),
        (60, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_a_time_has_units_that_fit(seconds, text):
    """Rounding never shows 60 seconds or 60 minutes."""
    assert html._duration(seconds) == text


# -- safety


def test_the_policy_allows_this_style_and_script_and_nothing_else(full):
    """A browser runs no other script, even one that a name smuggles into the page."""
    page = parse(html.render(full))
    (meta,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(part.strip().split(" ", 1) for part in meta.attributes["content"].split(";"))
    (style,), (script,) = page.all("style"), page.all("script")

    def digest(element):
        hashed = hashlib.sha256(element.text.encode()).digest()
        return f"'sha256-{base64.b64encode(hashed).decode()}'"

    assert policy == {
        "default-src": "'none'",
        "style-src": digest(style),
        "script-src": digest(script),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_is_loaded_and_nothing_is_inline(full):
    """The policy would forbid it, and the page is read from a disk without a network."""
    text = html.render(full)
    page = parse(text)
    elements = [
        page,
        *(each for tag in Counter(re.findall("<([a-z]+)", text)) for each in page.all(tag)),
    ]
    names = {name for element in elements for name in element.attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"style", "src", "srcset", "action", "xlink:href"}
    assert [each.attributes["href"] for each in elements if "href" in each.attributes] == ["data:,"]
    assert "url(" not in text
    assert "@import" not in text
    assert "://" not in text


def test_a_page_depends_on_nothing_but_the_summary(full):
    """Two renderings are the same, so a page can be compared."""
    assert html.render(full) == html.render(full)


ANY_TEXT = st.text(st.characters(codec=None), min_size=1, max_size=12) | st.sampled_from(
    [
        "</script><script>alert(1)</script>",
        "</style></title><!--",
        "\"'><img src=x onerror=alert(1)>",
        "{{ 7 * 7 }}{% raw %}",
        "\x1b[31m\u202e\u2066\udcff\ud800\r\n\x00&amp;",
    ]
)


def summary_of(*names: str) -> Summary:
    """Return a summary in which every text is one of nine names."""
    a, b, c, d, e, f, g, h, i = names
    owner = Owner("fixture", a, b, c)
    entry = Entry(
        d,
        owner,
        a,
        "call",
        (Frame(e, 1, f),),
        "other",
        g,
        worker=h,
        seen=1.0,
        processes=(Process(i, Owner("test", d)),),
    )
    leaks = tuple(Leak(i, d, 1, 1, True, "leak", entry) for _ in range(2))
    return Summary(
        session=SessionFacts(a, b, c, 1.0, 0, d, e, f, (g, h)),
        root="/tmp/tempres-abcdefgh",
        leaks=leaks,
        kept=(Kept(a, b, c, d, e),),
        stale=(Known(a, b, c, d, e),),
        abandoned=(f,),
        artifacts=Artifacts(g, 1, 2, 3, 4, None),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(ANY_TEXT, min_size=9, max_size=9))
def test_no_name_can_change_the_page(names):
    """Whatever the names are, the elements are the same, and the names are escaped text."""
    text = html.render(summary_of(*names))
    page = parse(text)

    def shape(element):
        return [(each.tag, shape(each)) for each in element.children if isinstance(each, Element)]

    assert shape(page) == shape(parse(html.render(summary_of(*"abcdefghi"))))
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    text.encode()
    shown = [escaped(name, controls=True) for name in names]
    ((owner, path, *_), _) = rows(section(page, "leak"))
    assert owner == f"fixture {shown[0]} ({shown[1]})".strip()
    assert path == shown[3].strip()
    assert f"{shown[4]}:1 in {shown[5]}" in page.all("details")[0].text
    assert f"last process: {shown[6]} · still running then: {shown[8]} of {shown[3]}" in page.text
