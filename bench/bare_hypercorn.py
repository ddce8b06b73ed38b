"""Hypercorn's trio worker with the smallest application: what the lanes are compared with.

Run as `python -m bench.bare_hypercorn BODY`; prints `ready PORT`.
"""

import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve


def main() -> None:
    """Serve on a free port of loopback until told to stop."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    # The gateway's connections live as long as their clients want, too.
    config.keep_alive_max_requests = sys.maxsize
    print(f"ready {listener.getsockname()[1]}", flush=True)
    trio.run(_serve, _answer_with(sys.argv[1].encode()), config)


async def _serve(app: Any, config: Config) -> None:
    await serve(app, config, mode="asgi")


def _answer_with(body: bytes) -> Callable[..., Awaitable[None]]:
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(
        scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return app


if __name__ == "__main__":
    main()
