"""A callable as an agent's handler, against a scripted gateway: what it returns or raises becomes what is said."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from edge.agent import AgentOptions, AgentRun, BatchReport
from edge.agent_callable import BUILTINS, CallableHandler, Poison, load_builtin, load_callable
from edge.client import Client, StreamBatch
from edge.client_sync_batch import SyncBatch
from tests.support.peers import open_stream_peer
from tests.support.v1_script import Conversation, V1Script, frame_of


async def run_once(
    function: Callable[[Any], Any], *, timeout_s: float | None = None, messages: int = 4
) -> tuple[list[dict[str, Any]], BatchReport]:
    """Hand one batch to a callable; give what was said of it, and the report."""
    script, reports = V1Script(), list[BatchReport]()

    async def play(gateway: Conversation) -> None:
        await gateway.hello()
        await gateway.batch("b1", *(frame_of(f"/{n}") for n in range(messages)), delivered=2)
        await gateway.hear_until("status")
        await gateway.say(type="status")
        await gateway.listen()

    with trio.fail_after(30):
        async with (
            open_stream_peer(script.step(play)) as peer,
            Client(peer.url) as client,
            CallableHandler(function, timeout_s=timeout_s) as handler,
        ):
            run = AgentRun(handler, AgentOptions(once=True), on_batch=reports.append)
            await run.run_agent(lambda: client.stream(durable="d"))
    settles = [{k: v for k, v in said.items() if k not in ("type", "batch")} for said in script.settles()]
    return settles, reports[0]


RETRY = {"delay_ms": 2000}


async def test_a_plain_function_runs_in_a_thread_and_none_acknowledges() -> None:
    """It is given a batch with plain methods, and may answer parts of it itself."""

    def handle(batch: SyncBatch) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert [event.data["path"] for event in batch.events()] == ["/0", "/1", "/2", "/3"]
        assert batch.settle(nak=[1], delay_s=9).said
        assert batch.progress()

    settles, report = await run_once(handle)
    assert settles == [
        {"nak": [{"i": [1, 1], "delay_ms": 9000}]},
        {"progress": [[0, 0], [2, 3]]},
        {"ack": [[0, 0], [2, 3]]},
    ]
    assert (report.tally.acked, report.tally.naked, report.error) == (3, 1, "")


async def test_an_async_function_gives_mixed_verdicts() -> None:
    """What it does not name is acknowledged."""

    async def handle(batch: StreamBatch) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return {"nak": [0], "term": [[2, 3]], "reason": f"bad, delivered {batch.messages[2].delivered} times"}

    settles, _ = await run_once(handle)
    assert settles == [
        {
            "ack": [[1, 1]],
            "nak": [{"i": [0, 0], **RETRY}],
            "term": [{"i": [2, 3], "reason": "bad, delivered 2 times"}],
        }
    ]


async def test_what_a_failing_callable_had_not_answered_is_given_back() -> None:
    """Raising gives back with a delay that grows with the deliveries; the report says what and where."""

    async def handle(batch: StreamBatch) -> None:
        await batch.settle(ack=[0])
        raise ZeroDivisionError("by zero")

    settles, report = await run_once(handle)
    assert settles == [{"ack": [[0, 0]]}, {"nak": [{"i": [1, 3], **RETRY}]}]
    assert report.error.startswith("ZeroDivisionError: by zero (test_agent_callable.py:")


async def test_poison_ends_what_was_not_answered() -> None:
    """It goes to the dead letters with the words."""

    def handle(batch: SyncBatch) -> None:
        raise Poison("no such codec")

    settles, _ = await run_once(handle)
    assert settles == [{"term": [{"i": [0, 3], "reason": "no such codec"}]}]


@pytest.mark.parametrize("answer", [True, 0, "ack", [0, 1], {"acks": [0]}, {"ack": [4]}, {"ack": [0], "nak": [0]}])
async def test_an_answer_that_is_none_never_acknowledges(answer: object) -> None:
    """A mistake in what it returns gives everything back, and says so."""
    settles, report = await run_once(lambda _: answer)
    assert settles == [{"nak": [{"i": [0, 3], **RETRY}]}]
    assert report.error


async def test_answering_twice_is_a_mistake() -> None:
    """What it acknowledged itself stays so; the rest comes again."""

    async def handle(batch: StreamBatch) -> dict[str, object]:
        await batch.settle(ack=[0])
        return {"nak": [0]}

    settles, report = await run_once(handle)
    assert settles == [{"ack": [[0, 0]]}, {"nak": [{"i": [1, 3], **RETRY}]}]
    assert "message 0 twice" in report.error


async def test_a_callable_that_takes_too_long_is_left() -> None:
    """Async ones are cancelled, plain ones left behind; the batch is given back."""
    release = threading.Event()

    async def dawdle(_: StreamBatch) -> None:
        await trio.sleep_forever()

    def block(_: SyncBatch) -> None:
        release.wait(30)

    for function in (dawdle, block):
        began = time.monotonic()
        settles, report = await run_once(function, timeout_s=0.2)
        assert settles == [{"nak": [{"i": [0, 3], **RETRY}]}]
        assert "not done within 0.2 s" in report.error
        assert time.monotonic() - began < 5
    release.set()


async def test_builtins_open_and_work() -> None:
    """Each of the list can be opened; `discard` acknowledges everything."""
    opener = load_builtin("discard")
    async with opener() as discard:
        settles, _ = await run_once(discard)
    assert settles == [{"ack": [[0, 3]]}]
    assert all(load_builtin(name) for name in BUILTINS)
    with pytest.raises(ValueError, match="expected one of discard"):
        load_builtin("nothing")


@pytest.mark.parametrize("target", ["", "x", "x:", ":y", "no_such_module:f", "math:nothing", "math:pi", "a b:c"])
def test_what_cannot_be_loaded_is_refused(target: str) -> None:
    """In one sentence that says what was expected."""
    with pytest.raises(ValueError, match=r"expected module:function|cannot be loaded|is no function"):
        load_callable(target)


def test_modules_of_the_working_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `python -m`, also when started as `headgate`."""
    (tmp_path / "my_agent_of_this_test.py").write_text("def handle(batch):\n    return None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_callable("my_agent_of_this_test:handle")(None) is None
