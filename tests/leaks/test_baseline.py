from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.leaks import baseline
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Frame
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner

#: Node ids and functions as Python and pytest allow them: any text, lone surrogates included.
TEXT = st.text(st.characters(), max_size=20)


def leak(owner="t.py::test", *, line=3, path="/tmp/x", size=1, function="test", kind="file"):
    """Return a leak of a test."""
    entry = Entry(path, Owner("test", owner), owner, None, (Frame("t.py", line, function),))
    return Leak(kind, path, size, 1, True, "leak", entry)


def test_a_line_does_not_change_with_what_changes_from_run_to_run():
    """Neither lines, sizes, names of this run nor parameters are part of it."""
    same = [
        leak("t.py::test[1]"),
        leak("t.py::test[2]", line=70),
        leak("t.py::test", path="/tmp/y", size=9),
    ]
    assert len({Known.of(each) for each in same}) == 1
    others = [leak("t.py::other"), leak(function="helper"), leak(kind="directory")]
    assert len({Known.of(each) for each in (*same, *others)}) == 4


@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["file", "directory"]))))
def test_what_was_written_is_read(tmp_path_factory, found):
    """Whatever a test is called, its line is one line, in the same place every time."""
    known = [Known.of(leak(owner, function=function, kind=kind)) for owner, function, kind in found]
    path = tmp_path_factory.getbasetemp() / "known.txt"
    baseline.write(str(path), known)
    text = path.read_text(encoding="utf-8")
    assert set(baseline.read(str(path)).values()) == set(known)
    assert baseline.render(reversed(known)) == text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.split("\t"))
    assert len(lines) == len(set(known))


def test_two_branches_merge():
    """Another leak is another line, and touches none of the others."""
    first = baseline.render(Known.of(leak(owner)) for owner in "ac").splitlines()
    second = baseline.render(Known.of(leak(owner)) for owner in "abc").splitlines()
    assert [line for line in second if line not in first] == [second[3]]


@pytest.mark.parametrize(
    "text, words",
    [
        ("<<<<<<< HEAD\n", "line 1 .*<<<<<<< HEAD"),
        ("# x\n\ntest\ta\tfile\tb\tzz\n", "line 3"),
        ("test\ta\tfile\tb\t0123456789abcdef\tmore\n", "line 1"),
    ],
)
def test_a_line_that_is_none_of_ours_is_refused(tmp_path, text, words):
    """A conflict that nobody has solved must not pass for a file without known leaks."""
    path = tmp_path / "known.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        baseline.read(str(path))


def test_a_baseline_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    """An interrupted or failing write leaves the old file whole."""
    path = tmp_path / "known.txt"
    baseline.write(str(path), [Known.of(leak())])
    before = path.read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baseline.System, "replace", full)
    with pytest.raises(OSError, match="No space"):
        baseline.write(str(path), [])
    assert path.read_text() == before


def test_a_link_to_a_baseline_stays_a_link(tmp_path):
    """Where the file lies is the project's choice."""
    (tmp_path / "real.txt").touch()
    link = tmp_path / "link.txt"
    link.symlink_to("real.txt")
    baseline.write(str(link), [Known.of(leak())])
    assert link.is_symlink()
    assert len(baseline.read(str(tmp_path / "real.txt"))) == 1


def test_only_owners_that_ran_to_the_end_can_be_stale():
    """What did not run proves nothing, and what leaked is not gone."""
    known = {each.fingerprint: each for each in (Known.of(leak(name)) for name in "abc")}
    found = {Known.of(leak("a")).fingerprint}
    gone = baseline.stale(known, found, {("test", "a"), ("test", "b"), ("fixture", "c")})
    assert [each.owner for each in gone] == ["b"]
