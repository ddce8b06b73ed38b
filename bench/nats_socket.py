"""A raw-socket JetStream client with bytes built beforehand: the yardstick that the gateway is held against.

Rules of the file:
- It does the same work as the gateway's log side and nothing else: the same frames, the same subject, file storage, an
  acknowledgement of the log for each publish, an explicit acknowledgement of each message pulled.
- It is the client's floor, not an example: no reconnection, no error but a raised one.
"""

import json
import select
import socket
import time
from typing import Any, Final, NamedTuple

from bench.agent import EVENT_TOKEN, GRACE_NS, POLL_S, QUIET_NS, count_arrivals
from bench.events import SUBJECT, Template
from bench.http_load import Address, poisson_times
from bench.workers import Gate, Job, LoadFailedError, Tally

STREAM: Final = "SNAPFS_FILES"
_ASKING, _PUBLISHING, _PULLING = b"_INBOX.bench.ask", b"_INBOX.bench.publish", b"_INBOX.bench.pull"
"""Where answers go. Each role has one connection at a time, and a connection hears only its own answers."""

_RECEIVE_BYTES: Final = 4 * 1024 * 1024
_QUIET_S: Final = 60.0
_PULL_EXPIRES_NS: Final = 600_000_000_000
"""Longer than any window: a pull that expires ends the run."""


class Message(NamedTuple):
    """A delivered message; the payload stays where it arrived."""

    subject: bytes
    reply: bytes
    payload: bytes


class NatsSocket:
    """One connection to a nats-server.

    Args:
        address: the server.
        inbox: the subject that answers come on.
    """

    def __init__(self, address: Address, inbox: bytes = _ASKING) -> None:
        self.socket = socket.create_connection(address, timeout=_QUIET_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.socket.sendall(
            b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
            b"SUB " + inbox + b" 1\r\nPING\r\n"
        )
        head = b""
        while b"PONG\r\n" not in head:
            head += self.socket.recv(_RECEIVE_BYTES)

    def receive(self) -> list[Message]:
        """Wait for bytes and give the messages that are complete."""
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise LoadFailedError("the nats-server closed the connection")
        data = self._rest + data if self._rest else data
        messages, at = [], 0
        while (end := data.find(b"\r\n", at)) >= 0:
            words = data[at:end].split(b" ")
            if words[0] in {b"MSG", b"HMSG"}:
                begin, size = end + 2, int(words[-1])
                if len(data) < begin + size + 2:
                    break
                # HMSG carries one size more; the bench publishes no headers, so only statuses come this way.
                fields = len(words) - (words[0] == b"HMSG")
                messages.append(Message(words[1], words[3] if fields == 5 else b"", data[begin : begin + size]))
                at = begin + size + 2
            else:
                if words[0] == b"PING":
                    self.socket.sendall(b"PONG\r\n")
                elif words[0] == b"-ERR":
                    raise LoadFailedError(data[at:end].decode())
                at = end + 2
        self._rest = data[at:]
        return messages

    def request(self, subject: str, content: object = None) -> dict[str, Any]:
        """Ask the JetStream API and wait for its answer.

        Raises:
            LoadFailedError: it answered with an error.
        """
        payload = b"" if content is None else json.dumps(content).encode()
        self.socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), _ASKING, len(payload), payload))
        while not (messages := self.receive()):
            pass
        answer: dict[str, Any] = json.loads(messages[0].payload)
        if "error" in answer:
            raise LoadFailedError(f"{subject}: {answer['error']}")
        return answer

    def create_stream(self) -> None:
        """Create the stream that the gateway would create."""
        self.request(
            f"$JS.API.STREAM.CREATE.{STREAM}",
            {
                "name": STREAM,
                "subjects": ["snapfs.>"],
                "storage": "file",
                "retention": "limits",
                "num_replicas": 1,
                "duplicate_window": 600_000_000_000,
                "allow_direct": True,
                "allow_atomic": True,
            },
        )

    def create_consumer(self, durable: str) -> None:
        """Create a durable pull consumer with explicit acknowledgements, from the first message on."""
        config = {
            "durable_name": durable,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "filter_subject": SUBJECT,
            "max_ack_pending": 20_000,
        }
        self.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{STREAM}.{durable}", {"stream_name": STREAM, "config": config})

    def purge(self) -> None:
        """Drop what is stored, so that rounds do not fill the disk."""
        self.request(f"$JS.API.STREAM.PURGE.{STREAM}")

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def publication(frame: bytes) -> bytes:
    """Write a publish of a frame."""
    return b"PUB %s %s %d\r\n%s\r\n" % (SUBJECT.encode(), _PUBLISHING, len(frame), frame)


def publish_closed_loop(address: Address, template: Template, in_flight: int, *, limit: int | None = None) -> Job:
    """Make a job that keeps so many publishes unacknowledged until the window closes, or `limit` were acknowledged."""

    def job(gate: Gate) -> Tally:
        log = NatsSocket(address, _PUBLISHING)
        window, tally, sequence, answered = gate.wait(), Tally(), 0, 0
        sent_ns: list[int] = []
        wanted = in_flight
        while True:
            now_ns = time.monotonic_ns()
            if limit is not None:
                wanted = min(wanted, limit - sequence)
            if wanted:
                log.socket.sendall(b"".join(template.fill(sequence + i, now_ns) for i in range(wanted)))
                sent_ns += [now_ns] * wanted
                sequence += wanted
            acknowledged = _stored(log.receive())
            now_ns = time.monotonic_ns()
            if window.open_ns <= now_ns < window.close_ns:
                tally.requests += acknowledged
                tally.units += acknowledged * template.units
                tally.latencies_ms += [(now_ns - sent) / 1e6 for sent in sent_ns[answered : answered + acknowledged]]
                tally.last_ns = now_ns
            answered += acknowledged
            wanted = acknowledged
            if now_ns >= window.close_ns or answered == limit:
                return tally

    return job


def publish_open_loop(address: Address, template: Template, rate: float, seed: int) -> Job:
    """Make a job that publishes at Poisson times; latencies count from them to the log's acknowledgement."""

    def job(gate: Gate) -> Tally:
        log = NatsSocket(address, _PUBLISHING)
        window, tally, sequence, answered = gate.wait(), Tally(), 0, 0
        intended: list[int] = []
        due = poisson_times(window, rate, seed)
        next_ns = next(due, None)
        while next_ns is not None or answered < sequence:
            if next_ns is not None and next_ns <= time.monotonic_ns():
                log.socket.sendall(template.fill(sequence, next_ns))
                intended.append(next_ns)
                sequence += 1
                next_ns = next(due, None)
                continue
            wait_s = _QUIET_S if next_ns is None else max(0.0, (next_ns - time.monotonic_ns()) / 1e9)
            if select.select((log.socket,), (), (), wait_s)[0]:
                for _ in range(_stored(log.receive())):
                    if intended[answered] >= window.open_ns:
                        tally.requests += 1
                        tally.units += template.units
                        tally.latencies_ms.append((time.monotonic_ns() - intended[answered]) / 1e6)
                    answered += 1
        return tally

    return job


def pull_for_window(address: Address, durable: str, batch: int = 100) -> Job:
    """Make a job that pulls and acknowledges until the window has closed and nothing more comes."""

    def job(gate: Gate) -> Tally:
        log = NatsSocket(address, _PULLING)
        window, tally, pulled = gate.wait(), Tally(), 0
        now_ns = time.monotonic_ns()
        while now_ns < window.close_ns + GRACE_NS:
            pulled = _keep_pulling(log, durable, batch, pulled)
            is_silent = not select.select((log.socket,), (), (), POLL_S)[0]
            now_ns = time.monotonic_ns()
            if is_silent:
                if tally.units and now_ns > window.close_ns + QUIET_NS:
                    break
                continue
            messages = log.receive()
            now_ns = time.monotonic_ns()
            pulled -= _acknowledge(log, messages)
            for message in messages:
                count_arrivals(tally, message.payload, window.open_ns, window.close_ns, now_ns)
        return tally

    return job


def pull_count(address: Address, durable: str, events: int, batch: int = 100) -> Job:
    """Make a job that pulls so many events and acknowledges each message."""

    def job(gate: Gate) -> Tally:
        gate.wait()
        log = NatsSocket(address, _PULLING)
        tally, pulled = Tally(), 0
        while tally.units < events:
            pulled = _keep_pulling(log, durable, batch, pulled)
            messages = log.receive()
            tally.last_ns = time.monotonic_ns()
            tally.first_ns = tally.first_ns or tally.last_ns
            pulled -= _acknowledge(log, messages)
            tally.requests += len(messages)
            tally.units += sum(message.payload.count(EVENT_TOKEN) for message in messages)
        return tally

    return job


def _keep_pulling(log: NatsSocket, durable: str, batch: int, pulled: int) -> int:
    """Ask for another batch when less than half of one is still to come, so that pulls overlap."""
    if pulled > batch // 2:
        return pulled
    ask = json.dumps({"batch": batch, "expires": _PULL_EXPIRES_NS}).encode()
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{durable}".encode()
    log.socket.sendall(b"PUB %s %s %d\r\n%s\r\n" % (subject, _PULLING, len(ask), ask))
    return pulled + batch


def _acknowledge(log: NatsSocket, messages: list[Message]) -> int:
    """Acknowledge each message and give their number; a status has no reply subject and ends the run."""
    for message in messages:
        if not message.reply:
            raise LoadFailedError(f"a pull ended: {message.payload!r}")
    if messages:
        log.socket.sendall(b"".join(b"PUB %s 4\r\n+ACK\r\n" % message.reply for message in messages))
    return len(messages)


def _stored(messages: list[Message]) -> int:
    """Count the acknowledgements of the log among messages that can be nothing else."""
    for message in messages:
        if b'"seq"' not in message.payload:
            raise LoadFailedError(f"the log refused: {message.payload!r}")
    return len(messages)
