"""An agent of `headgate.stream.v1` that takes batches and settles them, as cheap as the one of the old wire.

Rules of the file:
- It lets the gateway keep the window, and settles each batch whole with one frame.
- Frames are told apart by how they begin; events are counted, never decoded.
"""

import re
from typing import Final

from bench.agent import AgentSocket
from bench.http_load import Address

PROTOCOL: Final = "headgate.stream.v1"
_EVENTS: Final = b'{"type":"events","batch":"'
_INDEX: Final = re.compile(rb'\{"index":(\d+),"seq":')


class AgentV1Socket(AgentSocket):
    """One connection to /stream with the subprotocol.

    Args:
        address: the gateway.
        durable: the consumer's name.
        batch: most log messages in a batch.
        receive_buffer_bytes: the kernel's buffer, None as it comes.
        confirms: every batch is settled with `confirm`, and its answer is taken.
    """

    headers = f"Sec-WebSocket-Protocol: {PROTOCOL}\r\n"

    def __init__(
        self,
        address: Address,
        durable: str,
        batch: int = 100,
        receive_buffer_bytes: int | None = None,
        *,
        confirms: bool = False,
    ) -> None:
        super().__init__(address, durable, batch, receive_buffer_bytes)
        self._confirm = b',"confirm":true' if confirms else b""
        self.say(b'{"type":"credit","mode":"auto"}')

    def wait_message(self, timeout_s: float | None = None) -> bytes | None:
        """Wait for the next batch; other frames are passed over."""
        while True:
            message = super().wait_message(timeout_s)
            if message is None or message.startswith(_EVENTS):
                return message

    def acknowledge(self, message: bytes) -> None:
        """Acknowledge the whole batch in `message`."""
        name = message[len(_EVENTS) : message.index(b'"', len(_EVENTS))]
        last = _INDEX.findall(message)[-1]
        self.say(b'{"type":"settle","batch":"' + name + b'","ack":[[0,' + last + b"]]" + self._confirm + b"}")
