"""What the tests of children share: how a session is asked, and what it must not say."""

from __future__ import annotations

import os

__all__ = ["QUIET", "left_by", "noise"]

#: Python warns of a fork in a process with threads, such as a worker.
QUIET = ("-W", "ignore::DeprecationWarning")


def noise(result):
    """Return what a session that ended in order does not print."""
    text = f"{result.stdout}\n{result.stderr}"
    words = ("INTERNALERROR", "internal error", "Traceback (most", "Exception ignored", "Tempres")
    return [word for word in words if word in text]


def left_by(report):
    """Return the test and the name, without its random end, of each leak."""
    return sorted(
        (leak["owner"]["id"].rpartition("::")[2], os.path.basename(leak["path"]).partition("-")[0])
        for leak in report["leaks"]
    )
