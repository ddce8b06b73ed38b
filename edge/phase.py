"""What a client's connection is doing, which says how long it may take (`edge/listener.py` looks)."""

from enum import Enum


class Phase(Enum):
    """What a connection is doing."""

    HANDSHAKE = "agreeing on TLS"
    IDLE = "between requests"
    HEAD = "reading a head"
    BODY = "reading a body"
    BUSY = "answering"
    UPGRADED = "a WebSocket"
