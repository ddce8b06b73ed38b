"""One connection that speaks HTTP/2: frames in, streams served, frames out.

Rules of the file:
- Every frame is counted (`engine/http2_floods.py`) before the library sees it; what is over an allowance ends the
  connection with GOAWAY, and so does what the library refuses.
- One task reads and one writes; a stream is a task. Streams wait while too much is unwritten, and so does the reader,
  so a client that does not read stops being read.
- A stream counts until its task has ended, not until the client says that it has: what is reset costs its place.
- The bytes that wait in bodies are bounded by the streams' windows; the connection's window is topped up at once, so
  that one body that nobody reads holds up no other.

What must change with it: `edge/http2_stream.py`, which serves what is begun here.
Source: RFC 9113; CVE-2023-44487; `RELIABILITY.md` 4.1.
"""

from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Final

import structlog
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from edge.express import LINGER_BYTES, LINGER_S, RECEIVE_BYTES, Connection
from edge.http2_stream import Stream
from edge.normaliser import MAX_HEAD_BYTES
from edge.phase import Phase
from engine.http2_floods import MOST_FRAME_BYTES, FrameMeter

if TYPE_CHECKING:
    from edge.http2 import Http2

log = structlog.get_logger("http2")

MOST_STREAMS: Final = 100
MOST_TASKS: Final = 2 * MOST_STREAMS
"""More than the client may have open, because a stream that it has reset takes a moment to end."""
WINDOW_BYTES: Final = 1024 * 1024
"""Of a connection; a stream's is the protocol's 65,535 until its body has one of the places below."""
LARGE_BODIES: Final = 4
"""Bodies longer than a stream's first window that are held at once; the others wait, unread."""
MOST_UNWRITTEN_BYTES: Final = 128 * 1024
MOST_UNPACKED_BYTES: Final = 64 * 1024
"""Of a header block; above it the connection ends, above `MAX_HEAD_BYTES` the request alone."""
TABLE_BYTES: Final = 4096
"""Of either side's table of headers, whatever the client offers to keep."""
NOTICE_S: Final = 0.25
"""From the word that the gateway goes to the last stream that it takes: what is on its way is answered."""
QUIET_WITHIN_S: Final = 1.0
"""How long the word waits for a moment without streams: some clients (Python's) give up those that it finds."""
LEAVE_WITHIN_S: Final = 1.0
_EVERY_STREAM: Final = 2**31 - 1
_NO_ERROR, _REFUSED_STREAM = 0x0, 0x7


class _Library(H2Connection):
    """The library, remembering fewer streams that have ended."""

    MAX_CLOSED_STREAMS = 2048


class Session:
    """One connection.

    Args:
        shared: what the process's connections share.
        connection: the client's connection; whoever accepted it closes it.
        begun: what was received of it already.
    """

    def __init__(self, shared: "Http2", connection: Connection, begun: bytes) -> None:
        self.table = shared.table
        self.passing = shared.passing
        self.peer = connection.peer
        self.within = connection.within
        self.large_bodies = trio.Semaphore(LARGE_BODIES)
        self.h2 = _make_library()
        self._shared = shared
        self._connection = connection
        self._received = begun
        self._streams: dict[int, Stream] = {}
        self._tasks = 0
        self._meter = FrameMeter(trio.current_time())
        self._unwritten = bytearray()
        self._is_writing = False
        self._to_write = trio.Event()
        self._written = trio.lowlevel.ParkingLot()
        self._left = trio.lowlevel.ParkingLot()
        self._reading = trio.CancelScope()
        self._idle_until = trio.current_time() + self.within.header_s
        self._is_greeted = False
        self._takes_none = False
        self._is_over = False
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Serve the connection until it ends."""
        self._look_at_deadline()
        self.h2.initiate_connection()
        self._top_up()
        self.flush()
        try:
            async with trio.open_nursery() as writing:
                writing.start_soon(self._write)
                async with trio.open_nursery() as self._nursery:
                    self._nursery.start_soon(self._announce_end)
                    with self._reading:
                        await self._read()
                    await self._let_streams_leave()
                    self._nursery.cancel_scope.cancel()
                with trio.move_on_after(LINGER_S):
                    await self._wait_written(0)
                writing.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away: nothing to say, nobody to say it to
        finally:
            await self._say_goodbye()

    # What streams ask for.

    def flush(self) -> None:
        """Have what the library wants to send written."""
        data = self.h2.data_to_send()
        if data:
            self._unwritten += data
            self._to_write.set()

    async def wait_room(self) -> None:
        """Wait until little enough is unwritten."""
        await trio.lowlevel.checkpoint()
        await self._wait_written(MOST_UNWRITTEN_BYTES)

    def count_sent(self, *, is_dribble: bool) -> None:
        """Note that a frame of a body was sent, and whether the client's window made it absurdly short."""
        self._meter.sent()
        if is_dribble:
            self._meter.count("dribbles", trio.current_time())
            self._end_if_flooded()

    def forget(self, stream: Stream) -> None:
        """Note that a stream is over: its number means nothing any more."""
        self._streams.pop(stream.number, None)

    def ended(self, stream: Stream) -> None:
        """Note that a stream's task has ended."""
        self.forget(stream)
        self._tasks -= 1
        self._shared.give_place(self.peer)
        self._left.unpark_all()
        if not self._tasks:
            self._idle_until = trio.current_time() + self.within.idle_s
            if self._takes_none:
                self._reading.cancel()
        self._look_at_deadline()

    # Reading.

    async def _read(self) -> None:
        while True:
            data, self._received = self._received, b""
            if not data:
                await self._wait_written(MOST_UNWRITTEN_BYTES)
                data = bytes(await self._connection.stream.receive_some(RECEIVE_BYTES))
            if not data or not await self._take(data):
                return

    async def _take(self, data: bytes) -> bool:
        """Take what was received, a few frames at a time; False when the connection ends with it."""
        start = 0
        while start < len(data):
            end = self._meter.take(data, start, trio.current_time())
            if self._end_if_flooded():
                return False
            try:
                events = self.h2.receive_data(data[start:end])
            except ProtocolError as problem:
                self._end(int(problem.error_code), str(problem))
                return False
            self._bound_library()
            windows: set[int] = set()
            for event in events:
                if isinstance(event, ConnectionTerminated):
                    return False
                self._handle(event, windows)
            self._wake(windows)
            self._top_up()
            self.flush()
            self._look_at_deadline()
            if self._end_if_flooded():
                return False
            start = end
            if start < len(data):
                await self.wait_room()
        return True

    def _handle(self, event: Event, windows: set[int]) -> None:
        if isinstance(event, RequestReceived):
            self._begin_stream(event)
        elif isinstance(event, DataReceived):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.arrived(event.data)
        elif isinstance(event, StreamEnded):
            stream = self._streams.get(event.stream_id)
            if stream is not None:
                stream.arrived_whole()
        elif isinstance(event, WindowUpdated):
            windows.add(event.stream_id)
        elif isinstance(event, RemoteSettingsChanged):
            windows.add(0)
            if not self._is_greeted:
                self._is_greeted = True
                self._idle_until = trio.current_time() + self.within.idle_s
        elif isinstance(event, StreamReset):
            if not event.remote_reset:  # the client made us do it: the same as doing it
                self._meter.count("resets", trio.current_time())
            self._shared.counts["reset"] += 1
            stream = self._streams.pop(event.stream_id, None)
            if stream is not None:
                stream.leave()

    def _begin_stream(self, event: RequestReceived) -> None:
        number = event.stream_id
        shared = self._shared
        if self._takes_none or self._tasks >= MOST_TASKS or not shared.take_place(self.peer):
            shared.counts["refused"] += 1
            if self._tasks >= MOST_TASKS:
                self._meter.count("resets", trio.current_time())
            self.h2.reset_stream(number, _REFUSED_STREAM)
            return
        shared.counts["requests"] += 1
        self._tasks += 1
        stream = Stream(self, number, event.headers, is_whole=event.stream_ended is not None)
        self._streams[number] = stream
        self._nursery.start_soon(stream.run)

    def _wake(self, windows: set[int]) -> None:
        if 0 in windows:
            for stream in self._streams.values():
                stream.window_opened.set()
            return
        for number in windows:
            if number in self._streams:
                self._streams[number].window_opened.set()

    def _top_up(self) -> None:
        left = self.h2.inbound_flow_control_window
        if left <= WINDOW_BYTES // 2:
            self.h2.increment_flow_control_window(WINDOW_BYTES - left)

    def _bound_library(self) -> None:
        """Keep what the client may ask of the library within what we give."""
        if self.h2.encoder.header_table_size > TABLE_BYTES:
            self.h2.encoder.header_table_size = TABLE_BYTES

    def _look_at_deadline(self) -> None:
        connection = self._connection
        if self._tasks:
            connection.phase, connection.deadline = Phase.BUSY, inf
        else:
            connection.phase, connection.deadline = Phase.IDLE, self._idle_until
        if self._meter.block_since is not None:
            connection.deadline = min(connection.deadline, self._meter.block_since + self.within.header_s)

    # Writing.

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write = trio.Event()
            while self._unwritten:
                data, self._unwritten = self._unwritten, bytearray()
                self._is_writing = True
                with trio.move_on_after(self.within.send_s) as patience:
                    await self._connection.stream.send_all(data)
                if patience.cancelled_caught:
                    raise trio.BrokenResourceError(f"the client took nothing for {self.within.send_s:g} s")
                self._is_writing = False
                self._written.unpark_all()

    async def _wait_written(self, most: int) -> None:
        while len(self._unwritten) > most or (not most and self._is_writing):
            await self._written.park()

    # Ending.

    async def _announce_end(self) -> None:
        """When the gateway goes, say so, take what is on its way, and end after the last answer."""
        await self._shared.draining.wait()
        with trio.move_on_after(QUIET_WITHIN_S):
            while self._tasks:
                await self._left.park()
        self._go_away(_NO_ERROR, last=_EVERY_STREAM)
        await trio.sleep(NOTICE_S)
        self._takes_none = True
        self._go_away(_NO_ERROR)
        if not self._tasks:
            self._reading.cancel()

    def _end_if_flooded(self) -> bool:
        flood = self._meter.flood
        if flood is not None:
            self._end(flood.code, flood.detail)
        return flood is not None

    def _end(self, code: int, detail: str) -> None:
        """End the connection, and say why."""
        if self._is_over:
            return
        self._is_over = self._takes_none = True
        self._shared.note_end(code, detail, self.peer)
        self.h2.clear_outbound_data_buffer()  # the library's own word, which has no reason in it
        self._go_away(code, detail=detail)
        self._reading.cancel()

    def _go_away(self, code: int, *, last: int | None = None, detail: str = "") -> None:
        """Write GOAWAY past the library, for which it would be the end of every stream."""
        number = self.h2.highest_inbound_stream_id if last is None else last
        frame = GoAwayFrame(0, last_stream_id=number, error_code=code, additional_data=detail.encode()[:200])
        self.flush()
        self._unwritten += frame.serialize()
        self._to_write.set()

    async def _let_streams_leave(self) -> None:
        """Tell every stream that the client is gone; those that can tell nobody are cancelled."""
        for stream in list(self._streams.values()):
            stream.leave()
        with trio.move_on_after(LEAVE_WITHIN_S):
            while self._tasks:
                await self._left.park()

    async def _say_goodbye(self) -> None:
        """Let the client read the last words before what it still sends makes the kernel reset the connection."""
        stream = self._connection.stream
        if self._is_writing or stream.socket.fileno() < 0:
            return
        if not self._takes_none:
            self._go_away(_NO_ERROR)
        gone = suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError)
        with trio.move_on_after(LINGER_S, shield=True), gone:
            if self._unwritten:
                await stream.send_all(self._unwritten)
            await stream.send_eof()
            left = LINGER_BYTES
            while left > 0 and (data := await stream.receive_some(RECEIVE_BYTES)):
                left -= len(data)


def _make_library() -> _Library:
    """Set up the library: heads are checked by `edge/http2_head.py`, which can say what is wrong."""
    made = _Library(
        H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    made.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            SettingCodes.MAX_FRAME_SIZE: MOST_FRAME_BYTES,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
        },
    )
    made.decoder.max_header_list_size = MOST_UNPACKED_BYTES
    return made
