"""P5: a queue sheds for never becoming short, not for being long for a moment."""

import random

from engine.patience import BURST_S, CALM_S, STANDING_S, TARGET_S, Patience

ABOVE = TARGET_S * 1.5


def ask(patience: Patience, oldest_s: float, begin: float, for_s: float) -> list[bool]:
    """Ask every ten milliseconds for so long, while the first has always waited the same."""
    return [patience.may_come(oldest_s, begin + number / 100) for number in range(round(for_s * 100) + 1)]


def test_a_burst_waits() -> None:
    """However long the queue is for a moment, up to the bound of a burst; beyond that nobody waits."""
    patience = Patience()
    assert all(ask(patience, BURST_S, 0.0, STANDING_S))
    assert not patience.may_come(BURST_S + 0.01, 0.0)
    assert patience.shed == 1


def test_a_pause_makes_it_a_burst_again() -> None:
    """What becomes short in between is not standing, however often it is long."""
    patience = Patience()
    for round_number in range(20):
        assert all(ask(patience, ABOVE, round_number * 2 * STANDING_S, STANDING_S))
        assert patience.may_come(TARGET_S, round_number * 2 * STANDING_S + STANDING_S + 0.01)


def test_a_standing_queue_sheds_whatever_would_make_it_longer() -> None:
    """From then on the first decides, one by one, until it was calm for long enough."""
    patience = Patience()
    calm = [patience.is_calm]
    ask(patience, ABOVE, 0.0, STANDING_S + 0.02)
    calm.append(patience.is_calm)
    now = STANDING_S + 0.03
    assert not patience.may_come(ABOVE, now)
    assert patience.may_come(TARGET_S, now + 0.01)
    assert not patience.may_come(ABOVE, now + 0.02)
    assert all(ask(patience, 0.0, now + 0.03, CALM_S))
    assert [*calm, patience.is_calm] == [True, False, True]
    assert patience.may_come(ABOVE, now + CALM_S + 0.1)


def test_at_twice_the_capacity_as_much_is_done_as_at_once_and_the_wait_is_short(chance: random.Random) -> None:
    """A queue that is served at a steady pace and asked for twice as much: hardly ever empty, never long."""
    patience, queue, now, served_at = Patience(), list[float](), 0.0, 0.0
    service_s, waits = 0.001, list[float]()
    for _ in range(60_000):
        now += chance.expovariate(2 / service_s)
        while queue and served_at + service_s <= now:
            served_at = max(served_at, queue[0]) + service_s
            waits.append(served_at - queue.pop(0))
        if not queue:
            served_at = now
        if patience.may_come(now - queue[0] if queue else 0.0, now):
            queue.append(now)
    steady = waits[len(waits) // 4 :]
    assert len(waits) * service_s > 0.95 * now
    assert max(steady) < 3 * TARGET_S
    assert patience.shed > 0.4 * 60_000
