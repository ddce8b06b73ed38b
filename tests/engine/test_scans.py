"""The table of a scan's life, walked, and the history's bounds."""

import pytest

from engine.agents_wire import Report
from engine.scans import LIVE, STEPS, History, IllegalStep, Order, Scan, ScanState, ScanStep


def a_scan(number: int, *, key: str = "", agent_id: str = "a") -> Scan:
    """Make a scan that waits."""
    return Scan(f"c{number}", agent_id, Order("/x"), float(number), key)


@pytest.mark.parametrize("state", ScanState)
@pytest.mark.parametrize("step", ScanStep)
def test_a_step_is_in_the_table_or_changes_nothing(state: ScanState, step: ScanStep) -> None:
    """Every state and every step: what the table lacks is refused and leaves the scan as it was."""
    scan = a_scan(1)
    scan.state = state
    after = STEPS[state].get(step)
    assert scan.can(step) == (after is not None)
    if after is None:
        with pytest.raises(IllegalStep):
            scan.step(step, 5.0, "why")
        assert (scan.state, scan.sent_at, scan.ended_at, scan.error) == (state, None, None, "")
    else:
        scan.step(step, 5.0, "why")
        assert scan.state is after
        assert (scan.ended_at == 5.0) == (after not in LIVE)


def test_what_is_over_stays_so_but_for_what_was_lost() -> None:
    """Complete and failed are final; lost means that nobody knows, so a late report is the truth."""
    assert STEPS[ScanState.COMPLETE] == STEPS[ScanState.FAILED] == {}
    assert STEPS[ScanState.LOST] == {ScanStep.COMPLETE: ScanState.COMPLETE, ScanStep.FAIL: ScanState.FAILED}
    assert set(STEPS) == set(ScanState)


def end(history: History, scan: Scan, body: bytes = b"") -> None:
    """Take a scan to its end."""
    scan.step(ScanStep.SEND, 1.0)
    scan.take_report(Report(scan.command_id, True, body=body), 2.0)
    history.note_end(scan)


def test_the_history_forgets_the_oldest_that_are_over_and_no_other() -> None:
    """Bounded in count; a scan that is not over is there whatever its age."""
    history = History(3, 10**6)
    scans = [a_scan(number, key=f"k{number}") for number in range(6)]
    for scan in scans[:3]:
        history.add(scan)
    end(history, scans[1])
    end(history, scans[2])
    history.add(scans[3])
    assert [history.get(f"c{number}") is not None for number in range(4)] == [True, False, True, True]
    assert history.find_key("a", "k1") is None
    assert history.find_key("a", "k2") is scans[2]
    for scan in scans[4:]:
        history.add(scan)
    assert {scan.command_id for scan in history.live()} == {"c0", "c3", "c4", "c5"}
    assert len(history) == 4
    assert history.live_count() == 4


def test_the_history_is_bounded_in_bytes() -> None:
    """Many large reports push out the oldest."""
    history = History(1000, 10_000)
    for number in range(20):
        scan = a_scan(number)
        history.add(scan)
        end(history, scan, b"x" * 3000)
    assert len(history) == 3


def test_pages_are_newest_first_and_meet() -> None:
    """S: every fitting scan is on exactly one page, whatever the page's size."""
    history = History(1000, 10**6)
    for number in range(30):
        history.add(a_scan(number, agent_id="ab"[number % 2]))
    seen: list[str] = []
    before = None
    while True:
        page, has_more = history.newest(4, before, "a", ScanState.QUEUED)
        seen += [scan.command_id for scan in page]
        if not has_more:
            break
        before = page[-1].command_id
    assert seen == [f"c{number}" for number in range(28, -1, -2)]
    assert history.newest(4, "c1", None, ScanState.LOST) == ([], False)
    assert history.newest(4, "unknown", None, None) == ([], False)
