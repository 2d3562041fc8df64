"""A comparison with CPython: the same calls give the same results and the same errors."""

from __future__ import annotations

from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import sys
import tempfile

from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from pytest_tempres import primitives

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def places(tmp_path):
    """Give each module a separate temp location, with paths of the same length."""
    old = tempfile.tempdir, primitives.tempdir
    for name in ("theirs", "ours00"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        (tmp_path / name / "sub").mkdir(parents=True)
    tempfile.tempdir, primitives.tempdir = str(tmp_path / "theirs"), str(tmp_path / "ours00")
    try:
        yield (tempfile, tmp_path / "theirs"), (primitives, tmp_path / "ours00")
    finally:
        tempfile.tempdir, primitives.tempdir = old


def outcome(function, *arguments, **keywords):
    """Return the result of a call, or the type and number of its error."""
    try:
        return function(*arguments, **keywords)
    except Exception as error:  # noqa: BLE001 - both modules must raise the same
        kind = next(base for base in type(error).__mro__ if base.__module__ in {"builtins", "io"})
        return kind, getattr(error, "errno", None)


AFFIXES = st.sampled_from([None, "", "a", "ä", "sub/x", "no/x", "\udcff", b"", b"b", Path("x"), 3])
DIRECTORIES = st.sampled_from(
    [None, "", ".", "sub", "sub/../sub/", "missing", b".", b"sub", Path("sub"), Path(), 3]
)


def shape(path, place: Path):
    """Return what two paths must have in common: everything but the eight random characters."""
    whole = os.fspath(path)
    text = os.fsdecode(whole)
    relative = os.path.relpath(text, place)
    return type(path), os.path.isabs(text), os.path.normpath(text) == text, len(relative)


class TestNames:
    @given(prefix=AFFIXES, suffix=AFFIXES, directory=DIRECTORIES, name=st.sampled_from("sd"))
    @MANY
    def test_mkstemp_and_mkdtemp(self, tmp_path, prefix, suffix, directory, name):
        """Any arguments, valid or not, give similar paths or the same error."""
        results = []
        with places(tmp_path) as both:
            for module, place in both:
                os.chdir(place)
                results.append(self.call(module, place, name, prefix, suffix, directory))
            os.chdir("/")
        assert results[0] == results[1]

    def call(self, module, place, name, prefix, suffix, directory):
        """Return the shape of the path that a module creates, and what is in its directory then."""
        function = module.mkstemp if name == "s" else module.mkdtemp
        created = outcome(function, prefix=prefix, suffix=suffix, dir=directory)
        if isinstance(created, tuple) and isinstance(created[0], type):
            return created, sorted(path.name for path in place.rglob("*"))
        if name == "s":
            os.close(created[0])
            created = created[1]
        elif sys.version_info < (3, 12):
            created = type(created)(os.path.abspath(created))
        return shape(created, place), len(list(place.rglob("*")))


MODES = st.sampled_from(
    ["w+b", "w+b", "wb", "rb", "r+b", "a+b", "w+", "w", "r+", "a+", "wr", "x", ""]
)
OPENING = st.fixed_dictionaries(
    {
        "mode": MODES,
        "buffering": st.sampled_from([-1, -1, 0, 1, 10]),
        "encoding": st.sampled_from([None, "utf-8", "utf-16", "latin-1", "no-such"]),
        "newline": st.sampled_from([None, "", "\n", "\r\n", "x"]),
        "errors": st.sampled_from([None, "replace", "no-such"]),
    }
)
TEXTS = st.text(st.sampled_from("aäß\n\r€"), max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), TEXTS),
        st.tuples(st.just("writelines"), st.lists(TEXTS, max_size=3)),
        st.tuples(st.just("read"), st.integers(-1, 10)),
        st.tuples(st.just("readline"), st.integers(-1, 10)),
        st.tuples(st.just("readlines")),
        st.tuples(st.just("seek"), st.sampled_from([0, 0, 1, 3, 100]), st.sampled_from([0, 0, 2])),
        st.tuples(st.just("truncate"), st.integers(0, 20)),
        st.tuples(st.just("truncate")),
        st.tuples(st.just("tell")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("close")),
        st.tuples(st.just("rollover")),
        st.tuples(st.just("__enter__")),
        *(st.tuples(st.just(name)) for name in ("readable", "writable", "seekable", "isatty")),
    ),
    max_size=12,
)
ROLLING = {"write", "writelines", "truncate", "rollover"}
ATTRIBUTES = ("mode", "closed", "encoding", "errors", "newlines", "_rolled")


def encoded(argument):
    """Return *argument* with bytes in place of text."""
    if isinstance(argument, list):
        return [text.encode() for text in argument]
    return argument.encode() if isinstance(argument, str) else argument


def play(file, steps, binary: bool):
    """Call the methods on *file*; yield each outcome, and the attributes after it."""
    for name, *arguments in steps:
        method = getattr(file, name, None)
        given = [encoded(argument) for argument in arguments] if binary else arguments
        result = outcome(method, *given) if method else "no such method"
        yield name, None if name == "__enter__" and result is file else result
        if name in ROLLING and isinstance(result, tuple):
            # After a failed rollover, CPython has lost the contents, and this package has not.
            return
        yield [outcome(getattr, file, attribute, "none") for attribute in ATTRIBUTES]


def outcomes(opened, steps, mode: str):
    """Return the outcomes of opening a file and calling the methods."""
    if isinstance(opened, tuple):
        return opened
    try:
        return list(play(opened, steps, "b" in mode))
    finally:
        outcome(opened.close)


class TestFiles:
    @given(
        opening=OPENING, steps=STEPS, name=st.sampled_from(["TemporaryFile", "NamedTemporaryFile"])
    )
    @MANY
    def test_unnamed_and_named(self, tmp_path, opening, steps, name):
        """Any arguments and calls give the same outcomes, and no file is left."""
        results = []
        with places(tmp_path) as both:
            for module, place in both:
                opened = outcome(getattr(module, name), **opening)
                results.append(outcomes(opened, steps, opening["mode"]))
                assert os.listdir(place) == ["sub"]
        assert results[0] == results[1]

    # __del__ of CPython fails for an object whose creation failed.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @given(opening=OPENING, steps=STEPS, limit=st.sampled_from([0, 1, 5, 1000]))
    @MANY
    def test_spooled(self, tmp_path, opening, steps, limit):
        """Any arguments and calls give the same outcomes, whenever the file rolls over."""
        results = []
        if sys.version_info < (3, 14):
            # writelines checked the size only after writing everything.
            steps = [step for step in steps if step[0] != "writelines"]
        if sys.version_info < (3, 11):
            # It was not a full io.IOBase, and truncate returned None.
            missing = {"readable", "writable", "seekable", "truncate", "isatty"}
            steps = [step for step in steps if step[0] not in missing]
        with places(tmp_path) as both:
            for module, _ in both:
                opened = outcome(module.SpooledTemporaryFile, limit, **opening)
                results.append(outcomes(opened, steps, opening["mode"]))
        assert results[0] == results[1]


class TestDirectories:
    @given(
        delete=st.booleans(),
        ignore=st.booleans(),
        steps=st.lists(st.sampled_from(["enter", "exit", "cleanup", "remove", "fill"]), max_size=6),
    )
    @MANY
    def test_steps(self, tmp_path, delete, ignore, steps):
        """Any order of calls gives the same outcomes."""
        results = []
        with places(tmp_path) as both:
            for module, place in both:
                # CPython has `delete` since 3.12.
                keywords = {"delete": delete} if sys.version_info >= (3, 12) else {}
                directory = module.TemporaryDirectory(ignore_cleanup_errors=ignore, **keywords)
                results.append(list(self.play(directory, steps)))
                directory._finalizer.detach()
                assert place.exists()
        assert results[0] == results[1]

    def play(self, directory, steps):
        """Make the calls; yield each outcome, and whether the directory exists after it."""
        acts = {
            "enter": directory.__enter__,
            "exit": lambda: directory.__exit__(None, None, None),
            "cleanup": directory.cleanup,
            "remove": lambda: shutil.rmtree(directory.name),
            "fill": lambda: os.makedirs(directory.name + "/a/b"),
        }
        for step in steps:
            result = outcome(acts[step])
            yield step, result == directory.name or result, os.path.exists(directory.name)
