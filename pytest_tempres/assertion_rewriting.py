"""The exclusion of this package from the assertion rewriting of pytest.

This package has no assert statements, and searching its modules for them takes more than half of
the time that a session needs to start. There is no public way to exclude a package, so this uses a
private attribute of the import hook; without that, the modules are rewritten as usual.
"""

from __future__ import annotations

import sys


def _exclude_from_rewriting(package: str) -> None:
    for finder in sys.meta_path:
        marked = getattr(finder, "_must_rewrite", None)
        if isinstance(marked, set):
            marked.discard(package)
            getattr(finder, "_marked_for_rewrite_cache", {}).clear()


_exclude_from_rewriting(__name__.partition(".")[0])
