"""`POST /ingest`: events in, one answer when they are on the log.

Source: S0.6 to S0.9, S0.27 (wire).
"""

import re
from functools import lru_cache
from time import time_ns
from typing import Final

import orjson

from edge.bodies import read_decoded_body
from edge.http import Request, Response, parse_parameters
from edge.node import Node
from engine.errors import Fault, Refused
from engine.events import MAX_BODY_BYTES, decode_event_lines, decode_events
from engine.names import check_subject_name, is_covered, subjects_of

MAX_KEY_CHARS: Final = 255
REMEMBERED_QUERIES: Final = 256
REMEMBERED_CHARS: Final = 256
_NDJSON: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_KEY: Final = re.compile(r"[\x20-\x7e]+\Z")


async def post_ingest(node: Node, request: Request) -> Response:
    """Check the events, publish them, teach the cache, answer."""
    subject = _subject_of(request.query, node.settings.subject)
    key = key_of(request.headers.get("idempotency-key"))
    request.principal.check_subject(subject)
    body = await read_decoded_body(request, MAX_BODY_BYTES)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    events, content = decode_event_lines(body) if media in _NDJSON else decode_events(body)
    count = content.count
    if not count:
        return _answer(0, subject, node.settings.stream, None, duplicate=False, durability=node.health.durability)
    news = node.hashes.read(events)
    del body, events  # many requests may wait for the log: each holds what is published, and little else
    trace = request.trace if request.trace is not None and (request.trace.is_brought or request.is_told) else None
    began_ns = time_ns() if request.is_told else 0
    try:
        stored = await node.ingest.publish(subject, content, key, "" if trace is None else trace.text)
    except Fault as fault:
        if began_ns and node.spans is not None and trace is not None:
            node.spans.tell_publish(trace, subject, count, began_ns, fault.kind.code)
        raise
    if began_ns and node.spans is not None and trace is not None:
        outcome = "duplicate" if stored.duplicate else "stored"
        node.spans.tell_publish(trace, subject, count, began_ns, outcome, stored.sequence)
    await node.hashes.learn(news)
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


def _subject_of(query: str, default: str) -> str:
    """Give the subject that a request's query names; a short query is read once, because scanners repeat theirs."""
    return _recall_subject(query, default) if len(query) <= REMEMBERED_CHARS else _read_subject(query, default)


def _read_subject(query: str, default: str) -> str:
    subject = parse_parameters(query).get("subject") or default
    try:
        check_subject_name(subject)
    except ValueError as problem:
        raise Refused("ingest.wrong-subject", f"subject: {problem} (it is {subject!r})") from None
    subjects = subjects_of(default)
    if not is_covered(subject, subjects):
        raise Refused("ingest.wrong-subject", f"subject: expected one of {', '.join(subjects)} (it is {subject!r})")
    return subject


_recall_subject: Final = lru_cache(maxsize=REMEMBERED_QUERIES)(_read_subject)


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
