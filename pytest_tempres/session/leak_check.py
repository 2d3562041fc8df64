"""The object of the fixture `temp_leaks`: checks what a test, or a block in it, left behind."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from dataclasses import field
import threading
from types import TracebackType
from typing import TYPE_CHECKING
from typing import Final
from typing import NamedTuple

import pytest

from pytest_tempres import markers
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.leaks.model import Owner
from pytest_tempres.leaks.verdict import Ignore
from pytest_tempres.session.state import SessionState
from pytest_tempres.session.strict import judge_now

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_tempres.leaks.fds.detector import Descriptors

__all__ = ["LeakCheck", "check_of"]

#: The detectors that can judge what a test left before the session ends.
_DETECTORS: Final[tuple[str, ...]] = ("temp", "fds")


class _Options(NamedTuple):
    ignore: tuple[str, ...] = ()
    detect: frozenset[str] = frozenset(_DETECTORS)


class LeakCheck:
    """Checks what a test, or a block of it, left in the temp location.

    As a context manager it checks the block, which may contain other blocks. What a check has
    reported is not reported again: by no other check, and not at the end of the session.
    """

    def __init__(self, search: _Search, options: _Options) -> None:
        self._search = search
        self._options = options

    def __call__(self, *, ignore: Iterable[str] = (), detect: Iterable[str] | None = None) -> Self:
        """Return a check of the same test with other options.

        :param ignore: Glob patterns of what this check does not report, as those of the marker
            `tempres_ignore`.
        :param detect: Which detectors to use, of `temp` and `fds`; by default those of
            ``--tempres-detect``. With ``--tempres-leaks=off`` none is used in any case.
        :raises TypeError: An argument is not an iterable of strings.
        :raises ValueError: A detector does not exist, or this session does not use it.
        """
        patterns, names = _strings("ignore", ignore), _DETECTORS
        if detect is not None:
            names = _strings("detect", detect)
            self._search.check_detectors(names)
        return type(self)(self._search, _Options(patterns, frozenset(names)))

    def find(self) -> list[Leak]:
        """Return what the test has left so far and no check has reported.

        :raises RuntimeError: The test has ended.
        """
        return self._search.so_far(self._options)

    def verify(self) -> None:
        """Fail if the test has left anything so far that no check has reported.

        A test that has failed before, as a fixture may see in its teardown, does not fail again.

        :raises AssertionError: It names the path, the size and the origin of each.
        :raises RuntimeError: The test has ended.
        """
        __tracebackhide__ = True
        leaks = [] if self._search.has_failed() else self.find()
        if leaks:
            raise AssertionError(self._search.describe(leaks))

    def __enter__(self) -> Self:
        """Begin a block.

        :raises RuntimeError: The test has ended.
        """
        self._search.begin(self._options, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the block; fail if it left anything, unless an exception passes through it.

        A test that has failed before does not fail again, as with :meth:`verify`.

        :raises AssertionError: It names the path, the size and the origin of each leak.
        :raises RuntimeError: The test has ended.
        """
        __tracebackhide__ = True
        leaks = self._search.end(self, failed=error is not None)
        if leaks:
            raise AssertionError(self._search.describe(leaks))


@dataclass(eq=False)
class _Block:
    """What a check covers: everything that was recorded after its beginning."""

    options: _Options
    #: Who was running at the beginning: the test, or a fixture of it.
    owner: Owner
    check: LeakCheck | None = None
    #: How many entries had been recorded, and which descriptors were open, at the beginning.
    first: int = 0
    open_before: dict[int, Entry] = field(default_factory=dict)
    #: The blocks around this one in the same thread or task.
    outer: tuple[_Block, ...] = ()

    def include(self, other: _Block) -> None:
        """Cover what *other* covers too."""
        self.first = min(self.first, other.first)
        before = other.open_before
        self.open_before = {n: e for n, e in self.open_before.items() if before.get(n) is e}
        ignore = (*self.options.ignore, *other.options.ignore)
        self.options = _Options(ignore, self.options.detect | other.options.detect)


#: The open blocks of this thread or task. A new task starts with those of the task that created it.
_around: Final[ContextVar[tuple[_Block, ...]]] = ContextVar("temp_leaks", default=())


class _Search:
    """The search for what one test has left, for all its checks and blocks."""

    def __init__(self, state: SessionState, item: pytest.Item) -> None:
        self._state = state
        self._item = item
        self._ledger = state.leaks.ledger
        self._open: list[_Block] = []
        self._lock = threading.RLock()

    def check_detectors(self, names: Iterable[str]) -> None:
        """Raise ValueError if one of *names* is not a detector that this session uses."""
        settings = self._state.settings
        for name in names:
            if name not in _DETECTORS:
                raise ValueError(f"detect: unknown detector {name!r}; allowed: temp, fds")
            if self._state.leaks.is_on and name not in settings.detect:
                used = ",".join(sorted(settings.detect))
                raise ValueError(
                    f"detect: this session does not use the detector {name!r}; "
                    f"add it to --tempres-detect={used} or to tempres_detect in the ini file"
                )

    def begin(self, options: _Options, check: LeakCheck) -> None:
        """Begin a block of *check*."""
        with self._lock:
            block = self._new(options)
            block.check = check
            self._state.leaks.scan(final=True)
            block.first = len(self._ledger.not_yet_sent)
            descriptors = self._descriptors()
            block.open_before = descriptors.recorded() if descriptors is not None else {}
            block.outer = _around.get()
            self._open.append(block)
            _around.set((*block.outer, block))

    def end(self, check: LeakCheck, *, failed: bool) -> list[Leak]:
        """End the innermost block of *check*, and return what it left unless it *failed*.

        While a block of another thread or task is open, nobody knows which of the two has created
        a path, and it may still be in use. So the last of them to end covers both.
        """
        with self._lock:
            block = self._innermost(check)
            self._open.remove(block)
            _around.set(block.outer)
            if failed:
                return []
            self._require_running_test()
            if self.has_failed():
                return []
            others = [each for each in self._open if each not in block.outer]
            if others:
                others[-1].include(block)
                return []
            return self._find(block)

    def so_far(self, options: _Options) -> list[Leak]:
        """Return what the test has left since it began."""
        with self._lock:
            return self._find(self._new(options))

    def has_failed(self) -> bool:
        """Whether the test has failed so far; what it left is then not a leak."""
        current = self._state.current
        return current is not None and current.failed

    def describe(self, leaks: list[Leak]) -> str:
        """Return the text of the error, in the form of the report at the end."""
        from pytest_tempres.reports.terminal import describe  # noqa: PLC0415 -- loads when used

        lines = describe(leaks, self._state.workspace.root.path)
        return "\n".join((*lines, "(temp_leaks)"))

    def _new(self, options: _Options) -> _Block:
        self._require_running_test()
        return _Block(options, self._ledger.running.owner)

    def _require_running_test(self) -> None:
        current = self._state.current
        if current is None or current.item is not self._item:
            raise RuntimeError(f"temp_leaks: its test has ended: {self._item.nodeid}")

    def _innermost(self, check: LeakCheck) -> _Block:
        blocks = [each for each in self._open if each.check is check]
        # The teardown of an async fixture may run in another task than its setup.
        return ([each for each in blocks if each in _around.get()] or blocks)[-1]

    def _find(self, block: _Block) -> list[Leak]:
        self._state.leaks.scan(final=True)
        patterns = (*markers.ignored_patterns(self._item), *block.options.ignore)
        matchers = [Ignore(root, patterns) for root in self._roots() if patterns]

        def is_left(entry: Entry) -> bool:
            if not self._should_be_gone(entry, block):
                return False
            return not any(matcher.matches(entry.path) for matcher in matchers)

        leaks = []
        if "temp" in block.options.detect:
            leaks += self._paths(filter(is_left, self._ledger.not_yet_sent[block.first :]))
        descriptors = self._descriptors() if "fds" in block.options.detect else None
        if descriptors is not None:
            found = descriptors.leaks_since(block.open_before, is_left)
            found = self._state.leaks.without_ignored(found)
            found = [leak for leak in found if leak.status == "leak"]
            descriptors.forget(found)
            leaks += found
        return leaks

    def _paths(self, entries: Iterable[Entry]) -> list[Leak]:
        # A path that was removed and created again has several entries; the last one counts.
        by_path = {entry.path: entry for entry in entries if not entry.ignored}
        leaks = judge_now(self._state.leaks, list(by_path.values()))
        if leaks:
            self._ledger.mark_as_ignored({leak.path for leak in leaks})
        return leaks

    def _roots(self) -> tuple[str, str]:
        """Return the directories to which patterns are relative: temp location and rootdir."""
        state = self._state
        is_moved = state.settings.redirect
        location = self._ledger.worker_root if is_moved else state.workspace.system_tmpdir
        return location, str(state.config.rootpath)

    def _should_be_gone(self, entry: Entry, block: _Block) -> bool:
        """Whether the owner of *entry* should have removed it by now.

        A fixture that was set up in the block still has its teardown before it, unless the block
        itself belongs to a fixture and ends in the teardown of that.
        """
        owner = entry.owner
        if entry.test != self._item.nodeid:
            return False
        in_teardown = self._ledger.running.phase == "teardown"
        is_finished = in_teardown and owner.scope == "function"
        return owner.kind == "test" or owner == block.owner or is_finished

    def _descriptors(self) -> Descriptors | None:
        if "fds" not in self._state.settings.detect:
            return None
        from pytest_tempres.leaks.fds.detector import Descriptors  # noqa: PLC0415 -- as above

        detectors = self._ledger.detectors
        return next((each for each in detectors if isinstance(each, Descriptors)), None)


def _strings(argument: str, values: object) -> tuple[str, ...]:
    is_iterable = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    strings: tuple[object, ...] = tuple(values) if is_iterable else (None,)  # type: ignore[arg-type]
    found = tuple(each for each in strings if isinstance(each, str))
    if len(found) < len(strings):
        raise TypeError(f"{argument}={values!r} must be a list of strings")
    return found


def check_of(state: SessionState, item: pytest.Item) -> LeakCheck:
    """Return the check of a test that is running."""
    return LeakCheck(_Search(state, item), _Options())
