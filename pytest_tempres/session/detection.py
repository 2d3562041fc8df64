"""Leak detection in this process: scans, ignored paths, and the findings of all detectors."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field
from typing import TYPE_CHECKING

import pytest

from pytest_tempres.exceptions import TempresLeakWarning
from pytest_tempres.leaks import verdict
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.deferred import ExitCallbacks
from pytest_tempres.leaks.deferred import LiveDirectories
from pytest_tempres.leaks.deferred import removed_at_exit
from pytest_tempres.leaks.ledger import Ledger
from pytest_tempres.leaks.model import Entry
from pytest_tempres.leaks.model import Leak
from pytest_tempres.session.workspace import Workspace

if TYPE_CHECKING:
    from pytest_tempres.leaks.watch.detector import Watched

__all__ = ["ExitRemovals", "LeakDetection"]


@dataclass(eq=False, repr=False)
class ExitRemovals:
    """The paths that are removed when Python exits."""

    #: The replacements for `atexit.register` and `atexit.unregister`.
    callbacks: ExitCallbacks | None = None
    directories: LiveDirectories = field(default_factory=LiveDirectories)
    #: Those that were found so far, in this process and in workers.
    paths: set[str] = field(default_factory=set)

    def find(self) -> None:
        """Add those of this process to `paths`. This is expensive."""
        self.paths |= removed_at_exit(self.callbacks)

    def scheduled(self) -> Iterator[str]:
        """Yield those that finalizers and exit handlers will remove, the cheapest first."""
        yield from self.directories.scheduled_removals()
        if self.callbacks is not None:
            yield from self.callbacks.scheduled_removals()


@dataclass(eq=False, repr=False)
class LeakDetection:
    """Leak detection in this process, and what it has found."""

    config: pytest.Config
    workspace: Workspace
    ledger: Ledger
    #: Whether the settings ask for leak detection. If not, nothing is ever found.
    is_on: bool
    #: The known leaks, by fingerprint.
    baseline: dict[str, Known]
    #: The entries of this process and of all reports, by path.
    entries: dict[str, Entry] = field(default_factory=dict)
    at_exit: ExitRemovals = field(default_factory=ExitRemovals)
    gc_budget: verdict.CollectionBudget = field(default_factory=verdict.CollectionBudget)
    #: The detector whose findings workers send to their controller.
    watched: Watched | None = None
    #: The patterns of the markers of tests, by node id.
    allowed: dict[str, list[str]] = field(default_factory=dict)

    def scan(self, *, final: bool = False, needed: bool = False) -> list[Entry]:
        """Record what is new in the worker root, and restore its mode if a test changed it.

        :param final: As for `Ledger.scan`.
        :param needed: Whether to create the worker root again if it is gone. A test that has
            renamed it may still rename it back.
        """
        if not self.is_on:
            return []
        try:
            if self.ledger.origins.error is not None:
                self.warn_about_owner(self.ledger.origins.error)
            try:
                return self.ledger.scan(final=final)
            except PermissionError:
                if not self.workspace.restore_modes():
                    raise
                return self.ledger.scan(final=final)
        except FileNotFoundError:
            if needed:
                self.recreate()
        except Exception as error:  # noqa: BLE001 -- a scan must not change a test's outcome
            text = f"leaks may be missed: {error!r}"
            self.workspace.messages.warn_of(error, "scan", text, TempresLeakWarning)
        return []

    def recreate(self) -> None:
        """Create the directories of this worker again, and forget what was in them."""
        # A forked child may outlive the session, and would leave the directories behind.
        if not self.workspace.is_forked:
            self.ledger.forget()
            self.workspace.recreate()

    def warn_about_owner(self, error: Exception) -> None:
        """Warn that the current owner could not be determined."""
        text = f"leaks may be reported for the wrong owner: {error!r}"
        self.workspace.messages.warn("owner", text, TempresLeakWarning)

    def is_exit_handler_pending(self) -> bool:
        """Whether an exit handler of the code under test may need some of the paths."""
        callbacks = self.at_exit.callbacks
        if callbacks is None or not self.is_on:
            return False
        return callbacks.any_from_code_under_test(self.ledger.frame_filter)

    def take_unsent(self) -> None:
        """Add the entries that no report has sent to those that are judged in this process."""
        self.add(self.ledger.not_yet_sent)
        self.ledger.not_yet_sent.clear()

    def add(self, entries: Iterable[Entry]) -> None:
        """Add *entries* to those that are judged in this process, by path: the last one counts."""
        self.entries.update((entry.path, entry) for entry in entries)

    def run_detectors(self, failed: set[str]) -> list[Leak]:
        """Return what the optional detectors found here, marked if it is of a *failed* test."""
        leaks = []
        for detector in self.ledger.detectors:
            try:
                leaks += detector.judge()
            except Exception as error:  # noqa: BLE001 -- an internal error becomes a warning
                name = type(detector).__name__
                text = f"internal error in {name}: {error!r}"
                self.workspace.messages.warn(name, text, TempresLeakWarning)
        return [
            leak._replace(status="failed-test")
            if leak.owner in self.ledger.failed_owners or verdict.is_from_failed(leak.entry, failed)
            else leak
            for leak in leaks
            if not self.is_allowed(leak)
        ]

    def judge(self, existing: Iterable[Entry], failed: Collection[str] = ()) -> list[Leak]:
        """Return a leak for each entry that still exists and that no hook ignores."""
        return verdict.judge(
            existing,
            deferred=self.at_exit.paths,
            failed=failed,
            is_ignored_by_hook=self.is_ignored_by_hook,
            known=self.baseline,
        )

    def is_allowed(self, leak: Leak) -> bool:
        """Whether a marker of the test that left *leak* allows it."""
        entry = leak.entry
        patterns = self.allowed.get(entry.test or "")
        if not patterns or entry.owner.scope not in (None, "function"):
            return False
        return verdict.Ignore(str(self.config.rootpath), patterns).matches(entry.path)

    def without_ignored(self, leaks: Iterable[Leak]) -> list[Leak]:
        """Return *leaks* without those that a hook ignores, and mark the known ones."""
        return verdict.drop_ignored(
            leaks, is_ignored_by_hook=self.is_ignored_by_hook, known=self.baseline
        )

    def is_ignored_by_hook(self, leak: Leak) -> bool:
        """Whether another plugin ignores *leak*; if its hook fails, the leak is reported."""
        try:
            return bool(self.config.hook.pytest_tempres_ignore_leak(leak=leak))
        except Exception as error:  # noqa: BLE001 -- another plugin's code
            text = f"pytest_tempres_ignore_leak failed: {error!r}"
            self.workspace.messages.warn("ignore_leak", text)
            return False
