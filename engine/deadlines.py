"""How long a client may take: the deadlines of a connection, in one value.

Rules of the file:
- Seconds, on any clock; whoever holds a connection measures them.

Source: `RELIABILITY.md` 4.1, S4.32.
"""

from typing import Final, NamedTuple

HEADER_MOST_S: Final = 5.0
"""A head is small: who needs longer for it is no client."""


class Deadlines(NamedTuple):
    """What holds for every connection of a listener.

    Args:
        header_s: for a request's head, from its first byte.
        body_grace_s: for a body, before its least rate counts.
        send_s: in which a client takes a piece of an answer.
        idle_s: between two requests.
    """

    header_s: float = HEADER_MOST_S
    body_grace_s: float = 10.0
    send_s: float = 10.0
    idle_s: float = 10.0


def deadlines_of(read_s: float, write_s: float, idle_s: float) -> Deadlines:
    """Give the deadlines that three time-outs mean."""
    return Deadlines(min(HEADER_MOST_S, read_s), read_s, write_s, idle_s)
