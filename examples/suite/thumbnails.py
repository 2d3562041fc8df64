"""The module under test. One of its functions does not remove its temporary directory."""

from pathlib import Path
import shutil
import tempfile


def shrink(picture: bytes, target: Path) -> Path:
    """Write a smaller picture to ``target``, and clean up."""
    with tempfile.TemporaryDirectory(prefix="shrink-") as work:
        step = Path(work, "step.bin")
        step.write_bytes(picture[::2])
        return Path(shutil.copy(step, target))


def contact_sheet(pictures: list[bytes], target: Path) -> Path:
    """Write all pictures to ``target``, one after the other."""
    work = Path(tempfile.mkdtemp(prefix="sheet-"))  # Never removed: this is the leak.
    for number, picture in enumerate(pictures):
        (work / f"{number}.bin").write_bytes(picture)
    target.write_bytes(b"".join(path.read_bytes() for path in sorted(work.iterdir())))
    return target
