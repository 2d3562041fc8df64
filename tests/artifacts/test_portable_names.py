from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from pytest_tempres.artifacts.portable_names import MAX_NODEID_BYTES
from pytest_tempres.artifacts.portable_names import collision_key
from pytest_tempres.artifacts.portable_names import free_name
from pytest_tempres.artifacts.portable_names import is_safe_nodeid
from pytest_tempres.artifacts.portable_names import safe_names
from pytest_tempres.artifacts.portable_names import safe_nodeid

#: Any text, with many of the characters that cause problems.
any_text = st.one_of(
    st.text(st.characters(codec=None), min_size=1),
    st.text(st.sampled_from('aAbß.:/\\[]- *?"<>|\r\n\0\udcff\xb9\u0301e\xe9'), min_size=1),
    st.sampled_from(["con", "NUL.txt", "Com1", "LPT\xb9.a.b", "aux .x", "CONIN$", ".", "..", "a."]),
    st.from_regex(r"[a-z]{1,3}-[0-9a-f]{10}(-[0-9])?", fullmatch=True),
)
#: The names of entries in a directory: without separators, and not too long.
on_disk = any_text.map(lambda text: re.sub(r"[/\0]", "x", text)).filter(
    lambda text: len(text.encode("utf-8", "surrogatepass")) < 256 and text not in (".", "..")
)
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|con(in|out)\$|(com|lpt)[0-9\xb9\xb2\xb3]) *(\.|\Z)")


def is_portable(name: str) -> bool:
    """Whether Windows and GitHub's upload accept *name*, according to their documentation."""
    forbidden = re.search(r'["*/:<>?\\|\x00-\x1f\x7f-\x9f]', name)
    return not (forbidden or name.endswith((".", " ")) or RESERVED.match(name) or not name)


@given(any_text)
def test_the_name_of_a_tests_directory_is_portable(nodeid):
    """The directory can be created, uploaded and unpacked on every platform."""
    name = safe_nodeid(nodeid)
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    assert len(name) <= MAX_NODEID_BYTES
    assert name.strip("._-") == name or name.startswith("_")
    assert is_portable(name)
    assert safe_nodeid(nodeid) == name


@given(st.lists(any_text, unique=True))
def test_two_tests_never_share_a_directory(nodeids):
    """Their names differ on file systems that ignore case too."""
    swapped = {nodeid.swapcase() for nodeid in nodeids}
    ids = {*nodeids, *swapped, *map(safe_nodeid, nodeids)}
    assert len({safe_nodeid(nodeid).lower() for nodeid in ids}) == len(ids)


@pytest.mark.parametrize(
    "nodeid, name",
    [
        ("plain_id.py", "plain_id.py"),
        ("tests/test_a.py::test_b[1]", "tests_test_a.py_test_b_1-a558577d81"),
        ("CON", "_CON-a3dbc4b644"),
        ("", "test-e3b0c44298"),
        ("x" * 40 + "y" * 60, "x" * 33 + ".." + "y" * 33 + "-291aee0a7e"),
    ],
)
def test_the_name_of_a_directory_is_readable_and_stable(nodeid, name):
    """Every version of the package uses the same name."""
    assert safe_nodeid(nodeid) == name


def test_directories_of_tests_are_recognised_by_name():
    """Tests are collected from all directories except these."""
    name = safe_nodeid("t.py::test")
    assert all(map(is_safe_nodeid, (name, f"{name}-2", f"{name}-31")))
    assert not any(map(is_safe_nodeid, ("tests", "test-2", "unit-tests", "v1-20240101")))


@given(st.lists(on_disk, unique=True))
def test_names_in_a_directory_are_portable_and_distinct(names):
    """No file replaces another one, and no name makes an upload fail."""
    found = safe_names(names)
    assert set(found) == set(names)
    assert all(map(is_portable, found.values()))
    assert all(len(name.encode()) < 256 for name in found.values())
    assert len({collision_key(name) for name in found.values()}) == len(names)
    assert safe_names(reversed(names)) == found
    keys = [collision_key(name) for name in names]
    for name in names:
        if is_portable(name) and name.isprintable() and keys.count(collision_key(name)) == 1:
            assert found[name] == name


def test_renamed_files_keep_their_suffixes():
    """The copy opens in the same program as the original."""
    names = ["a:b.txt", "a_b.txt", "A_b.txt", "end. ", "con.tar.gz", "\xe9", "e\u0301"]
    assert safe_names(names) == {
        "A_b.txt": "A_b.txt",
        "a_b.txt": "a_b-2.txt",
        "a:b.txt": "a_b-3.txt",
        "end. ": "end__",
        "con.tar.gz": "_con.tar.gz",
        "e\u0301": "e\u0301",
        "\xe9": "\xe9-2",
    }


def test_a_name_that_is_taken_gets_a_number():
    """A name of the maximum length is shortened to make room for the number."""
    taken: set[str] = set()
    assert [free_name("x.json", taken) for _ in range(3)] == ["x.json", "x-2.json", "x-3.json"]
    long = "\xe9" * 127
    assert free_name(long, taken) == long
    assert free_name(long, taken) == "\xe9" * 126 + "-2"
