"""Credit in two dimensions, the measured window, and what is asked of the log for them."""

from hypothesis import assume, given
from hypothesis import strategies as st

from engine.credit import (
    BATCHES_LIMIT,
    CREDIT_LIMIT,
    NOTHING,
    PREFETCH,
    WINDOW_CEILING,
    WINDOW_FLOOR,
    Amount,
    AutoWindow,
    Credit,
    Mode,
    Reserve,
    next_pull,
    portion,
)
from engine.stream import BATCH_BYTES

amounts = st.builds(Amount, st.integers(0, 20_000), st.integers(0, 100_000_000))
QUIET = Reserve(NOTHING, NOTHING, 0, 0)


def granted(messages: int, size_bytes: int) -> Credit:
    """Credit with one grant."""
    credit = Credit()
    credit.grant(Amount(messages, size_bytes))
    return credit


def test_nothing_is_sent_before_the_first_credit() -> None:
    """There is no room, and nothing is asked for."""
    credit = Credit()
    assert credit.room(NOTHING) == NOTHING
    assert next_pull(credit.room(NOTHING), NOTHING, QUIET, 100, 1.0) is None


@given(st.lists(amounts, max_size=20))
def test_grants_add_up_to_the_limit(grants: list[Amount]) -> None:
    """Whatever is granted, the credit stays within its limit."""
    credit = Credit()
    for one in grants:
        credit.grant(one)
    assert credit.granted.messages == min(CREDIT_LIMIT.messages, sum(one.messages for one in grants))
    assert credit.granted.bytes == min(CREDIT_LIMIT.bytes, sum(one.bytes for one in grants))


def test_what_is_unsettled_is_bounded_whatever_is_granted() -> None:
    """An agent that grants without end and settles nothing is sent no more than the limit."""
    credit = granted(10**9, 10**12)
    assert credit.room(Amount(CREDIT_LIMIT.messages, 0)).messages == 0


@given(st.lists(st.integers(0, 3_000_000), max_size=50), amounts, amounts, st.integers(1, 1000))
def test_a_portion_is_within_both_dimensions(sizes: list[int], room: Amount, in_flight: Amount, batch: int) -> None:
    """A batch is within the credit and the frame; but for one message that is larger, alone, when nothing is held."""
    count = portion(sizes, room, in_flight, batch)
    assert 0 <= count <= min(batch, len(sizes), max(0, room.messages))
    total = sum(sizes[:count])
    if count > 1:
        assert total <= min(room.bytes, BATCH_BYTES)
    if count == 1:
        assert sizes[0] <= room.bytes or not in_flight.messages
    if not count and sizes and room.messages > 0 and room.bytes > 0:
        assert in_flight.messages, "nothing would ever move"


@given(amounts, amounts, amounts, amounts, st.integers(0, 2), st.integers(1, 1000), st.sampled_from([0, 10, 5_000_000]))
def test_what_is_asked_for_is_covered(
    room: Amount, in_flight: Amount, waiting: Amount, asked: Amount, pulls: int, batch: int, too_large_for: int
) -> None:
    """What waits, what is asked and what is asked now stay within the credit and the read-ahead."""
    assume(pulls or asked == Amount(0, 0))  # only open pulls have asked for something
    request = next_pull(room, in_flight, Reserve(waiting, asked, pulls, too_large_for), batch, 1.0)
    if request is None:
        return
    assert waiting.messages + asked.messages + request.count <= max(room.messages, 1)
    if request.most_bytes:
        assert request.most_bytes <= room.bytes
        assert request.count == 1 or waiting.bytes + asked.bytes + request.most_bytes <= PREFETCH.bytes
    else:
        assert (request.count, in_flight.messages, waiting.messages, pulls) == (1, 0, 0, 0)


def test_a_message_larger_than_the_credit_comes_alone_at_rest() -> None:
    """It is asked for without a bound when nothing is in hand, and never while something is."""
    reserve = Reserve(NOTHING, NOTHING, 0, 1_000)
    alone = next_pull(Amount(5, 1_000), NOTHING, reserve, 100, 1.0)
    assert alone is not None
    assert (alone.count, alone.most_bytes) == (1, 0)
    assert next_pull(Amount(5, 1_000), Amount(1, 10), reserve, 100, 1.0) is None
    assert next_pull(Amount(5, 0), NOTHING, reserve, 100, 1.0) is None


def test_a_message_larger_than_the_read_ahead_comes_within_the_credit() -> None:
    """A message of 8 MiB is asked for by itself as soon as the credit covers it, whatever is in hand."""
    request = next_pull(Amount(9, 20 << 20), Amount(3, 300), Reserve(NOTHING, NOTHING, 0, BATCH_BYTES), 100, 1.0)
    assert request is not None
    assert (request.count, request.most_bytes) == (1, 20 << 20)


def test_two_pulls_overlap_and_crumbs_wait() -> None:
    """While one batch is on its way a second is asked for, whole or not at all."""
    room = Amount(1000, 60 << 20)
    first = next_pull(room, NOTHING, QUIET, 100, 1.0)
    assert first is not None
    asked = Amount(first.count, first.most_bytes)
    assert next_pull(room, NOTHING, Reserve(NOTHING, asked, 1, 0), 100, 1.0) == first
    assert next_pull(Amount(150, 60 << 20), NOTHING, Reserve(NOTHING, asked, 1, 0), 100, 1.0) is None
    assert next_pull(room, NOTHING, Reserve(NOTHING, asked, 2, 0), 100, 1.0) is None


def drive(window: AutoWindow, rate_per_s: float, round_trip_s: float, rounds: int = 600) -> Amount:
    """Let an agent that works at a rate settle windows, one after the other."""
    for _ in range(rounds):
        mark = window.mark()
        messages = window.size.messages
        window.settle(Amount(messages, messages * 1000))
        window.measure(mark, max(round_trip_s, messages / rate_per_s))
    return window.size


def test_a_fast_agent_far_away_gets_a_large_window() -> None:
    """10,000 messages/s over 100 ms: about two round trips' worth, 2,000."""
    assert 1_000 <= drive(AutoWindow(), 10_000, 0.1).messages <= 4_000


def test_a_slow_agent_gets_a_small_window() -> None:
    """10 messages/s: the window does not grow beyond what it began with."""
    assert drive(AutoWindow(), 10, 0.01).messages <= 400


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1000)), max_size=30))
def test_the_window_stays_between_floor_and_ceiling(steps: list[tuple[int, float]]) -> None:
    """Whatever is measured."""
    window = AutoWindow()
    for messages, took_s in steps:
        mark = window.mark()
        window.settle(Amount(messages, messages * 100))
        window.measure(mark, took_s)
        assert WINDOW_FLOOR.messages <= window.size.messages <= WINDOW_CEILING.messages
        assert WINDOW_FLOOR.bytes <= window.size.bytes <= WINDOW_CEILING.bytes


def test_modes_replace_each_other() -> None:
    """A window forgets grants, and a grant ends the window."""
    credit = granted(7, 700)
    credit.automate()
    assert credit.mode is Mode.AUTO
    assert credit.room(NOTHING) == credit.window.size
    credit.grant(Amount(3, 300))
    assert credit.room(NOTHING) == Amount(3, 300)
    credit.spend(Amount(1, 400))
    assert credit.room(NOTHING) == Amount(2, -100)
    assert credit.shown(NOTHING) == Amount(2, 0)
    assert BATCHES_LIMIT > 0
