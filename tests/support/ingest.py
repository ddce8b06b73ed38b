"""Events in and the log's own copy of them, for tests of the wire."""

from typing import Any

import orjson

from tests.support.gateway import Gateway
from tests.support.http import Answer, post_json
from tests.support.nats_client import open_embedded_log

__all__ = ["MAX_BODY_BYTES", "MAX_EVENTS", "STREAM", "ingest", "some_events", "stored_bodies", "stored_events"]

STREAM = "SNAPFS_FILES"
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_EVENTS = 10_000


def some_events(count: int) -> dict[str, Any]:
    """A body with `count` small events that say which they are."""
    return {"events": [{"type": "scan.telemetry", "data": {"n": number}} for number in range(count)]}


async def ingest(gateway: Gateway, subject: str, value: object, **headers: str) -> Answer:
    """POST one body to a subject; keyword `Idempotency_Key` becomes the header `Idempotency-Key`."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return await post_json(gateway.url, f"/ingest?subject={subject}", value, sent)


async def stored_bodies(gateway: Gateway, subject: str) -> list[bytes]:
    """The payloads that lie on the log under a subject."""
    async with open_embedded_log(gateway) as log:
        return [message.data for message in await log.read_stream(STREAM) if message.subject == subject]


async def stored_events(gateway: Gateway, subject: str) -> list[Any]:
    """The events that lie on the log under a subject, all frames joined."""
    bodies = await stored_bodies(gateway, subject)
    return [event for body in bodies for event in orjson.loads(body)["events"]]
