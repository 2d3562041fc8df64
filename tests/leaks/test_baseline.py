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

#: Node ids and function names: any text, including lone surrogates.
TEXT = st.text(st.characters(), max_size=20)


def leak(owner="t.py::test", *, line=3, path="/tmp/x", size=1, function="test", kind="file"):
    """Return a leak of a test."""
    entry = Entry(path, Owner("test", owner), owner, None, (Frame("t.py", line, function),))
    return Leak(kind, path, size, 1, True, "leak", entry)


def test_a_line_is_the_same_in_every_run():
    """Line numbers, sizes, random names and parameters are not part of it."""
    same = [
        leak("t.py::test[1]"),
        leak("t.py::test[2]", line=70),
        leak("t.py::test", path="/tmp/y", size=9),
    ]
    assert len({Known.of(each) for each in same}) == 1
    others = [leak("t.py::other"), leak(function="helper"), leak(kind="directory")]
    assert len({Known.of(each) for each in (*same, *others)}) == 4


@given(st.lists(st.tuples(TEXT, TEXT, st.sampled_from(["file", "directory"]))))
def test_a_written_baseline_can_be_read(tmp_path_factory, found):
    """Each leak is one line, in a stable order, whatever the test is called."""
    known = [Known.of(leak(owner, function=function, kind=kind)) for owner, function, kind in found]
    path = tmp_path_factory.getbasetemp() / "known.txt"
    baseline.write(str(path), known)
    text = path.read_text(encoding="utf-8")
    assert set(baseline.read(str(path)).values()) == set(known)
    assert baseline.render(reversed(known)) == text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.split("\t"))
    assert len(lines) == len(set(known))


def test_baselines_of_two_branches_merge():
    """A new leak adds a line and changes no other."""
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
def test_a_malformed_line_is_an_error(tmp_path, text, words):
    """It may be a conflict marker."""
    path = tmp_path / "known.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        baseline.read(str(path))


def test_a_failed_write_leaves_the_old_baseline(tmp_path, monkeypatch):
    """The file is replaced atomically."""
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
    """Its target is replaced."""
    (tmp_path / "real.txt").touch()
    link = tmp_path / "link.txt"
    link.symlink_to("real.txt")
    baseline.write(str(link), [Known.of(leak())])
    assert link.is_symlink()
    assert len(baseline.read(str(tmp_path / "real.txt"))) == 1


def test_only_leaks_of_completed_owners_can_be_stale():
    """A known leak is stale if its owner completed and did not leak."""
    known = {each.fingerprint: each for each in (Known.of(leak(name)) for name in "abc")}
    found = {Known.of(leak("a")).fingerprint}
    gone = baseline.stale(known, found, {("test", "a"), ("test", "b"), ("fixture", "c")})
    assert [each.owner for each in gone] == ["b"]
