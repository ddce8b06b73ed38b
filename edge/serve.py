"""`headgate serve`: the composition root.

Everything is opened here, as nested blocks, in the order bridge, drivers, actors, listener, on engines that
`edge/serve_start.py` has begun already; leaving the blocks
is the shutdown: stop accepting, tell the streams, let requests end, cancel, close the drivers, stop the children.

Rules of the file:
- Nothing but this file composes; whoever needs something is given it.
- Every wait at the end has a deadline. A second signal means now.
"""

import gc
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from actors.agents import Agents
from actors.consumers import Consumers
from actors.dead import DeadLetters
from actors.gaps import Gaps
from actors.hashes import HashCache
from actors.health import Disk, Health
from actors.ingest import Publisher
from actors.log import LogKeeper
from actors.orphans import give_back_orphans
from actors.pulls import Pulls
from actors.query import Queries
from actors.stream import Streams
from actors.stream_v1 import LeasedStreams
from actors.tree import State, supervise
from actors.turns import Turns
from edge.guard import Guard
from edge.listener import Listener, open_listening, shared_listening
from edge.node import Node
from edge.passing import Passing
from edge.serve_audit import make_audit, run_key_records
from edge.serve_engines import Engines
from edge.serve_identity import open_identity
from edge.serve_limits import open_limits
from edge.serve_mesh import begin_taking, make_passing, open_journal, open_mesh, say_ready, take_part
from edge.serve_postgres import make_catalog, open_databases
from edge.serve_quart import QuartLater
from edge.serve_spans import open_spans
from edge.serve_tls import open_certificates
from edge.table import make_table
from edge.upgrades import upgrade_connection
from engine.agents import Roster
from engine.bridge import Bridge, open_bridge
from engine.dead import nak_delay_ms
from engine.hashes import HashTable
from engine.jetstream import JetStream
from engine.log import StreamFacts
from engine.log_control import LogControl
from engine.metrics import Metrics
from engine.placement import FIRST, Placement
from engine.request_log import RequestLog
from engine.settings import Settings
from engine.settle_book import SettleBook

if TYPE_CHECKING:
    from edge.tls import Certificates
    from engine.hashes_redis import RedisTier

log = structlog.get_logger("serve")

LOG_FIRST_S: Final = 5.0
"""Then it accepts without: its clients are to hear what is wrong."""

READY_WITHIN_S: Final = 30.0
FLUSH_WITHIN_S: Final = 2.0
YOUNG_OBJECTS: Final = 100_000
"""How many are made before it is looked for cycles among them; most are gone by then without that."""


async def serve(
    settings: Settings,
    placement: Placement | None,
    engines: Engines,
    quart: QuartLater,
    draining: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a gateway on its engines until it is to drain.

    Args:
        settings: what to run.
        placement: this process's place where there are several; None where it is alone.
        engines: what it stands on.
        quart: the lane that is still being imported.
        draining: set when shutdown begins.
        task_status: reports the address once requests are welcome.

    Raises:
        Refused: the settings or their files cannot be used.
        OSError: the address is not to be had.
    """
    root, embedded, locate, locate_database, has_engines = engines
    async with (
        open_identity(settings, root) as guard,
        open_certificates(settings, root) as certificates,
        open_bridge() as bridge,
        open_limits(settings, root, bridge, guard),
        open_spans(settings, root) as spans,
        open_databases(settings, root, bridge, locate_database) as postgres,
        open_mesh(placement, root) as mesh,
        open_journal(settings) as journal,
    ):
        with root.child("stream") as agents, root.child("agents") as far:
            jetstream = JetStream(locate, "headgate")
            jetstream.keep_journal(journal)
            control = LogControl(bridge, locate)
            tier = _redis_tier(settings, bridge)
            publisher, turns = Publisher(jetstream), Turns()
            book = SettleBook()
            streams = Streams(
                jetstream,
                control,
                settings.stream,
                settings.subjects,
                settings.ack_wait_s,
                settings.max_lease_s,
                agents,
                book,
            )
            audit = make_audit(settings, jetstream, control)
            dead = DeadLetters(jetstream, control, settings.stream, settings.dead_stream)
            leased = LeasedStreams(
                jetstream,
                control,
                settings.stream,
                settings.subjects,
                settings.ack_wait_s,
                settings.max_lease_s,
                agents,
                others=streams.attached,
                book=book,
                max_deliver=settings.max_deliver or None,
                bury=dead.bury,
                nak_delay_ms=nak_delay_ms,
            )

            def attached(durable: str) -> int:
                return streams.attached(durable) + leased.attached(durable)

            gaps = Gaps(jetstream, control, settings.stream, attached, leased.arrived)
            leased.gave_back = gaps.gave_back
            if spans is not None:
                streams.tell_delivery = leased.tell_delivery = spans.tell_delivery
            leased.find_gaps = lambda name, ready: gaps.find(name, [one.delivery for one in ready])

            pulls = Pulls(leased, draining.is_set)

            def forget(durable: str) -> None:
                pulls.forget(durable)
                streams.forget(durable)
                leased.forget(durable, "reset")
                gaps.renew(durable)

            consumers = Consumers(jetstream, control, settings.stream, attached, forget)
            table = HashTable(settings.cache_mib * 1024 * 1024, settings.cache_ttl_s)
            catalog = make_catalog(settings, jetstream, postgres)
            cache = HashCache(table, tier, catalog)
            scanners = Agents(Roster(settings.scan_grace_s), far)
            redis_state = cache.redis_state if tier is not None else None
            disk = Disk(settings.data, settings.min_free_mib) if has_engines else None
            health = Health(jetstream, root, redis_state, draining.is_set, disk)
            if postgres is not None:
                health.add("postgres", postgres.state, postgres.facts)
                health.wait_for(postgres.pending)

            def take_log(facts: StreamFacts, durability: str, more: dict[str, object]) -> None:
                publisher.commit.atomic = facts.atomic
                health.prepared(durability, more)

            keeper = LogKeeper(jetstream, control, take_log, settings, embedded)
            metrics = Metrics(certificate_expires_at=certificates.unix_expiry if certificates else None)
            queries = None if postgres is None else Queries(postgres.query, metrics)
            node = Node(
                settings,
                root,
                publisher,
                cache,
                streams,
                leased,
                consumers,
                dead,
                gaps,
                pulls,
                scanners,
                health,
                metrics,
                draining,
                postgres,
                queries,
                catalog,
                guard.authenticator,
                guard.limiter,
                turns,
                spans,
                audit,
                mesh,
            )
            if mesh is not None:
                take_part(node, mesh, cache)
            async with trio.open_nursery() as drivers:
                if placement is None:  # for workers the parent does it
                    give_back = partial(give_back_orphans, is_fresh=embedded is not None)
                    await drivers.start(give_back, settings.leases_folder, jetstream)
                drivers.start_soon(partial(supervise, root, "log", keeper.run_connection))
                async with trio.open_nursery() as actors:
                    actors.start_soon(partial(supervise, root, "stream-keeper", keeper.run))
                    actors.start_soon(partial(supervise, root, "turns", turns.run, mailbox=turns.mailbox))
                    actors.start_soon(partial(supervise, root, "ingest", publisher.run, mailbox=publisher.mailbox))
                    actors.start_soon(partial(supervise, root, "agents-keeper", scanners.run))
                    actors.start_soon(partial(supervise, root, "gaps-keeper", gaps.run, is_needed=False))
                    actors.start_soon(partial(supervise, root, "pulls", pulls.run, mailbox=pulls.mailbox))
                    if audit is not None and (placement is None or placement.index == FIRST):
                        run_records = partial(run_key_records, settings, audit)
                        actors.start_soon(partial(supervise, root, "audit", run_records, is_needed=False))
                    if tier is not None:
                        actors.start_soon(partial(supervise, root, "hashes", cache.run))
                    if disk is not None:
                        actors.start_soon(partial(supervise, root, "disk", disk.run))
                    if catalog is not None:
                        follow = catalog.run if placement is None or placement.index == FIRST else catalog.watch
                        run = partial(supervise, root, "catalog", follow, is_needed=False)
                        actors.start_soon(partial(run, mailbox=catalog.mailbox))
                    await _listen(node, guard, certificates, keeper, placement, quart, task_status)
                    with trio.move_on_after(FLUSH_WITHIN_S):
                        await publisher.wait_idle()
                    actors.cancel_scope.cancel()
                drivers.cancel_scope.cancel()
            with trio.move_on_after(FLUSH_WITHIN_S):
                await control.aclose()
                if tier is not None:
                    await tier.aclose()


async def _listen(
    node: Node,
    guard: Guard,
    certificates: "Certificates | None",
    keeper: LogKeeper,
    placement: Placement | None,
    quart: QuartLater,
    task_status: trio.TaskStatus[str],
) -> None:
    """Serve clients until draining begins, then let them go."""
    settings, root = node.settings, node.root
    table = make_table(node, guard)
    table.lines, table.audit = RequestLog(settings.log_express), node.audit
    table.deadlines = settings.deadlines
    table.spans, table.turns = node.spans, node.turns
    upgrade = partial(upgrade_connection, table, node.draining)
    passing = make_passing(node.mesh, placement)
    http2 = None
    if settings.http2 == "on":
        from edge.http2 import Http2

        http2 = Http2(table, node.draining, settings.connections, passing).serve
    listener = Listener(
        table,
        quart.lane_of(table),
        upgrade,
        settings.connections,
        settings.connections_per_ip,
        certificates,
        http2,
        passing.pass_on if passing is not None else None,
        shares=placement is not None,
    )
    if placement is None:
        sockets = await open_listening(settings.host, settings.ports)
    else:
        sockets = shared_listening(placement.listening)
    with root.child("listener", listener.mailbox):
        async with trio.open_nursery() as connections:
            with trio.CancelScope() as accepting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_accept, listener, sockets, connections, passing, keeper)
                    nursery.start_soon(_announce, node, keeper, sockets[0], quart, task_status)
                    await node.draining.wait()
                    root.state = State.DRAINING
                    accepting.cancel()
            if node.mesh is not None:
                node.mesh.stop_receiving()
            await listener.stop_accepting(sockets, connections)
            log.info("draining", connections=listener.mailbox().depth, within_s=settings.drain_s)
            await listener.drain(settings.drain_s)
            connections.cancel_scope.cancel()


async def _accept(
    listener: Listener,
    sockets: list[trio.SocketListener],
    connections: trio.Nursery,
    passing: Passing | None,
    keeper: LogKeeper,
) -> None:
    """Accept clients; a worker does so once it has its log, because until then the others serve them better."""
    if passing is not None:
        with trio.move_on_after(LOG_FIRST_S):
            await keeper.is_prepared.wait()
    begin_taking(passing, listener, connections)
    await listener.run(sockets, connections)


async def _announce(
    node: Node,
    keeper: LogKeeper,
    listener: trio.SocketListener,
    quart: QuartLater,
    task_status: trio.TaskStatus[str],
) -> None:
    """Say, once, where the gateway is: when the engines are there, or when they have been waited for long enough."""
    with trio.move_on_after(READY_WITHIN_S if not node.settings.nats_url else READY_WITHIN_S / 10):
        await keeper.is_prepared.wait()
    if node.postgres is not None:
        with trio.move_on_after(READY_WITHIN_S if node.settings.has_own_database else READY_WITHIN_S / 10):
            await node.postgres.migrated.wait()
    host, port = listener.socket.getsockname()[:2]
    scheme = "https" if node.settings.is_tls else "http"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    node.root.state = State.RUNNING
    if not keeper.is_prepared.is_set():
        log.warning("the log is not reachable yet; events are refused until it is", error=node.health.log_error)
    if node.postgres is not None and not node.postgres.migrated.is_set():
        log.warning("the catalog is not there yet; /readyz waits for it", error=node.postgres.error)
    if len(node.settings.ports) > 1:
        log.info("listening on a second port too", host=host, port=node.settings.api_port)
    if node.mesh is not None:
        say_ready(node.mesh, node.health.durability)
    else:
        data, durability = node.settings.data, node.health.durability
        sys.stdout.write(f"headgate ready {address} durability={durability} data={data} pid={os.getpid()}\n")
        sys.stdout.flush()
    task_status.started(address)
    await quart.wait_there()
    _settle_memory()


def _redis_tier(settings: Settings, bridge: Bridge) -> "RedisTier | None":
    if not settings.redis_address:
        return None
    from engine.hashes_redis import RedisTier

    return RedisTier(bridge, settings.redis_address, settings.cache_ttl_s)


def _settle_memory() -> None:
    """Take what the start left behind out of the garbage collector's sight.

    Modules and tables stay anyway, and looking through them again and again costs every request (`bench ingest`). So
    does looking for cycles after every few hundred objects, where a crowd of connections waits (`bench overload`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
