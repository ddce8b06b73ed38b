"""The log's control plane: the stream and its consumers, through nats-py behind the bridge.

Rules of the file:
- Rare calls only; messages go through `engine/jetstream.py`.
- A call opens a connection when there is none; a broken one is dropped, and the next call opens another.
- No foreign object or exception comes out.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar, TypeVarTuple, Unpack

import nats
import nats.errors
import nats.js.errors
import orjson
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StorageType, StreamConfig

from engine.bridge import Bridge
from engine.consumers import FILTER_MEMBER
from engine.endpoints import Endpoint, Locate
from engine.errors import Refused, Unavailable
from engine.log import ConsumerPlan, StreamFacts

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
CALL_TIMEOUT_S: Final = 5.0
DUPLICATE_WINDOW_S: Final = 600.0
"""How long an Idempotency-Key is remembered: longer than any retry of ours."""
MAX_ACK_PENDING: Final = 20_000
"""Over all connections of one durable; each holds one batch, so this is the bound for very many agents."""
_CONSUMER_EXISTS: Final = {10013, 10148}


class ApiAnswer(NamedTuple):
    """What the log's own API answered.

    Args:
        fields: the answer, as it came.
        error: JetStream's error code, 0 when it did what was asked.
        reason: for a person, empty when it did.
    """

    fields: dict[str, Any]
    error: int
    reason: str


class LogControl:
    """Makes streams and consumers.

    Args:
        bridge: where nats-py lives.
        locate: where the server is.
    """

    def __init__(self, bridge: Bridge, locate: Locate) -> None:
        self._bridge = bridge
        self._locate = locate
        self._client: Client | None = None
        self._lock: asyncio.Lock | None = None

    async def ensure_stream(self, name: str, subjects: list[str]) -> StreamFacts:
        """Make the stream, or find it and see that it takes the subjects.

        Raises:
            Unavailable: the log does not answer.
            Refused: the stream exists and does not take these subjects.
        """
        return await self._bridge.call(self._translated, self._ensure_stream, name, subjects)

    async def ensure_consumer(self, stream: str, durable: str, subject: str, ack_wait_s: float) -> None:
        """Make the durable pull consumer, or find it.

        Raises:
            Unavailable: the log does not answer.
            Refused: the durable exists for another subject.
        """
        await self._bridge.call(self._translated, self._ensure_consumer, stream, durable, subject, ack_wait_s)

    async def request_api(self, verb: str, fields: Mapping[str, object] | None = None) -> ApiAnswer:
        """Ask the log's own API, word for word: nothing of a configuration is lost on its way through a library.

        Args:
            verb: what stands behind `$JS.API.`; names in it were checked.
            fields: the request, None for an empty one.

        Raises:
            Unavailable: the log does not answer.
        """
        body = b"" if fields is None else orjson.dumps(fields)
        answer: dict[str, Any] = orjson.loads(await self._bridge.call(self._translated, self._request, verb, body))
        error = answer.get("error") or {}
        return ApiAnswer(answer, int(error.get("err_code", 0)), str(error.get("description", "")))

    async def make_consumer(self, stream: str, plan: ConsumerPlan) -> bool:
        """Make a consumer by a plan, or find it.

        Returns:
            Whether it was made now.

        Raises:
            Unavailable: the log does not answer.
            Refused: it exists for another subject or filter, or its deliveries are not acknowledged one by one.
        """
        return await self._bridge.call(self._translated, self._make_consumer, stream, plan)

    async def delete_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer; that there is none is fine.

        Raises:
            Unavailable: the log does not answer.
        """
        await self._bridge.call(self._translated, self._delete_consumer, stream, name)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._bridge.call(self._close)

    # ------------------------------------------------------------------ on the asyncio side

    async def _translated(self, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        if self._lock is None:
            self._lock = asyncio.Lock()
        try:
            async with self._lock:
                try:
                    async with asyncio.timeout(CALL_TIMEOUT_S):
                        return await fn(*args)
                except asyncio.CancelledError:
                    await self._close()  # what it was in the middle of
                    raise
        except nats.js.errors.APIError as problem:
            raise Unavailable("log.refused", f"the log refused: {problem.description}") from problem
        except (nats.errors.Error, OSError, TimeoutError) as problem:
            await self._close()
            reason = str(problem) or type(problem).__name__
            raise Unavailable("log.down", f"the log's control plane does not answer: {reason}") from problem

    async def _connected(self) -> Client:
        if self._client is not None and self._client.is_connected:
            return self._client
        await self._close()
        endpoint: Endpoint = self._locate()
        scheme = "tls" if endpoint.tls else "nats"
        client = self._client = Client()  # before it is connected, so that a broken try is closed like anything broken
        await client.connect(
            servers=[f"{scheme}://{endpoint.host}:{endpoint.port}"],
            name="headgate control",
            user=endpoint.credentials.get("user"),
            password=endpoint.credentials.get("pass"),
            token=endpoint.credentials.get("auth_token"),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # with the pause below: where nobody listens, say so at once
            reconnect_time_wait=0,
            connect_timeout=1,
            error_cb=_ignore,
        )
        return client

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(nats.errors.Error, OSError):  # it was broken, which is why it is closed
                await client.close()

    async def _request(self, verb: str, body: bytes) -> bytes:
        return (await (await self._connected()).request(f"$JS.API.{verb}", body, timeout=CALL_TIMEOUT_S)).data

    async def _ensure_stream(self, name: str, subjects: list[str]) -> StreamFacts:
        manager = (await self._connected()).jetstream(timeout=CALL_TIMEOUT_S)
        try:
            config = (await manager.stream_info(name)).config
        except nats.js.errors.NotFoundError:
            wanted = StreamConfig(
                name=name,
                subjects=subjects,
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.FILE,
                duplicate_window=DUPLICATE_WINDOW_S,
                allow_direct=True,
                allow_atomic=True,
            )
            config = (await manager.add_stream(wanted)).config
        missing = [one for one in subjects if one not in (config.subjects or [])]
        if missing:
            raise Refused(
                "request.conflict",
                f"the stream {name} exists and takes {config.subjects}, not {missing}; "
                "set SNAPFS_STREAM to another name, or add the subjects to the stream",
            )
        return StreamFacts(name, bool(config.allow_atomic), config.num_replicas or 1)

    async def _ensure_consumer(self, stream: str, durable: str, subject: str, ack_wait_s: float) -> None:
        manager = (await self._connected()).jetstream(timeout=CALL_TIMEOUT_S)
        try:
            existing = (await manager.consumer_info(stream, durable)).config
        except nats.js.errors.NotFoundError:
            wanted = ConsumerConfig(
                durable_name=durable,
                filter_subject=subject,
                ack_policy=AckPolicy.EXPLICIT,
                deliver_policy=DeliverPolicy.ALL,
                ack_wait=ack_wait_s,
                max_ack_pending=MAX_ACK_PENDING,
            )
            try:
                await manager.add_consumer(stream, wanted)
                return
            except nats.js.errors.APIError as problem:
                if problem.err_code not in _CONSUMER_EXISTS:
                    raise
            existing = (await manager.consumer_info(stream, durable)).config
        if existing.filter_subject != subject:
            raise Refused(
                "request.conflict",
                f"the durable {durable!r} exists for the subject {existing.filter_subject!r}, not {subject!r}; "
                "use another durable name for another subject",
            )

    async def _make_consumer(self, stream: str, plan: ConsumerPlan) -> bool:
        manager = (await self._connected()).jetstream(timeout=CALL_TIMEOUT_S)
        created = False
        try:
            existing = (await manager.consumer_info(stream, plan.name)).config
        except nats.js.errors.NotFoundError:
            try:
                existing = (await manager.add_consumer(stream, _config_of(plan))).config
                created = True
            except nats.js.errors.APIError as problem:
                if problem.err_code not in _CONSUMER_EXISTS:
                    raise
                existing = (await manager.consumer_info(stream, plan.name)).config
        found = (existing.metadata or {}).get(FILTER_MEMBER, "")
        for what, theirs, ours in (("subject", existing.filter_subject, plan.subject), ("filter", found, plan.filter)):
            if theirs != ours and (ours or what == "subject"):
                raise Refused(
                    "request.conflict",
                    f"the durable {plan.name!r} exists for the {what} {theirs!r}, not {ours!r}; "
                    f"use another durable name for another {what}",
                )
        if existing.ack_policy != AckPolicy.EXPLICIT or existing.deliver_subject:
            raise Refused("request.conflict", f"the durable {plan.name!r} is no pull consumer with explicit acks")
        return created

    async def _delete_consumer(self, stream: str, name: str) -> None:
        manager = (await self._connected()).jetstream(timeout=CALL_TIMEOUT_S)
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await manager.delete_consumer(stream, name)


def _config_of(plan: ConsumerPlan) -> ConsumerConfig:
    return ConsumerConfig(
        name=plan.name,
        durable_name=plan.name if plan.forgets_after_s is None else None,
        filter_subject=plan.subject,
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy(plan.start.policy),
        opt_start_seq=plan.start.sequence or None,
        opt_start_time=datetime.fromisoformat(plan.start.time) if plan.start.time else None,
        ack_wait=plan.ack_wait_s,
        max_ack_pending=MAX_ACK_PENDING,
        inactive_threshold=plan.forgets_after_s,
        mem_storage=True if plan.forgets_after_s is not None else None,
        metadata={FILTER_MEMBER: plan.filter} if plan.filter else None,
    )


async def _ignore(_: Exception) -> None:
    """Take nats-py's background errors: the next call finds the connection closed and opens another."""
