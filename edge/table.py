"""The gateway's routes: the one place where paths are named.

Rules of the file:
- A route changes lanes by one word here.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from edge.agents import open_agent
from edge.agents_rest import delete_scan, get_agent, get_agents, get_scan, get_scans, post_agent_scan
from edge.audit import get_audit
from edge.changes import Change
from edge.consumers import delete_consumer, get_consumer, get_consumers, post_pause, post_reset, post_resume
from edge.dead import get_dead, post_replay
from edge.docs import Documents
from edge.guard import Guard
from edge.hashes import post_cache_batch
from edge.health import (
    get_actors,
    get_health,
    get_healthz,
    get_ready,
    get_readyz,
    get_root,
    get_service_health,
    get_version,
)
from edge.http import Request, Response
from edge.identity import key_holder, post_token
from edge.ingest import post_ingest
from edge.metrics import get_metrics, get_service_metrics
from edge.node import Node
from edge.pulls import get_pull, post_settle
from edge.query import check_query_room, post_query_sql
from edge.routes import Lane, Route, RouteTable, SocketRoute
from edge.stream import open_stream
from engine.identity import Scope


def make_table(node: Node, guard: Guard) -> RouteTable:
    """Bind every route to the running gateway, behind its guard."""

    def route(
        method: str,
        path: str,
        handler: Callable[[Node, Request], Awaitable[Response]],
        lane: Lane,
        scope: Scope | None,
        summary: str,
        admit: Callable[[], None] | None = None,
        limits: tuple[str, ...] = (),
        change: Change | None = None,
        *,
        is_early: bool = False,
    ) -> Route:
        return Route(
            method,
            path,
            partial(handler, node),
            lane,
            summary,
            admit,
            scope=scope,
            limits=limits,
            change=change,
            is_early=is_early,
        )

    express, quart = Lane.EXPRESS, Lane.QUART
    manage: Scope = "stream:manage"
    scanners: Scope = "agents:manage"
    routes = [
        route("GET", "/healthz", get_healthz, express, None, "Is the process alive?"),
        route("GET", "/readyz", get_readyz, express, None, "Should requests come here?"),
        route("GET", "/health", get_health, express, None, "Is everything well, in the file store's words?"),
        route("GET", "/ready", get_ready, express, None, "Should requests come here, in the file store's words?"),
        route("GET", "/api/v1/health", get_service_health, express, None, "Are the service and its database well?"),
        route("GET", "/version", get_version, quart, None, "Which release is this?"),
        route("GET", "/actors", get_actors, quart, "admin", "The live tree of actors"),
        route("GET", "/metrics", get_metrics, quart, "metrics:read", "The counters, for Prometheus"),
        route("GET", "/api/v1/metrics", get_service_metrics, quart, "metrics:read", "The counters, for dashboards"),
        route("GET", "/", get_root, quart, None, "What is this?"),
        route("GET", "/consumers", get_consumers, quart, manage, "What reads the stream, and how far"),
        route("GET", "/consumers/{durable}", get_consumer, quart, manage, "One consumer"),
        route("GET", "/stream/dead", get_dead, quart, manage, "What agents gave up on"),
        route("GET", "/audit", get_audit, quart, "admin", "Who changed what"),
    ]
    for method, path, handler, summary, change in (
        ("DELETE", "", delete_consumer, "Remove a consumer and its place", "delete"),
        ("POST", "/reset", post_reset, "Move a consumer to a position", "reset"),
        ("POST", "/pause", post_pause, "Deliver nothing for a while", "pause"),
        ("POST", "/resume", post_resume, "Deliver again", "resume"),
    ):
        changed = Change(f"consumer.{change}", "durable")
        routes.append(route(method, f"/consumers/{{durable}}{path}", handler, quart, manage, summary, change=changed))
    routes.append(
        route(
            "POST",
            "/stream/dead/{id}/replay",
            post_replay,
            quart,
            manage,
            "Publish a dead letter's message again",
            change=Change("letter.replay", "id"),
        )
    )
    sockets: dict[str, SocketRoute] = {}
    for prefix in ("", "/api"):  # clients in the field use both (S0.27)
        routes.append(
            route(
                "POST",
                f"{prefix}/ingest",
                post_ingest,
                express,
                "ingest:write",
                "Put events on the log",
                node.ingest.check_room,
                limits=("ingests",),
                is_early=True,
            )
        )
        routes.append(
            route("POST", f"{prefix}/cache/batch", post_cache_batch, express, "ingest:write", "Which files are known?")
        )
        routes.append(
            route(
                "POST",
                f"{prefix}/auth/token",
                post_token,
                quart,
                None,
                "A short-lived token for an API key",
                limits=("ip",),
                change=Change("token.issue", who=partial(key_holder, node)),
            )
        )
        may_query = partial(check_query_room, node)
        routes.append(
            route(
                "POST",
                f"{prefix}/query/sql",
                post_query_sql,
                express,
                "query:sql",
                "SQL over the catalog's views",
                may_query,
                limits=("running-queries",),
            )
        )
        routes += [
            route("GET", f"{prefix}/agents", get_agents, quart, scanners, "The remote scanners"),
            route("GET", f"{prefix}/agents/{{id}}", get_agent, quart, scanners, "One remote scanner"),
            route(
                "POST",
                f"{prefix}/agents/{{id}}/scan",
                post_agent_scan,
                quart,
                scanners,
                "Have a remote scanner scan",
                change=Change("scan.order", "id"),
            ),
            route("GET", f"{prefix}/scans", get_scans, quart, scanners, "The scans of remote scanners"),
            route("GET", f"{prefix}/scans/{{command_id}}", get_scan, quart, scanners, "One scan of a remote scanner"),
            route(
                "DELETE",
                f"{prefix}/scans/{{command_id}}",
                delete_scan,
                quart,
                scanners,
                "Stop waiting for a scan",
                change=Change("scan.cancel", "command_id"),
            ),
        ]
        for path in (f"{prefix}/agents", f"{prefix}/ws/agents"):
            sockets[path] = SocketRoute(
                path, partial(open_agent, node), "Scan orders to remote scanners", scope="agents:run"
            )
        reads: Scope = "stream:read"
        routes += [
            route("GET", f"{prefix}/stream/pull", get_pull, express, reads, "Messages of a durable, over plain HTTP"),
            route("POST", f"{prefix}/stream/settle", post_settle, express, reads, "Verdicts about a pulled batch"),
        ]
        path = f"{prefix}/stream"
        sockets[path] = SocketRoute(
            path, partial(open_stream, node), "Batches of events to agents", scope="stream:read"
        )
    routes += Documents(routes, sockets).routes()
    return RouteTable(routes, node.metrics, sockets, guard)
