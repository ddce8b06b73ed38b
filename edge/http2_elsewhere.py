"""A stream whose request belongs to another worker: asked there over HTTP/1.1, and answered here.

A connection of HTTP/2 holds requests of many homes, so it cannot be passed on as one of HTTP/1.1 is.

Rules of the file:
- The other worker checks, guards, limits, counts and logs the request as any of its own.
- Its bytes are written and read by a library, and none of the client's go over as they came.

Source: `edge/passing.py`; `engine/placement.py`.
"""

from collections.abc import AsyncGenerator
from typing import Final

import h11
import trio

from edge.normaliser import Head

RECEIVE_BYTES: Final = 64 * 1024
_NOT_PASSED_ON: Final = frozenset({"host", "content-length", "expect", "te", "trailer"})
"""What HTTP/2 allows and the request that goes over says in its own way, or not at all."""


class Elsewhere:
    """One request to another worker.

    Args:
        head: checked.
        body: the whole of it.
    """

    def __init__(self, head: Head, body: bytes) -> None:
        self._wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=RECEIVE_BYTES)
        headers = [("host", head.headers.get("host", ""))]
        headers += [(name, value) for name, value in head.headers.items() if name not in _NOT_PASSED_ON]
        headers += [("content-length", str(len(body))), ("connection", "close")]
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        begun = self._wire.send(h11.Request(method=head.method, target=head.target, headers=pairs))
        self.head = begun or b""
        self._rest = (self._wire.send(h11.Data(data=body)) or b"") + (self._wire.send(h11.EndOfMessage()) or b"")

    async def answer(self, other: trio.SocketStream) -> AsyncGenerator[h11.Response | bytes, None]:
        """Give what the other worker answers: its head, then the pieces of its body.

        Raises:
            trio.BrokenResourceError: the answer did not come whole.
        """
        if self._rest:
            await other.send_all(self._rest)
        while True:
            try:
                event = self._wire.next_event()
            except h11.RemoteProtocolError as problem:
                raise trio.BrokenResourceError(f"another worker's answer broke: {problem}") from problem
            if event is h11.NEED_DATA:
                self._wire.receive_data(await other.receive_some(RECEIVE_BYTES))
            elif isinstance(event, h11.Response):
                yield event
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            elif not isinstance(event, h11.InformationalResponse):
                raise trio.BrokenResourceError("another worker ended before it had answered")
