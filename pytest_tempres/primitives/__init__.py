"""CPython's ``tempfile`` with the newest semantics on all versions, hardened and faster.

Every public name of the standard module is here, with its signature, its exceptions and its audit
events. As there, assign to ``tempdir`` to change the temp location.
"""

from pytest_tempres.primitives._create import TMP_MAX
from pytest_tempres.primitives._create import mkdtemp
from pytest_tempres.primitives._create import mkstemp
from pytest_tempres.primitives._create import mktemp
from pytest_tempres.primitives._directory import TemporaryDirectory
from pytest_tempres.primitives._file import NamedTemporaryFile
from pytest_tempres.primitives._file import TemporaryFile
from pytest_tempres.primitives._location import gettempdir
from pytest_tempres.primitives._location import gettempdirb
from pytest_tempres.primitives._location import gettempprefix
from pytest_tempres.primitives._location import gettempprefixb
from pytest_tempres.primitives._spooled import SpooledTemporaryFile

__all__ = [
    "TMP_MAX",
    "NamedTemporaryFile",
    "SpooledTemporaryFile",
    "TemporaryDirectory",
    "TemporaryFile",
    "gettempdir",
    "gettempdirb",
    "gettempprefix",
    "gettempprefixb",
    "mkdtemp",
    "mkstemp",
    "mktemp",
    "tempdir",
]

tempdir: "str | None" = None
template = "tmp"
