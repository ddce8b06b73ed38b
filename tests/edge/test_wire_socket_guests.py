"""T30: who may open a WebSocket, what they may ask for, and when they may no longer; floods of frames that are right.

Rules of the file:
- On every socket route: what is new in `TARGETS` is tried here without another line.
- A socket that must end is ended within a deadline that is far beyond the re-check's period, and far below its default.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import trio

from engine.settings import load_settings
from tests.support.baseline import take_baseline, wait_back_at
from tests.support.command import run_command
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.hostile_frames import CLOSE, CONTINUATION, PING, PONG, TEXT, frame
from tests.support.http import ask
from tests.support.jwts import ISSUER, issue, pem
from tests.support.processes import read_rss_bytes
from tests.support.socket_cases import close
from tests.support.socket_peer import TARGETS, WIRES, Peer, open_peer
from tests.support.waiting import wait_until

KEY = "secret-of-the-agent-1"
RECHECK_S = 0.2
ENDS_WITHIN_S = 20.0
FLOOD_COUNT = 10_000
GROWTH_LIMIT_BYTES = 16 << 20


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody who they are, and asks itself again soon."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"agent={KEY};scopes=stream:read+agents:run+admin",
        "HEADGATE_RECHECK_S": str(RECHECK_S),
        "CORS_ORIGINS": "https://app.example",
        "JWT_PUBLIC_KEY": pem("ES256"),
        "JWT_ISSUER": ISSUER,
        "JWT_AUDIENCE": "headgate",
        "JWT_LEEWAY_S": "0",
    }
    with running_gateway(tmp_path_factory.mktemp("guests") / "data", env=env) as running:
        yield running


def bearer(credential: str) -> bytes:
    """The header that carries it."""
    return f"Authorization: Bearer {credential}".encode()


@pytest.mark.parametrize("wire", TARGETS)
async def test_nobody_opens_a_socket_without_a_credential_or_from_a_strange_page(guarded: Gateway, wire: str) -> None:
    """Refused before the upgrade: 401 without a credential or with a wrong one, 403 for an origin that is not ours."""
    good = bearer(KEY)
    asked = {
        (): 401,
        (bearer("nobody-knows-this-key"),): 401,
        (bearer(""),): 401,
        (good, b"Origin: https://evil.example"): 403,
        (good, b"Origin: null"): 403,
        (good, b"Origin: https://app.example"): 101,
        (good,): 101,
    }
    for lines, status in asked.items():
        async with open_peer(guarded.url, wire, *lines) as peer:
            assert peer.answer.status == status, lines


@pytest.mark.parametrize("wire", TARGETS)
async def test_no_upgrade_breaks_the_gateway(gateway: Gateway, wire: str) -> None:
    """Whatever an upgrade says it is answered: 101 or a refusal, never a broken connection, and no fault is logged."""
    odd = [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7; =;;,",
        "Sec-WebSocket-Extensions: ä",
        "Sec-WebSocket-Extensions:",
        "Sec-WebSocket-Protocol: ä",
        "Sec-WebSocket-Protocol: headgate.bearer, \x00",
        "Sec-WebSocket-Protocol: ,,, ,",
        "Sec-WebSocket-Protocol: a b c",
        "Sec-WebSocket-Protocol: " + "a," * 4000,
        "Sec-WebSocket-Accept: x",
        "Connection: ä",
        "Connection: close",
        "Connection: keep-alive, Upgrade",
        "Cookie: ä=ö",
        "X-Request-Id: ä",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Expect: 100-continue",
        "Content-Length: 0",
        "Content-Length: 5",
        "Accept-Language: " + "ä" * 5000,
    ]
    complaints: list[str] = []
    faults = count_faults(gateway)
    for line in odd:
        async with open_peer(gateway.url, wire, line.encode()) as peer:
            status = peer.answer.status
            if status not in {101, 400, 426, 431}:
                complaints.append(f"{line[:60]!r}: {status}")
            if peer.answer.header("Sec-WebSocket-Extensions") is not None:
                complaints.append(f"{line[:60]!r}: an extension was negotiated")
    assert not complaints, "\n".join(complaints)
    assert count_faults(gateway) == faults, gateway.tail()


FLOODS = {
    "tiny messages": frame(TEXT, b"1"),
    "empty messages": frame(TEXT),
    "pings": frame(PING, b"flood"),
    "pongs": frame(PONG, b"flood"),
    "empty fragments": frame(CONTINUATION, is_final=False),
}


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_flood_of_tiny_frames_costs_little_and_ends(gateway: Gateway, wire: str, flood: str) -> None:
    """Ten thousand tiny frames: the last ping is answered, or the socket is told why not; others are served."""
    async with open_peer(gateway.url, wire) as peer:
        assert peer.answer.status == 101
        before = read_rss_bytes(gateway.pid)
        begun = frame(TEXT, is_final=False) if flood == "empty fragments" else b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, begun + FLOODS[flood] * FLOOD_COUNT + frame(PING, b"the last"))
            assert (await ask(gateway.url, "GET", "/healthz")).status == 200
            with trio.fail_after(ENDS_WITHIN_S):
                code = await wait_pong_or_code(peer, b"the last")
        assert code is None or (wire, code) == ("stream-v1", 4500), code
        growth = read_rss_bytes(gateway.pid) - before
    assert growth < GROWTH_LIMIT_BYTES, f"{growth >> 20} MiB more"


async def wait_pong_or_code(peer: Peer, payload: bytes) -> int | None:
    """Wait for a pong, and give None; or for a close frame, and give its code."""
    while True:
        opcode, said = await peer.next_frame(PONG, CLOSE)
        if opcode == CLOSE:
            return int.from_bytes(said[:2])
        if said == payload:
            return None


async def test_what_comes_behind_a_refusal_is_no_fault(gateway: Gateway) -> None:
    """Pings and messages behind a message that is too large, or behind a broken frame: one close frame, no log line."""
    faults = count_faults(gateway)
    before = await take_baseline(gateway)
    behind = frame(PING, b"x") * 200 + frame(TEXT, b"{}") * 200 + close(1000)
    wrongs = ((frame(TEXT, b"*" * ((1 << 20) + 1)), 1009), (frame(3), 1002), (frame(TEXT, b"\xff"), 1007))
    for wire, (wrong, code) in itertools.product(WIRES, wrongs):
        async with open_peer(gateway.url, wire) as peer, trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, wrong + behind)
            with trio.fail_after(ENDS_WITHIN_S):
                assert await peer.close_code() == code
    await wait_back_at(gateway, before)
    assert count_faults(gateway) == faults, gateway.tail()


async def test_a_revoked_key_ends_its_sockets(guarded: Gateway, tmp_path: Path) -> None:
    """At the next look, with a code that says not to come back; who answers nothing is ended too, and others stay."""
    where = ("--data", str(guarded.data_dir), "--json")
    made = orjson.loads((await run_command(tmp_path, "keys", "create", "leaving", *where)).out)
    await wait_known(guarded, made["key"])
    token = (await ask(guarded.url, "POST", "/auth/token", {"X-API-Key": made["key"]}, b"")).json()["accessToken"]
    before = await listener_depth(guarded)
    async with AsyncExitStack() as stack:

        async def opened(wire: str, credential: str) -> Peer:
            peer = await stack.enter_async_context(open_peer(guarded.url, wire, bearer(credential)))
            assert peer.answer.status == 101, peer.answer
            return peer

        good = [await opened(wire, KEY) for wire in WIRES]
        leaving = [await opened(wire, credential) for wire in WIRES for credential in (made["key"], token)]
        for wire in WIRES:
            await opened(wire, made["key"])  # these neither read nor answer
        await leaving[0].prove_alive()
        await run_command(tmp_path, "keys", "revoke", "leaving", *where)
        with trio.fail_after(ENDS_WITHIN_S):
            goodbye = (4501).to_bytes(2) + b"The credentials are not valid here"
            assert await leaving[0].next_frame(CLOSE) == (CLOSE, goodbye)
            for peer in leaving[1:]:
                assert await peer.close_code() == 4501
        for peer in good:
            await peer.prove_alive()

        async def are_gone() -> bool:
            return await listener_depth(guarded) <= before + len(good)

        await wait_until(are_gone, "those that answer nothing are gone", timeout_s=ENDS_WITHIN_S)


async def test_an_expired_token_ends_its_sockets(guarded: Gateway) -> None:
    """A JSON Web Token's end is its sockets', with a code that says to come back with another; not before."""
    ends_at = int(time.time()) + 4
    token = issue("ES256", iat=int(time.time()), exp=ends_at, scope="stream:read agents:run")
    peers: list[Peer] = []
    async with AsyncExitStack() as stack:
        for wire in WIRES:
            peer = await stack.enter_async_context(open_peer(guarded.url, wire, bearer(token)))
            assert peer.answer.status == 101, peer.answer
            peers.append(peer)
        with trio.fail_after(ENDS_WITHIN_S):
            assert [await peer.close_code() for peer in peers] == [4001] * len(WIRES)
        assert time.time() >= ends_at, "not before its end"


@pytest.mark.long
async def test_a_token_of_a_key_that_is_good_outlives_itself_on_a_socket(tmp_path: Path) -> None:
    """An agent that came with a short-lived token is not cut off when that ends, because its key is good."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"agent={KEY};scopes=stream:read",
        "HEADGATE_TOKEN_TTL_S": "10",
        "HEADGATE_RECHECK_S": "0.1",
    }
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        answer = await ask(gateway.url, "POST", "/auth/token", {"X-API-Key": KEY}, b"")
        token = answer.json()["accessToken"]
        async with open_peer(gateway.url, "stream", bearer(token)) as peer:

            async def is_over() -> bool:
                return (await ask(gateway.url, "GET", "/consumers", {"Authorization": f"Bearer {token}"})).status == 401

            with trio.fail_after(30):
                while not await is_over():
                    await peer.prove_alive()
            await peer.prove_alive()


def test_the_period_of_the_looks_is_a_setting() -> None:
    """A minute, unless HEADGATE_RECHECK_S says otherwise."""
    assert load_settings({}).recheck_s == 60.0
    assert load_settings({"recheck_s": 5}).recheck_s == 5.0


async def wait_known(gateway: Gateway, key: str) -> None:
    """Wait until the gateway knows a new key."""

    async def is_known() -> bool:
        return (await ask(gateway.url, "POST", "/auth/token", {"X-API-Key": key}, b"")).status == 200

    await wait_until(is_known, "the new key is known", timeout_s=ENDS_WITHIN_S)


async def listener_depth(gateway: Gateway) -> int:
    """How many connections are open, this one among them."""
    children = (await ask(gateway.url, "GET", "/actors", {"X-API-Key": KEY})).json()["actors"]["children"]
    return next(int(child["mailbox"]["depth"]) for child in children if child["name"] == "listener")


def count_faults(gateway: Gateway) -> int:
    """How many lines about faults of our own the log has."""
    return sum(line.get("level") in ("error", "critical") for line in gateway.log_lines())
