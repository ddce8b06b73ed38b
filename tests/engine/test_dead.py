"""How often is too often, and how long a refused message waits."""

from engine.dead import MOST_PAUSE_MS, nak_delay_ms


def test_a_refused_message_comes_again_at_once_and_then_ever_later() -> None:
    """Three times at once; then from a tenth of a second, doubling, up to half a minute, however often."""
    pauses = [nak_delay_ms(delivered) for delivered in range(1, 16)]
    assert pauses[:6] == [0, 0, 0, 100, 200, 400]
    assert pauses == sorted(pauses)
    assert pauses[-1] == nak_delay_ms(10**9) == MOST_PAUSE_MS


def test_an_outage_of_minutes_kills_no_message() -> None:
    """With the default bound of 20 deliveries, an agent that refuses everything has more than four minutes."""
    assert sum(nak_delay_ms(delivered) for delivered in range(1, 21)) > 4 * 60_000
