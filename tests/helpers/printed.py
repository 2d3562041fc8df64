"""Reads what the terminal report has printed."""

from __future__ import annotations

import re


def kept_paths(output: str) -> list[tuple[str, str]]:
    """Return the node id and the path of each kept path in the list at the end of *output*."""
    # The path has a line of its own if the line would be too long.
    line = re.compile(r"^kept: (\S.*?)(?: \([^()]*\))?(?:  |\n  )(\S.*)$", re.MULTILINE)
    return line.findall(output.rpartition("= temporary resources =")[2])
