"""`POST /ingest`: events in, one answer when they are on the log.

Source: S0.6 to S0.9, S0.27 (wire).
"""

import re
from time import time_ns
from typing import Final

import orjson

from edge.bodies import read_decoded_body
from edge.http import Request, Response
from edge.node import Node
from engine.errors import Fault, Refused
from engine.events import MAX_BODY_BYTES, decode_event_lines, decode_events
from engine.names import check_subject_name, is_covered

MAX_KEY_CHARS: Final = 255
_NDJSON: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_KEY: Final = re.compile(r"[\x20-\x7e]+\Z")


async def post_ingest(node: Node, request: Request) -> Response:
    """Check the events, publish them, teach the cache, answer."""
    subject = _subject_of(node, request)
    key = key_of(request.headers.get("idempotency-key"))
    request.principal.check_subject(subject)
    body = await read_decoded_body(request, MAX_BODY_BYTES)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    batch = decode_event_lines(body) if media in _NDJSON else decode_events(body)
    count = len(batch.events)
    if not count:
        return _answer(0, subject, node.settings.stream, None, duplicate=False, durability=node.health.durability)
    trace = request.trace if request.trace is not None and (request.trace.is_brought or request.is_told) else None
    began_ns = time_ns() if request.is_told else 0
    try:
        stored = await node.ingest.publish(subject, batch, key, "" if trace is None else trace.text)
    except Fault as fault:
        if began_ns and node.spans is not None and trace is not None:
            node.spans.tell_publish(trace, subject, count, began_ns, fault.kind.code)
        raise
    if began_ns and node.spans is not None and trace is not None:
        outcome = "duplicate" if stored.duplicate else "stored"
        node.spans.tell_publish(trace, subject, count, began_ns, outcome, stored.sequence)
    await node.hashes.learn(batch.events)
    return _answer(
        count, subject, stored.stream, stored.sequence, duplicate=stored.duplicate, durability=node.health.durability
    )


def key_of(header: str | None) -> str:
    """Read an Idempotency-Key, quoted as the draft says or bare as many send it; empty when there is none.

    Raises:
        Refused: it is empty, too long, or not printable ASCII.
    """
    if header is None:
        return ""
    key = header[1:-1] if len(header) >= 2 and header[0] == header[-1] == '"' else header
    is_half_quoted = key == header and header[:1] == '"'
    if not key or is_half_quoted or len(key) > MAX_KEY_CHARS or not _KEY.match(key):
        raise Refused(
            "request.bad-parameter",
            f"Idempotency-Key: expected 1 to {MAX_KEY_CHARS} printable ASCII characters, quoted or bare",
        )
    return key


def _subject_of(node: Node, request: Request) -> str:
    subject = request.parameters().get("subject") or node.settings.subject
    try:
        check_subject_name(subject)
    except ValueError as problem:
        raise Refused("ingest.wrong-subject", f"subject: {problem} (it is {subject!r})") from None
    subjects = node.settings.subjects
    if not is_covered(subject, subjects):
        raise Refused("ingest.wrong-subject", f"subject: expected one of {', '.join(subjects)} (it is {subject!r})")
    return subject


def _answer(
    count: int, subject: str, stream: str, sequence: int | None, *, duplicate: bool, durability: str
) -> Response:
    return Response(
        200,
        orjson.dumps(
            {
                "status": "ok",
                "received": count,
                "subject": subject,
                "stream": stream,
                "seq": sequence,
                "duplicate": duplicate,
                "durability": durability,
            }
        ),
    )
