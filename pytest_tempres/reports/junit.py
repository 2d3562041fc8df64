"""The JUnit XML report: one failed test case for each test or fixture that left something."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from pytest_tempres.leaks.model import Owner
from pytest_tempres.reports import wording
from pytest_tempres.reports.escape import escaped
from pytest_tempres.reports.escape import xml
from pytest_tempres.reports.findings import Finding
from pytest_tempres.reports.findings import by_owner
from pytest_tempres.reports.findings import findings
from pytest_tempres.reports.summary import Summary

__all__ = ["address", "render"]


def render(summary: Summary) -> str:
    """Return *summary* as JUnit XML that follows the schema of the Jenkins xUnit plugin."""
    suite = ET.Element("testsuite", name="pytest-tempres")
    owners = dict(by_owner(findings(summary)))
    for owner, found in owners.items():
        case = _case(suite, owner)
        failure = ET.SubElement(case, "failure", type="leak", message=_amount(found))
        failure.text = _text("\n".join(_lines(summary, found)))
    for owner, found in by_owner(findings(summary, "known")):
        if owner not in owners:
            message = f"known: {_amount(found)}"
            ET.SubElement(_case(suite, owner), "skipped", type="known", message=message)
    _count(suite, summary, failures=len(owners))
    if summary.kept:
        ET.SubElement(suite, "system-out").text = _text("\n".join(_kept(summary)))
    suites = ET.Element("testsuites", name="pytest-tempres")
    suites.append(suite)
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _amount(found: Iterable[Finding]) -> str:
    return wording.amount([each.leak for each in found])


def _case(suite: ET.Element, owner: Owner) -> ET.Element:
    class_name, name = address(owner)
    return ET.SubElement(suite, "testcase", classname=xml(class_name), name=xml(name), time="0.000")


def address(owner: Owner) -> tuple[str, str]:
    """Return the class name and the name of *owner*, for a test as pytest's own report has them."""
    if owner.kind == "session":
        return "pytest_tempres", "session"
    if owner.kind == "fixture":
        file = (owner.location or "").rpartition(":")[0]
        return _module(file), f"fixture {owner.id} ({owner.scope})"
    file, colons, rest = owner.id.partition("::")
    rest, bracket, parameters = rest.partition("[")
    *classes, name = [_module(file), *rest.split("::")] if colons else [_module(file)]
    return ".".join(classes), f"{name}{bracket}{parameters}"


def _module(file: str) -> str:
    return file.replace("\\", "/").replace("/", ".").removesuffix(".py")


def _lines(summary: Summary, found: Iterable[Finding]) -> Iterator[str]:
    for finding in found:
        note = f"; it {finding.note}" if finding.held_by else ""
        yield f"{wording.sentence(summary, finding.leak)}{note}"
        yield from (f"    {line}" for line in wording.origin(finding.leak))


def _kept(summary: Summary) -> Iterator[str]:
    for kept in summary.kept:
        nodeid = escaped(kept.nodeid, controls=True)
        yield f"kept: {nodeid}  {escaped(kept.path, controls=True)}"


def _text(lines: str) -> str:
    return f"\n{xml(lines)}\n"


def _count(suite: ET.Element, summary: Summary, *, failures: int) -> None:
    suite.attrib |= {
        "tests": str(len(suite)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(len(suite) - failures),
        "time": f"{summary.session.seconds:.3f}",
        "timestamp": xml(summary.session.started),
    }
