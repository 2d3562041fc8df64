"""The interface of ``pytest_tempres.primitives``."""

from __future__ import annotations

import inspect
import sys
import tempfile
from unittest import mock

import pytest

from pytest_tempres import primitives


def test_names():
    """The public names are those of CPython."""
    assert set(primitives.__all__) == set(tempfile.__all__)
    assert all(hasattr(primitives, name) for name in primitives.__all__)


SIGNATURES = {
    "NamedTemporaryFile": "(mode='w+b', buffering=-1, encoding=None, newline=None, suffix=None,"
    " prefix=None, dir=None, delete=True, *, errors=None, delete_on_close=True)",
    "TemporaryFile": "(mode='w+b', buffering=-1, encoding=None, newline=None, suffix=None,"
    " prefix=None, dir=None, *, errors=None)",
    "SpooledTemporaryFile": "(max_size=0, mode='w+b', buffering=-1, encoding=None, newline=None,"
    " suffix=None, prefix=None, dir=None, *, errors=None)",
    "TemporaryDirectory": "(suffix=None, prefix=None, dir=None, ignore_cleanup_errors=False, *,"
    " delete=True)",
    "mkstemp": "(suffix=None, prefix=None, dir=None, text=False)",
    "mkdtemp": "(suffix=None, prefix=None, dir=None)",
    "mktemp": "(suffix='', prefix='tmp', dir=None)",
    "gettempdir": "()",
    "gettempdirb": "()",
    "gettempprefix": "()",
    "gettempprefixb": "()",
}


def bare(function) -> str:
    """Return the signature of *function* without annotations."""
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    """The signatures are those of CPython 3.15 on every Python."""
    assert bare(getattr(primitives, name)) == SIGNATURES[name]
    if sys.version_info >= (3, 12):
        assert bare(getattr(tempfile, name)) == SIGNATURES[name]


class TestTempdir:
    def test_assigned_and_deleted(self, tmp_path, monkeypatch):
        """The variable `tempdir` can be assigned, patched and deleted."""
        monkeypatch.setattr(primitives, "tempdir", str(tmp_path))
        assert primitives.gettempdir() == str(tmp_path)
        with mock.patch("pytest_tempres.primitives.tempdir", "/elsewhere"):
            assert primitives.gettempdir() == "/elsewhere"
        assert primitives.gettempdir() == str(tmp_path)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        del primitives.tempdir
        assert primitives.gettempdir() == str(tmp_path)

    def test_independent_of_cpython(self, tmp_path, monkeypatch):
        """Assigning it does not change `tempfile.tempdir`."""
        monkeypatch.setattr(primitives, "tempdir", str(tmp_path))
        assert tempfile.gettempdir() != str(tmp_path)


def test_constants():
    """TMP_MAX is that of CPython 3.15 on every Python."""
    assert primitives.TMP_MAX == 20
    if sys.version_info >= (3, 15):
        assert tempfile.TMP_MAX == 20


def test_import_is_light(python):
    """The import loads neither pytest nor modules that are rarely needed."""
    heavy = {"shutil", "random", "pytest", "bz2", "lzma", "ctypes", "pathlib", "tempfile"}
    loaded, _ = python("import sys, pytest_tempres.primitives; print(*sys.modules)", "-S")
    assert heavy & set(loaded.split()) == set()
