"""Each marker of pytest-tempres."""

from pathlib import Path

import pytest
from thumbnails import contact_sheet


@pytest.mark.tempdir(prefix="gallery-", suffix=".d")
def test_name(temp_dir):
    assert temp_dir.name.startswith("gallery-")
    assert temp_dir.name.endswith(".d")


@pytest.mark.tempdir(copy="pictures")
def test_copy(temp_dir):
    """The test works on a copy of ``pictures``, which is next to this file."""
    assert {path.name for path in temp_dir.rglob("*.bin")} == {"harbour.bin", "sunrise.bin"}


@pytest.mark.tempdir(files={"album/1.bin": b"abc", "album": {"title.txt": "Harbour\n"}})
def test_files(temp_dir):
    assert {path.name for path in (temp_dir / "album").iterdir()} == {"1.bin", "title.txt"}


@pytest.mark.tempdir(chdir=True)
def test_chdir(temp_dir):
    Path("here.txt").write_text("relative paths work")
    assert (temp_dir / "here.txt").exists()


@pytest.mark.tempfile(mode="w+", suffix=".txt", content="one\ntwo\n")
def test_content(named_temp_file):
    assert Path(named_temp_file.name).read_text() == "one\ntwo\n"


@pytest.mark.spooled(max_size=4, content=b"abc")
def test_spooled(spooled_file):
    assert spooled_file.read() == b"abc"


@pytest.mark.tempres_ignore("sheet-*", reason="removed with the next release")
def test_known(temp_dir):
    contact_sheet([b"abc"], temp_dir / "sheet.bin")
