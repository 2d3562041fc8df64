"""The exclusion of this package from the assertion rewriting of pytest.

pytest rewrites the assertions of every installed plugin. This package contains
none, and the import hook would read, hash and compile forty modules at the start
of each session, which takes more than half of the time of that start. There is
no public way to exclude a package, so this uses a private attribute of the hook;
with a version of pytest that lacks it, the modules are rewritten as usual.
"""

from __future__ import annotations

import sys
from typing import Final

__all__: Final[list[str]] = []


def _exclude_from_rewriting(package: str) -> None:
    for finder in sys.meta_path:
        marked = getattr(finder, "_must_rewrite", None)
        if isinstance(marked, set):
            marked.discard(package)
            getattr(finder, "_marked_for_rewrite_cache", {}).clear()


_exclude_from_rewriting(__name__.partition(".")[0])
