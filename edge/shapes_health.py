"""What the probes, the figures and `/` give.

Rules of the file:
- Every route of these stands here once.
- An answer's struct names every member that the handler writes: `tests/edge/test_documents_gateway.py` finds others.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from edge.http import JSON
from edge.shapes import TEXT, Answer, Operation, Shape, json_answer

Count = Annotated[int, Meta(ge=0)]
HEALTH_JSON: Final = "application/health+json"
SCRAPED: Final = {TEXT: {"type": "string"}, "application/openmetrics-text": {"type": "string"}}


class Alive(Struct):
    """The process lives."""

    status: Literal["ok"]


class Engine(Struct):
    """One thing the gateway uses; more members say more about it."""

    state: Literal["up", "down"]
    age_s: Annotated[float, Meta(description="how long it has been so")]
    last_error: str | None
    needed: Annotated[bool, Meta(description="without it the gateway is not ready")]


class Ready(Struct):
    """Whether requests should come here."""

    status: Literal["ready", "starting", "draining", "unavailable"]
    reasons: Annotated[list[str], Meta(description="why they should not")]
    durability: str
    failing: Annotated[list[str], Meta(description="actors that fell too often")]
    dependencies: dict[str, Engine]


class EventsState(Struct):
    """What carries events to others, and whether it does."""

    mode: Literal["inline", "redis"]
    ready: bool
    lastError: str | None  # noqa: N815  # the wire's name


class StoreHealth(Struct):
    """How the gateway is, in the file store's words."""

    status: Literal["ok", "degraded"]
    events: EventsState


class StoreReady(Struct):
    """Whether requests should come here, in the file store's words."""

    status: Literal["ok", "unavailable"]
    reason: str | UnsetType = UNSET
    events: EventsState | UnsetType = UNSET


class ServiceHealth(Struct):
    """How the service and its database are."""

    success: bool
    status: Literal["healthy", "unhealthy"]
    service: str
    database: Literal["connected", "disconnected", "off"]
    timestamp: str
    error: str | UnsetType = UNSET


class DraftHealth(Struct):
    """The health+json format of draft-inadarei-api-health-check-06."""

    status: Literal["pass", "warn", "fail"]
    version: str
    releaseId: str  # noqa: N815  # the draft's name
    serviceId: str  # noqa: N815  # the draft's name
    description: str
    notes: list[str]
    checks: dict[str, list[dict[str, Any]]]
    output: str | UnsetType = UNSET


class Release(Struct):
    """Which release this is."""

    name: Literal["headgate"]
    version: str
    environment: str


class Depth(Struct):
    """How full a mailbox is."""

    depth: Count
    bound: Count


class ActorFacts(Struct):
    """One actor and those below it."""

    name: str
    state: str
    age_s: float
    restarts: Count
    mailbox: Depth | None
    children: "list[ActorFacts]"


class ActorTree(Struct):
    """The live tree of actors."""

    actors: ActorFacts


class Figure(Struct):
    """One figure of `/metrics`."""

    name: str
    labels: dict[str, str]
    value: float


class LinkFigures(Struct):
    """How fast files are read; 0 while nothing measures it."""

    throughputMbps: float  # noqa: N815  # the wire's name
    timestamp: str | None


class BucketFigures(Struct):
    """How the object store answers; null while nothing asks it."""

    latency: float | None
    averageLatency: float | None  # noqa: N815  # the wire's name
    isHealthy: bool | None  # noqa: N815  # the wire's name
    lastCheck: str | None  # noqa: N815  # the wire's name
    checkCount: Count  # noqa: N815  # the wire's name
    region: str | None


class ServiceFigures(Struct):
    """What dashboards show, and the gateway's own figures."""

    lucidLink: LinkFigures  # noqa: N815  # the wire's name
    s3Health: BucketFigures  # noqa: N815  # the wire's name
    gateway: list[Figure]


class ServiceMetrics(Struct):
    """The figures as JSON."""

    success: bool
    metrics: ServiceFigures
    timestamp: str


class Start(Struct):
    """What this is, and where to go on."""

    name: Literal["headgate"]
    version: str
    paths: list[str]


def _probe(text: str, shape: Shape, *statuses: int) -> Operation:
    words = {200: "Well.", 503: "Not well; the same body says why."}
    text += " `Accept: application/health+json` gets the draft's format."
    return Operation(
        "health", text, {one: Answer(words[one], {JSON: shape, HEALTH_JSON: DraftHealth}) for one in statuses}
    )


OPERATIONS: Final[dict[str, Operation]] = {
    "GET /healthz": Operation("health", "Asks nobody.", json_answer("It is.", Alive)),
    "GET /readyz": _probe("503 while starting, draining, or while something needed is away.", Ready, 200, 503),
    "GET /health": _probe(
        "The process answers, so this is 200 unless the draft's format is asked for.", StoreHealth, 200, 503
    ),
    "GET /ready": _probe("", StoreReady, 200, 503),
    "GET /api/v1/health": _probe("", ServiceHealth, 200, 503),
    "GET /version": Operation("health", "", json_answer("It.", Release)),
    "GET /actors": Operation(
        "metrics", "Every task that waits: its state, its mailbox, its restarts.", json_answer("The tree.", ActorTree)
    ),
    "GET /metrics": Operation(
        "metrics",
        "Prometheus text, version 0.0.4, or OpenMetrics where Accept prefers it.",
        {200: Answer("The figures.", SCRAPED)},
    ),
    "GET /api/v1/metrics": Operation(
        "metrics",
        "JSON; what `/metrics` gives where Accept names OpenMetrics or `text/plain; version=0.0.4`, as scrapers do.",
        {200: Answer("The figures.", {JSON: ServiceMetrics, **SCRAPED})},
    ),
    "GET /": Operation("health", "", json_answer("Its name, and where to go on.", Start)),
}
