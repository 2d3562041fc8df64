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

#: The environment variable with the system's own temp location, for tests that need it.
SYSTEM_TMPDIR: Final = "PYTEST_TEMPRES_SYSTEM_TMPDIR"


class FunctionProxy:
    """A replacement for a function in its module, with the attributes of the original.

    :param original: Called after the session: a test may have kept a reference to this.
    :param replacement: Called during the session.
    """

    def __init__(self, original: Any, replacement: Callable[..., Any]) -> None:
        self._original = original
        self._target = replacement
        # Every class has these attributes, so `__getattr__` is not called for them.
        self.__module__ = original.__module__
        self.__doc__ = original.__doc__

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # With this, `isinstance` (in `inspect`, for example) sees the type of the original.
        return self._original.__class__  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __dir__(self) -> list[str]:
        return dir(self._original)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._target(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._original)

    def __eq__(self, other: object) -> bool:
        # Code that imported the function before the session has the original.
        return _original_of(self) is _original_of(other)

    def __hash__(self) -> int:
        return hash(_original_of(self))

    def __reduce__(self) -> str | tuple[Any, ...]:
        module: str = self.__module__
        name: str = self.__qualname__
        if getattr(sys.modules.get(module), name, None) is self:
            return name
        import pkgutil  # noqa: PLC0415 -- it is rarely pickled after the session

        return pkgutil.resolve_name, (f"{module}:{name}",)

    def retire(self) -> None:
        """Call the original from now on."""
        self._target = self._original


def _original_of(function: Any) -> Any:
    # An inner session replaces the replacement of the outer one.
    while type(function) is FunctionProxy:
        function = function._original  # noqa: SLF001 -- an attribute of this class
    return function


class Redirect:
    """Changes and restores the temp location, and replaces `atexit.register` and `unregister`."""

    def __init__(self) -> None:
        self.callbacks = ExitCallbacks(atexit.register, atexit.unregister)
        self._undo: list[Callable[[], object]] = []

    def move(self, target: str, system: str) -> None:
        """Make *target* the temp location of this process and its children.

        :param system: The system's temp location, for tests that need it.
        """
        self._set_variable("TMPDIR", target)
        for name in ("TEMP", "TMP"):
            if name in os.environ or os.name == "nt":
                self._set_variable(name, target)
        # An inner session keeps the value that the outer one has set.
        self._set_variable(SYSTEM_TMPDIR, os.environ.get(SYSTEM_TMPDIR, system))
        for module in (tempfile, primitives):
            self._set(module, "tempdir", target)
        self.callbacks.exempt(target)
        self._replace(atexit, "register", self.callbacks.register)
        self._replace(atexit, "unregister", self.callbacks.unregister)

    def restore(self) -> None:
        """Restore everything, even if tests have changed it. May be called twice."""
        while self._undo:
            self._undo.pop()()

    def _replace(self, module: Any, name: str, replacement: Callable[..., Any]) -> None:
        function = FunctionProxy(getattr(module, name), replacement)
        self._undo.append(function.retire)
        self._set(module, name, function)

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
