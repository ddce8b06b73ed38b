"""The log as the catalog follows it: which stream it is, a durable consumer of its own, how far that has come.

Rules of the file:
- The durable is named after the database, not after the gateway: a database that is lost and made again is filled from
  the beginning, and two databases on one log each get everything.
"""

from typing import Any, Final, NamedTuple

import orjson

from engine.errors import Unavailable
from engine.jetstream import JetStream
from engine.nats_wire import Message

ANSWER_WITHIN_S: Final = 5.0
MAX_ACK_PENDING: Final = 5000


class StreamState(NamedTuple):
    """Which stream it is.

    Args:
        created: when it was made, the log's own words; with the name it tells streams apart.
        last_seq: the last message's position.
    """

    created: str
    last_seq: int


class Progress(NamedTuple):
    """How far a durable has come.

    Args:
        floor_seq: everything up to here is acknowledged.
        waiting: messages that were not delivered yet.
        outstanding: messages that were delivered and not acknowledged.
    """

    floor_seq: int
    waiting: int
    outstanding: int

    def has_reached(self, seq: int) -> bool:
        """Say that everything up to a position is acknowledged, or that nothing is left at all."""
        return self.floor_seq >= seq or not (self.waiting or self.outstanding)


class CatalogLog:
    """One stream, for the catalog.

    Args:
        log: the data plane.
        stream: the stream's name.
    """

    def __init__(self, log: JetStream, stream: str) -> None:
        self._log = log
        self.stream = stream

    async def state(self) -> StreamState:
        """Say which stream it is and how long.

        Raises:
            Unavailable: the log does not answer, or the stream is not there yet.
        """
        info = await self._ask(f"STREAM.INFO.{self.stream}", {})
        return StreamState(str(info["created"]), int(info["state"]["last_seq"]))

    async def open_durable(self, durable: str, ack_wait_s: float) -> None:
        """Make the durable consumer, or find it: everything, from the beginning, as often as it takes.

        Raises:
            Unavailable: the log does not answer.
        """
        config = {
            "durable_name": durable,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "ack_wait": int(ack_wait_s * 1e9),
            "max_ack_pending": MAX_ACK_PENDING,
            "max_deliver": -1,
        }
        await self._ask(
            f"CONSUMER.DURABLE.CREATE.{self.stream}.{durable}", {"stream_name": self.stream, "config": config}
        )

    async def progress(self, durable: str) -> Progress:
        """Say how far the durable has come.

        Raises:
            Unavailable: the log does not answer, or the durable is gone.
        """
        info = await self._ask(f"CONSUMER.INFO.{self.stream}.{durable}", {})
        return Progress(int(info["ack_floor"]["stream_seq"]), int(info["num_pending"]), int(info["num_ack_pending"]))

    async def _ask(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        payload = orjson.dumps(body) if body else b""
        reply = await self._log.connection.request(f"$JS.API.{call}", payload, ANSWER_WITHIN_S)
        if not isinstance(reply, Message) or not reply.payload:
            raise Unavailable("log.down", "the log's control plane does not answer the catalog")
        answer: dict[str, Any] = orjson.loads(reply.payload)
        if "error" in answer:
            raise Unavailable("log.refused", f"the log refused: {answer['error'].get('description', answer['error'])}")
        return answer


def read_reply(reply: str) -> tuple[int, int]:
    """Read from a delivery's acknowledgement subject when the log stored it (microseconds) and how many wait after it.

    The subject was read once by `engine.log.read_delivery`, so it has its tokens.
    """
    tokens = reply.split(".")
    at = 7 if len(tokens) == 9 else 9  # since server 2.14 a domain and an account stand before the stream
    return int(tokens[at]) // 1000, int(tokens[at + 1])
