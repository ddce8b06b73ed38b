"""T25: random bytes and random changes of good requests, on both lanes, on WebSockets and over TLS.

The process lives, good requests are answered, everything is as it was before. No 500 is answered and no fault is
logged: either would be a bug of ours.

Rules of the file:
- The seed is printed; what was sent on the connection that got a 500 is shown.
"""

import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.baseline import take_baseline, wait_back_at
from tests.support.gateway import Gateway, open_gateway
from tests.support.hostile_exchange import prove_alive
from tests.support.http import ConnectionLost, open_connection
from tests.support.raw_fuzz import make_bytes
from tests.support.tls import make_pair, open_relay

AT_ONCE = 30
ENDS_WITHIN_S = 30.0
FEW, MANY = 400, 20_000


async def send_one(url: str, data: bytes, chance: random.Random) -> list[str]:
    """Send bytes on a connection of their own, in one piece or two, and leave in one of three ways."""
    cut = chance.randrange(len(data) + 1) if chance.random() < 0.3 else len(data)
    leaves = chance.choice(["says so", "resets", "says so", "waits"])
    with trio.move_on_after(ENDS_WITHIN_S):
        async with open_connection(url) as connection:
            answered = b""
            try:
                await connection.send(data[:cut])
                if cut < len(data):
                    await trio.lowlevel.checkpoint()
                    await connection.send(data[cut:])
                if leaves == "resets":
                    connection.reset()
                    return []
                if leaves == "says so":
                    await connection.stream.send_eof()
                    answered = await connection.read_to_end(timeout_s=ENDS_WITHIN_S)
                else:
                    with trio.move_on_after(0.1):
                        answered = await connection.receive()
            except (ConnectionLost, trio.BrokenResourceError):
                return []
    statuses = re.findall(rb"HTTP/1\.1 (5[0-9]{2}) ", answered)
    bad = [status for status in statuses if status not in {b"501", b"503", b"505"}]
    return [f"{bad} for {data!r}: {answered[-600:]!r}"] if bad else []


async def fuzz(gateway: Gateway, url: str, chance: random.Random, count: int) -> None:
    """Send so many, side by side, and hold the gateway to what it owes."""
    complaints: list[str] = []
    rest = iter(range(count))

    async def send_some(numbers: Iterator[int]) -> None:
        for _ in numbers:
            complaints.extend(await send_one(url, make_bytes(chance), chance))

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(send_some, rest)
    assert gateway.is_running, gateway.tail()
    await prove_alive(url)
    complaints += [str(line)[:2000] for line in gateway.log_lines() if line.get("level") in ("error", "critical")]
    assert not complaints, f"{len(complaints)} complaints\n" + "\n".join(complaints[:20])


@asynccontextmanager
async def open_fuzzed(folder: Path, env: dict[str, str]) -> AsyncIterator[Gateway]:
    """A gateway with little patience: a request that never ends ends soon."""
    short = {"SERVER_READ_TIMEOUT": "1", "SERVER_WRITE_TIMEOUT": "1", "SERVER_IDLE_TIMEOUT": "1"}
    async with open_gateway(folder / "data", env=short | env) as gateway:
        yield gateway


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.long)])
async def test_random_bytes_break_nothing(tmp_path: Path, chance: random.Random, count: int) -> None:
    """T25: on plain TCP, and everything is back where it was."""
    async with open_fuzzed(tmp_path, {"HEADGATE_LOG_EXPRESS": "errors"}) as gateway:
        await fuzz(gateway, gateway.url, chance, 200)  # consumers and the like are made once
        before = await take_baseline(gateway)
        await fuzz(gateway, gateway.url, chance, count)
        await wait_back_at(gateway, before)


@pytest.mark.long
async def test_random_bytes_break_nothing_beside_a_catalog(tmp_path: Path, chance: random.Random) -> None:
    """T25: with PostgreSQL behind /query/sql, and with a guard that wants credentials for nothing."""
    async with open_fuzzed(tmp_path, {"HEADGATE_CATALOG": "on"}) as gateway:
        await fuzz(gateway, gateway.url, chance, MANY // 2)


@pytest.mark.parametrize("count", [FEW // 5, pytest.param(MANY // 4, marks=pytest.mark.long)])
async def test_random_bytes_break_nothing_over_tls(tmp_path: Path, chance: random.Random, count: int) -> None:
    """T25: the same inside TLS, and random bytes instead of a handshake."""
    pair = make_pair(tmp_path / "pair")
    async with (
        open_fuzzed(tmp_path, pair.env) as gateway,
        open_relay(gateway.url, pair.trusting()) as relay,
    ):
        await fuzz(gateway, relay, chance, count)
        for _ in range(count):
            data = chance.choice([b"", b"\x16\x03\x01", b"\x16", b"\x80"]) + make_bytes(chance)
            await send_one(gateway.url.replace("https", "http"), data, chance)
        await prove_alive(relay)
        assert not [line for line in gateway.log_lines() if line.get("level") in ("error", "critical")]
