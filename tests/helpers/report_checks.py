"""Checks that a report has the form that its readers expect."""

from __future__ import annotations

import functools
import json
from pathlib import Path
import re
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
from markdown_it import MarkdownIt
from report_schema import validated
import xmlschema

DATA = Path(__file__).parent.parent / "data"

#: A workflow command: level, properties and message.
COMMAND = re.compile(r"::(error|warning|notice) ([^:\r\n]*)::([^\r\n]*)")


@functools.cache
def _sarif_schema() -> jsonschema.Draft4Validator:
    schema = json.loads((DATA / "sarif-2.1.0.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())


@functools.cache
def _junit_schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(str(DATA / "junit-10.xsd"))


def check_json(text: str) -> dict[str, Any]:
    """Return the decoded JSON report."""
    return validated(text)


def check_junit(text: str) -> ET.Element:
    """Return the root of the JUnit report."""
    root = ET.fromstring(text.encode("utf-8"))
    _junit_schema().validate(root)
    (suite,) = root
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
    return root


def check_sarif(text: str) -> dict[str, Any]:
    """Return the only run of the SARIF report."""
    assert text.isascii()
    log = json.loads(text)
    _sarif_schema().validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    for location in _values(run, "artifactLocation"):
        assert re.fullmatch(r"(?:[\w.~/:-]|%[0-9A-F]{2})+", location["uri"], re.ASCII)
        assert ("uriBaseId" in location) is not location["uri"].startswith("file:///")
    return run


def _values(value: Any, key: str) -> list[Any]:
    """Return all values of `key` in nested dicts and lists."""
    if isinstance(value, list):
        return [found for each in value for found in _values(each, key)]
    if not isinstance(value, dict):
        return []
    here = [value[key]] if key in value else []
    return here + [found for each in value.values() for found in _values(each, key)]


def check_gitlab(text: str) -> list[dict[str, Any]]:
    """Return the issues of the GitLab report."""
    assert text.isascii()
    issues = json.loads(text)
    fingerprints = [issue["fingerprint"] for issue in issues]
    assert len(set(fingerprints)) == len(fingerprints)
    for issue in issues:
        assert issue.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        path = issue["location"]["path"]
        assert path
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        assert issue["location"]["lines"]["begin"] >= 1
    return issues


def check_github(lines: list[str]) -> list[tuple[str, dict[str, str], str]]:
    """Return level, properties and message of each workflow command."""
    found = []
    for line in lines:
        assert all(c.isprintable() for c in line)
        level, properties, message = COMMAND.fullmatch(line).groups()
        pairs = dict(each.split("=", 1) for each in properties.split(","))
        assert pairs.keys() <= {"file", "line", "title"}
        found.append((level, {k: _unescaped(v) for k, v in pairs.items()}, _unescaped(message)))
    return found


def _unescaped(text: str) -> str:
    for escape, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ",")):
        text = text.replace(escape, character)
    return text.replace("%25", "%")


def check_markdown(text: str) -> str:
    """Return the text of the Markdown report as HTML, without any markup that a name added."""
    text.encode("utf-8")
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    kinds = {token.type for token in (*tokens, *inline)}
    assert not kinds & {"html_block", "link_open", "image", "em_open", "strong_open", "fence"}
    html = [token.content for token in inline if token.type == "html_inline"]
    assert set(html) <= {"<code>", "</code>"}
    assert not any("@" in each or "://" in each for each in _outside_code(inline))
    types = [token.type for token in tokens]
    assert types.count("td_open") + types.count("th_open") == 4 * types.count("tr_open")
    return parser.render(text)


def _outside_code(inline: list[Any]) -> list[str]:
    """Return the texts between which no code is open."""
    found, is_code = [], False
    for token in inline:
        if token.type == "html_inline":
            is_code = token.content == "<code>"
        elif token.type == "text" and not is_code:
            found.append(token.content)
    return found
