"""`headgate serve --workers N`: the parent, which runs the engines and the workers and serves nobody itself.

The listening sockets are opened here and shared by all workers, so that a worker that falls takes no waiting connection
along. So is everything that the workers say to each other (`actors/mesh.py`).

Rules of the file:
- Nothing but this file composes the parent; a worker is `edge/serve.py` with a place.
- Leaving the blocks is the shutdown: no handshake begins any more, the workers drain, then the engines stop.
- SIGHUP is for the workers' certificates; SIGUSR2 restarts the workers in turn, and no connection is refused.
"""

import os
import signal
import socket
import sys
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Final

import orjson
import structlog
import trio

from actors.children import run_embedded_log
from actors.mesh import Mesh
from actors.orphans import UP_WITHIN_S, give_back_orphans
from actors.tree import Actor, State, supervise
from actors.worker import Worker, restart_in_turn
from edge.actor_metrics import actor_metrics
from edge.listener import open_listening, refuse_handshakes
from edge.merging import describe_families
from edge.serve_engines import open_embedded_postgres
from edge.serve_identity import check_exposure, given_keys
from edge.serve_limits import warn_of_workers
from edge.serve_mesh import ACTORS, ALIVE, DURABILITY, METRICS, READY
from edge.serve_start import run_and_explain
from edge.tls import open_pair
from engine.children import locked_folder
from engine.endpoints import rotation
from engine.jetstream import JetStream
from engine.keys_file import KeysFile
from engine.nats_server import EmbeddedLog
from engine.placement import PARENT, Placement
from engine.settings import Settings

log = structlog.get_logger("serve")
READY_WITHIN_S: Final = 60.0
PACKETS_BYTES: Final = 4 * 1024 * 1024
"""What may wait for a process that is busy; the kernel gives as much of it as it allows."""


def run_workers(settings: Settings) -> int:
    """Run a gateway of several processes until it is told to stop; the exit code says how it went."""
    return run_and_explain(settings, partial(serve_workers, settings))


async def serve_workers(settings: Settings, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a gateway of several processes until SIGTERM or SIGINT.

    Args:
        settings: what to run.
        task_status: reports the address once requests are welcome at every worker.

    Raises:
        Refused: the data folder is in use, or the settings or their files cannot be used.
        OSError: the address is not to be had.
    """
    root = Actor("headgate", trio.current_time())
    draining = trio.Event()
    embedded = None if settings.nats_url else EmbeddedLog(settings.data.resolve() / "nats", settings.durability)
    locate = embedded.endpoint if embedded is not None else rotation(settings.nats_url)
    has_engines = embedded is not None or settings.has_own_database
    with locked_folder(settings.data) if has_engines else nullcontext(), ExitStack() as sockets:
        _prepare_files(settings)
        warn_of_workers(settings, settings.workers)
        listening = await open_listening(settings.host, settings.ports)
        for listener in listening:
            sockets.callback(listener.socket.close)
        mesh, placements = _make_mesh(settings, [listener.socket.fileno() for listener in listening], sockets)
        sockets.callback(mesh.close)
        with root.child("children") as nest, root.child("workers") as places:
            async with (
                trio.open_nursery() as signals,
                open_embedded_postgres(settings, nest),
                trio.open_nursery() as children,
            ):
                if embedded is not None:
                    children.start_soon(partial(supervise, nest, "nats", partial(run_embedded_log, embedded)))
                children.start_soon(partial(supervise, root, "mesh", mesh.run, mailbox=mesh.mailbox))
                jetstream = JetStream(locate, "headgate parent")
                children.start_soon(partial(supervise, root, "log", partial(_keep_connection, jetstream)))
                give_back = partial(give_back_orphans, settings.leases_folder, jetstream)
                workers = [
                    Worker(
                        one,
                        settings.data / f"worker-{one.index}.json",
                        partial(mesh.ask, one.index, ALIVE, b""),
                        settings.drain_s,
                        give_back,
                    )
                    for one in placements
                ]
                _take_part(mesh, root, workers)
                signals.start_soon(_watch_signals, draining, workers)
                await give_back(
                    UP_WITHIN_S, is_fresh=embedded is not None
                )  # before anybody takes anything from the log
                async with trio.open_nursery() as running:
                    for one in workers:
                        running.start_soon(partial(supervise, places, f"worker-{one.index}", one.run))
                    await _announce(settings, root, workers, listening[0], task_status)
                    await draining.wait()
                    root.state = State.DRAINING
                    for listener in listening:
                        refuse_handshakes(listener.socket)
                    running.cancel_scope.cancel()
                children.cancel_scope.cancel()
                signals.cancel_scope.cancel()


def _prepare_files(settings: Settings) -> None:
    """Make what all workers read, once, and refuse now what each of them would refuse."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings.leases_folder.mkdir(exist_ok=True, mode=0o700)
    file = KeysFile(settings.data.resolve())
    check_exposure(settings, given_keys(settings) | file.read())
    if not settings.token_secret.get_secret_value():
        file.token_secret()
    if settings.is_tls:
        open_pair(settings)


def _make_mesh(settings: Settings, listening: list[int], sockets: ExitStack) -> tuple[Mesh, list[Placement]]:
    """Make every process's socket, and the workers' places; the parent keeps both ends of all of them."""
    pairs: list[tuple[socket.socket, socket.socket]] = []
    for _ in range(settings.workers + 1):
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in pair:
            sockets.callback(end.close)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, PACKETS_BYTES)
        pairs.append(pair)
    workers = range(1, settings.workers + 1)
    mesh = Mesh(PARENT, pairs[PARENT][0].dup(), {index: pairs[index][1].dup() for index in workers})
    placements = [
        Placement(
            index=index,
            count=settings.workers,
            listening=listening,
            receive=pairs[index][0].fileno(),
            send={other: pairs[other][1].fileno() for other in range(settings.workers + 1) if other != index},
            given=settings.from_command_line,
        )
        for index in workers
    ]
    return mesh, placements


def _take_part(mesh: Mesh, root: Actor, workers: list[Worker]) -> None:
    """Answer what workers ask the parent, and hear what they tell it."""

    async def actors(_: bytes) -> bytes:
        return orjson.dumps(root.describe(trio.current_time()))

    async def metrics(_: bytes) -> bytes:
        return orjson.dumps(describe_families(actor_metrics(root)))

    def hear_ready(index: int, body: bytes) -> None:
        workers[index - 1].has_come(orjson.loads(body)[DURABILITY])

    mesh.on_ask(ACTORS, actors)
    mesh.on_ask(METRICS, metrics)
    mesh.on_tell(READY, hear_ready)
    mesh.begin_receiving()


async def _keep_connection(jetstream: JetStream, _: Actor, ready: object) -> None:
    assert callable(ready)  # noqa: S101
    ready()
    await jetstream.connection.run()


async def _announce(
    settings: Settings,
    root: Actor,
    workers: list[Worker],
    listener: trio.SocketListener,
    task_status: trio.TaskStatus[str],
) -> None:
    """Say, once, where the gateway is: when every worker is there, or when they were waited for long enough."""
    with trio.move_on_after(READY_WITHIN_S) as patience:
        for one in workers:
            await one.ready.wait()
    if patience.cancelled_caught:
        log.warning("not every worker is ready yet", missing=[one.index for one in workers if not one.ready.is_set()])
    host, port = listener.socket.getsockname()[:2]
    scheme = "https" if settings.is_tls else "http"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    root.state = State.RUNNING
    durability = next((one.durability for one in workers if one.durability), "unknown")
    sys.stdout.write(f"headgate ready {address} durability={durability} data={settings.data} pid={os.getpid()}\n")
    sys.stdout.flush()
    task_status.started(address)


async def _watch_signals(draining: trio.Event, workers: list[Worker]) -> None:
    async with trio.open_nursery() as nursery:
        is_restarting = False

        async def restart() -> None:
            nonlocal is_restarting
            await restart_in_turn(workers)
            is_restarting = False

        watched = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
        with trio.open_signal_receiver(*watched) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    for one in workers:
                        if one.pid:
                            os.kill(one.pid, signal.SIGHUP)
                elif number == signal.SIGUSR2:
                    if not is_restarting:
                        is_restarting = True
                        nursery.start_soon(restart)
                elif draining.is_set():
                    log.warning("told to stop twice: ending now", signal=number)
                    os._exit(1)  # the kernel ends the children with us
                else:
                    log.info("told to stop", signal=number)
                    draining.set()
