"""Producers and consuming agents that write a ledger, and go on whatever happens to the gateway.

Rules of the file:
- A producer with keys sends a request again until it is answered 2xx; one without keys never sends one twice.
- An agent acknowledges every batch at once, and connects again when it loses its socket.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import trio
import trio_websocket

from tests.support.agent import AgentClosed, AgentFailed, open_agent
from tests.support.agent_v1 import open_agent_v1
from tests.support.http import Connection, open_connection
from tests.support.ledger import Ledger, Request, event_ids_of
from tests.support.nats_client import LogMessage
from tests.support.waiting import let_pass, wait_until

__all__ = ["Traffic", "wait_delivered"]

# Between two tries: as a client that has been told to come back, but without its patience.
RETRY_PAUSE_S = 0.02
# A gateway whose log is down must answer within 2 s; a killed one closes the socket.
ANSWER_TIMEOUT_S = 8.0


async def wait_delivered(
    ledger: Ledger, stored: list[LogMessage], durables: Iterable[str], *, timeout_s: float
) -> None:
    """Wait until every durable has been given every event that lies in the stream."""
    event_ids = event_ids_of(stored)
    await wait_until(
        lambda: not any(ledger.missing_count(durable, event_ids) for durable in durables),
        "the durables have everything",
        timeout_s=timeout_s,
        interval_s=0.1,
    )


class Traffic:
    """The load of one fault test."""

    def __init__(self, url: Callable[[], str], ledger: Ledger, chance: random.Random) -> None:
        self._url = url
        self._ledger = ledger
        self._chance = chance
        self.is_stopping = False
        self.running_producers_count = 0
        self.statuses: Counter[str] = Counter()

    async def run_producer(self, *, is_keyed: bool, max_batch_count: int = 500, pause_s: float = 0.0) -> None:
        """Send request after request until `is_stopping`; an unanswered keyed one is sent until it is answered."""
        self.running_producers_count += 1
        while not self.is_stopping:
            # Small and large ones alike, not large ones nearly always.
            count = self._chance.randint(1, self._chance.choice((1, 10, 100, max_batch_count)))
            key = f"key-{self._chance.randrange(1 << 62):x}" if is_keyed else None
            await self._send_until_answered(self._ledger.new_request(count, self._chance, key=key))
            if pause_s:
                await let_pass(pause_s)
        self.running_producers_count -= 1

    async def _send_until_answered(self, request: Request) -> None:
        connection_is_good = True
        while request.outcome not in ("acked", "refused"):
            try:
                async with open_connection(self._url()) as connection:
                    connection_is_good = await self._send_once(connection, request)
            except OSError:
                connection_is_good = False  # nobody listens: nothing was sent
            if request.key is None and request.tries_count:
                return
            if not connection_is_good or request.outcome == "unknown":
                await let_pass(RETRY_PAUSE_S)

    async def _send_once(self, connection: Connection, request: Request) -> bool:
        """Whether the connection held; the outcome is in the ledger."""
        self._ledger.note_send(request)
        headers = {"Content-Type": "application/json"}
        if request.key is not None:
            headers["Idempotency-Key"] = request.key
        try:
            answer = await connection.request(
                "POST", "/ingest?subject=snapfs.files", headers, request.body, timeout_s=ANSWER_TIMEOUT_S
            )
        except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
            self.statuses[type(error).__name__] += 1
            self._ledger.note_lost(request, repr(error)[:200])
            return False
        self.statuses[str(answer.status)] += 1
        self._ledger.note_answer(request, answer.status, answer.json())
        return True

    async def run_agent(self, durable: str, *, batch: int = 100) -> None:
        """Receive and acknowledge on the old wire until cancelled."""

        async def session() -> None:
            run = self._ledger.begin_run(durable, is_ordered=False)
            async with open_agent(self._url(), durable, batch=batch) as agent:
                while True:
                    received = await agent.receive(timeout_s=600)
                    self._ledger.note_delivery(run, received.messages)
                    await agent.ack(received)

        await self._keep_up(session)

    async def run_agent_v1(self, durable: str) -> None:
        """Receive and acknowledge with `headgate.stream.v1` until cancelled."""

        async def session() -> None:
            run = self._ledger.begin_run(durable)
            async with open_agent_v1(self._url(), durable) as agent:
                await agent.auto()
                while True:
                    received = await agent.receive(within_s=600)
                    for message in received.messages:
                        self._ledger.note_delivery(run, [message["data"]], is_again=message["delivered"] > 1)
                    await agent.ack(received)

        await self._keep_up(session)

    async def _keep_up(self, session: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await session()
            except (
                OSError,
                AgentClosed,
                AgentFailed,
                trio.BrokenResourceError,
                trio_websocket.HandshakeError,
            ) as error:
                self.statuses[f"agent {type(error).__name__}"] += 1
            await let_pass(RETRY_PAUSE_S)
