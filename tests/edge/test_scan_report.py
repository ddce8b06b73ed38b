"""What a scan says of itself, in both forms."""

import pytest

from edge.scan_report import ScanReport, say_bytes


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (188_449, "188.4 kB"), (5 * 10**15, "5000.0 TB")]
)
def test_sizes_are_said_in_decimal_units(size: int, said: str) -> None:
    """As MB/s is."""
    assert say_bytes(size) == said


def test_a_report_says_what_was_hashed() -> None:
    """Both forms have the figure that a second run is judged by."""
    report = ScanReport("/root", "id", files=3, hits=1, hashed=2, events=5, seconds=1.0, durability="fsync")
    assert report.to_json()["hashed"] == 2
    assert "1 known, 2 hashed, 5 events on the log (fsync)" in report.to_text()
