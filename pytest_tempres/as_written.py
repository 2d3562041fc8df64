"""Our own modules are imported as they are written.

pytest rewrites the assertions of every installed plugin. Here are none to
rewrite, and the hook would read, hash and compile forty modules of ours at the
start of each session, at more than half of what that start costs. It is told by
a private name: where another version of pytest has none, nothing changes.
"""

from __future__ import annotations

import sys
from typing import Final

__all__: Final[list[str]] = []


def _spare(package: str) -> None:
    for finder in sys.meta_path:
        marked = getattr(finder, "_must_rewrite", None)
        if isinstance(marked, set):
            marked.discard(package)
            getattr(finder, "_marked_for_rewrite_cache", {}).clear()


_spare(__name__.partition(".")[0])
