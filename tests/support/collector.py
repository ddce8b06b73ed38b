"""A collector of spans: an HTTP server that decodes what OTLP exporters send.

Rules of the file:
- It decodes with OpenTelemetry's own messages, and keeps everything in the order in which it came.
"""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import h11
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import wait_until

__all__ = ["Collector", "Seen", "open_collector"]


@dataclass(frozen=True)
class Seen:
    """A span as it arrived."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int | float | bool]
    links: list[tuple[str, str]]
    is_error: bool
    took_s: float
    resource: dict[str, str | int | float | bool]


@dataclass
class Collector:
    """A running collector.

    Args:
        url: what OTEL_EXPORTER_OTLP_ENDPOINT is set to.
        status: what it answers with.
        is_deaf: it takes connections and never answers.
        headers: of the last request.
        paths: that it was asked for.
    """

    url: str
    status: int = 200
    is_deaf: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    spans: list[Seen] = field(default_factory=list)

    async def wait_span(self, name: str, **attributes: object) -> Seen:
        """Wait for a span of this name that has these attributes, dots written as `__`."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}

        def find() -> Seen | None:
            named = [one for one in self.spans if one.name == name and wanted.items() <= one.attributes.items()]
            return named[0] if named else None

        seen: Seen | None = await wait_until(find, f"a span {name} {wanted}", timeout_s=20)
        assert seen is not None
        return seen

    async def wait_trace(self, trace_id: str, name: str) -> list[Seen]:
        """Wait for a span of this name in a trace, and give all such."""

        def find() -> list[Seen]:
            return [one for one in self.spans if (one.trace_id, one.name) == (trace_id, name)]

        return await wait_until(find, f"a span {name} of {trace_id}", timeout_s=20) or []


@asynccontextmanager
async def open_collector(port: int = 0) -> AsyncIterator[Collector]:
    """Run a collector for the length of the block, on a free port unless one is named."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(port, host="127.0.0.1")
        collector = Collector(f"http://127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.start_soon(partial(trio.serve_listeners, partial(_serve, collector), [listener]))
        yield collector
        nursery.cancel_scope.cancel()


async def _serve(collector: Collector, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        async with stream:
            while await _answer(collector, connection, stream):
                connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the exporter left


async def _answer(collector: Collector, connection: h11.Connection, stream: trio.SocketStream) -> bool:
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65_536))
        elif isinstance(event, h11.Request):
            collector.headers = {name.decode(): value.decode() for name, value in event.headers}
            collector.paths.append(event.target.decode())
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            return False
    if collector.is_deaf:
        await trio.sleep_forever()
    if collector.status == 200:
        packed = collector.headers.get("content-encoding") == "gzip"
        collector.spans += _decode(gzip.decompress(bytes(body)) if packed else bytes(body))
    response = h11.Response(
        status_code=collector.status, headers=[("content-length", "0"), ("content-type", "application/x-protobuf")]
    )
    for answer in (response, h11.EndOfMessage()):
        await stream.send_all(connection.send(answer) or b"")
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE


def _decode(body: bytes) -> list[Seen]:
    return [
        Seen(
            span.name,
            Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _values(span.attributes),
            [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            span.status.code == 2,
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            _values(of_resource.resource.attributes),
        )
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(pairs: "list[KeyValue]") -> dict[str, str | int | float | bool]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in pairs}
