"""A command as an agent's handler: the batch on its standard input, verdicts in its exit code and its output.

Rules of the file:
- One run of the command a batch; a message is a line of JSON: `{"index","data","seq","delivered","time",…}`.
- A line of its output that is a JSON object with `ack`, `nak` or `term` is a verdict, and counts at once. Any other
  line goes to standard error.
- A verdict that cannot be understood never becomes an acknowledgement: what is open then is given back.
- The command and all it has started end with the run.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import trio

from edge.agent import Ended
from edge.client import Message, StreamBatch
from edge.nursery import open_plain_nursery
from engine.verdicts import Verdicts, judge_exit, read_verdicts
from engine.workers import REST_WITHIN_S, Worker, start_worker

MOST_LINE_BYTES: Final = 1024 * 1024
STOP_WITHIN_S: Final = 5.0


class CommandHandler:
    """Runs a command for each batch.

    Args:
        argv: program and arguments.
        environment: what the command is told beside its own environment.
        timeout_s: how long it may take for one batch; None for ever.
        confirm: whether its verdicts wait for the log's word.
    """

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], *, timeout_s: float | None, confirm: bool
    ) -> None:
        self._argv = argv
        self._environment = environment
        self._timeout_s = timeout_s
        self._confirm = confirm

    async def handle(self, batch: StreamBatch, delays_s: Mapping[int, float]) -> Ended:
        """Run the command once."""
        try:
            worker = start_worker(self._argv, {**self._environment, "HEADGATE_BATCH": batch.id})
        except OSError as error:
            return Ended(_judge(batch, None, delays_s), error=f"{self._argv[0]} cannot be started: {error.strerror}")
        listener = _Listener(batch, delays_s, self._confirm)
        code: int | None = None
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(worker.feed, write_lines(batch))
                heard = await nursery.start(_listen, worker, listener)
                with trio.move_on_after(float("inf") if self._timeout_s is None else self._timeout_s):
                    code = await worker.wait()
                if code is None:
                    await worker.stop(STOP_WITHIN_S)
                with trio.move_on_after(REST_WITHIN_S):
                    await heard.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(STOP_WITHIN_S + 1, shield=True):  # bounded, and `stop` kills before that
                await worker.stop(STOP_WITHIN_S)
            with trio.move_on_after(1, shield=True):  # bounded: it closes descriptors
                await worker.aclose()
        return self._explain(batch, delays_s, code, listener)

    def _explain(
        self, batch: StreamBatch, delays_s: Mapping[int, float], code: int | None, listener: "_Listener"
    ) -> Ended:
        error = listener.error
        if code is None:
            error = error or f"{self._argv[0]} was not done within {self._timeout_s:g} s"
        elif code:
            error = error or f"{self._argv[0]} ended with {f'signal {-code}' if code < 0 else code}"
        judged_by = None if listener.error else code
        return Ended(_judge(batch, judged_by, delays_s), exit_code=code, error=error)


class _Listener:
    """Reads a command's output line by line, and passes its verdicts on."""

    def __init__(self, batch: StreamBatch, delays_s: Mapping[int, float], confirm: bool) -> None:
        self.error = ""
        self._batch = batch
        self._delays_s = delays_s
        self._confirm = confirm
        self._rest = b""

    async def take(self, data: bytes) -> None:
        """Take some output; empty means the end."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop() if data else b""
        if len(self._rest) > MOST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            await self._take_line(line)

    async def _take_line(self, line: bytes) -> None:
        statement = read_statement(line)
        if statement is None:
            if line:
                sys.stderr.write(line.decode(errors="replace") + "\n")
                sys.stderr.flush()
            return
        try:
            await self._batch.say(read_verdicts(statement, self._delays_s), confirm=self._confirm)
        except ValueError as error:
            text = line[:200].decode(errors="replace")
            self.error = self.error or f"a verdict cannot be understood: {error} (in {text})"


async def _listen(
    worker: Worker, listener: _Listener, *, task_status: trio.TaskStatus[trio.Event] = trio.TASK_STATUS_IGNORED
) -> None:
    heard = trio.Event()
    task_status.started(heard)
    while data := await worker.read():
        await listener.take(data)
    await listener.take(b"")
    heard.set()


def read_statement(line: bytes) -> dict[str, Any] | None:
    """Read a verdict from a line of output; None when it is none."""
    if not line.lstrip().startswith(b"{"):
        return None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        value = msgspec.json.decode(line)
        if isinstance(value, dict) and value.keys() & {"ack", "nak", "term"}:
            return value
    return None


def write_lines(batch: StreamBatch) -> bytes:
    """Give a batch as a command reads it: one line of JSON a message."""
    return b"".join(_write_line(message) for message in batch)


def _write_line(message: Message) -> bytes:
    line = msgspec.json.encode(message)
    if b"\n" in line:  # somebody published a message in several lines
        line = msgspec.json.format(line, indent=-1)
    return line + b"\n"


def _judge(batch: StreamBatch, code: int | None, delays_s: Mapping[int, float]) -> Verdicts:
    return judge_exit(code, (message.index for message in batch.unanswered), delays_s)
