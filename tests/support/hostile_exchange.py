"""Sends hostile packets, whole and in two pieces, and says what the gateway still owes.

Rules of the file:
- Nothing waits for a length of time: between two pieces the gateway answers a good request on another connection,
  so it has seen the first piece by then. That request is also the proof that it lives.
- A complaint is text, and all are collected: one run tells everything that is wrong.
- Few connections at once: the limit is 64 for one address, and a test is not to meet it by accident.
"""

import random
from collections.abc import Iterator, Sequence

import orjson
import trio

from tests.support.hostile_frames import close_code_in
from tests.support.hostile_packet import Packet
from tests.support.http import Answer, Connection, ConnectionLost, ask

__all__ = ["CONNECTIONS_COUNT", "cuts_of", "prove_alive", "send_hostile"]

CONNECTIONS_COUNT = 40
# Every byte of a packet's beginning is a cut; a long tail is sampled.
EVERY_BYTE_UP_TO = 300
TAIL_SAMPLES_COUNT = 12
# More than the header deadline (5 s): a connection that is then open has been forgotten.
END_TIMEOUT_S = 8.0
# Of a good request beside hostile ones, on a machine that others keep busy too.
GOOD_TIMEOUT_S = 30.0


def cuts_of(packet: Packet, chance: random.Random, every: int = 1) -> Iterator[int]:
    """Where to cut a packet in two: each `every`-th byte of its first 300 at a random offset, and some of its tail."""
    size = len(packet.data)
    first = 1 + chance.randrange(every)
    yield from range(first, min(size, EVERY_BYTE_UP_TO), every)
    if size > EVERY_BYTE_UP_TO:
        tail = range(EVERY_BYTE_UP_TO, size)
        yield from sorted(chance.sample(tail, min(len(tail), max(1, TAIL_SAMPLES_COUNT // every))))


async def prove_alive(url: str) -> None:
    """Ask both lanes a good question on new connections."""
    for target in ("/healthz", "/version"):
        answer = await ask(url, "GET", target, timeout_s=GOOD_TIMEOUT_S)
        assert answer.status == 200, f"{target}: {answer}"


async def send_hostile(url: str, packets: Sequence[tuple[Packet, int | None]]) -> list[str]:
    """Send packets side by side, each on its own connection, read what is owed, and be gone.

    Args:
        url: the gateway.
        packets: at most `CONNECTIONS_COUNT`, each with the length of its first piece; None sends it whole.

    Returns:
        What was not as the packet demands; empty when all was well.

    Raises:
        AssertionError: the gateway does not answer a good request any more; the message names the packets.
    """
    assert len(packets) <= CONNECTIONS_COUNT
    exchanges = [_Exchange(url, packet, cut) for packet, cut in packets]
    try:
        await _all_do(exchanges, "open")
        await _all_do(exchanges, "send_first")
        await _prove_alive_after(url, exchanges)
        await _all_do(exchanges, "send_rest")
        await _prove_alive_after(url, exchanges)
        await _all_do(exchanges, "finish")
    finally:
        for exchange in exchanges:
            exchange.close()
    return [f"{exchange.title}: {each}" for exchange in exchanges for each in exchange.complaints]


async def _all_do(exchanges: Sequence["_Exchange"], step: str) -> None:
    async with trio.open_nursery() as nursery:
        for exchange in exchanges:
            nursery.start_soon(getattr(exchange, step))


async def _prove_alive_after(url: str, exchanges: Sequence["_Exchange"]) -> None:
    try:
        answer = await ask(url, "GET", "/healthz", timeout_s=GOOD_TIMEOUT_S)
    except (OSError, trio.TooSlowError) as error:
        titles = "\n".join(exchange.title for exchange in exchanges)
        raise AssertionError(f"no answer to a good request ({error!r}) after one of\n{titles}") from error
    assert answer.status == 200, answer


class _Exchange:
    """One packet on one connection."""

    def __init__(self, url: str, packet: Packet, cut: int | None) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._address = (host, int(port))
        self._packet = packet
        size = len(packet.data) if cut is None else cut
        self._first, self._rest = packet.data[:size], packet.data[size:]
        self._connection: Connection | None = None
        self._is_answered = False
        self._is_refused = False
        self.complaints: list[str] = []
        where = "" if cut is None else f" cut after {cut} of {len(packet.data)} bytes"
        self.title = f"{packet.name}{where} [{packet.data[:200]!r}]"

    async def open(self) -> None:
        """Connect, and say the prelude."""
        try:
            stream = await trio.open_tcp_stream(*self._address)
        except OSError as error:
            self.complaints.append(f"could not connect: {error!r}")
            return
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        self._connection = Connection(stream, self._address[0])
        if self._packet.prelude:
            try:
                await self._connection.send(self._packet.prelude)
                answer = await self._connection.read_answer(timeout_s=END_TIMEOUT_S)
            except (ConnectionLost, AssertionError, trio.TooSlowError) as error:
                self.complaints.append(f"its good prelude was not answered: {error!r}")
            else:
                if answer.status not in (101, 200):
                    self.complaints.append(f"its good prelude was answered with {answer.status}")

    async def send_first(self) -> None:
        """Send the first piece."""
        await self._send(self._first)

    async def send_rest(self) -> None:
        """Send the rest."""
        await self._send(self._rest)

    async def finish(self) -> None:
        """Read what is owed, and see the connection end where the gateway must end it."""
        packet, connection = self._packet, self._connection
        if connection is None:
            return
        try:
            rest = await self._read(packet, connection)
        except ConnectionLost as error:
            self.complaints.append(f"owed one of {sorted(packet.statuses)}, but {error}")
            return
        except trio.TooSlowError:
            missing = "answered" if packet.statuses and not self._is_answered else "closed by the gateway"
            self.complaints.append(f"not {missing} within {END_TIMEOUT_S:g} s")
            return
        except AssertionError as error:
            self.complaints.append(f"an answer that is no HTTP/1.1: {error}")
            return
        code = close_code_in(rest)
        if packet.close_codes and code not in packet.close_codes and not self._is_refused:
            allowed = ", ".join(map(str, packet.close_codes))
            self.complaints.append(f"closed with {code} instead of {allowed} ({rest[:100]!r})")

    def close(self) -> None:
        """Let the connection go, whatever state it is in."""
        if self._connection is not None:
            self._connection.stream.socket.close()

    async def _send(self, data: bytes) -> None:
        if data and self._connection is not None:
            with trio.move_on_after(END_TIMEOUT_S) as scope:
                try:
                    await self._connection.send(data)
                except ConnectionLost:
                    return  # refused before it was whole, as it may be
            if scope.cancelled_caught:
                self.complaints.append("the gateway neither reads nor closes")

    async def _read(self, packet: Packet, connection: Connection) -> bytes:
        if packet.statuses:
            answer = await connection.read_answer(timeout_s=END_TIMEOUT_S)
            self._check(answer)
            self._is_answered = True
            self._is_refused = answer.status >= 400
        if not packet.closes:
            return b""
        rest = await connection.read_to_end(timeout_s=END_TIMEOUT_S)
        if self._is_refused and rest:
            self.complaints.append(f"more after a refusal: {rest[:200]!r}")
        return rest

    def _check(self, answer: Answer) -> None:
        if answer.status not in self._packet.statuses:
            owed = sorted(self._packet.statuses)
            self.complaints.append(f"answered {answer.status} instead of {owed} ({answer.body[:200]!r})")
        if answer.status < 400:
            return
        if (answer.header("content-type") or "").partition(";")[0] != "application/problem+json":
            self.complaints.append(f"{answer.status} is no problem+json: {answer.headers} {answer.body[:100]!r}")
            return
        try:
            problem = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            self.complaints.append(f"{answer.status} with a body that is no JSON: {answer.body[:100]!r}")
            return
        if problem.get("status") != answer.status:
            self.complaints.append(f"the body of {answer.status} says {problem.get('status')}")
