"""JetStream's data plane on one NATS connection: publish with an outcome, pull, settle.

Rules of the file:
- A delivery that nobody holds is given back (`-NAK`) at once, never left to time out.

What must change with it: `engine/log.py` reads what comes; the control plane is `engine/log_control.py`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson
import trio

from engine import nats_wire
from engine.endpoints import Locate
from engine.errors import Unavailable
from engine.lease_journal import PART, LeaseJournal
from engine.log import (
    Delivery,
    Lost,
    Outcome,
    PullRequest,
    Reply,
    StoredMessage,
    Verdict,
    is_heard,
    read_direct,
    read_outcome,
    read_stored,
)
from engine.nats import NatsConnection
from engine.nats_wire import Message

OnOutcome = Callable[[Outcome], None]
API_TIMEOUT_S: Final = 5.0


class JetStream:
    """The log's data plane.

    Args:
        locate: where the server is.
        name: shown in the server's monitoring.
    """

    def __init__(self, locate: Locate, name: str) -> None:
        self.connection = NatsConnection(locate, name, self._give_back)
        self.connection.watchers.append(self._begin_journal)
        self._journal: LeaseJournal | None = None

    def keep_journal(self, journal: LeaseJournal | None) -> None:
        """Write down what is held from now on, or stop writing it down."""
        self._journal = journal
        self._begin_journal()

    def hold(self, reply: str, lease_s: float) -> None:
        """Note that a delivery has come and is held.

        Args:
            reply: where its verdict goes.
            lease_s: what the log gives it.
        """
        if self._journal is not None:
            self._journal.hold(reply, lease_s * PART)

    def publish_nowait(self, subject: str, payload: bytes, on_outcome: OnOutcome, header: bytes = b"") -> int:
        """Publish one message; `on_outcome` is called exactly once, perhaps before this returns.

        Returns:
            The request's number, for `abandon`.
        """
        return self.connection.request_nowait(subject, payload, lambda reply: on_outcome(read_outcome(reply)), header)

    def abandon(self, number: int) -> bool:
        """Stop waiting for an outcome, which is then unknown; False when it is known already."""
        return self.connection.forget_request(number)

    def settle_nowait(self, deliveries: list[Delivery], verdict: Verdict) -> bool:
        """Send one verdict for each delivery, in one write.

        Returns:
            False when there is no connection: the log will deliver them again.
        """
        body = verdict.value
        size = len(body)
        data = b"".join([b"PUB %s %d\r\n%s\r\n" % (one.reply.encode(), size, body) for one in deliveries])
        is_sent = self.connection.send_nowait(data)
        if is_sent and self._journal is not None:
            note = self._journal.extend if verdict is Verdict.PROGRESS else self._journal.settle
            for one in deliveries:
                note(one.reply)
        return is_sent

    def say_nowait(self, words: Iterable[tuple[str, bytes]]) -> bool:
        """Send words to the reply subjects of deliveries, in one write; False when there is no connection."""
        said = list(words)
        data = b"".join([b"PUB %s %d\r\n%s\r\n" % (reply.encode(), len(body), body) for reply, body in said])
        if not data:
            return True
        is_sent = self.connection.send_nowait(data)
        if is_sent:
            for reply, body in said:
                self._note(reply, body)
        return is_sent

    def ask_nowait(self, reply: str, body: bytes, on_answer: Callable[[bool], None]) -> None:
        """Send words to a delivery's reply subject and have the log say that it heard them (a double ack).

        Args:
            reply: the delivery's reply subject.
            body: the verdict.
            on_answer: called exactly once, perhaps before this returns: True when the log answered, False when it
                cannot any more, and then it may or may not have heard them.
        """
        self._note(reply, body)
        self.connection.request_nowait(reply, body, lambda answer: on_answer(is_heard(answer)))

    async def ask_api(self, subject: str, timeout_s: float = API_TIMEOUT_S) -> dict[str, Any]:
        """Ask JetStream's API for a description, such as `STREAM.INFO.<stream>`.

        Raises:
            Unavailable: the log does not answer, or refuses.
        """
        reply = await self.connection.request(f"$JS.API.{subject}", b"", timeout_s)
        if not isinstance(reply, Message):
            raise Unavailable("log.down", "the log does not answer")
        try:
            value = orjson.loads(reply.payload)
        except orjson.JSONDecodeError:
            raise Unavailable("log.down", "the log does not answer to JetStream's API") from None
        if "error" in value:
            raise Unavailable("log.refused", f"the log refused: {value['error'].get('description', '')}")
        return dict(value)

    def pull_nowait(self, stream: str, durable: str, inbox: str, request: PullRequest) -> bool:
        """Ask a durable consumer for messages to an inbox; False when there is no connection."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        return self.connection.send_nowait(nats_wire.write_publish(subject, request.encode(), inbox))

    async def read_header(self, stream: str, sequence: int, timeout_s: float) -> dict[str, str] | None:
        """Read a stored message's header fields; None when it is gone or the log does not answer."""
        subject = f"$JS.API.DIRECT.GET.{stream}"
        reply = await self.connection.request(subject, orjson.dumps({"seq": sequence}), timeout_s)
        if not isinstance(reply, Message) or not reply.header:
            return None
        headers = nats_wire.read_headers(reply.header)
        return None if headers.status is not None else headers.fields

    async def read_message(
        self, stream: str, query: Mapping[str, object], timeout_s: float
    ) -> StoredMessage | Lost | None:
        """Read a stored message.

        Args:
            stream: its stream.
            query: `seq`, `last_by_subj`, or `seq` and `next_by_subj`: as JetStream takes them.
            timeout_s: for each of at most two tries: directly, and where the stream does not offer that, by its leader.

        Returns:
            The message, None when there is none, or `Lost` when the log does not answer.
        """
        body = orjson.dumps(query)
        reply = await self.connection.request(f"$JS.API.DIRECT.GET.{stream}", body, timeout_s)
        if isinstance(reply, Message) and not _is_unserved(reply):
            return read_direct(reply)
        if isinstance(reply, Message):
            reply = await self.connection.request(f"$JS.API.STREAM.MSG.GET.{stream}", body, timeout_s)
            if isinstance(reply, Message):
                return None if _is_unserved(reply) else read_stored(reply.payload)
        return reply or Lost.LOST

    async def read_messages(
        self, stream: str, sequences: Iterable[int], timeout_s: float
    ) -> dict[int, StoredMessage] | None:
        """Read several stored messages at once, of a stream that offers direct reads.

        Args:
            stream: its name.
            sequences: which; a few hundred, for all of them are asked for together.
            timeout_s: for all of them.

        Returns:
            Those that are there, None when the log does not answer.
        """
        wanted = list(sequences)
        replies: list[Reply] = []
        done = trio.Event()

        def take(reply: Reply) -> None:
            replies.append(reply)
            if len(replies) == len(wanted) or isinstance(reply, Lost):
                done.set()

        subject = f"$JS.API.DIRECT.GET.{stream}"
        asked = [self.connection.request_nowait(subject, b'{"seq":%d}' % one, take) for one in wanted]
        try:
            with trio.move_on_after(timeout_s):
                if wanted:
                    await done.wait()
        finally:
            for number in asked:
                self.connection.forget_request(number)
        if len(replies) < len(wanted):
            return None
        found: dict[int, StoredMessage] = {}
        for reply in replies:
            if isinstance(reply, Lost) or _is_unserved(reply):
                return None
            if (message := read_direct(reply)) is not None:
                found[message.sequence] = message
        return found

    def _note(self, reply: str, body: bytes) -> None:
        """Write down what a verdict does to a lease."""
        if self._journal is None:
            return
        if body == Verdict.PROGRESS.value:
            self._journal.extend(reply)
        else:
            self._journal.settle(reply)

    def _begin_journal(self) -> None:
        if self._journal is not None and self.connection.is_up:
            self._journal.begin(str(self.connection.info.fields.get("server_id", "")))

    def _give_back(self, message: Message) -> None:
        if message.reply.startswith("$JS.ACK."):
            self.connection.send_nowait(nats_wire.write_publish(message.reply, Verdict.NAK.value))


def _is_unserved(reply: Message) -> bool:
    """Say that nobody listened where a request went."""
    return bool(reply.header) and nats_wire.read_headers(reply.header).status == 503
