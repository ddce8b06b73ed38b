"""What producers sent and were told, and what agents received, written down so that it can be compared.

A = acked events (their request got a 2xx), U = unknown ones (timeout, 5xx, connection lost), D = the multiset
that one durable consumer received. The promise: A ⊆ D, D ⊆ A ∪ U, in stream order inside each delivery run,
no foreign byte.

Rules of the file:
- Every line goes to an append-only file before the thing happens (`send`) or as soon as it is known, so that
  a failed test leaves the evidence behind.
- The ledger believes no side: each event carries the xxh3 of its own data, and the order is judged by what
  lies in the stream, read by another client than the gateway.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import xxhash

from tests.support.nats_client import LogMessage

__all__ = ["Ledger", "Report", "Request", "event_ids_of", "make_event", "read_event_id"]

Event = dict[str, Any]


def make_event(event_id: str, pad: str = "") -> Event:
    """A `file.upsert` whose path is canonical already and that carries the hash of its own data."""
    data: dict[str, Any] = {"path": f"/ledger/{event_id}", "size": len(pad), "mtime": 1_700_000_000, "pad": pad}
    return {"type": "file.upsert", "data": {**data, "xxh3": _hash_of(data)}}


def read_event_id(event: Event) -> str:
    """Check that the event is what its producer made, and return its id.

    Raises:
        AssertionError: a byte of it is foreign.
    """
    assert event.keys() == {"type", "data"}, f"not an event of the ledger: {event}"
    data = dict(event["data"])
    claimed = data.pop("xxh3", None)
    assert event["type"] == "file.upsert", f"foreign type: {event}"
    assert claimed == _hash_of(data), f"foreign bytes: {event}"
    event_id: str = data["path"].removeprefix("/ledger/")
    return event_id


def event_ids_of(stored: list[LogMessage]) -> set[str]:
    """The ids of all events that lie in the stream."""
    return {read_event_id(event) for message in stored for event in orjson.loads(message.data)["events"]}


def _hash_of(data: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(orjson.dumps(data, option=orjson.OPT_SORT_KEYS))


@dataclass(eq=False)
class Request:
    """One ingest request: the same bytes and the same key however often it is sent."""

    id: str
    key: str | None
    count: int
    body: bytes = field(repr=False)
    sent_at: int = -1
    outcome: str = "unsent"  # then "unknown", at last "acked" or "refused"
    sequence: int | None = None
    is_duplicate: bool = False
    tries_count: int = 0

    @property
    def event_ids(self) -> list[str]:
        """The ids of its events, in order."""
        return [f"{self.id}.{index}" for index in range(self.count)]


@dataclass(eq=False)
class Run:
    """One connection of one agent: the frames it received, in order; what it was told are redeliveries is left out.

    Each frame comes with its *fence*: what was sent before that may be a redelivery, and comes when it comes.
    """

    durable: str
    fence: int
    frames: list[tuple[int, list[str]]] = field(default_factory=list)
    is_ordered: bool = True


@dataclass(frozen=True)
class Report:
    """What a clean comparison found; for the figures that a test prints."""

    requests: int
    acked: int
    unknown: int
    unknown_but_stored: int
    stored_frames: int
    duplicates_answered: int
    delivered: dict[str, int]
    redelivered: dict[str, int]


class Ledger:
    """The append-only record of one test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: dict[str, Request] = {}
        self.runs: list[Run] = []
        self.acked_count = 0
        self._position = 0
        self._disrupted_at = 0
        self._received: dict[str, set[str]] = defaultdict(set)
        self._deliveries: dict[str, Counter[str]] = defaultdict(Counter)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def new_request(self, count: int, chance: random.Random, *, key: str | None) -> Request:
        """Make up a request of `count` events."""
        request_id = f"r{len(self.requests)}"
        pad = "".join(chance.choices('abcdefghijkl äöü"\\/', k=200))
        events = [make_event(f"{request_id}.{index}", pad[: chance.randrange(len(pad))]) for index in range(count)]
        request = Request(request_id, key, count, orjson.dumps({"events": events}))
        self.requests[request_id] = request
        return request

    def note_send(self, request: Request) -> None:
        """Call before its first byte leaves; from here on its outcome is unknown."""
        request.tries_count += 1
        request.outcome = "unknown"
        if request.sent_at < 0:
            request.sent_at = self._position
        self._write(kind="send", request=request.id, key=request.key, count=request.count)

    def note_answer(self, request: Request, status: int, answer: Any) -> None:
        """An answer came. 2xx: acked; 4xx: refused, and so never stored; else still unknown."""
        if 200 <= status < 300:
            request.outcome, request.sequence = "acked", answer["seq"]
            request.is_duplicate = answer["duplicate"]
            self.acked_count += request.count
            assert answer["received"] == request.count, f"{request} was answered {answer}"
        elif 400 <= status < 500 and status not in (409, 429):
            request.outcome = "refused"
        self._write(kind="answer", request=request.id, status=status, answer=answer)

    def note_lost(self, request: Request, why: str) -> None:
        """No answer came: the connection broke or the deadline passed."""
        self._write(kind="lost", request=request.id, why=why)

    def note_disruption(self, what: str) -> None:
        """The log is about to be killed: its consumers may forget a second of acks and deliver these frames again."""
        self._write(kind="disruption", what=what)
        self._disrupted_at = self._position

    def begin_run(self, durable: str, *, is_ordered: bool = True) -> Run:
        """An agent of this durable is about to connect.

        Args:
            durable: its name.
            is_ordered: it is told what is a redelivery. On the old wire nobody is, and there what a gateway read ahead
                for an agent that fell behind comes again, perhaps behind later frames.
        """
        is_first = all(run.durable != durable for run in self.runs)
        run = Run(durable, self._disrupted_at if is_first else self._position, is_ordered=is_ordered)
        self.runs.append(run)
        self._write(kind="run", durable=durable, run=len(self.runs))
        return run

    def note_delivery(self, run: Run, messages: Iterable[Any], *, is_again: bool = False) -> None:
        """A batch came, or what of it was delivered before; its bytes are judged now, its order at the end."""
        for data in messages:
            event_ids = [read_event_id(event) for event in data["events"]]
            if not is_again:
                run.frames.append((max(run.fence, self._disrupted_at), event_ids))
            self._deliveries[run.durable].update(event_ids)
            self._received[run.durable].update(event_ids)
            counts = Counter(event_id.partition(".")[0] for event_id in event_ids)
            self._write(kind="deliver", durable=run.durable, counts=counts)

    def has_acked_more_than(self, count: int) -> bool:
        """Whether more than so many events are acked by now."""
        return self.acked_count > count

    def missing_count(self, durable: str, event_ids: set[str]) -> int:
        """How many of these events this durable has not received yet."""
        return len(event_ids - self._received[durable])

    def check(self, stored: list[LogMessage], durables: Iterable[str], *, is_shared: bool = False) -> Report:
        """Compare everything with everything.

        Args:
            stored: the whole stream.
            durables: the consumers that were to receive all of it.
            is_shared: several agents share a durable while some are stopped: what one gave back reaches another out
                of order, and only that it arrives is judged.

        Raises:
            AssertionError: a promise is broken; the message says which, and by which event.
        """
        sequence_of = self._check_stored(stored)
        delivered, redelivered = {}, {}
        for durable in durables:
            runs = [run for run in self.runs if run.durable == durable]
            counts = self._deliveries[durable]
            lost = [event_id for event_id in sequence_of if event_id not in counts]
            assert not lost, f"{len(lost)} stored events never reached {durable}: {lost[:5]}; see {self.path}"
            foreign = [event_id for event_id in counts if event_id not in sequence_of]
            assert not foreign, f"{durable} received {len(foreign)} events that are not stored: {foreign[:5]}"
            for run in runs:
                if run.is_ordered and not is_shared:
                    self._check_order(run, sequence_of)
            delivered[durable], redelivered[durable] = len(counts), counts.total() - len(counts)
        unknown = [request for request in self.requests.values() if request.outcome == "unknown"]
        return Report(
            requests=len(self.requests),
            acked=self.acked_count,
            unknown=sum(request.count for request in unknown),
            unknown_but_stored=sum(request.event_ids[0] in sequence_of for request in unknown),
            stored_frames=len(stored),
            duplicates_answered=sum(request.is_duplicate for request in self.requests.values()),
            delivered=delivered,
            redelivered=redelivered,
        )

    def _check_stored(self, stored: list[LogMessage]) -> dict[str, int]:
        """A ⊆ stored ⊆ A ∪ U, each event once and whole requests only. Returns where each event lies."""
        sequence_of: dict[str, int] = {}
        for message in stored:
            for event in orjson.loads(message.data)["events"]:
                event_id = read_event_id(event)
                assert event_id not in sequence_of, (
                    f"{event_id} is stored at {sequence_of[event_id]} and again at {message.sequence}; "
                    f"{self.requests.get(event_id.partition('.')[0])}"
                )
                sequence_of[event_id] = message.sequence
        known: set[str] = set()
        for request in self.requests.values():
            event_ids = request.event_ids
            present = sum(event_id in sequence_of for event_id in event_ids)
            known.update(event_ids)
            if request.outcome == "acked":
                assert present == request.count, f"acked, but only {present} events are stored: {request}"
                places = {sequence_of[event_id] for event_id in event_ids}
                assert request.sequence in places, f"answered {request.sequence}, stored at {places}: {request}"
            elif request.outcome == "unknown":
                assert present in (0, request.count), f"torn: {present} events are stored of {request}"
            else:
                assert present == 0, f"{request.outcome}, and yet stored: {request}"
        assert known.issuperset(sequence_of), f"nobody sent {set(sequence_of) - known}"
        return sequence_of

    def _check_order(self, run: Run, sequence_of: dict[str, int]) -> None:
        """Frames that cannot be redeliveries must come in stream order.

        What was sent before the run began may have been in the hands of an earlier one, and comes again
        whenever the log's own deadline for it ends; in a first run there is no such thing.
        """
        last = 0
        for fence, event_ids in run.frames:
            sequences = {sequence_of[event_id] for event_id in event_ids}
            assert len(sequences) == 1, f"one delivered frame, stored as {sequences}"
            sequence = sequences.pop()
            requests = {self.requests[event_id.partition(".")[0]] for event_id in event_ids}
            if all(request.sent_at >= fence for request in requests):
                assert sequence > last, f"{run.durable} received {sequence} after {last}; see {self.path}"
                last = sequence

    def _write(self, **line: object) -> None:
        self._position += 1
        os.write(self._file, orjson.dumps({"n": self._position, "t": round(monotonic(), 6), **line}) + b"\n")
