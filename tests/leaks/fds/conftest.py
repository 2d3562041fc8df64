from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib

from fds_suite import FdsSuite
from fds_suite import close
import pytest

from pytest_tempres.leaks.fds import detector as module
from pytest_tempres.primitives._system import System


@pytest.fixture
def patterns() -> tuple[str, ...]:
    """The patterns that the ini file ignores."""
    return ()


@pytest.fixture
def suite(patterns) -> Iterator[FdsSuite]:
    """A session that has begun."""
    suite = FdsSuite(patterns)
    yield suite
    suite.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """The times that the detector would have slept: it does not in tests."""
    pauses: list[float] = []
    monkeypatch.setattr(System, "sleep", staticmethod(pauses.append))
    monkeypatch.setattr(module, "_has_threads_or_children", lambda: True)
    return pauses


@pytest.fixture
def keep() -> Iterator[Callable[[object], object]]:
    """Keep an object until the test is over."""
    with contextlib.ExitStack() as stack:

        def keep(thing):
            if isinstance(thing, int):
                stack.callback(close, thing)
            else:
                stack.callback(thing.close)
            return thing

        yield keep
