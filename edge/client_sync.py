"""The client for scripts: the same as `edge/client.py`, without `async`.

    with SyncClient("http://127.0.0.1:8000") as client:
        client.publish([Event("file.delete", {"path": "/old"})], key="run-7")
        for batch in client.stream("snapfs.files", durable="mysql"):
            for message in batch:
                store(message.events())
            batch.ack()

Rules of the file:
- Trio runs in one thread behind each client (`edge/client_portal.py`); whoever uses the client need not know.
- Leaving the `for`, the `with` or the program, also by Ctrl-C, gives back what is held.
"""

import ssl
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from edge.client import (
    DEFAULT_SUBJECT,
    GIVE_UP_S,
    Client,
    Credit,
    Event,
    Notice,
    Probe,
    ProbeAnswer,
    Published,
    QueryResult,
    Readiness,
    Status,
    Stream,
    StreamBatch,
)
from edge.client_deliveries import StreamStatistics
from edge.client_portal import Call, ClientClosed, Portal
from edge.client_sync_batch import SyncBatch

T = TypeVar("T")

Opener = Callable[[], AbstractAsyncContextManager[Stream]]


class SyncStream:
    """The batches of one consumer, for a plain `for`. Made by `SyncClient.stream`; use it with `with` or without."""

    def __init__(self, call: Call, start: Callable[[Opener], "_Held"], opener: Opener) -> None:
        self._call = call
        self._start = start
        self._opener = opener
        self._held: _Held | None = None

    def __enter__(self) -> Self:
        self._attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Generator[SyncBatch, None, None]:
        """Give batch after batch; attaches when the first is asked for, and detaches when the loop is left."""
        was_attached = self._held is not None
        held = self._attach()
        try:
            while (batch := self._call(held.next_batch)) is not None:
                yield SyncBatch(batch, self._call)
        finally:
            if not was_attached:
                self.close()

    def status(self) -> Status:
        """Ask how the consumer stands."""
        return self._call(self._attach().stream.status)

    def statistics(self) -> StreamStatistics:
        """Say what the stream has done so far."""
        return self._attach().stream.statistics()

    def close(self) -> None:
        """Detach: what was not answered goes back."""
        held, self._held = self._held, None
        if held is not None:
            with suppress(ClientClosed):  # then it was detached with the client
                self._call(held.close)

    def _attach(self) -> "_Held":
        if self._held is None:
            self._held = self._start(self._opener)
        return self._held


class SyncClient:
    """One gateway, for scripts. Use it as a context manager; from one thread or several.

    Args:
        base_url: `http://host:port`, or https.
        token: sent as `Authorization: Bearer …`.
        give_up_s: how long tries go on without any success.
        tls: whom to trust where the address has https; None trusts what this machine trusts.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        give_up_s: float = GIVE_UP_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(base_url, token, give_up_s=give_up_s, tls=tls)
        self._portal: Portal | None = None

    def __enter__(self) -> Self:
        self._portal = Portal(self._client)
        self._portal.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        portal, self._portal = self._portal, None
        if portal is not None:
            portal.stop()

    def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
        """Ask the hash cache; one answer a probe, in order."""
        return self._call(self._client.probe, probes)

    def publish(self, events: Sequence[Event], *, subject: str | None = None, key: str | None = None) -> Published:
        """Put events on the log; see `Client.publish`."""

        async def publish() -> Published:
            return await self._client.publish(events, subject=subject, key=key)

        return self._call(publish)

    def query(self, sql: str, params: Mapping[str, object] | None = None) -> QueryResult:
        """Ask the catalog in SQL; the parameters stand in it as `:name` or `%(name)s`."""
        return self._call(self._client.query, sql, params)

    def ready(self) -> Readiness:
        """Ask once whether the gateway takes work."""
        return self._call(self._client.ready)

    def stream(
        self,
        subject: str = DEFAULT_SUBJECT,
        *,
        durable: str | None = None,
        credit: Credit | None = None,
        from_: str | None = None,
        filter: str | Sequence[str] = (),  # noqa: A002  # the wire's word
        batch: int | None = None,
        exclusive: bool = False,
        on_notice: Callable[[Notice], None] | None = None,
    ) -> SyncStream:
        """Attach to a stream when the first batch is asked for: `for batch in client.stream(durable="d"): …`.

        Args:
            on_notice: called in the client's own thread: keep it short, and do not call the client from it.
        """

        def open_stream() -> AbstractAsyncContextManager[Stream]:
            return self._client.stream(
                subject,
                durable=durable,
                credit=credit,
                from_=from_,
                filter=filter,
                batch=batch,
                exclusive=exclusive,
                on_notice=on_notice,
            )

        return SyncStream(self._call, self._hold, open_stream)

    def _call(self, function: Callable[..., Awaitable[T]], /, *args: Any) -> T:
        if self._portal is None:
            raise ClientClosed
        return self._portal.call(function, *args)

    def _hold(self, opener: Opener) -> "_Held":
        if self._portal is None:
            raise ClientClosed
        held = _Held(opener)
        self._portal.call(self._portal.start_task, held.run)
        return held


class _Held:
    """A stream that is kept open by a task of its own, because it must be left where it was entered."""

    def __init__(self, opener: Opener) -> None:
        self.stream: Stream
        self._opener = opener
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._failure: Exception | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Hold it until `close`, or until the gateway will not have this agent any more."""
        try:
            with self._scope:
                async with self._opener() as self.stream:
                    task_status.started()
                    await trio.sleep_forever()
        except Exception as error:  # noqa: BLE001  # it is raised where the next batch is asked for
            self._failure = error
        finally:
            self._ended.set()

    async def next_batch(self) -> StreamBatch | None:
        """Wait for a batch; None when the stream was closed.

        Raises:
            GatewayError: the gateway will not have this agent any more.
        """
        async for batch in self.stream:
            return batch
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure
        return None

    async def close(self) -> None:
        """Leave it, and wait until it is left."""
        self._scope.cancel()
        await self._ended.wait()
