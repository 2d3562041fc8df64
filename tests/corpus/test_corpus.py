from __future__ import annotations

from collections import Counter
from collections import defaultdict
import os

from corpus_suites import Record
from corpus_suites import expected
from corpus_suites import missing
from corpus_suites import read
import pytest

SUITES = read()
#: What runs in every worker: it is one leak, however many workers report it.
REPEATED = {("collection", None), ("session", None), ("fixture", "session")}


def records_of(leaks):
    """Return the records of a report, where what every worker repeats counts once."""
    by_worker = defaultdict(Counter)
    for leak in leaks:
        owner, origin = leak["owner"], leak["origin"]
        nearest = f"{origin[0]['file']}:{origin[0]['line']}" if origin else "no origin"
        if nearest.startswith(os.path.dirname(os.__file__)):
            nearest = "no line of the suite"
        who = (owner["kind"], owner["id"], owner["scope"])
        by_worker[leak["worker"]][Record(leak["status"], leak["kind"], *who, nearest)] += 1
    records = Counter()
    for found in by_worker.values():
        for record, times in found.items():
            repeated = (record.owner, record.scope) in REPEATED
            records[record] = max(records[record], times) if repeated else records[record] + times
    return records


@pytest.fixture
def alone(monkeypatch, mode):
    """Let inner sessions load only this plugin, and xdist if it runs, which halves their cost."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return ["-ptempres", *(["-pxdist", "--dist=loadfile"] if mode == "xdist" else [])]


@pytest.mark.parametrize("suite", [pytest.param(suite, id=suite.name) for suite in SUITES])
def test_suite(suite, pytester, run_with_report, mode, alone, request, system_tmp):
    """Exactly the leaks that a suite expects are reported, with their owners and lines."""
    absent = missing(suite)
    if absent:
        pytest.skip(f"the suite needs {absent}")
    for name, text in suite.files.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    for args in suite.runs:
        result, report = run_with_report(*alone, *args)
    wanted = expected(suite, exited=mode == "xdist")
    found = records_of(report["leaks"])
    counts = (sum(counter.values()) for counter in (wanted, found, wanted & found))
    request.node.user_properties.append(("corpus", [suite.name, *counts]))
    assert found == wanted
    check_outcomes(suite.outcomes, result.parseoutcomes())
    if all(record.status == "deferred" for record in wanted):
        result.stdout.no_fnmatch_line("*temporary resources*")
    if not report["kept"]:
        assert not list(system_tmp.rglob("*"))


def check_outcomes(wanted, outcomes):
    """Check that the suite ran as it was meant to: what does not run leaves nothing behind."""
    if wanted is None:
        assert outcomes.get("passed")
        assert outcomes.keys() <= {"passed", "warnings"}
    else:
        assert wanted.items() <= outcomes.items()


def test_corpus_is_large_enough_and_a_third_of_it_leaks_nothing():
    """There are at least 60 suites with different names."""
    assert len(SUITES) >= 60
    assert len({suite.name for suite in SUITES}) == len(SUITES)
    silent = [suite for suite in SUITES if not expected(suite, exited=True)]
    assert len(silent) >= len(SUITES) / 3
