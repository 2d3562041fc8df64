"""The temp location of this process: moved into the worker root, and restored."""

from __future__ import annotations

import atexit
from collections.abc import Callable
import os
import sys
import tempfile
from typing import Any
from typing import Final

from pytest_tempres import primitives
from pytest_tempres.leaks.deferred import ExitCallbacks

__all__ = ["SYSTEM_TMPDIR", "Redirect"]

#: Where a test can still read the system's own location.
SYSTEM_TMPDIR: Final = "PYTEST_TEMPRES_SYSTEM_TMPDIR"


class StandIn:
    """Stands in the place of a function in its module, and answers all questions as that does.

    :param original: What is called once the session is over: a test may have kept us.
    :param deed: What is called till then.
    """

    def __init__(self, original: Any, deed: Callable[..., Any]) -> None:
        self._original = original
        self._deed = deed
        # A class has these itself, so that nothing would ask the original.
        self.__module__ = original.__module__
        self.__doc__ = original.__doc__

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # What asks for the kind of a function, as `inspect` does, is told that of the original.
        return self._original.__class__  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __dir__(self) -> list[str]:
        return dir(self._original)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._deed(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._original)

    def __eq__(self, other: object) -> bool:
        # Who imported the function before the session has the original.
        return _original_of(self) is _original_of(other)

    def __hash__(self) -> int:
        return hash(_original_of(self))

    def __reduce__(self) -> str | tuple[Any, ...]:
        module: str = self.__module__
        name: str = self.__qualname__
        if getattr(sys.modules.get(module), name, None) is self:
            return name
        import pkgutil  # noqa: PLC0415 -- nobody pickles what a session has left

        return pkgutil.resolve_name, (f"{module}:{name}",)

    def retire(self) -> None:
        """Be the original from now on."""
        self._deed = self._original


def _original_of(function: Any) -> Any:
    # A session inside another one stands before the outer one.
    while type(function) is StandIn:
        function = function._original  # noqa: SLF001 -- our own
    return function


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
        self._stand_in(atexit, "register", self.callbacks.register)
        self._stand_in(atexit, "unregister", self.callbacks.unregister)

    def restore(self) -> None:
        """Put everything back, whatever the tests have done to it. Safe to call twice."""
        while self._undo:
            self._undo.pop()()

    def _stand_in(self, module: Any, name: str, deed: Callable[..., Any]) -> None:
        stand_in = StandIn(getattr(module, name), deed)
        self._undo.append(stand_in.retire)
        self._set(module, name, stand_in)

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
