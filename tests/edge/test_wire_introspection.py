"""T29 for opaque tokens, on the wire: who brings one is who its issuer says, for as long as it says so."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.introspection import digest_of_token
from tests.support.command import run_command
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import Answer, ask, open_connection
from tests.support.introspection import CLIENT, SECRET, Issuer, open_issuer
from tests.support.waiting import wait_until

KEY = "secret-of-the-scanner-1"
TOKEN = "mF_9.B5f-4.1JqM"
"""RFC 6750's example: three parts, and no JSON Web Token."""


@asynccontextmanager
async def open_scene(folder: Path, **more: str) -> AsyncIterator[tuple[Gateway, Issuer]]:
    """A gateway that asks everybody who they are, and the issuer that it asks in turn."""
    async with open_issuer() as issuer:
        issuer.tokens[TOKEN] = {"sub": "alice", "scope": "ingest:write stream:read"}
        env = {
            "AUTH": "on",
            "AUTH_INTROSPECTION_URL": issuer.url,
            "AUTH_INTROSPECTION_CLIENT_ID": CLIENT,
            "AUTH_INTROSPECTION_CLIENT_SECRET": SECRET,
            "HEADGATE_API_KEYS": f"scanner={KEY};scopes=ingest:write",
            **more,
        }
        async with open_gateway(folder / "data", env=env) as gateway:
            yield gateway, issuer


async def ingest(gateway: Gateway, token: str) -> Answer:
    """An empty ingest: it stores nothing."""
    return await ask(gateway.url, "POST", "/ingest", {"Authorization": f"Bearer {token}"}, b'{"events":[]}')


async def test_an_opaque_token_opens_what_its_issuer_says(tmp_path: Path) -> None:
    """On both lanes, asked about once; a scope that it has not is 403, one that is not active 401."""
    async with open_scene(tmp_path) as (gateway, issuer):
        for _ in range(20):
            assert (await ingest(gateway, TOKEN)).status == 200
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert (await ask(gateway.url, "GET", "/actors", bearer)).problem(403)["scope"] == "admin"
        assert issuer.asked == [TOKEN]
        for _ in range(5):
            assert (await ingest(gateway, "nobody-knows-this-one")).problem(401)["code"] == "identity.bad-credentials"
        assert issuer.asked == [TOKEN, "nobody-knows-this-one"]
        assert (await ingest(gateway, KEY)).status == 200
        (await ingest(gateway, "hg_5f3c9a1e7b2d4c68_" + "x" * 43)).problem(401)
        assert len(issuer.asked) == 2
        (await ask(gateway.url, "POST", "/auth/token", bearer, b"")).problem(401)
        line = next(one for one in gateway.log_lines() if one.get("route") == "/actors")
        assert TOKEN not in gateway.log_text()
        assert line["status"] == 403


async def test_while_the_issuer_is_away_who_is_known_stays_and_who_is_not_comes_back(tmp_path: Path) -> None:
    """503 with `Retry-After` and never 401; keys need no issuer."""
    async with open_scene(tmp_path) as (gateway, issuer):
        assert (await ingest(gateway, TOKEN)).status == 200
        issuer.is_away = True
        issuer.tokens["later"] = {"sub": "bob", "scope": "ingest:write"}
        answer = await ingest(gateway, "later")
        assert (answer.problem(503)["code"], answer.header("retry-after")) == ("identity.away", "1")
        assert (await ingest(gateway, TOKEN)).status == 200
        assert (await ingest(gateway, KEY)).status == 200
        issuer.is_away = False

        async def is_back() -> bool:
            return (await ingest(gateway, "later")).status == 200

        await wait_until(is_back, "the token is checked", timeout_s=30)
        assert SECRET not in gateway.log_text()


async def test_a_token_that_is_revoked_ends_with_what_is_remembered(tmp_path: Path) -> None:
    """Within the configured time for requests, and with the next look for a WebSocket that it opened."""
    async with open_scene(tmp_path, AUTH_INTROSPECTION_CACHE_S="1", HEADGATE_RECHECK_S="1") as (gateway, issuer):
        assert (await ingest(gateway, TOKEN)).status == 200
        async with open_connection(gateway.url) as connection:
            upgrade = {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
                "Authorization": f"Bearer {TOKEN}",
            }
            answer = await connection.request("GET", "/stream?subject=snapfs.files&durable=d1", upgrade)
            assert answer.status == 101
            del issuer.tokens[TOKEN]

            async def is_shut() -> bool:
                return (await ingest(gateway, TOKEN)).status == 401

            await wait_until(is_shut, "it opens nothing", timeout_s=30)
            closing = b"\x11\x95"  # 4501, in a close frame

            async def is_closed() -> bool:
                return closing in await connection.stream.receive_some(4096)

            await wait_until(is_closed, "the WebSocket is told", timeout_s=30)


async def test_the_audit_log_names_a_token_and_does_not_hold_it(tmp_path: Path) -> None:
    """By the beginning of its digest, with which its issuer's own records can be searched."""
    async with open_scene(tmp_path) as (gateway, issuer):
        issuer.tokens["root"] = {"sub": "carol", "scope": "admin"}
        bearer = {"Authorization": "Bearer root"}
        assert (await ask(gateway.url, "DELETE", "/scans/x", bearer)).status == 404
        [one] = (await ask(gateway.url, "GET", "/audit", bearer)).json()["records"]
        assert (one["principal"], one["kind"], one["key_id"]) == ("carol", "opaque", digest_of_token("root"))


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"AUTH_INTROSPECTION_URL": "http://issuer.example/introspect"}, "AUTH_INTROSPECTION_URL: expected https://"),
        (
            {"AUTH_INTROSPECTION_URL": "http://127.0.0.1:1/", "AUTH_INTROSPECTION_CLIENT_SECRET": "hunter2-hunter2"},
            "AUTH_INTROSPECTION_CLIENT_ID: expected",
        ),
    ],
    ids=["plain", "half"],
)
async def test_a_gateway_that_could_not_ask_does_not_start(tmp_path: Path, env: dict[str, str], said: str) -> None:
    """T33: one line that names the variable, and no secret."""
    ended = await run_command(tmp_path, "serve", "--port", "0", "--data", str(tmp_path / "data"), env=env)
    assert ended.code in {1, 2}
    assert said in ended.err
    assert "hunter2" not in ended.err
