"""`headgate scan --agent`: this machine as a remote scanner of a gateway.

Rules of the file:
- Nothing outside the one folder is scanned, whatever is asked (`edge/scan_files.py` confines).
- A scan belongs to the agent, not to the connection: it goes on while the gateway is away, and how it ended is said on
  the next connection. The introduction lists what is in hands, so that a gateway that was started anew knows of it.
- How a scan ended is said until the gateway has it: frames are read in order, so the PONG to a PING that was sent
  behind the report says so.
- One scan's failure is its own; what ends the agent is a gateway that will not have it, or being stopped.

What must change with it: the wire of `/agents` (`engine/agents_wire.py`), the event fields of E17.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import msgspec
import trio

from edge.client import Client, GatewayError, GatewayRefused, GatewayUnavailable, OutcomeUnknown
from edge.client_retry import Backoff
from edge.client_socket import Socket, open_socket
from edge.nursery import leaves, open_plain_nursery
from edge.scan import Scan
from edge.scan_files import OutsideRoot, confine

PING_EVERY_S: Final = 20.0
TELEMETRY_EVERY_S: Final = 10.0
GOODBYE_WITHIN_S: Final = 3.0
"""Time to say of every running scan that it was stopped, to the log and to the gateway."""
CALM_S: Final = 10.0
"""A connection that lived this long was a good one: the next delay starts small again."""
IN_HANDS_COUNT: Final = 256
"""Scans that run, wait or are not reported yet. A gateway sends `max_concurrency`; more than this is refused."""
RENEW_AT: Final = 0.8
"""Share of a token's life after which it is exchanged for a new one."""

Notice = Callable[[str], None]
"""Told what happens, one line for a person."""
OnEnd = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How this machine is an agent.

    Args:
        agent_id: its name at the gateway; two with one name take over from each other.
        root_path: the one folder that may be scanned, with all below it.
        max_concurrency: scans at once.
        version: of this program.
        subject: what events are published on, None for the gateway's default.
        hash_threads: files read at once by one scan.
        api_key: exchanged for short-lived tokens, None when the client has all it needs.
    """

    agent_id: str
    root_path: str
    max_concurrency: int = 1
    version: str = ""
    subject: str | None = None
    hash_threads: int | None = None
    api_key: str | None = None


@dataclass(slots=True, eq=False)
class _Job:
    """One scan in this agent's hands, until the gateway has its report."""

    command_id: str
    root: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    report: str = ""
    """The frame that says how it ended, empty while it runs."""
    said_before_ping: int = 0
    """The number of the first PING of this connection that went behind the report, 0 when it was not said on it."""


class _Target(msgspec.Struct):
    root: str


class _ScanOptions(msgspec.Struct):
    force: bool = False


class _Order(msgspec.Struct):
    command_id: str
    target: _Target
    options: _ScanOptions = msgspec.field(default_factory=_ScanOptions)


class ScanAgent:
    """This machine as a remote scanner.

    Args:
        client: of the gateway.
        options: how.
        notice: told what happens.
        on_end: given the frame that says how a scan ended.
    """

    def __init__(self, client: Client, options: AgentOptions, notice: Notice, on_end: OnEnd) -> None:
        self._client = client
        self._options = options
        self._notice = notice
        self._on_end = on_end
        self._jobs: dict[str, _Job] = {}
        self._hands = trio.CapacityLimiter(options.max_concurrency)
        self._news = trio.Event()
        self._settled = trio.Event()
        self._stop_asked = trio.Event()
        self._pings = 0

    async def run_agent(self) -> None:
        """Be an agent until `stop` was called and everything is said, which takes `GOODBYE_WITHIN_S` at most.

        Raises:
            GatewayRefused: the gateway will not have this agent, or a newer one of the same name took over.

        Cancellation: stops at once; the gateway learns nothing of what ran.
        """
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._stay_connected, nursery)
            await self._stop_asked.wait()
            for job in self._jobs.values():
                job.scope.cancel()
            with trio.move_on_after(GOODBYE_WITHIN_S):
                while self._jobs:
                    self._settled = trio.Event()
                    await self._settled.wait()
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """End every scan, say so, and return from `run_agent`."""
        self._stop_asked.set()

    async def _stay_connected(self, jobs: trio.Nursery) -> NoReturn:
        backoff = Backoff()
        while True:
            began = trio.current_time()
            try:
                life_s = await self._take_token()
                to = self._client.destination()
                resource = f"{urlsplit(to.base_url).path}/agents"
                async with open_socket(to.base_url, resource, to.upgrade_headers(resource), to.tls) as socket:
                    await self._serve(socket, jobs, life_s)
            except (GatewayUnavailable, OutcomeUnknown) as error:
                if trio.current_time() - began >= CALM_S:
                    backoff.reset()
                delay_s = backoff.next_delay_s(error.retry_after_s)
                self._notice(f"{error}; coming back in {delay_s:.1f} s")
            await trio.sleep(delay_s)

    async def _serve(self, socket: Socket, jobs: trio.Nursery, life_s: float | None) -> NoReturn:
        """Live on one connection until it ends."""
        self._pings = 0
        for job in self._jobs.values():
            job.said_before_ping = 0
        await socket.send(self._hello())
        failure: GatewayError
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._speak, socket)
                if life_s is not None:
                    nursery.start_soon(self._renew, life_s)
                await self._listen(socket, jobs)
        except* GatewayError as group:
            failure = leaves(group)[0]
        raise failure

    async def _listen(self, socket: Socket, jobs: trio.Nursery) -> NoReturn:
        pongs, said = 0, ""
        while True:
            try:
                message = await socket.receive()
            except GatewayRefused as refusal:
                raise GatewayRefused(f"{refusal}{said}", status=refusal.status) from None
            frame = _read(message)
            match frame.get("type"):
                case "SCAN_TARGET":
                    self._take_order(message, jobs)
                case "PONG":
                    pongs += 1
                    if pongs == 1:
                        self._notice(f"connected to {self._client.base_url} as {self._options.agent_id}")
                    self._confirm(pongs)
                case "ERROR":
                    said = f" ({frame.get('error')})"  # a close frame follows and decides
                case _:
                    pass  # a newer gateway may say more

    async def _speak(self, socket: Socket) -> None:
        """Say what ended, and a PING behind it; and a PING now and then."""
        while True:
            self._news = trio.Event()
            for job in list(self._jobs.values()):
                if job.report and not job.said_before_ping:
                    job.said_before_ping = self._pings + 1
                    await socket.send(job.report)
            self._pings += 1
            await socket.send('{"type":"PING"}')
            with trio.move_on_after(PING_EVERY_S):
                await self._news.wait()

    def _confirm(self, pongs: int) -> None:
        """Let go of what the gateway has read."""
        for job in list(self._jobs.values()):
            if 0 < job.said_before_ping <= pongs:
                del self._jobs[job.command_id]
                self._settled.set()

    def _take_order(self, message: str | bytes, jobs: trio.Nursery) -> None:
        try:
            order = msgspec.json.decode(message, type=_Order)
        except msgspec.MsgspecError as error:
            self._notice(f"an order that cannot be read was passed over: {error}")
            return
        if order.command_id in self._jobs:
            return  # it is in hands already
        job = self._jobs[order.command_id] = _Job(order.command_id, order.target.root)
        if self._stop_asked.is_set() or len(self._jobs) > IN_HANDS_COUNT:
            self._end(job, {"type": "SCAN_ERROR", "error": "the agent is stopping, or has too much in hands"})
            return
        jobs.start_soon(self._run_job, job, order.options.force)

    async def _run_job(self, job: _Job, force: bool) -> None:
        began = trio.current_time()
        frame: dict[str, Any] = {"type": "SCAN_ERROR", "error": "the agent was stopped"}
        with job.scope:
            async with self._hands:
                frame = await self._scan(job, force)
        self._end(job, {**frame, "took_s": round(trio.current_time() - began, 3)})

    async def _scan(self, job: _Job, force: bool) -> dict[str, Any]:
        """Scan, and give the frame that says how it went, all but its name."""
        options = self._options
        began = trio.current_time()
        try:
            folder = await trio.to_thread.run_sync(confine, options.root_path, job.root, abandon_on_cancel=True)
        except (OutsideRoot, OSError, ValueError) as error:
            return {"type": "SCAN_ERROR", "error": str(error)}
        self._notice(f"scanning {folder} ({job.command_id})")
        scan = Scan(
            self._client,
            folder,
            subject=options.subject,
            hash_threads=options.hash_threads,
            scan_id=job.command_id,
            force=force,
            telemetry_s=TELEMETRY_EVERY_S,
        )
        failure: str | None = "the agent was stopped"
        try:
            report = await scan.run_scan()
        except Exception as error:  # noqa: BLE001  # one scan's failure is its own: it is said, and the agent goes on
            failure = f"{type(error).__name__}: {error}" if not isinstance(error, GatewayError) else str(error)
        else:
            failure = None
            totals = report.totals()
            took_s = round(trio.current_time() - began, 3)
            summary = {**totals, "events": report.events, "took_s": took_s, "root_path": report.root}
            return {"type": "SCAN_COMPLETE", "summary": summary}
        finally:
            if failure is not None:
                with trio.move_on_after(GOODBYE_WITHIN_S / 2, shield=True):  # bounded: the log shall know the end
                    await self._publish_error(scan, failure)
        return {"type": "SCAN_ERROR", "error": failure}

    async def _publish_error(self, scan: Scan, failure: str) -> None:
        try:
            await scan.publish_error(failure)
        except GatewayError as error:
            self._notice(f"the end of the scan could not be published: {error}")

    def _end(self, job: _Job, frame: dict[str, Any]) -> None:
        named = {"type": frame["type"], "command_id": job.command_id, "root": job.root, **frame}
        job.report = msgspec.json.encode(named).decode()
        self._notice(f"{frame['type']} {job.root} {frame.get('error', '')}".rstrip())
        self._on_end(named)
        self._news.set()

    def _hello(self) -> str:
        options = self._options
        frame = {
            "type": "AGENT_HELLO",
            "agent_id": options.agent_id,
            "agent_type": "scanner",
            "version": options.version,
            "capabilities": ["scan.fs"],
            "root_path": options.root_path,
            "scanner_type": "headgate",
            "max_concurrency": options.max_concurrency,
            "running": [{"command_id": job.command_id, "root": job.root} for job in self._jobs.values()],
        }
        return msgspec.json.encode(frame).decode()

    async def _take_token(self) -> float | None:
        """Exchange the API key for a token; give its life in seconds, None where there is nothing to renew."""
        key = self._options.api_key
        if key is None:
            return None
        self._client.present(key)
        try:
            answer = await self._client.call("POST", "/auth/token", key="token")
        except GatewayRefused as refusal:
            if refusal.status == 404:
                return None  # this gateway takes the key itself
            raise
        token = answer.get("accessToken") if isinstance(answer, dict) else None
        life_s = answer.get("expiresIn") if isinstance(answer, dict) else None
        if not isinstance(token, str):
            raise GatewayRefused("the gateway gave no accessToken for the API key", status=200)
        self._client.present(token)
        return float(life_s) if isinstance(life_s, int | float) and life_s > 0 else None

    async def _renew(self, life_s: float) -> None:
        """Keep the token fresh for the scans' requests."""
        left: float | None = life_s
        while left is not None:
            await trio.sleep(max(1.0, left * RENEW_AT))
            left = await self._take_token()


def _read(message: str | bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(message)
    except (msgspec.MsgspecError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
