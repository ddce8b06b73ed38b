"""`/healthz`, `/readyz`, `/version`, `/actors` and `/`: how the gateway is.

Rules of the file:
- `/healthz` says that the process lives and asks nobody.
"""

from importlib.metadata import version
from typing import Final

import trio

from edge.http import Request, Response, json_response
from edge.node import Node

VERSION: Final = version("headgate")
_ALIVE: Final = b'{"status":"ok"}'


async def get_healthz(_: Node, __: Request) -> Response:
    """Say that the process lives."""
    return Response(200, _ALIVE)


async def get_readyz(node: Node, _: Request) -> Response:
    """Say whether requests should come here, and how each dependency is."""
    now = trio.current_time()
    state = node.health.state
    dependencies = {
        name: {
            "state": one.state,
            "age_s": round(now - one.since, 3),
            "last_error": one.last_error,
            "needed": one.is_needed,
            **one.facts,
        }
        for name, one in node.health.dependencies().items()
    }
    body = {
        "status": state,
        "durability": node.health.durability,
        "failing": node.health.failing(),
        "dependencies": dependencies,
    }
    if state == "ready":
        return json_response(body)
    return json_response(body, 503, {"Retry-After": "1"})


async def get_version(node: Node, _: Request) -> Response:
    """Say which release this is."""
    return json_response({"name": "headgate", "version": VERSION, "environment": node.settings.environment})


async def get_actors(node: Node, _: Request) -> Response:
    """Give the live tree of actors."""
    return json_response({"actors": node.root.describe(trio.current_time())})


async def get_root(_: Node, __: Request) -> Response:
    """Say what this is and where to go on."""
    return json_response(
        {
            "name": "headgate",
            "version": VERSION,
            "paths": ["/ingest", "/cache/batch", "/stream", "/healthz", "/readyz", "/version", "/actors", "/metrics"],
        }
    )
