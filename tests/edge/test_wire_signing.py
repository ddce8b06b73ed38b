"""Signed requests on the wire: both lanes and WebSockets, the client that signs, and what a key that signs is not."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import trio

from edge.client import Client, Event, GatewayRefused
from edge.client_sync import SyncClient
from engine.signing import secret_of, sign_request
from tests.support.command import run_command
from tests.support.gateway import Gateway, open_gateway, running_gateway
from tests.support.http import Answer, ask, open_connection
from tests.support.http2 import open_http2
from tests.support.waiting import wait_until

BODY = b'{"events":[{"type":"note","data":{}}]}'


class Key(NamedTuple):
    """A key that signs."""

    id: str
    text: str

    def headers(self, gateway: Gateway, method: str, target: str, body: bytes | None, ago_s: int = 0) -> dict[str, str]:
        """What signs a request."""
        created, secret = int(time.time()) - ago_s, bytes.fromhex(secret_of(self.text))
        nonce = f"n{time.monotonic_ns()}"
        return sign_request(self.id, secret, method, gateway.url + target, body, created, nonce)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody who they are."""
    env = {"AUTH": "on", "HEADGATE_API_KEYS": "other=secret-of-another-01;scopes=stream:read", "HEADGATE_LIMITS": "off"}
    with running_gateway(tmp_path_factory.mktemp("signing") / "data", env=env) as running:
        yield running


async def make_key(gateway: Gateway, folder: Path, *options: str) -> Key:
    """A new key that signs, once the gateway knows it."""
    where = ("--signed", "--data", str(gateway.data_dir), "--json")
    made = orjson.loads((await run_command(folder, "keys", "create", "robot", *where, *options)).out)
    assert made["signed"] is True
    key = Key(made["id"], made["key"])

    async def is_known() -> bool:
        return (await send(gateway, key, "GET", "/consumers/none")).status != 401

    await wait_until(is_known, "the new key is known", timeout_s=30)
    return key


@pytest.fixture
async def key(guarded: Gateway, tmp_path: Path) -> Key:
    """A key that signs and may do everything."""
    return await make_key(guarded, tmp_path, "--scope", "admin")


async def send(gateway: Gateway, key: Key, method: str, target: str, body: bytes | None = None) -> Answer:
    """A request that is signed."""
    return await ask(gateway.url, method, target, key.headers(gateway, method, target, body), body)


async def test_a_signed_request_opens_what_its_key_opens(guarded: Gateway, key: Key) -> None:
    """On both lanes, with a body and without, with a query and an encoded path; it is nobody else's."""
    assert (await send(guarded, key, "POST", "/ingest?subject=snapfs.signed", BODY)).status == 200
    assert (await send(guarded, key, "GET", "/actors")).status == 200
    assert (await send(guarded, key, "POST", "/consumers/a%20b/reset", b'{"to":"all"}')).status in {400, 404}
    assert (await send(guarded, key, "DELETE", "/scans/x?a=%2F&b")).status == 404
    [one] = (await send(guarded, key, "GET", "/audit?action=scan.cancel&limit=1")).json()["records"]
    assert (one["principal"], one["kind"], one["key_id"]) == ("robot", "key", key.id)
    async with open_connection(guarded.url) as connection:  # each request of a connection for itself
        for target in ("/actors", "/actors?x"):
            headers = key.headers(guarded, "GET", target, None)
            assert (await connection.request("GET", target, headers)).status == 200
            assert (await connection.request("GET", target)).status == 401


async def test_a_request_that_is_changed_or_repeated_is_refused(guarded: Gateway, key: Key) -> None:
    """401 on both lanes, before anything is done; and the same with a body of another request."""
    for method, target, body in (("POST", "/ingest", BODY), ("POST", "/consumers/x/reset", b'{"to":"all"}')):
        headers = key.headers(guarded, method, target, body)
        for wrong in (body + b" ", b"{}", None):
            answer = await ask(guarded.url, method, target, headers, wrong)
            if wrong is not None:
                assert answer.problem(401)["code"] == "identity.bad-signature", wrong
        (await ask(guarded.url, method, target, headers, body)).problem(401)
        headers = key.headers(guarded, method, target, body)
        assert (await ask(guarded.url, method, target, headers, body)).status in {200, 404}
        problem = (await ask(guarded.url, method, target, headers, body)).problem(401)
        assert "used before" in problem["detail"]
        (await ask(guarded.url, method, target + "?more", key.headers(guarded, method, target, body), body)).problem(
            401
        )
        old = key.headers(guarded, method, target, body, ago_s=120)
        assert "created" in (await ask(guarded.url, method, target, old, body)).problem(401)["detail"]
    chunked = key.headers(guarded, "POST", "/ingest", None)
    async with open_connection(guarded.url) as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in chunked.items())
        head = (
            f"POST /ingest HTTP/1.1\r\nHost: {guarded.host}:{guarded.port}\r\n{lines}Transfer-Encoding: chunked\r\n\r\n"
        )
        await connection.send(head.encode())
        answer = await connection.read_answer()
        assert "content-digest" in answer.problem(401)["detail"]


async def test_a_key_that_signs_is_no_bearer(guarded: Gateway, key: Key) -> None:
    """Shown as it is, it opens nothing and is exchanged for nothing; the answer says why, and the log not what."""
    for headers in ({"Authorization": f"Bearer {key.text}"}, {"X-API-Key": key.text}):
        for method, target in (("POST", "/ingest"), ("GET", "/actors"), ("POST", "/auth/token")):
            body = BODY if method == "POST" else None
            problem = (await ask(guarded.url, method, target, headers, body)).problem(401)
            assert problem["code"] == "identity.bad-signature"
    assert key.text not in guarded.log_text()
    files = b"".join(one.read_bytes() for one in (guarded.data_dir / "identity").iterdir())
    assert key.text.encode() not in files


async def test_a_bearer_signs_nothing(guarded: Gateway, key: Key) -> None:
    """A key that does not sign is none for signatures; where a bearer is shown, that is what counts."""
    other = Key("env-other-00000000", "secret-of-another-01")
    (await send(guarded, other, "GET", "/actors")).problem(401)
    (await send(guarded, Key("0" * 16, key.text), "GET", "/actors")).problem(401)
    headers = {**key.headers(guarded, "GET", "/actors", None), "Authorization": "Bearer secret-of-another-01"}
    assert (await ask(guarded.url, "GET", "/actors", headers)).problem(403)["scope"] == "admin"


@asynccontextmanager
async def open_client(gateway: Gateway, key: Key) -> AsyncIterator[Client]:
    """A client that signs."""
    async with Client(gateway.url, f"sign:{key.text}", give_up_s=5) as client:
        yield client


async def test_the_client_signs(guarded: Gateway, key: Key, own_subject: str, own_durable: str) -> None:
    """Requests and WebSockets, of Trio programs, of scripts and of the command line, which never send the key."""
    events = [Event("note", {"n": number}) for number in range(3)]
    async with open_client(guarded, key) as client:
        for _ in range(3):
            assert (await client.publish(events, subject=own_subject)).received == 3
        async with client.stream(own_subject, durable=own_durable) as stream:
            async for batch in stream:
                assert len(batch.events()) >= 1
                await batch.ack(confirm=True)
                break

    def script() -> Any:
        with SyncClient(guarded.url, f"sign:{key.text}") as client:
            return client.publish(events, subject=own_subject)

    assert (await trio.to_thread.run_sync(script)).received == 3
    env = {"HEADGATE_GATEWAY": guarded.url, "HEADGATE_TOKEN": f"sign:{key.text}"}
    shown = await run_command(guarded.data_dir.parent, "consumers", "show", own_durable, env=env)
    assert (shown.code, own_durable in shown.out) == (0, True)
    assert key.text not in guarded.log_text()


async def test_a_rotated_key_signs_too_and_a_revoked_one_ends(guarded: Gateway, tmp_path: Path, key: Key) -> None:
    """Both are good at once; what is revoked is refused within a second, its WebSockets within a minute."""
    where = ("--data", str(guarded.data_dir), "--json")
    turned = orjson.loads((await run_command(tmp_path, "keys", "rotate", key.id, *where)).out)
    second = Key(turned["id"], turned["key"])

    async def opens(one: Key) -> bool:
        return (await send(guarded, one, "GET", "/actors")).status == 200

    await wait_until(lambda: opens(second), "the second key signs", timeout_s=30)
    assert await opens(key)
    await run_command(tmp_path, "keys", "revoke", key.id, *where)

    async def is_shut() -> bool:
        return not await opens(key)

    await wait_until(is_shut, "the revoked key opens nothing", timeout_s=30)
    async with open_client(guarded, key) as client:
        with pytest.raises(GatewayRefused):
            await client.publish([Event("note", {})])


@pytest.mark.parametrize(
    "token", ["sign:", "sign:secret-of-another-01", "sign:hg_0_x", "sign:hg_" + "0" * 16 + "_" + "x" * 44]
)
def test_a_client_says_what_it_cannot_sign_with(token: str) -> None:
    """Before anything is sent; the text does not quote it."""
    with pytest.raises(ValueError, match="keys create --signed") as caught:
        Client("http://127.0.0.1:1", token)
    assert token == "sign:" or token.removeprefix("sign:") not in str(caught.value)


async def test_streams_of_http_2_are_signed_as_requests_are(tmp_path: Path) -> None:
    """Without a length: what comes is held to what was signed, and where no body was signed none may come."""
    env = {"AUTH": "on", "HTTP2": "on", "HEADGATE_LIMITS": "off"}
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    options = ("--signed", "--scope", "admin", "--data", str(data), "--json")
    made = orjson.loads((await run_command(out, "keys", "create", "robot", *options)).out)
    key = Key(made["id"], made["key"])
    async with open_gateway(data, env=env) as gateway, open_http2(gateway.url) as client:

        def headers(body: bytes | None) -> dict[str, str]:
            signed = key.headers(gateway, "POST", "/ingest", body)
            return {name.lower(): value for name, value in signed.items()}

        assert (await client.ask("POST", "/ingest", headers(BODY), BODY)).status == 200
        for body in (BODY + b" ", b"{}"):
            assert (await client.ask("POST", "/ingest", headers(BODY), body)).status == 401
        assert (await client.ask("POST", "/ingest", headers(None), BODY)).status == 401
