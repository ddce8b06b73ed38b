"""The bridge to asyncio, on its real thread and loop (`DESIGN.md` section 7)."""

import asyncio
import threading

import pytest
import trio
import trio.testing

from engine.bridge import Bridge, open_bridge

WITHIN_S = 5.0


class Steps:
    """What happened on the asyncio side, in order, seen from both."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.may_end = threading.Event()

    async def wait_for_ever(self) -> None:
        """Be cancelled, and clean up slowly."""
        self.taken.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.taken.append("cancelled")
            for _ in range(5):
                await asyncio.sleep(0.002)
            self.taken.append("cleaned up")
            raise

    async def refuse_to_be_cancelled(self) -> str:
        """Take the cancellation for a wish, and give a result all the same."""
        self.taken.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.taken.append("ignored")
        return "result"

    async def fail_when_cancelled(self) -> None:
        """Fail while cleaning up."""
        self.taken.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("the clean-up failed")

    async def wait(self, step: str) -> None:
        """Wait on the Trio side until a step is taken."""
        with trio.fail_after(WITHIN_S):
            while step not in self.taken:
                await trio.lowlevel.checkpoint()


async def add(one: int, other: int) -> int:
    """A function with arguments and a result."""
    await asyncio.sleep(0)
    return one + other


async def where() -> tuple[str, str]:
    """The thread and the loop that run asyncio's side."""
    return threading.current_thread().name, type(asyncio.get_running_loop()).__module__


async def fail() -> None:
    """Raise something of one's own."""
    raise LookupError("not there")


async def cancel_itself() -> None:
    """Raise a cancellation that nobody asked for."""
    raise asyncio.CancelledError


async def test_a_call_gives_its_result() -> None:
    """A function and its arguments cross, the result comes back; it ran on the other thread, on uvloop."""
    async with open_bridge() as bridge:
        assert await bridge.call(add, 2, 3) == 5
        name, loop = await bridge.call(where)
        assert name != threading.current_thread().name
        assert loop.startswith("uvloop")
        assert bridge.calls == 2


async def test_a_call_raises_what_its_function_raised() -> None:
    """The exception comes out as it is, and the bridge goes on."""
    async with open_bridge() as bridge:
        with pytest.raises(LookupError, match="not there"):
            await bridge.call(fail)
        assert await bridge.call(add, 1, 1) == 2


async def test_several_calls_run_at_once() -> None:
    """Calls do not wait for each other: each of a hundred waits until all have begun."""
    async with open_bridge() as bridge:
        begun = 0
        everybody = asyncio.Event()

        async def meet(number: int) -> int:
            nonlocal begun
            begun += 1
            if begun == 100:
                everybody.set()
            await everybody.wait()
            return number

        results: list[int] = []

        async def call(number: int) -> None:
            results.append(await bridge.call(meet, number))

        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(call, number)
        assert sorted(results) == list(range(100))


async def test_cancellation_is_completed_before_it_is_raised() -> None:
    """When a cancelled call has ended here, nothing of it runs there any more."""
    async with open_bridge() as bridge:
        steps = Steps()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bridge.call, steps.wait_for_ever)
                await steps.wait("began")
                scope.cancel()
        assert scope.cancelled_caught
        assert steps.taken == ["began", "cancelled", "cleaned up"]
        assert await bridge.call(add, 1, 1) == 2


async def test_a_timeout_is_trios() -> None:
    """A deadline on this side cancels the call on the other."""
    async with open_bridge() as bridge:
        steps = Steps()
        with trio.move_on_after(0.01) as scope:
            await bridge.call(steps.wait_for_ever)
        assert scope.cancelled_caught
        assert steps.taken == ["began", "cancelled", "cleaned up"]


async def test_a_call_that_is_cancelled_before_it_began_never_begins() -> None:
    """A scope that is cancelled already lets nothing of the call run on, and the bridge goes on."""
    async with open_bridge() as bridge:
        steps = Steps()
        with trio.CancelScope() as scope:
            scope.cancel()
            await bridge.call(steps.wait_for_ever)
        assert scope.cancelled_caught
        assert steps.taken in ([], ["began", "cancelled", "cleaned up"])
        assert await bridge.call(add, 1, 1) == 2


async def test_a_result_that_came_in_spite_of_the_cancellation_is_given() -> None:
    """What happened on the other side is not lost: the cancellation comes at the next checkpoint."""
    async with open_bridge() as bridge:
        steps = Steps()
        results: list[str] = []

        async def call() -> None:
            results.append(await bridge.call(steps.refuse_to_be_cancelled))

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await steps.wait("began")
                scope.cancel()
        assert results == ["result"]
        assert steps.taken == ["began", "ignored"]


async def test_a_failure_in_spite_of_the_cancellation_is_raised() -> None:
    """An error of the clean-up does not disappear behind the cancellation."""
    async with open_bridge() as bridge:
        steps = Steps()
        with pytest.RaisesGroup(LookupError):  # the nursery is what raises
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bridge.call, steps.fail_when_cancelled)
                await steps.wait("began")
                nursery.cancel_scope.cancel()


async def test_a_cancellation_that_nobody_asked_for_is_our_bug() -> None:
    """Asyncio's own cancellation never looks like Trio's."""
    async with open_bridge() as bridge:
        with pytest.raises(RuntimeError, match="cancelled itself"):
            await bridge.call(cancel_itself)


async def test_many_cancelled_calls_leave_nothing_behind() -> None:
    """After a thousand calls cancelled at any moment, no task is left on the asyncio side."""
    async with open_bridge() as bridge:

        async def count_tasks() -> int:
            return len(asyncio.all_tasks())

        async def linger(seconds: float) -> None:
            await asyncio.sleep(seconds)

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(bridge.call, linger, 0.0 if number % 3 else 60.0)
                if number % 100 == 50:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await bridge.call(count_tasks) == 1


async def test_closing_ends_the_thread_and_refuses_calls() -> None:
    """After the block there is no thread, and a call says so instead of waiting for ever."""
    before = threading.active_count()
    async with open_bridge() as bridge:
        await bridge.call(add, 1, 1)
        names = {thread.name for thread in threading.enumerate()}
        assert "headgate-asyncio" in names
    assert "headgate-asyncio" not in {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= before + 1  # Trio keeps the thread that waited for it for a while
    with trio.fail_after(WITHIN_S), pytest.raises(RuntimeError):
        await bridge.call(add, 1, 1)


async def test_closing_under_a_call_ends_it() -> None:
    """A call that outlives the block is ended, not left hanging."""
    steps = Steps()
    with pytest.RaisesGroup(RuntimeError), trio.fail_after(WITHIN_S):  # the nursery is what raises
        async with trio.open_nursery() as nursery, open_bridge() as bridge:
            nursery.start_soon(bridge.call, steps.wait_for_ever)
            await steps.wait("began")
    assert steps.taken == ["began", "cancelled", "cleaned up"]


async def test_cancelled_here_the_block_still_closes() -> None:
    """A cancelled run ends the thread all the same: the wait for it is shielded, with a deadline."""
    opened: list[Bridge] = []
    with trio.CancelScope() as scope:
        async with open_bridge() as bridge:
            opened.append(bridge)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert opened
    assert "headgate-asyncio" not in {thread.name for thread in threading.enumerate()}
