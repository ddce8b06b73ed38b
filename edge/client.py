"""The Python client of a gateway, on Trio: probe, publish, and an agent loop.

    async with Client("http://127.0.0.1:8000") as client:
        answers = await client.probe([Probe(path="/show/a.exr", size=4096, mtime=1700000000)])
        await client.publish([Event("file.upsert", {"path": "/show/a.exr"})], key=str(uuid.uuid4()))
        async with client.stream(durable="mysql") as stream:
            async for batch in stream:
                store(batch.events())
                await batch.ack()

Rules of the file:
- A publish whose outcome is unknown is repeated only under an idempotency key.
- Nothing waits for ever: a request has its timeouts, and tries end `give_up_s` after the last success of anything that
  this client did (the agent loop alone comes back for ever, because waiting is what an agent does).
- Foreign exceptions stop here: callers see `GatewayError` and its kinds, see `edge/client_retry.py`.

What must change with it: the wire of `POST /ingest` and `POST /cache/batch`. The stream's is in
`edge/client_deliveries.py` (and, the older one, in `edge/client_stream.py`); what is said on both in
`edge/client_values.py`.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx2
import msgspec
import trio

from edge.client_batch import Settled, StreamBatch
from edge.client_deliveries import OnNotice, Stream, Subscription, open_stream
from edge.client_frames import Attached, Complaint, Credit, EpochChanged, Gap, LeasesLost, Notice, Status, Trouble
from edge.client_query import QueryColumn, QueryingClient, QueryResult
from edge.client_reconnect import Destination, OnTrouble
from edge.client_retry import (
    Backoff,
    GatewayBroken,
    GatewayError,
    GatewayRefused,
    GatewayUnavailable,
    GatewayUnreachable,
    OutcomeUnknown,
    explain_answer,
    is_header_text,
    say_cause,
)
from edge.client_signing import Credentials
from edge.client_stream import Agent, Batch, open_agent
from edge.client_values import (
    ClientStatistics,
    Dependency,
    Event,
    Message,
    Probe,
    ProbeAnswer,
    Published,
    Readiness,
    check_base_url,
)

__all__ = [
    "DEFAULT_SUBJECT",
    "Agent",
    "Attached",
    "Batch",
    "Client",
    "ClientStatistics",
    "Complaint",
    "Credit",
    "Dependency",
    "EpochChanged",
    "Event",
    "Gap",
    "GatewayBroken",
    "GatewayError",
    "GatewayRefused",
    "GatewayUnavailable",
    "GatewayUnreachable",
    "LeasesLost",
    "Message",
    "Notice",
    "OutcomeUnknown",
    "Probe",
    "ProbeAnswer",
    "Published",
    "QueryColumn",
    "QueryResult",
    "Readiness",
    "Settled",
    "Status",
    "Stream",
    "StreamBatch",
    "Trouble",
    "check_base_url",
]

DEFAULT_SUBJECT: Final = "snapfs.files"
"""What the stream is asked for when the caller names no subject; the gateway's own default for ingest."""
GIVE_UP_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
"""Far above what a gateway takes that lives: it says 503 within two seconds when its log is down."""
POOL_LIMIT_COUNT: Final = 16
KEEPALIVE_S: Final = 4.0
"""Below the 5 s after which the gateway may close an idle connection, so that we never write into a closing one."""

T = TypeVar("T")


class Client(QueryingClient):
    """One gateway, over a pool of kept-alive connections. Use it as an async context manager, under Trio.

    Args:
        base_url: `http://host:port`, or https, with a path prefix where a proxy needs one.
        token: sent as `Authorization: Bearer …`; `sign:` and a key that signs, and each request is signed with it.
        give_up_s: how long tries go on without any success.
        tls: whom to trust where the address has https; None trusts what this machine trusts.

    Raises:
        ValueError: `base_url` is no http or https address, or the token cannot be a header.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        give_up_s: float = GIVE_UP_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        is_tls = check_base_url(base_url).startswith("https:")
        self.base_url = base_url.rstrip("/")
        self.give_up_s = give_up_s
        self._credentials = Credentials(token)
        # A context without roots is enough where no TLS is spoken, and loading the roots takes 100 ms.
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls = tls or (ssl.create_default_context() if is_tls else plain)
        self._http = httpx2.AsyncClient(
            auth=self._credentials,
            verify=self._tls,
            trust_env=False,  # the stream knows no proxy either: both talk to the gateway itself
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=max(give_up_s, CONNECT_TIMEOUT_S)),
            limits=httpx2.Limits(
                max_connections=POOL_LIMIT_COUNT,
                max_keepalive_connections=POOL_LIMIT_COUNT,
                keepalive_expiry=KEEPALIVE_S,
            ),
        )
        self._last_success: float | None = None
        self._answered = 0
        self._retries = 0
        self._failing_since: float | None = None
        self._last_error: str | None = None

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, value, traceback)

    def statistics(self) -> ClientStatistics:
        """Say what the client has done so far."""
        waiting_s = 0.0 if self._failing_since is None else trio.current_time() - self._failing_since
        return ClientStatistics(self._answered, self._retries, self._last_error, waiting_s)

    async def probe(self, probes: Sequence[Probe]) -> list[ProbeAnswer]:
        """Ask the hash cache; a question is harmless, so it is repeated until `give_up_s` is over.

        Returns:
            One answer a probe, in the same order.

        Raises:
            GatewayError: refused, or nothing succeeded for `give_up_s`.
        """
        body = msgspec.json.encode(probes)

        async def ask() -> list[ProbeAnswer]:
            answers = _decode(await self._send("POST", "/cache/batch", body), list[ProbeAnswer])
            if len(answers) != len(probes):
                raise GatewayBroken(f"{len(probes)} probes were asked and {len(answers)} answered")
            return answers

        return await self._repeat(ask, is_harmless=True)

    async def publish(
        self, events: Sequence[Event], *, subject: str | None = None, key: str | None = None
    ) -> Published:
        """Put events on the log, as one frame of it.

        Args:
            subject: None means the gateway's default.
            key: makes it safe to repeat, and repeated it is, until `give_up_s` is over. Without one, only what
                certainly did not happen is tried again. The gateway remembers a key for ten minutes at least.

        Raises:
            GatewayRefused: the events, the subject or the key cannot be taken.
            OutcomeUnknown: they may be on the log or not, and there was no key to find out with, or no time left.
            GatewayUnavailable: they are not on the log; nothing succeeded for `give_up_s`.
            ValueError: the key cannot be a header.

        Cancellation: the outcome is unknown; publish again under the same key to know it.
        """
        if key is not None and (not key or not is_header_text(key)):
            raise ValueError("the idempotency key has characters that a header cannot carry")
        body = b'{"events":' + msgspec.json.encode(events) + b"}"
        headers = {} if key is None else {"idempotency-key": key}
        params = {} if subject is None else {"subject": subject}

        async def send() -> Published:
            return _decode(await self._send("POST", "/ingest", body, headers, params), Published)

        return await self._repeat(send, is_harmless=key is not None)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        params: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Any:
        """Ask for what has no method of its own, by its path.

        Args:
            body: sent as JSON, None for none.
            key: an idempotency key, which makes a POST safe to repeat; GET and DELETE are so without one.

        Returns:
            The answer's JSON.

        Raises:
            GatewayError: refused, or nothing succeeded for `give_up_s`.
        """
        headers = {} if key is None else {"idempotency-key": key}
        content = None if body is None else msgspec.json.encode(body)

        async def ask() -> Any:
            return _decode(await self._send(method, path, content, headers, params), Any)

        return await self._repeat(ask, is_harmless=method != "POST" or key is not None)

    async def read_text(self, path: str) -> str:
        """Ask for a text by its path, as `call` asks for JSON."""

        async def ask() -> str:
            return (await self._send("GET", path, None)).decode(errors="replace")

        return await self._repeat(ask, is_harmless=True)

    def present(self, token: str) -> None:
        """Send another token from now on.

        Raises:
            ValueError: it cannot be a header.
        """
        self._credentials.present(token)

    async def ready(self) -> Readiness:
        """Ask once whether the gateway takes work.

        Raises:
            GatewayUnreachable: nobody answers there.
            GatewayBroken: what answers is no gateway.
        """
        answer = await self._ask(self._http.build_request("GET", self.base_url + "/readyz"))
        if answer.status_code not in {200, 503}:
            raise explain_answer(answer.status_code, answer.headers, answer.content)
        return _decode(answer.content, Readiness)

    def agent(
        self, *, durable: str, subject: str = DEFAULT_SUBJECT, batch: int = 100, on_trouble: OnTrouble | None = None
    ) -> AbstractAsyncContextManager[Agent]:
        """Attach as an agent: `async with client.agent(durable="mysql") as batches: async for batch in batches: …`.

        Args:
            durable: the name under which the gateway remembers what was acknowledged; agents of one name share work.
            batch: the most messages in one batch.
            on_trouble: told of every lost connection, with the seconds until the next try.

        Raises:
            GatewayRefused: out of the `async with`, when the gateway will not have this agent, now or later.
        """
        return open_agent(self.destination(), durable=durable, subject=subject, batch=batch, on_trouble=on_trouble)

    def stream(
        self,
        subject: str = DEFAULT_SUBJECT,
        *,
        durable: str | None = None,
        credit: Credit | None = None,
        auto: bool = True,
        from_: str | None = None,
        filter: str | Sequence[str] = (),  # noqa: A002  # the wire's word
        batch: int | None = None,
        exclusive: bool = False,
        max_lease_s: float | None = None,
        on_notice: OnNotice | None = None,
    ) -> AbstractAsyncContextManager[Stream]:
        """Attach to a stream: `async with client.stream("snapfs.files", durable="mysql") as stream: …`.

        Args:
            durable: the name under which the gateway remembers what was acknowledged; agents of one name share work.
                None: nothing is remembered, and nothing is left behind.
            credit: the most messages and bytes in this agent's hands; None lets the gateway keep the window.
            auto: whether credit looks after itself. False: nothing comes but what `stream.grant` allows.
            from_: where a new consumer begins: `all`, `new`, `last`, `seq:N`, `time:ISO`.
            filter: event types, a trailing `*` allowed.
            batch: the most messages in one batch.
            exclusive: whether nobody else may hold the durable.
            max_lease_s: the longest time a message may be held.
            on_notice: told of gaps, lost leases, another epoch of the log, complaints and lost connections.

        Raises:
            GatewayRefused: out of the `async with`, when the gateway will not have this agent, now or later.
        """
        types = [filter] if isinstance(filter, str) else list(filter)
        subscription = Subscription(subject, durable, from_, types, batch, exclusive, max_lease_s)
        first = credit if auto else credit or Credit(0, 0)
        return open_stream(self.destination(), subscription, first, grants_back=auto, on_notice=on_notice)

    def destination(self) -> Destination:
        """Say which gateway this is, and what every request to it carries: for WebSockets."""
        return Destination(self.base_url, self._credentials.upgrade_headers, self._tls)

    async def _send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        fields = {} if content is None else {"content-type": "application/json"}
        request = self._http.build_request(
            method,
            self.base_url + path,
            content=content,
            params=dict(params or {}),
            headers=fields | dict(headers or {}),
        )
        answer = await self._ask(request)
        if not 200 <= answer.status_code < 300:
            raise explain_answer(answer.status_code, answer.headers, answer.content)
        return answer.content

    async def _ask(self, request: httpx2.Request) -> httpx2.Response:
        """One try. Says `GatewayUnreachable` only when no byte of the request has left."""
        try:
            return await self._http.send(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise GatewayUnreachable(f"no gateway answers at {self.base_url}: {say_cause(error)}") from error
        except httpx2.TransportError as error:
            raise OutcomeUnknown(f"{self.base_url} broke off before its answer: {say_cause(error)}") from error
        except httpx2.RequestError as error:
            raise GatewayBroken(f"{self.base_url} gave an answer that cannot be read: {say_cause(error)}") from error

    async def _repeat(self, attempt: Callable[[], Awaitable[T]], *, is_harmless: bool) -> T:
        """Try until it succeeds, fails for good, or nothing at all has succeeded for `give_up_s`."""
        began, backoff = trio.current_time(), Backoff()
        while True:
            try:
                result = await attempt()
            except GatewayError as error:
                now = trio.current_time()
                self._last_error = str(error)
                self._failing_since = now if self._failing_since is None else self._failing_since
                if isinstance(error, GatewayRefused | GatewayBroken):
                    raise
                if isinstance(error, OutcomeUnknown) and not is_harmless:
                    raise
                delay_s = backoff.next_delay_s(error.retry_after_s)
                if now + delay_s - max(began, self._last_success or began) > self.give_up_s:
                    raise
                self._retries += 1
                await trio.sleep(delay_s)
            else:
                self._answered += 1
                self._last_success, self._failing_since = trio.current_time(), None
                return result


def _decode(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.MsgspecError as error:
        raise GatewayBroken(f"the answer is not what a gateway says: {error}") from error
