"""The keeper of the log: connects, sees that the stream is there, and knows what an acknowledgement is worth.

Rules of the file:
- A durability class is claimed only after it was seen: in the server's monitoring, or in the stream's replicas.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from actors.tree import Actor
from engine.errors import Fault
from engine.jetstream import JetStream
from engine.log import StreamFacts
from engine.log_control import LogControl
from engine.monitor import read_sync_always
from engine.nats_server import EmbeddedLog
from engine.settings import Settings, mask_url

log = structlog.get_logger("log")
RETRY_S: Final = 0.1
RETRY_MOST_S: Final = 2.0
REPLICAS: Final = 3

OnPrepared = Callable[[StreamFacts, str, dict[str, object]], None]


class LogKeeper:
    """Prepares the log after every connect.

    Args:
        jetstream: the data plane.
        control: the control plane.
        on_prepared: takes the stream's facts, the durability class and more about the log, JSON values.
        settings: names the stream.
        embedded: the embedded server, None when the log is external.
    """

    def __init__(
        self,
        jetstream: JetStream,
        control: LogControl,
        on_prepared: OnPrepared,
        settings: Settings,
        embedded: EmbeddedLog | None,
    ) -> None:
        self._jetstream = jetstream
        self._control = control
        self._on_prepared = on_prepared
        self._settings = settings
        self._embedded = embedded
        self.is_prepared = trio.Event()

    async def run_connection(self, _: Actor, ready: Callable[[], None]) -> None:
        """Keep the data plane's connection, for ever."""
        ready()
        await self._jetstream.connection.run()

    async def run(self, _: Actor, ready: Callable[[], None]) -> None:
        """Prepare the log after every connect, for ever."""
        connection = self._jetstream.connection
        ready()
        while True:
            await connection.wait_up()
            await self._prepare()
            while connection.is_up:
                await connection.wait_changed()

    async def _prepare(self) -> None:
        pause_s = RETRY_S
        while self._jetstream.connection.is_up:
            try:
                facts = await self._control.ensure_stream(self._settings.stream, self._settings.subjects)
            except Fault as fault:
                log.warning("the stream is not ready", error=fault.detail)
                await trio.sleep(pause_s)
                pause_s = min(RETRY_MOST_S, pause_s * 2)
                continue
            self._on_prepared(facts, await self._durability(facts), self._describe(facts))
            self.is_prepared.set()
            return

    async def _durability(self, facts: StreamFacts) -> str:
        """Find out what an acknowledgement survives: `fsync`, `replicated` or `buffered`."""
        url = self._monitor_url()
        if url and await read_sync_always(url):
            return "fsync"
        if facts.replicas >= REPLICAS:
            return "replicated"
        if self._embedded is None or self._embedded.durability != "buffered":
            log.warning(
                "the log is not known to sync before it answers: an acknowledged event may be lost in a power cut",
                durability="buffered",
                expected="jetstream { sync_interval: always } and NATS_MONITOR_URL set",
            )
        return "buffered"

    def _monitor_url(self) -> str:
        if self._embedded is None:
            return self._settings.nats_monitor_url
        try:
            return self._embedded.monitor_url()
        except OSError:
            return ""

    def _describe(self, facts: StreamFacts) -> dict[str, object]:
        return {
            "stream": facts.name,
            "replicas": facts.replicas,
            "atomic": facts.atomic,
            "embedded": self._embedded is not None,
            "url": mask_url(self._settings.nats_url) or None,
            "monitor_url": mask_url(self._monitor_url()) or None,
        }
