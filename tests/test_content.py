from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from types import MappingProxyType

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

import pytest_tempres
from pytest_tempres import Executable
from pytest_tempres.content import plan
from pytest_tempres.content import write

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes, names or links")


def tree(directory):
    """Return the contents of *directory*: bytes of files, None for directories."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def test_values_become_files_and_directories(tmp_path):
    """Text is UTF-8 on every platform, bytes stay as they are, and a mapping is a directory."""
    write(
        {
            "pkg/__init__.py": "",
            "text": "\N{SNOWMAN}\n\r\n",
            "data.bin": b"\0\xff",
            "a": {"b": {"c.txt": "c"}, "b/d.txt": "d", "empty": {}},
            "pkg": MappingProxyType({"module.py": "x = 1\n"}),
        },
        str(tmp_path),
    )
    assert tree(tmp_path) == {
        "pkg": None,
        "pkg/__init__.py": b"",
        "pkg/module.py": b"x = 1\n",
        "text": "\N{SNOWMAN}\n\r\n".encode(),
        "data.bin": b"\0\xff",
        "a": None,
        "a/b": None,
        "a/b/c.txt": b"c",
        "a/b/d.txt": b"d",
        "a/empty": None,
    }


@posix
def test_executable_has_its_mode_under_every_umask(tmp_path):
    """The mode is 0755, and the file runs."""
    before = os.umask(0o077)
    try:
        files = {"bin/run": Executable("#!/bin/sh\necho ran\n"), "raw": Executable(b"\x7f")}
        write({**files, "plain": ""}, str(tmp_path))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (*files, "plain")}
    assert modes == {"bin/run": 0o755, "raw": 0o755, "plain": 0o600}
    assert subprocess.check_output([tmp_path / "bin" / "run"]) == b"ran\n"
    assert (tmp_path / "raw").read_bytes() == b"\x7f"


@pytest.mark.parametrize("content", [None, 3, ["#!/bin/sh"], bytearray(b"x")])
def test_executable_of_another_type_is_refused_where_it_is_created(content):
    """The error has the value."""
    with pytest.raises(TypeError, match="the content must be str or bytes") as caught:
        Executable(content)
    assert repr(content) in str(caught.value)


REFUSED = [
    ({"": "x"}, "files['']: the name must not be empty"),
    ({"/etc/passwd": "x"}, "files['/etc/passwd']: the name must be relative"),
    ({"..": "x"}, "files['..']: no part of the name may be '..'"),
    ({"../x": "x"}, "files['../x']: no part of the name may be '..'"),
    ({"a/../../x": "x"}, "files['a/../../x']: no part of the name may be '..'"),
    ({"a": {"../../x": "x"}}, "files['a']['../../x']: no part of the name may be '..'"),
    ({"a": {"": "x"}}, "files['a']['']: the name must not be empty"),
    ({"a": {"/x": "x"}}, "files['a']['/x']: the name must be relative"),
    ({".": {}}, "files['.']: no part of the name may be '.'"),
    ({"a//b": "x"}, "files['a//b']: no part of the name may be ''"),
    ({"a/": "x"}, "files['a/']: no part of the name may be ''"),
    ({"a\0b": "x"}, r"files['a\x00b']: the name must not contain '\x00'"),
    ({"\ud800": "x"}, r"files['\ud800']: not a name for a file"),
    ({"a": "\ud800"}, "files['a']: not a text in UTF-8"),
    ({"a": Executable("\ud800")}, "files['a']: not a text in UTF-8"),
    ({"a": "x", "a/b": "x"}, "files['a/b']: 'a' is a file and a directory (see files['a'])"),
    ({"a/b": "x", "a": b""}, "files['a']: 'a' is a file and a directory (see files['a/b'])"),
    ({"a": {}, "b": {"c": ""}, "b/c/d": ""}, "(see files['b']['c'])"),
    ({"a/b": "x", "a": {"b": "x"}}, "files['a']['b'] is the same file as files['a/b']"),
]
WRONG_TYPES = [
    ({3: "x"}, "files[3]: the name must be str"),
    ({b"a": "x"}, "files[b'a']: the name must be str"),
    ({"a": None}, "files['a']: None must be str, bytes, Executable or a mapping"),
    ({"a": {"b": 3}}, "files['a']['b']: 3 must be str, bytes"),
    ({"a": ["x"]}, "files['a']: ['x'] must be str, bytes"),
    ({"a": bytearray(b"x")}, "files['a']: bytearray(b'x') must be str, bytes"),
]


@pytest.mark.skipif(os.name == "nt", reason="Windows can have a name with a lone surrogate")
@pytest.mark.parametrize(
    "files, message, error",
    [(*row, ValueError) for row in REFUSED] + [(*row, TypeError) for row in WRONG_TYPES],
)
def test_wrong_files_are_refused_by_key(tmp_path, files, message, error):
    """The error names the key, and nothing has been created."""
    with pytest.raises(error) as caught:
        write(files, str(tmp_path))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "nt", reason="a drive and a backslash are parts of names elsewhere")
@pytest.mark.parametrize("name", ["c:x", "c:\\x", "\\x", "..\\x", "a\\..\\..\\x", "\\\\host\\x\\y"])
def test_windows_paths_out_of_the_directory_are_refused(name):
    """Windows has more ways to leave a directory."""
    with pytest.raises(ValueError, match="the name"):
        plan({name: ""})


def test_mapping_that_contains_itself_is_refused():
    """There is an error instead of an endless recursion."""
    files = {"x": ""}
    files["a"] = files
    with pytest.raises(ValueError, match="does it contain itself"):
        plan(files)


names = st.text(alphabet="ab./\0\\:\ud800\N{SNOWMAN}", max_size=6)
contents = st.recursive(
    st.text(max_size=3) | st.binary(max_size=3) | st.builds(Executable, st.binary(max_size=3)),
    lambda inner: st.dictionaries(names, inner, max_size=3),
)


@settings(deadline=None)
@given(files=st.dictionaries(names, contents, max_size=4))
def test_no_name_leaves_the_directory(temp_resources_module, files):
    """Whatever the names are, each file is below the directory, or there is an error."""
    with temp_resources_module.scope() as resources:
        parent = resources.dir()
        directory = parent / "inner"
        directory.mkdir()
        with contextlib.suppress(ValueError):
            write(files, str(directory))
        assert list(parent.iterdir()) == [directory]


def test_file_replaces_what_was_copied(tmp_path):
    """The replaced file's mode does not stay, and other files do."""
    (tmp_path / "sub").mkdir()
    for name in ("sub/a", "sub/b"):
        (tmp_path / name).write_text("copied")
    (tmp_path / "sub" / "a").chmod(0o777)
    write({"sub": {"a": "written"}}, str(tmp_path))
    assert tree(tmp_path) == {"sub": None, "sub/a": b"written", "sub/b": b"copied"}
    assert os.name == "nt" or not os.access(tmp_path / "sub" / "a", os.X_OK)


@posix
def test_copied_link_is_replaced_or_refused_but_not_followed(tmp_path):
    """Files elsewhere do not change."""
    elsewhere, directory = tmp_path / "elsewhere", tmp_path / "directory"
    elsewhere.mkdir()
    directory.mkdir()
    (elsewhere / "precious").write_text("precious")
    (directory / "file").symlink_to(elsewhere / "precious")
    (directory / "sub").symlink_to(elsewhere)
    (directory / "dangling").symlink_to(elsewhere / "missing")
    write({"file": "new", "dangling": "new"}, str(directory))
    with pytest.raises(ValueError, match=r"files\['sub/precious'\]: .* is no directory"):
        write({"sub/precious": "new"}, str(directory))
    assert tree(elsewhere) == {"precious": b"precious"}
    assert not (directory / "file").is_symlink()
    assert (directory / "file").read_text() == (directory / "dangling").read_text() == "new"


def test_copy_of_another_kind_is_refused(tmp_path):
    """A directory is not removed for a file, and a file not for a directory."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("copied")
    with pytest.raises(ValueError, match=r"files\['directory'\]: .* is a directory"):
        write({"directory": "x"}, str(tmp_path))
    with pytest.raises(ValueError, match=r"files\['file'\]: .* is no directory"):
        write({"file": {}}, str(tmp_path))
    assert tree(tmp_path) == {"directory": None, "file": b"copied"}


def test_module_is_not_imported_before_it_is_used():
    """Sessions without `files` do not pay for it."""
    code = (
        "import sys; import pytest_tempres.plugin; before = set(sys.modules)\n"
        "from pytest_tempres import Executable\n"
        "print(sorted(m for m in set(sys.modules) - before if 'tempres' in m))\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == "['pytest_tempres.content']\n"


def test_package_has_no_other_attributes():
    """A misspelt name is an AttributeError, as for every module."""
    with pytest.raises(AttributeError, match="has no attribute 'Exekutable'"):
        pytest_tempres.Exekutable  # noqa: B018 -- the access is the test
