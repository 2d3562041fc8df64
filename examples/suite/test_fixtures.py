"""Each fixture of pytest-tempres, without markers."""

import pytest
from thumbnails import contact_sheet
from thumbnails import shrink


def test_temp_dir(temp_dir):
    small = shrink(b"abcdef", temp_dir / "small.bin")
    assert small.read_bytes() == b"ace"


def test_artifact_dir(artifact_dir):
    """With ``--tempres-artifacts=DIR``, the picture is in DIR though the test passes."""
    assert shrink(b"abcdef", artifact_dir / "small.bin").exists()


def test_temp_file(temp_file):
    temp_file.write(b"abcdef")
    temp_file.seek(0)
    assert temp_file.read() == b"abcdef"


def test_named_temp_file(named_temp_file):
    named_temp_file.write(b"abcdef")
    named_temp_file.flush()
    with open(named_temp_file.name, "rb") as reopened:
        assert reopened.read() == b"abcdef"


def test_spooled_file(spooled_file):
    spooled_file.write(b"abcdef")
    spooled_file.seek(3)
    assert spooled_file.read() == b"def"


def test_temp_resources(temp_resources):
    source, target = temp_resources.dir(), temp_resources.dir(prefix="out-")
    assert source != target
    with temp_resources.named_file(suffix=".bin") as file:
        assert file.name.endswith(".bin")


def test_scope(temp_resources):
    """The directory of each picture is removed before the next one is created."""
    for picture in (b"abcdef", b"abcd"):
        with temp_resources.scope() as resources:
            small = shrink(picture, resources.dir() / "small.bin")
            assert small.exists()
        assert not small.parent.exists()


@pytest.fixture(scope="module")
def album(temp_resources_module):
    directory = temp_resources_module.dir(prefix="album-")
    (directory / "1.bin").write_bytes(b"abcdef")
    return directory


class TestAlbum:
    """The fixture creates the album once; it is removed at the end of the module."""

    def test_holds_a_picture(self, album):
        assert [path.name for path in album.iterdir()] == ["1.bin"]

    def test_is_still_there(self, album):
        assert (album / "1.bin").exists()


@pytest.mark.parametrize(
    "name", ["temp_resources_class", "temp_resources_package", "temp_resources_session"]
)
def test_wider_scopes(request, name):
    assert request.getfixturevalue(name).dir().is_dir()


def test_contact_sheet(temp_dir):
    """Passes, but leaves a directory behind, which is in the report."""
    sheet = contact_sheet([b"abc", b"def"], temp_dir / "sheet.bin")
    assert sheet.read_bytes() == b"abcdef"
