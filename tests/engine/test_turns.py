"""Turns: who came first is first, a pass takes no more than it may, and who has left is no longer there."""

import random

from engine.turns import PASS_BYTES, REQUEST_BYTES, Ticket, TurnQueue

SMALL = PASS_BYTES // 8


def test_a_pass_takes_so_much_and_then_everybody_waits() -> None:
    """The first always goes, however large; with the next pass there is room again."""
    queue = TurnQueue()
    assert queue.try_take(10 * PASS_BYTES)
    assert not queue.try_take(1)
    queue.used_bytes = 0
    assert [queue.try_take(SMALL) for _ in range(10)] == [True] * 8 + [False] * 2


def test_nobody_overtakes() -> None:
    """Whoever comes while somebody waits stands behind them, whether there is room or not."""
    queue = TurnQueue()
    first = queue.join(SMALL, 0.0)
    assert not queue.try_take(1)
    second = queue.join(1, 1.0)
    assert queue.oldest_s(3.0) == 3.0
    assert queue.call() == [first, second]
    assert queue.try_take(1)
    assert queue.oldest_s(9.0) == 0.0


def test_who_leaves_is_not_called(chance: random.Random) -> None:
    """Against a list: any order of coming, leaving and calling, with bodies of any size."""
    queue, model, now = TurnQueue(), list[Ticket](), 0.0
    for _ in range(5000):
        now += 1
        what = chance.random()
        if what < 0.55:
            model.append(queue.join(chance.choice([REQUEST_BYTES, SMALL, PASS_BYTES, 3 * PASS_BYTES]), now))
        elif what < 0.7 and model:
            queue.leave(model.pop(chance.randrange(len(model))))
        elif what < 0.95:
            called = queue.call()
            assert called == model[: len(called)]
            del model[: len(called)]
            assert len(called) <= 1 or sum(one.work_bytes for one in called) <= PASS_BYTES
            assert called or not model
            for one in called:
                queue.leave(one)
        found = queue.statistics()
        assert (found.waiting, found.waiting_bytes) == (len(model), sum(one.work_bytes for one in model))
        assert len(queue) == len(model)
        assert queue.oldest_s(now) == (now - model[0].since if model else 0.0)
