"""Helpers for the tests of faults."""

from __future__ import annotations

import re

__all__ = ["kept_on_disk", "run_checked"]


def run_checked(run, *args, junit=True):
    """Run an inner session without internal errors; return its result and the plugin's warnings."""
    options = ("--junitxml=junit.xml",) if junit else ()
    result = run("-p", "no:cacheprovider", *options, *args)
    text = f"{result.stdout}\n{result.stderr}"
    for noise in ("INTERNALERROR", "internal error", "Exception ignored", "Traceback (most"):
        assert noise not in text
    return result, sorted({line for line in result.outlines if re.search(r"Tempres\w+: ", line)})


def kept_on_disk(place):
    """Return the names of the kept paths, without their random suffixes."""
    return sorted(path.name[:-8] for path in place.glob("tempres-*/*.d/*"))
