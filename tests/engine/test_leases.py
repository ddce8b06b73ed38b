"""Leases: a lower bound that nothing moves but the log's own answer in time."""

from hypothesis import given
from hypothesis import strategies as st

from engine.leases import Held, LeaseTerms, put_in_doubt

times = st.floats(0, 100)


def held(until: float) -> Held:
    """One delivery."""
    return Held("$JS.ACK.S.d.1.1.1.0.0", 1, 1, 10, until)


@given(times, times, times, st.floats(0.1, 30))
def test_an_extension_counts_from_when_it_was_sent_and_only_in_time(
    until: float, sent_at: float, later_s: float, ack_wait_s: float
) -> None:
    """Answered after the lease, it says nothing; answered before, the lease runs from the sending."""
    one = held(until)
    LeaseTerms(ack_wait_s, 900).extended([one], sent_at, sent_at + later_s)
    assert one.until == (max(until, sent_at + ack_wait_s) if sent_at + later_s < until else until)


def test_in_doubt_it_stays_in_doubt() -> None:
    """No answer makes a lease of a server that forgot certain again."""
    one = held(100.0)
    put_in_doubt([one])
    LeaseTerms(30, 900).extended([one], 1.0, 1.1)
    assert not one.is_certain(-1e9)


@given(st.floats(1, 3600))
def test_an_extension_is_asked_for_in_time(ack_wait_s: float) -> None:
    """Whatever a pull waited, half of the lease is left when its extension is asked for."""
    terms = LeaseTerms(ack_wait_s, 86_400)
    one = held(ack_wait_s)
    seen_at = terms.pull_s
    asked_at = seen_at
    while not terms.due([one], asked_at):
        asked_at += terms.look_s
    assert one.until - asked_at >= ack_wait_s / 2 - 1e-6
