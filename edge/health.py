"""How the gateway is, in the shape of each path: `/healthz`, `/readyz`, `/health`, `/ready`, `/api/v1/health`.

Rules of the file:
- `/healthz` says that the process lives and asks nobody.
- One truth, `actors/health.py`; a path only words it. `Accept: application/health+json` gets the draft's format.

Source: X3; S1.16 and S2's wire; `application/health+json` is draft-inadarei-api-health-check-06.
"""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import orjson
import trio

from edge.http import Request, Response, json_response
from edge.merging import merge_trees
from edge.node import Node
from engine.placement import PARENT

VERSION: Final = version("headgate")
HEALTH_JSON: Final = "application/health+json"
_ALIVE: Final = b'{"status":"ok"}'
_COME_BACK: Final = {"Retry-After": "1"}


async def get_healthz(_: Node, __: Request) -> Response:
    """Say that the process lives."""
    return Response(200, _ALIVE)


async def get_readyz(node: Node, request: Request) -> Response:
    """Say whether requests should come here, and how each dependency is."""
    if _wants_draft(request):
        return _draft(node)
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
    body: dict[str, object] = {
        "status": state,
        "reasons": node.health.reasons(),
        "durability": node.health.durability,
        "failing": node.health.failing(),
        "dependencies": dependencies,
    }
    return _by_readiness(node, body)


async def get_health(node: Node, request: Request) -> Response:
    """Say `ok` or `degraded`, always with 200: the process answers (S2.41)."""
    if _wants_draft(request):
        return _draft(node)
    return json_response({"status": "ok" if _is_whole(node) else "degraded", "events": _events(node)})


async def get_ready(node: Node, request: Request) -> Response:
    """Say whether requests should come here, in S2's words."""
    if _wants_draft(request):
        return _draft(node)
    if node.health.state == "ready":
        return json_response({"status": "ok"})
    reason = "; ".join(node.health.reasons())
    return _by_readiness(node, {"status": "unavailable", "reason": reason, "events": _events(node)})


async def get_service_health(node: Node, request: Request) -> Response:
    """Say whether the service and its database work, in S1's words (S1.16)."""
    if _wants_draft(request):
        return _draft(node)
    database = node.health.dependencies().get("postgres")
    is_connected = database is not None and database.state == "up"
    error = "; ".join(node.health.reasons())
    if not error and database is not None and not is_connected:
        error = f"the database does not answer: {database.last_error}"
    body: dict[str, object] = {
        "success": not error,
        "status": "unhealthy" if error else "healthy",
        "service": "api-gateway",
        "database": "connected" if is_connected else "disconnected" if database is not None else "off",
        "timestamp": _now(),
    }
    if error:
        return json_response(body | {"error": error}, 503, _COME_BACK)
    return json_response(body)


async def get_version(node: Node, _: Request) -> Response:
    """Say which release this is."""
    return json_response({"name": "headgate", "version": VERSION, "environment": node.settings.environment})


async def get_actors(node: Node, _: Request) -> Response:
    """Give the live tree of actors, of all processes of this gateway."""
    own = node.root.describe(trio.current_time())
    if node.mesh is None:
        return json_response({"actors": own})
    others = {index: orjson.loads(tree) for index, tree in (await node.mesh.ask_all("actors")).items()}
    parent = others.pop(PARENT, None)
    if parent is None:
        return json_response({"actors": own})  # it is about to end
    return json_response({"actors": merge_trees(parent, {**others, node.mesh.index: own})})


async def get_root(_: Node, __: Request) -> Response:
    """Say what this is and where to go on."""
    return json_response(
        {
            "name": "headgate",
            "version": VERSION,
            "paths": [
                *("/docs", "/openapi.json", "/ingest", "/cache/batch", "/stream", "/query/sql", "/healthz", "/readyz"),
                *("/version", "/actors", "/metrics"),
            ],
        }
    )


def _by_readiness(node: Node, body: dict[str, object]) -> Response:
    return json_response(body) if node.health.state == "ready" else json_response(body, 503, _COME_BACK)


def _is_whole(node: Node) -> bool:
    return node.health.state == "ready" and all(one.state == "up" for one in node.health.dependencies().values())


def _events(node: Node) -> dict[str, object]:
    """Word S2's events member: what carries events to others, and whether it does."""
    redis = node.health.dependencies().get("redis")
    error = redis.last_error if redis is not None and redis.state != "up" else node.health.log_error
    is_ready = node.health.dependencies()["log"].state == "up" and (redis is None or redis.state == "up")
    return {
        "mode": "inline" if redis is None else "redis",
        "ready": is_ready,
        "lastError": None if is_ready else error,
    }


def _wants_draft(request: Request) -> bool:
    return HEALTH_JSON in request.headers.get("accept", "")


def _draft(node: Node) -> Response:
    now = trio.current_time()
    reasons = node.health.reasons()
    checks: dict[str, list[dict[str, object]]] = {}
    for name, one in node.health.dependencies().items():
        is_up = one.state == "up"
        check: dict[str, object] = {
            "componentType": "system" if name == "disk" else "datastore",
            "status": "pass" if is_up else "fail" if one.is_needed else "warn",
            "observedValue": round(now - one.since, 3),
            "observedUnit": "s",
            "time": _now(),
        }
        checks[f"{name}:{'up' if is_up else 'down'}time"] = [check if is_up else check | {"output": one.last_error}]
    state = node.health.state
    body: dict[str, object] = {
        "status": "fail" if state != "ready" else "pass" if _is_whole(node) else "warn",
        "version": VERSION.partition(".")[0],
        "releaseId": VERSION,
        "serviceId": "headgate",
        "description": "file-event gateway",
        "notes": [f"durability={node.health.durability}", f"state={state}"],
        "checks": checks,
    }
    if reasons:
        body["output"] = "; ".join(reasons)
    is_ready = state == "ready"
    return Response(200 if is_ready else 503, orjson.dumps(body), HEALTH_JSON, {} if is_ready else dict(_COME_BACK))


def _now() -> str:
    """Give the time as the documents write it: ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
