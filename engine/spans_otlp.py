"""Sends spans to a collector: OTLP in protobuf over HTTP, by OpenTelemetry's own exporter.

Rules of the file:
- OpenTelemetry is an extra: whoever imports this file may find that it is not installed.
- `export` blocks, for as long as the collector's time-out says: a thread calls it.
- What the library logs is not shown: the answer says what went wrong.

What must change with it: `engine/spans.py` has the spans. The library itself reads the other `OTEL_EXPORTER_OTLP_*`
variables: headers, time-out, compression, certificates.
Source: the OpenTelemetry protocol specification.
"""

import logging
from typing import Final

from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from engine.spans import Span, SpanKind

_KINDS: Final = {
    SpanKind.SERVER: otel.SpanKind.SERVER,
    SpanKind.PRODUCER: otel.SpanKind.PRODUCER,
    SpanKind.CONSUMER: otel.SpanKind.CONSUMER,
}


class OtlpExporter:
    """A collector.

    Args:
        endpoint: where it takes spans, the whole URL.
        service: the service's name; empty for what OTEL_RESOURCE_ATTRIBUTES says, or `headgate`.
        facts: more about this process, by conventional names.
    """

    def __init__(self, endpoint: str, service: str, facts: dict[str, str]) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        named = Resource.create({})
        known = str(named.attributes.get("service.name", ""))
        if service or known.startswith("unknown_service"):
            named = named.merge(Resource({"service.name": service or "headgate"}))
        self._resource = named.merge(Resource({**facts}))
        self._scope = InstrumentationScope("headgate", facts.get("service.version", ""))
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._endpoint = endpoint

    def export(self, spans: list[Span]) -> str:
        """Send spans; gives why the collector did not take them, empty when it did."""
        try:
            result = self._exporter.export([self._readable(one) for one in spans])
        except Exception as problem:  # noqa: BLE001  # a library's thread: whatever it is, it is the answer
            return f"{type(problem).__name__}: {problem}"
        return "" if result is SpanExportResult.SUCCESS else "it does not answer, or refuses"

    def close(self) -> None:
        """Give up on what is on its way."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # it publishes no types

    def _readable(self, span: Span) -> ReadableSpan:
        links = []
        for traceparent in span.links:
            _, trace_id, span_id, _ = traceparent.split("-", 3)
            links.append(otel.Link(_context(trace_id, span_id, is_remote=True)))
        return ReadableSpan(
            span.name,
            _context(span.trace_id, span.span_id),
            _context(span.trace_id, span.parent_id, is_remote=True) if span.parent_id else None,
            self._resource,
            span.attributes,
            links=links,
            kind=_KINDS[span.kind],
            status=otel.Status(otel.StatusCode.ERROR, span.error) if span.error else otel.Status(),
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str, *, is_remote: bool = False) -> otel.SpanContext:
    return otel.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, otel.TraceFlags(otel.TraceFlags.SAMPLED))
