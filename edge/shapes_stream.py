"""What is spoken on the WebSocket `/stream`.

Rules of the file:
- One `Channel` a path and subprotocol; its twin under `/api` is the same and is not repeated.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from edge.shapes import Channel, Message, Parameter, whole_number
from engine.stream import DEFAULT_BATCH


class StreamMessage(Struct):
    """One message of the log."""

    index: Annotated[int, Meta(ge=0, description="its place in the batch")]
    data: Annotated[Any, Meta(description='`{"events":[…]}`; `{"raw":"…"}` stands for what was not JSON')]


class EventBatchFrame(Struct):
    """A batch of messages, to be acknowledged whole."""

    type: Literal["events"]
    batch: Annotated[str, Meta(description="names the batch in its acknowledgement")]
    messages: list[StreamMessage]


class StreamError(Struct):
    """The stream cannot go on; close 1011 follows."""

    type: Literal["error"]
    message: str


class BatchAck(Struct):
    """The agent has what the batch holds, and will not need it again."""

    type: Literal["ack"]
    batch: str


_BATCH_ID: Final = "0f5a1f0e-2c0b-4f6e-9a53-0a7c9f3d1e11"

SUBJECT: Final = Parameter("subject", "What to listen to; `>` at the end stands for anything.", is_required=True)
DURABLE: Final = Parameter("durable", "The name that remembers the position.", is_required=True)

CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(
        "/stream",
        "Several connections on one durable share its work. One batch is outstanding for each. Whatever is said of a "
        "batch but its acknowledgement means that it is delivered again, as does the end of the connection.",
        (
            Message(
                "events",
                "A batch.",
                EventBatchFrame,
                {
                    "type": "events",
                    "batch": _BATCH_ID,
                    "messages": [{"index": 0, "data": {"events": [{"type": "file.delete", "data": {"path": "/a"}}]}}],
                },
            ),
            Message("error", "The end.", StreamError),
        ),
        (Message("ack", "The batch is done.", BatchAck, {"type": "ack", "batch": _BATCH_ID}),),
        (
            SUBJECT,
            DURABLE,
            Parameter("batch", "The most messages in a batch.", schema=whole_number(1, default=DEFAULT_BATCH)),
        ),
        errors=("request.bad-parameter", "ingest.wrong-subject", "log.down"),
    ),
)
