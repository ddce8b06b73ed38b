"""Turns among tasks: in order, a little a pass, and nobody who left is waited for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from actors.tree import Actor, supervise
from actors.turns import Turns
from engine.errors import Unavailable
from engine.patience import BURST_S
from engine.turns import PASS_BYTES, REQUEST_BYTES

LARGE = PASS_BYTES - REQUEST_BYTES


@asynccontextmanager
async def open_turns() -> AsyncIterator[Turns]:
    """An actor that runs."""
    turns = Turns()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(supervise, Actor("root", 0.0), "turns", turns.run, mailbox=turns.mailbox))
        yield turns
        nursery.cancel_scope.cancel()


async def test_so_much_a_pass_and_in_order() -> None:
    """Between those that fill a pass each, whoever else has something to do gets to it."""
    order: list[str] = []
    async with open_turns() as turns:

        async def work(name: str) -> None:
            await turns.take(LARGE)
            order.append(name)

        async def probe() -> None:
            while len(order) < 40:
                order.append("-")
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            await turns.take(LARGE)  # this pass is full
            for name in "abcdef":
                nursery.start_soon(work, name)
            nursery.start_soon(probe)
    said = "".join(order)
    assert sorted(said.replace("-", "")) == list("abcdef")
    assert len(max(said.split("-"), key=len)) <= 2, said  # the last of one pass and the first of the next
    assert turns.statistics().waiting == 0


async def test_who_came_first_is_first(autojump_clock: trio.testing.MockClock) -> None:
    """However many wait."""
    turns, order = Turns(), list[int]()

    async def work(number: int) -> None:
        await trio.sleep(number / 1000)
        await turns.take(LARGE)
        order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(work, number)
        await trio.sleep(1)
        nursery.start_soon(turns.run, Actor("turns", 0.0), lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert order == list(range(50))


async def test_overloaded_it_refuses_before_a_body_is_read(autojump_clock: trio.testing.MockClock) -> None:
    """503 with when to come back, once the first has waited too long; and it is over when the queue is empty."""
    turns = Turns()  # nobody calls: the loop is busy elsewhere
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(turns.take, LARGE)
        await trio.testing.wait_all_tasks_blocked()
        assert turns.mailbox().depth == 2
        turns.check_room()
        await trio.sleep(BURST_S + 0.1)
        with pytest.raises(Unavailable) as caught:
            turns.check_room()
        assert (caught.value.kind.code, caught.value.kind.status) == ("server.busy", 503)
        assert caught.value.retry_after_s == 1.0
        assert turns.patience.shed == 1
        nursery.start_soon(turns.run, Actor("turns", 0.0), lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        turns.check_room()
        nursery.cancel_scope.cancel()


async def test_cancelled_here_the_next_has_the_turn() -> None:
    """In the queue, and at the very moment of being called."""
    async with open_turns() as turns:
        with trio.CancelScope() as first:
            first.cancel()
            await turns.take(LARGE)
            await turns.take(LARGE)
        scopes = [trio.CancelScope() for _ in range(6)]
        done: list[int] = []

        async def work(number: int) -> None:
            with scopes[number]:
                await turns.take(LARGE)
                done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(work, number)
            await trio.lowlevel.checkpoint()
            scopes[3].cancel()
        assert set(done) >= {0, 1, 2, 4, 5}
        assert turns.statistics().waiting == turns.statistics().waiting_bytes == 0


async def test_a_turn_that_is_free_costs_no_pass() -> None:
    """Small bodies go at once, without a checkpoint."""
    async with open_turns() as turns:
        with trio.testing.assert_no_checkpoints():
            for _ in range(10):
                await turns.take(100)
        assert turns.statistics().waited == 0
