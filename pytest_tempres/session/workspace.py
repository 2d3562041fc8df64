"""The directories of this process: restored when tests damage them, and emptied."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field
import errno
import os
from pathlib import Path
from typing import Final

from pytest_tempres.primitives._rmtree import Failure
from pytest_tempres.primitives._system import System
from pytest_tempres.session.messages import Messages
from pytest_tempres.workspace import lock
from pytest_tempres.workspace.proof import remove_created
from pytest_tempres.workspace.retention import CreatedPath
from pytest_tempres.workspace.root import SessionRoot
from pytest_tempres.workspace.root import WorkerRoot

__all__ = ["Workspace"]

#: The most descriptors that the end of a session has open at the same time.
_RESERVED: Final = 6


@dataclass(kw_only=True, eq=False, repr=False)
class Workspace:
    """The directories of this process."""

    root: SessionRoot
    worker: WorkerRoot
    #: The session metadata in the breadcrumb file.
    metadata: dict[str, object]
    #: The permission bits of worker roots.
    mode: int
    #: Where the temp location was before it moved.
    system_tmpdir: str
    #: The working directory in which pytest was started.
    invocation_dir: Path
    messages: Messages
    pid: int = field(default_factory=os.getpid)
    #: Descriptors reserved for the end of the session, all of the same directory.
    _reserve: list[int] = field(default_factory=list)

    @property
    def joined(self) -> bool:
        """Whether this is a worker in its controller's session root."""
        return self.root.joined

    @property
    def is_forked(self) -> bool:
        """Whether a test has forked this process; it must not remove what its parent uses."""
        return System.getpid() != self.pid

    def recreate(self) -> None:
        """Create the directories of this worker again after a test removed them, and warn."""
        what = f"the session directory {self.root.path}, or a part of it, was removed"
        try:
            self.root = self.root.restore(self.worker, self.mode, self.metadata)
        except OSError as error:
            text = f"{what} and could not be created again: {error}"
            self.messages.warn_of(error, "recreate", text)
        else:
            self.messages.warn("recreate", f"{what}; it has been created again")

    def hold_lock(self) -> None:
        """Lock the session directory again if a test has closed the descriptor, and warn."""
        if lock.is_held(self.root.lock_fd) or self.is_forked:
            return
        self.root = self.root.hold()
        held = lock.is_held(self.root.lock_fd)
        outcome = "it has been locked again" if held else "another session may remove it"
        what = f"the file descriptor that locks the session directory {self.root.path}"
        self.messages.warn("lock", f"a test has closed {what}; {outcome}")

    def restore_modes(self) -> bool:
        """Restore the modes of the session's directories if a test has changed them, and warn.

        :returns: Whether a mode was changed.
        """
        if not self.root.restore_modes(self.mode):
            return False
        what = f"the mode of the session directory {self.root.path}, or of a part of it,"
        self.messages.warn("modes", f"{what} was changed and has been restored")
        return True

    def reserve_descriptors(self) -> None:
        """Open descriptors for the end of the session; child processes do not have them."""
        if not System.supports_dir_fd:
            # Windows has no such limit.
            return
        # If the limit is reached already, the end can only use the descriptors that are free.
        with suppress(OSError):
            # Tests do not open this directory, so the descriptors detector can tell them apart.
            self._reserve.append(
                lock.track(System.open(self.root.path, System.nofollow_directory_flags))
            )
            while len(self._reserve) < _RESERVED:
                self._reserve.append(lock.track(System.dup(self._reserve[0])))

    def release_descriptors(self) -> None:
        """Close the reserved descriptors, so that the end of the session can open others."""
        while self._reserve:
            lock.release(self._reserve.pop())

    def remove(self, created: CreatedPath, tick: Callable[[], object] | None = None) -> None:
        """Remove a path that a fixture created or a test left; a failure becomes a warning."""
        if self.is_forked:
            return
        path = created.path
        self._leave_directory(path)
        try:
            failures = self._remove(created, tick)
            if failures and failures[0].error.errno == errno.EACCES and self.restore_modes():
                failures = self._remove(created, tick)
        except OSError as error:
            self.messages.warn_of(error, "remove", f"could not remove {path}: {error}")
            return
        if failures:
            first, *others = failures
            more = f" (and {len(others)} more)" if others else ""
            text = f"could not remove {path}: {first.path}: {first.error.strerror}{more}"
            self.messages.warn_of(first.error, "remove", text)

    def _remove(self, created: CreatedPath, tick: Callable[[], object] | None) -> list[Failure]:
        if created.identity is None:
            return self.root.remove(created.path, tick)
        return remove_created(created.path, created.identity)

    def _leave_directory(self, path: str) -> None:
        """Change the working directory if it is in *path*, which is about to be removed."""
        try:
            cwd = System.getcwd()
        except OSError:
            # A test has removed its own working directory.
            cwd = System.realpath(path)
        # getcwd returns a path without symbolic links; the temp location may contain some.
        if System.basename(path) in cwd:
            directory = System.join(System.realpath(path), "")
            if System.join(cwd, "").startswith(directory):
                with suppress(OSError):
                    System.chdir(self.invocation_dir)
