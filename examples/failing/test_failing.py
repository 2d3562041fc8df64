"""One test fails on purpose: its directory is kept, and that of the other test is removed."""


def test_report_is_complete(temp_dir):
    report = temp_dir / "report.txt"
    report.write_text("chapter one\nchapter two\n")
    assert "chapter three" in report.read_text()


def test_report_is_short(temp_dir):
    report = temp_dir / "report.txt"
    report.write_text("chapter one\n")
    assert len(report.read_text()) < 100
