"""The temp location of this process: moved into the worker root, and restored."""

from __future__ import annotations

import atexit
from collections.abc import Callable
import os
import tempfile
from typing import Any
from typing import Final

from pytest_tempres import primitives
from pytest_tempres.leaks.deferred import ExitCallbacks

__all__ = ["SYSTEM_TMPDIR", "Redirect"]

#: Where a test can still read the system's own location.
SYSTEM_TMPDIR: Final = "PYTEST_TEMPRES_SYSTEM_TMPDIR"


class Redirect:
    """Moves `tempfile.tempdir`, TMPDIR and their like, and `atexit.register` with them."""

    def __init__(self) -> None:
        self.callbacks = ExitCallbacks(atexit.register, atexit.unregister)
        self._undo: list[Callable[[], object]] = []

    def move(self, target: str, system: str) -> None:
        """Let the temp location of this process and its children be *target*.

        :param system: Where it is now, for tests that need to know.
        """
        self._set_variable("TMPDIR", target)
        for name in ("TEMP", "TMP"):
            if name in os.environ or os.name == "nt":
                self._set_variable(name, target)
        # A session inside another one leaves what the outer one says, and restores that too.
        self._set_variable(SYSTEM_TMPDIR, os.environ.get(SYSTEM_TMPDIR, system))
        for module in (tempfile, primitives):
            self._set(module, "tempdir", target)
        self.callbacks.exempt(target)
        self._set(atexit, "register", self.callbacks.register)
        self._set(atexit, "unregister", self.callbacks.unregister)

    def restore(self) -> None:
        """Put everything back, whatever the tests have done to it. Safe to call twice."""
        while self._undo:
            self._undo.pop()()

    def _set(self, module: Any, name: str, value: object) -> None:
        before = getattr(module, name)
        setattr(module, name, value)
        self._undo.append(lambda: setattr(module, name, before))

    def _set_variable(self, name: str, value: str) -> None:
        before = os.environ.get(name)
        os.environ[name] = value

        def undo() -> None:
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before

        self._undo.append(undo)
