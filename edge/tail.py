"""An agent that prints what it gets: `headgate tail`.

Rules of the file:
- A batch is acknowledged after its last event was printed, never before.
- Printing happens in a worker thread: a pager that stops reading must not stop the connection's pings.
"""

import os
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from edge.client import Client, Message, Notice

Write = Callable[[str], Awaitable[None]]


async def run_tail(
    client: Client,
    *,
    durable: str | None,
    subject: str,
    from_: str | None = None,
    filter_: Sequence[str] = (),
    batch: int = 100,
    as_json: bool = False,
    count: int | None = None,
    write: Write,
    on_notice: Callable[[Notice], None] | None = None,
) -> None:
    """Print events as they come.

    Args:
        durable: whose position is moved by acknowledging; None remembers nothing and leaves nothing behind.
        subject: what to listen to.
        from_: where to begin, where nothing is remembered yet.
        filter_: event types, a trailing `*` allowed; none means all.
        batch: the most messages in a batch.
        as_json: one JSON text a line, else one readable line an event.
        count: return after this many events. A batch that was printed in part is given back whole.
        write: takes the text of whole lines.
        on_notice: told of lost connections, gaps and the like.

    Raises:
        GatewayRefused: the gateway will not have this agent.
    """
    left = count
    async with client.stream(
        subject, durable=durable, from_=from_, filter=filter_, batch=batch, on_notice=on_notice
    ) as stream:
        async for one in stream:
            lines = [line for message in one.messages for line in _lines_of(message, as_json=as_json)]
            shown = lines if left is None else lines[:left]
            await write("".join(f"{line}\n" for line in shown))
            await (one.ack() if len(shown) == len(lines) else one.nak(0))
            if left is not None:
                left -= len(shown)
                if left <= 0:
                    return


async def write_stdout(text: str) -> None:
    """Write to stdout and flush, without stopping the run while nobody reads."""
    await trio.to_thread.run_sync(_write_and_flush, text, abandon_on_cancel=True)


async def wait_stdout_unread() -> None:
    """Wait until nobody can read stdout any more, as when `| head` has seen enough.

    Only a pipe can tell; anywhere else this waits for ever.
    """
    handle = sys.stdout.fileno()
    if not stat.S_ISFIFO(os.fstat(handle).st_mode):
        await trio.sleep_forever()
    await trio.lowlevel.wait_readable(handle)  # the writing end of a pipe is never readable, and fails when unread


def _write_and_flush(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _RawFrame(msgspec.Struct):
    events: list[msgspec.Raw]


def _lines_of(message: Message, *, as_json: bool) -> list[str]:
    """Give a line for each event, or one for a message that is no frame."""
    try:
        raws = msgspec.json.decode(message.data, type=_RawFrame).events
    except msgspec.MsgspecError:
        raws = [message.data]
    if as_json:
        return [msgspec.json.format(bytes(raw), indent=-1).decode() for raw in raws]
    return [_say(msgspec.json.decode(raw)) for raw in raws]


def _say(event: Any) -> str:
    """Say an event for a person: type, path, and what else is known of a file."""
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        return msgspec.json.encode(event).decode()
    data = event["data"]
    words = [f"{event.get('type', '?'):<14}", str(data.get("path") or data.get("root_path") or "")]
    words += [f"{name}={data[name]}" for name in ("size", "hash") if data.get(name) is not None]
    return " ".join(words)
