"""The consumers of the stream, managed: listed, moved, paused, removed.

Rules of the file:
- What an attached agent holds when its durable is moved is forgotten here first: what it says about it afterwards
  counts for nothing, so that no answer about the old position settles a message of the new one.
- A consumer is moved in place where the log can, because nothing is lost when we are killed in the middle. Where it
  cannot (an older log, or a consumer that began at a later place) it is removed and made again with its own
  configuration; killed between the two, the durable is gone, and its agents make it anew, from the beginning.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from engine.consumers import (
    CONSUMER_NOT_FOUND,
    INVALID_RESET,
    STREAM_NOT_FOUND,
    ConsumerFacts,
    age_s,
    describe_consumer,
    first_sequence,
    moved_config,
    probe_config,
    read_consumer,
)
from engine.errors import Refused, Unavailable
from engine.jetstream import JetStream
from engine.log import PullRequest, StoredMessage
from engine.log_control import ApiAnswer, LogControl
from engine.names import check_token
from engine.positions import Position

READ_WITHIN_S: Final = 1.0
MOST_PAUSE_S: Final = 366 * 86_400.0
TRIES: Final = 3
WAKING: Final = PullRequest(1, most_bytes=1, expires_s=0.05).encode()


class Consumers:
    """What the edge holds of the consumers' management.

    Args:
        log: the log's data plane.
        control: its control plane.
        stream: the stream's name.
        attached: how many sockets of this gateway a durable has.
        forget: gives back what a durable's sockets hold and have read ahead.
    """

    def __init__(
        self,
        log: JetStream,
        control: LogControl,
        stream: str,
        attached: Callable[[str], int],
        forget: Callable[[str], object],
    ) -> None:
        self._log = log
        self._control = control
        self._stream = stream
        self.attached = attached
        self._forget = forget

    async def list_all(self, offset: int) -> tuple[list[dict[str, object]], int | None]:
        """Give a page of consumers, and where the next page begins.

        Raises:
            Unavailable: the log does not answer.
        """
        answer = await self._control.request_api(f"CONSUMER.LIST.{self._stream}", {"offset": offset})
        _check(answer, "")
        found = [await self._describe(read_consumer(one)) for one in answer.fields.get("consumers") or []]
        after = offset + len(found)
        return found, after if found and after < int(answer.fields.get("total", 0)) else None

    async def show(self, durable: str) -> dict[str, object]:
        """Give one consumer.

        Raises:
            Refused: there is none of this name.
            Unavailable: the log does not answer.
        """
        return await self._describe(await self._find(durable))

    async def reset(self, durable: str, position: Position) -> dict[str, object]:
        """Move a consumer to another place in the stream; what it holds unsettled is forgotten.

        Returns:
            The consumer as it then is, with `reset`: the first sequence, and whether it was in place.

        Raises:
            Refused: there is none of this name.
            Unavailable: the log does not answer, or refuses.
        """
        facts = await self._find(durable)
        probe = await self._ask(f"CONSUMER.CREATE.{self._stream}", self._request(probe_config(facts, position)), "")
        sequence = first_sequence(probe)
        await self._control.request_api(f"CONSUMER.DELETE.{self._stream}.{probe['name']}")
        self._forget(durable)
        in_place = await self._move_in_place(durable, sequence)
        if not in_place:
            await self._make_again(facts, sequence)
        self._forget(durable)  # what was handed out between the two was of the old place
        moved = {"to": position.text, "seq": sequence, "in_place": in_place}
        return {**await self.show(durable), "reset": moved}

    async def pause(self, durable: str, for_s: float) -> dict[str, object]:
        """Let nothing be delivered for a while; 0 resumes.

        Raises:
            Refused: there is none of this name, or the time is out of range.
            Unavailable: the log does not answer, or knows no pause.
        """
        if not 0 <= for_s <= MOST_PAUSE_S:
            raise Refused("request.bad-parameter", f"for_s: expected 0 to {MOST_PAUSE_S:g} seconds (it is {for_s:g})")
        await self._find(durable)
        until = datetime.now(UTC) + timedelta(seconds=for_s)
        fields: dict[str, object] = {"pause_until": until.isoformat()} if for_s else {}
        await self._ask(f"CONSUMER.PAUSE.{self._stream}.{durable}", fields, durable)
        if not for_s:
            await self._wake(durable)
        return await self.show(durable)

    async def remove(self, durable: str, *, force: bool) -> None:
        """Remove a consumer, and its place in the stream with it.

        Raises:
            Refused: there is none of this name, or sockets are attached and `force` is not said.
            Unavailable: the log does not answer.
        """
        await self._find(durable)
        count = self.attached(durable)
        if count and not force:
            raise Refused(
                "request.conflict",
                f"{count} sockets are attached to {durable!r}, and would make it again from the beginning; "
                "end them first, or say force=1",
            )
        await self._ask(f"CONSUMER.DELETE.{self._stream}.{durable}", {}, durable)

    # ------------------------------------------------------------------ inside

    async def _find(self, durable: str) -> ConsumerFacts:
        try:
            check_token(durable)
        except ValueError as problem:
            raise Refused("request.bad-parameter", f"durable: {problem} (it is {durable[:80]!r})") from None
        return read_consumer(await self._ask(f"CONSUMER.INFO.{self._stream}.{durable}", {}, durable))

    async def _describe(self, facts: ConsumerFacts) -> dict[str, object]:
        lag_s: float | None = 0.0
        if facts.pending:
            subject = facts.subjects[0] if len(facts.subjects) == 1 else ">"
            query = {"seq": facts.delivered_seq + 1, "next_by_subj": subject}
            oldest = await self._log.read_message(self._stream, query, READ_WITHIN_S)
            lag_s = age_s(oldest.time, datetime.now(UTC)) if isinstance(oldest, StoredMessage) else None
        return describe_consumer(facts, lag_s, self.attached(facts.name))

    async def _move_in_place(self, durable: str, sequence: int) -> bool:
        """Move a consumer without removing it; False when this log or this consumer cannot."""
        if self._log.connection.info.version < (2, 14):
            return False  # an older log does not answer at all
        answer = await self._control.request_api(f"CONSUMER.RESET.{self._stream}.{durable}", {"seq": sequence})
        if answer.error == INVALID_RESET:
            return False
        _check(answer, durable)
        return True

    async def _wake(self, durable: str) -> None:
        """Make the log look at the pulls that waited through a pause: it does not by itself, but for a new one it does.

        The new one takes no message: none fits into one byte.
        """
        verb = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{durable}"
        await self._log.connection.request(verb, WAKING, READ_WITHIN_S)

    async def _make_again(self, facts: ConsumerFacts, sequence: int) -> None:
        name = facts.name
        answer = ApiAnswer({}, 0, "")
        for _ in range(TRIES):  # an agent that comes back between the two makes it anew, and is quicker
            await self._control.request_api(f"CONSUMER.DELETE.{self._stream}.{name}", {})
            verb = f"CONSUMER.DURABLE.CREATE.{self._stream}.{name}"
            answer = await self._control.request_api(verb, self._request(moved_config(facts, sequence)))
            if not answer.error:
                return
        _check(answer, name)

    def _request(self, config: dict[str, object]) -> dict[str, object]:
        return {"stream_name": self._stream, "config": config}

    async def _ask(self, verb: str, fields: dict[str, object], durable: str) -> dict[str, Any]:
        answer = await self._control.request_api(verb, fields)
        _check(answer, durable)
        return answer.fields


def _check(answer: ApiAnswer, durable: str) -> None:
    if answer.error == CONSUMER_NOT_FOUND:
        raise Refused("request.not-found", f"there is no consumer {durable!r}")
    if answer.error == STREAM_NOT_FOUND:
        raise Unavailable("log.refused", "the stream is not there yet")
    if answer.error:
        raise Unavailable("log.refused", f"the log refused: {answer.reason}")
