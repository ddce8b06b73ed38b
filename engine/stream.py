"""What an agent is sent, and what its answers mean.

The old wire has one batch outstanding: `{"type":"events","batch":"<uuid>","messages":[{"index":0,"data":…}]}` out,
`{"type":"ack","batch":"<uuid>"}` in.

Rules of the file:
- No clock, no I/O: methods return what the actor must do.
- A frame that a gateway validated travels as bytes and is spliced in without being parsed again.
- Whatever an agent says about its batch that is not its acknowledgement means "not acknowledged".

Source: S0.11 to S0.16 (wire); `bench/scenarios/stream.py` pays for the splicing.
"""

from typing import Final

import orjson

from engine.log import Delivery, Verdict

DEFAULT_BATCH: Final = 100
MOST_BATCH: Final = 10_000
BATCH_BYTES: Final = 960 * 1024
"""The most that one batch brings, so that it fits into the 1 MiB that WebSocket clients take by default; a single
message that is larger comes alone."""
_ABOUT_NOTHING: Final = frozenset({"ping", "pong", "hello"})


def encode_batch(batch_id: str, deliveries: list[Delivery]) -> str:
    """Give the text frame of a batch."""
    parts = [
        b'{"index":%d,"data":%s}' % (index, one.payload if one.is_frame else foreign_data(one.payload))
        for index, one in enumerate(deliveries)
    ]
    head = b'{"type":"events","batch":"%s","messages":[' % batch_id.encode()
    return (head + b",".join(parts) + b"]}").decode()


def foreign_data(payload: bytes) -> bytes:
    """Give the JSON of a message that no gateway validated: itself, or `{"raw":"<text>"}`."""
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        return orjson.dumps({"raw": payload.decode(errors="replace")})
    return payload


PATIENCE_S: Final = 0.25
"""An agent that takes longer than this for a batch is not read ahead for: what waits for it is free for others."""


class BatchWindow:
    """The one batch in an agent's hands, and whether to read ahead for it."""

    def __init__(self) -> None:
        self.batch_id = ""
        self._held: list[Delivery] = []
        self._since = 0.0
        self.reads_ahead = True
        """The agent keeps up: messages may come in while it works, up to one more batch."""

    def __len__(self) -> int:
        """How many deliveries are held."""
        return len(self._held)

    @property
    def is_empty(self) -> bool:
        """No batch is outstanding."""
        return not self._held

    def hand_over(self, batch_id: str, deliveries: list[Delivery], now: float) -> None:
        """Note that a batch goes to the agent.

        Raises:
            ValueError: another batch is outstanding; nothing changed.
        """
        if self._held:
            raise ValueError(f"batch {self.batch_id} is outstanding")
        self.batch_id = batch_id
        self._held = deliveries
        self._since = now

    def judge(self, text: str | bytes) -> Verdict | None:
        """Say what an agent's words mean for its batch; None when they are not about it."""
        if not self._held:
            return None
        try:
            words = orjson.loads(text)
        except (orjson.JSONDecodeError, ValueError):
            return Verdict.NAK
        if not isinstance(words, dict):
            return Verdict.NAK
        batch = words.get("batch")
        if isinstance(batch, str) and len(batch) == len(self.batch_id) and batch != self.batch_id:
            return None  # about an earlier batch: acknowledged twice, or too late
        if words.get("type") == "ack" and batch == self.batch_id:
            return Verdict.ACK
        if "batch" not in words and isinstance(words.get("type"), str) and words["type"] in _ABOUT_NOTHING:
            return None
        return Verdict.NAK

    def release(self, now: float) -> list[Delivery]:
        """Empty the window and give what it held; how long that took says whether to read ahead."""
        held, self._held = self._held, []
        if held:
            self.reads_ahead = now - self._since <= PATIENCE_S
        return held

    def falls_behind(self) -> None:
        """Note that the agent's patience is used up: nothing is read ahead until it answers quickly again."""
        self.reads_ahead = False

    def leased(self, now: float, max_lease_s: float) -> list[Delivery]:
        """Give the deliveries whose lease is to be extended: none once the agent has had them too long."""
        return self._held if now - self._since < max_lease_s else []
