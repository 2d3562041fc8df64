"""Helpers for the tests of forked children."""

from __future__ import annotations

import os

__all__ = ["QUIET", "left_by", "noise"]

#: Python warns when a process with threads, such as a worker, forks.
QUIET = ("-W", "ignore::DeprecationWarning")


def noise(result):
    """Return the signs of errors and warnings in the output of a session."""
    text = f"{result.stdout}\n{result.stderr}"
    words = ("INTERNALERROR", "internal error", "Traceback (most", "Exception ignored", "Tempres")
    return [word for word in words if word in text]


def left_by(report):
    """Return the test and the name, without its random suffix, of each leak."""
    return sorted(
        (leak["owner"]["id"].rpartition("::")[2], os.path.basename(leak["path"]).partition("-")[0])
        for leak in report["leaks"]
    )
