"""What was confirmed lately, and is not handed out again when the log forgot it."""

from hypothesis import given
from hypothesis import strategies as st

from engine.leases import Held
from engine.log import Delivery
from engine.settle_book import DOUBTED_S, REMEMBERED_CONSUMERS, REMEMBERED_MESSAGES, REMEMBERED_S, SettleBook


def reply_of(sequence: int, stored_ns: int) -> str:
    """An acknowledgement subject."""
    return f"$JS.ACK.S.d.1.{sequence}.1.{stored_ns}.0"


def delivery(sequence: int, stored_ns: int = 7) -> Delivery:
    """A delivery of a message."""
    return Delivery(reply_of(sequence, stored_ns), b"", True, sequence, 1)


def book_with(*sequences: int, at: float = 100.0) -> SettleBook:
    """A book that remembers these."""
    book = SettleBook()
    for one in sequences:
        book.remember("d", one, reply_of(one, 7), at)
    return book


def test_what_another_server_delivers_again_was_confirmed() -> None:
    """It is the same message of the same consumer, confirmed just before the connection broke."""
    book = book_with(1)
    assert not book.was_confirmed("d", delivery(1), 100.0, None), "the log is there: it forgot nothing"
    book.went_down(101.0)
    book.came_up(102.0, is_same_server=False)
    assert book.was_confirmed("d", delivery(1), 103.0, None)
    assert not book.was_confirmed("e", delivery(1), 103.0, None)
    assert not book.was_confirmed("d", delivery(2), 103.0, None)
    assert not book.was_confirmed("d", delivery(1, stored_ns=8), 103.0, None), "another log's message"
    assert book.repeated == 1


def test_the_same_server_has_forgotten_nothing() -> None:
    """A connection that broke alone is no reason to doubt: what comes again was given back."""
    book = book_with(1)
    book.went_down(101.0)
    book.came_up(102.0, is_same_server=True)
    assert not book.was_confirmed("d", delivery(1), 103.0, None)


def test_what_is_long_ago_is_on_the_disk() -> None:
    """Only the last seconds before the break are doubted, and not for ever."""
    book = book_with(1, at=100.0)
    book.went_down(100.0 + REMEMBERED_S + 1)
    book.came_up(112.0, is_same_server=False)
    assert not book.was_confirmed("d", delivery(1), 113.0, None)
    book = book_with(1, at=100.0)
    book.went_down(101.0)
    book.came_up(102.0, is_same_server=False)
    assert not book.was_confirmed("d", delivery(1), 102.0 + DOUBTED_S + 1, None)


def test_a_second_break_doubts_the_first_ones_too() -> None:
    """What was doubted stays so; what was confirmed between the two as well."""
    book = book_with(1)
    book.went_down(101.0)
    book.came_up(102.0, is_same_server=False)
    book.remember("d", 2, reply_of(2, 7), 103.0)
    book.went_down(104.0)
    book.came_up(105.0, is_same_server=False)
    assert book.was_confirmed("d", delivery(1), 106.0, None)
    assert book.was_confirmed("d", delivery(2), 106.0, None)


def test_a_moved_consumer_delivers_everything_again() -> None:
    """What was confirmed before it was moved is wanted again."""
    book = book_with(1)
    book.went_down(101.0)
    book.came_up(102.0, is_same_server=False)
    book.forget("d")
    assert not book.was_confirmed("d", delivery(1), 103.0, None)


def test_a_second_delivery_ends_the_certainty_of_the_first() -> None:
    """Whoever holds a message that comes again can no longer be confirmed; the newer one can."""
    book = SettleBook()
    older, newer = Held("r", 1, 1, 0, 100.0), Held("r", 1, 2, 0, 100.0)
    book.was_confirmed("d", delivery(1), 1.0, older)
    book.was_confirmed("d", delivery(1), 2.0, newer)
    assert (older.is_certain(3.0), newer.is_certain(3.0)) == (False, True)
    book.was_confirmed("e", delivery(1), 2.0, Held("r", 1, 1, 0, 100.0))
    assert newer.is_certain(3.0), "another consumer's"
    book.was_confirmed("d", delivery(1), 2.0, None)
    assert not newer.is_certain(3.0), "an old-wire agent has it now"


@given(st.integers(0, 50), st.integers(0, 30))
def test_it_is_bounded(messages: int, consumers: int) -> None:
    """In messages a consumer, and in consumers."""
    book = SettleBook()
    for number in range(REMEMBERED_MESSAGES, REMEMBERED_MESSAGES + messages):
        book.remember("d", number, reply_of(number, 1), 1.0)
    for number in range(REMEMBERED_CONSUMERS + consumers):
        book.remember(f"c{number}", 1, reply_of(1, 1), 1.0)
    assert len(book._lately) <= REMEMBERED_CONSUMERS
    assert all(len(one) <= REMEMBERED_MESSAGES for one in book._lately.values())
