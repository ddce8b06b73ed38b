"""What the edge holds of the house: one frozen value with narrow handles.

Rules of the file:
- A handle hides the mailbox behind it; nothing here starts anything.
"""

from dataclasses import dataclass

import trio

from actors.agents import Agents
from actors.audit import AuditLog
from actors.catalog import Catalog
from actors.consumers import Consumers
from actors.dead import DeadLetters
from actors.gaps import Gaps
from actors.hashes import HashCache
from actors.health import Health
from actors.identity import Authenticator
from actors.ingest import Publisher
from actors.limits import Limiter
from actors.mesh import Mesh
from actors.postgres import Databases
from actors.pulls import Pulls
from actors.query import Queries
from actors.spans import Spans
from actors.stream import Streams
from actors.stream_v1 import LeasedStreams
from actors.tree import Actor
from actors.turns import Turns
from engine.metrics import Metrics
from engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Node:
    """The running gateway, as the edge sees it.

    Args:
        settings: as started.
        root: the tree of actors.
        ingest: puts events on the log.
        hashes: knows files.
        stream: attaches agents of the old wire.
        stream_v1: attaches agents that speak `headgate.stream.v1`.
        consumers: lists and moves what reads the stream.
        dead: what agents gave up on.
        pulls: agents over plain HTTP.
        gaps: what was removed before it was seen.
        agents: knows the remote scanners, and starts their scans.
        health: says how the gateway is.
        metrics: what has been counted.
        draining: set when shutdown begins.
        postgres: the catalog's database, None where there is no catalog.
        query: answers SQL over the catalog, None where there is no catalog.
        catalog: keeps files in PostgreSQL, None where there is no catalog.
        identity: knows who asks.
        limits: counts how much they ask, None where nothing is limited.
        turns: who works on a body next.
        spans: tells a collector, None where nobody listens.
        audit: who changed what, None where nobody records it.
        mesh: the other processes of this gateway, None where it has one process only.
    """

    settings: Settings
    root: Actor
    ingest: Publisher
    hashes: HashCache
    stream: Streams
    stream_v1: LeasedStreams
    consumers: Consumers
    dead: DeadLetters
    gaps: Gaps
    pulls: Pulls
    agents: Agents
    health: Health
    metrics: Metrics
    draining: trio.Event
    postgres: Databases | None
    query: Queries | None
    catalog: Catalog | None
    identity: Authenticator
    limits: Limiter | None
    turns: Turns
    spans: Spans | None
    audit: AuditLog | None
    mesh: Mesh | None = None
