"""Where a log's servers are.

Rules of the file:
- Text in, values out; nobody is asked.
"""

from dataclasses import dataclass
from itertools import cycle
from typing import Protocol
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how to be let in.

    Args:
        host: name or address.
        port: TCP port.
        credentials: `user` and `pass`, or `auth_token`, or nothing.
        tls: speak TLS after the server's INFO.
    """

    host: str
    port: int
    credentials: dict[str, str]
    tls: bool = False


class Locate(Protocol):
    """Gives the server to try next; raises OSError when none is known yet."""

    def __call__(self) -> Endpoint:
        """Give the server to try next."""
        ...


def endpoints_of(urls: str) -> list[Endpoint]:
    """Turn `NATS_URL` into endpoints.

    Args:
        urls: `nats://[user:password@|token@]host[:port]`, several separated by commas.
    """
    endpoints: list[Endpoint] = []
    for one in filter(None, (part.strip() for part in urls.split(","))):
        url = urlsplit(one)
        credentials: dict[str, str] = {}
        if url.username and url.password:
            credentials = {"user": unquote(url.username), "pass": unquote(url.password)}
        elif url.username:
            credentials = {"auth_token": unquote(url.username)}
        endpoints.append(Endpoint(url.hostname or "127.0.0.1", url.port or 4222, credentials, url.scheme == "tls"))
    return endpoints


def rotation(urls: str) -> Locate:
    """Give the servers of `NATS_URL` in turn, again and again."""
    endpoints = cycle(endpoints_of(urls))

    def locate() -> Endpoint:
        return next(endpoints)

    return locate
