"""Run the interpreter's own ``test.test_tempfile`` against our primitives; print the counts.

Run in a process of its own by ``test_stdlib_suite``.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any
from typing import Final
import unittest

from pytest_tempres import primitives
from pytest_tempres.primitives import _location

NO_SUCH_FUNCTION: Final = "tests a private function that we do not have"
NO_SUCH_OBJECT: Final = "replaces a private object that we do not have"

# Everything else runs. The name of a class means all its tests.
LEFT_OUT: Final = {
    "TestLowLevelInternals": NO_SUCH_FUNCTION,
    "TestRandomNameSequence": NO_SUCH_FUNCTION,
    "TestCandidateTempdirList": NO_SUCH_FUNCTION,
    "TestGetDefaultTempdir": NO_SUCH_FUNCTION,
    "TestGetCandidateNames": NO_SUCH_FUNCTION,
    "TestMkstempInner": NO_SUCH_FUNCTION,
    "TestMkdtemp.test_collision_with_existing_file": NO_SUCH_OBJECT,
    "TestMkdtemp.test_collision_with_existing_directory": NO_SUCH_OBJECT,
    "TestNamedTemporaryFile.test_unexpected_error": NO_SUCH_OBJECT,
    "TestTemporaryFile.test_unexpected_error": NO_SUCH_OBJECT,
}


def left_out(test: unittest.TestCase) -> bool:
    """Return whether *test* is in the table above."""
    _, suite, method = test.id().rsplit(".", 2)
    return suite in LEFT_OUT or f"{suite}.{method}" in LEFT_OUT


def flatten(suite: Any) -> Any:
    """Yield the tests in *suite*."""
    for item in suite:
        if isinstance(item, unittest.TestCase):
            yield item
        else:
            yield from flatten(item)


def load() -> list[unittest.TestCase]:
    """Return the interpreter's tests, bound to our module."""
    sys.modules["tempfile"] = primitives
    # Private names that the module reads at import, or that its tests of public names call.
    primitives._text_openflags = _location.OPEN_FLAGS  # type: ignore[attr-defined]
    primitives._bin_openflags = _location.OPEN_FLAGS  # type: ignore[attr-defined]
    from test import test_tempfile  # noqa: PLC0415

    primitives._infer_return_type = _location.path_type  # type: ignore[attr-defined]
    return list(flatten(unittest.defaultTestLoader.loadTestsFromModule(test_tempfile)))


def main() -> None:
    """Run all tests except those left out, and print one JSON object."""
    tests = load()
    kept = [test for test in tests if not left_out(test)]
    names = {
        part for test in tests for part in (test.id().rsplit(".", 2)[1], test.id().split(".", 2)[2])
    }
    log = io.StringIO()
    result = unittest.TextTestRunner(log, verbosity=0).run(unittest.TestSuite(kept))
    print(  # noqa: T201 - read by the test that runs this
        json.dumps(
            {
                "found": len(tests),
                "run": result.testsRun,
                "skipped": [f"{test.id()}: {reason}" for test, reason in result.skipped],
                "failed": [test.id() for test, _ in result.failures + result.errors],
                "stale": [name for name in LEFT_OUT if not any(n.endswith(name) for n in names)],
                "log": log.getvalue(),
            }
        )
    )


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main()
