"""Which of a gateway's processes does what: the workers are alike, and a few things belong to one of them.

Rules of the file:
- Index 0 is the parent, which runs the engines and serves nobody; workers count from 1.
- What two workers would have to agree on has a home, found by its name alone, so that nobody needs to ask: a durable's
  agents are together in one worker, and what there is once (remote scanners, their scans) is in the first.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Final

from pydantic import BaseModel, ConfigDict
from xxhash import xxh3_64_intdigest

PARENT: Final = 0
FIRST: Final = 1
_PREFIX: Final = "/api"
_OF_THE_FIRST: Final = ("/agents", "/ws/agents", "/scans", "/stream/dead")
_BY_QUERY: Final = frozenset({"/stream", "/stream/pull"})


class Placement(BaseModel):
    """One worker's place.

    Args:
        index: its own.
        count: how many workers there are.
        listening: descriptors of the listening sockets, which all share.
        receive: descriptor of what it is told.
        send: descriptors of what the others are told, by index.
        given: settings of the command line, above the environment.
    """

    model_config = ConfigDict(frozen=True)

    index: int
    count: int
    listening: list[int]
    receive: int
    send: dict[int, int]
    given: dict[str, object] = {}

    @property
    def descriptors(self) -> list[int]:
        """Everything that the process inherits."""
        return [*self.listening, self.receive, *self.send.values()]


def home_of_durable(durable: str, count: int) -> int:
    """Give the worker where a durable's agents are."""
    return 1 + xxh3_64_intdigest(durable.encode()) % count


def home_of(path: str, query: Callable[[], Mapping[str, str]], count: int) -> int | None:
    """Give the worker that a request belongs to, None when every one will do.

    Args:
        path: decoded and canonical.
        query: gives the parameters, where the path alone does not say.
        count: how many workers there are.
    """
    rule = _rule_of(path)
    if rule is _Rule.ANYWHERE:
        return None
    if rule is _Rule.FIRST:
        return FIRST
    durable = query().get("durable", "") if rule is _Rule.BY_QUERY else rule
    return home_of_durable(durable, count) if durable else None


class _Rule(Enum):
    """What a path says about where it belongs, when it names no durable itself."""

    ANYWHERE = 1
    FIRST = 2
    BY_QUERY = 3


@lru_cache(maxsize=1024)
def _rule_of(path: str) -> "_Rule | str":
    """Give a path's rule, or the durable that it names; clients ask for the same few paths again and again."""
    if path.startswith(_PREFIX + "/"):
        path = path[len(_PREFIX) :]
    if path in _BY_QUERY:
        return _Rule.BY_QUERY
    segments = path.split("/")
    if len(segments) > 2 and segments[1] == "consumers":
        return segments[2]
    if any(path == one or path.startswith(one + "/") for one in _OF_THE_FIRST):
        return _Rule.FIRST
    return _Rule.ANYWHERE
