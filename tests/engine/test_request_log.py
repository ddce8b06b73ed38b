"""Which requests get a log line, walked over lanes, rules, statuses and floods."""

import pytest

from engine.request_log import LINES_A_SECOND, PROBES, RequestLog, check_rule


def lines(rule: str, statuses: list[int], *, is_express: bool = True, route: str = "/ingest") -> int:
    """Count the lines that these requests get."""
    log = RequestLog(rule)
    return sum(log.wants(route, status, is_express=is_express, second=1) for status in statuses)


@pytest.mark.parametrize(
    ("rule", "expected"), [("errors", 2), ("off", 0), ("all", 102), ("1/10", 12), ("1/1", 102), ("1/1000", 2)]
)
def test_the_express_lane_follows_its_rule(rule: str, expected: int) -> None:
    """Errors are always there unless all is off; the others by their share."""
    assert lines(rule, [200] * 60 + [500, 503] + [404] * 40) == expected


@pytest.mark.parametrize("rule", ["errors", "off", "all", "1/10"])
def test_the_quart_lane_logs_every_request(rule: str) -> None:
    """One line each, whatever the express lane's rule is."""
    assert lines(rule, [200, 404, 500], is_express=False) == 3


@pytest.mark.parametrize("route", sorted(PROBES))
def test_probes_are_not_logged(route: str) -> None:
    """They come every second and say nothing."""
    assert lines("all", [200, 503], route=route) == 0
    assert lines("all", [200, 503], route=route, is_express=False) == 0


def test_a_flood_is_bounded_and_counted() -> None:
    """Failures at any rate write so many lines a second; the next second starts anew."""
    log = RequestLog()
    said = sum(log.wants("/ingest", 500, is_express=True, second=7) for _ in range(LINES_A_SECOND + 50))
    assert (said, log.left_out) == (LINES_A_SECOND, 50)
    assert log.wants("/ingest", 500, is_express=True, second=8)


@pytest.mark.parametrize("text", ["", "ALL", "1/0", "0", "10", "2/5", "1/1.5", "1/1234567890"])
def test_another_rule_is_refused(text: str) -> None:
    """The message says what there is."""
    with pytest.raises(ValueError, match="errors"):
        check_rule(text)
