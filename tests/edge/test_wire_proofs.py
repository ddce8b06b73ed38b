"""T32 for every way to show who one is: each proof opens what its holder may, and nothing else, on every kind of route.

The holder is the same each time: may put events on its own subject, be an agent of its own durables, and see the
counters; one who also has `admin`, for their own things alone, does not see everybody's.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from engine.signing import secret_of, sign_request
from tests.support.command import run_command
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import Answer, ask
from tests.support.introspection import CLIENT, SECRET, Issuer, open_issuer
from tests.support.jwts import ISSUER, claims, issue, private_key

KEY = "secret-of-the-tenant-01"
SCOPES = ("ingest:write", "stream:read", "stream:manage", "metrics:read")
LISTS = {"subjects": "snapfs.ours", "durables": "ours-*", "paths": "/ours"}
CLAIMS: dict[str, object] = {
    "sub": "tenant",
    "scope": " ".join(SCOPES),
    **{f"headgate_{name}": [text] for name, text in LISTS.items()},
}
PROOFS = ["a key", "a key as X-API-Key", "a token", "a JSON Web Token", "an opaque token", "a signature"]
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}
ASKED: dict[str, tuple[str, str, int]] = {
    "its own subject": ("POST", "/ingest?subject=snapfs.ours", 200),
    "another's subject": ("POST", "/ingest?subject=snapfs.theirs", 403),
    "the other lane": ("GET", "/metrics", 200),
    "another scope": ("GET", "/actors", 403),
    "another scope of the express lane": ("POST", "/query/sql", 403),
    "its own durable": ("WS", "/stream?subject=snapfs.ours&durable=ours-1", 101),
    "another's durable": ("WS", "/stream?subject=snapfs.ours&durable=theirs", 403),
    "another's durable by name": ("DELETE", "/consumers/theirs", 403),
    "everybody's changes": ("GET", "/audit", 403),
}


class Scene:
    """A gateway, and somebody who can show who they are in each way."""

    def __init__(self, gateway: Gateway, issuer: Issuer, signing: dict[str, str], token: str) -> None:
        self.gateway = gateway
        self.issuer = issuer
        self._signing = signing
        self._token = token

    def proof(self, how: str, method: str, target: str, body: bytes | None) -> dict[str, str]:
        """The headers that prove it."""
        match how:
            case "a key":
                return {"Authorization": f"Bearer {KEY}"}
            case "a key as X-API-Key":
                return {"X-API-Key": KEY}
            case "a token":
                return {"Authorization": f"Bearer {self._token}"}
            case "a JSON Web Token":
                now = int(time.time())
                return {"Authorization": f"Bearer {issue('HS256', changes=CLAIMS, iat=now, exp=now + 300)}"}
            case "an opaque token":
                return {"Authorization": "Bearer opaque-token"}
            case _:
                secret = bytes.fromhex(secret_of(self._signing["key"]))
                url, nonce = self.gateway.url + target, f"n{time.monotonic_ns()}"
                return sign_request(self._signing["id"], secret, method, url, body, int(time.time()), nonce)

    async def ask(self, how: str, method: str, target: str) -> Answer:
        """Ask as the tenant."""
        body = b'{"events":[]}' if method == "POST" else None
        sent, more = ("GET", UPGRADE) if method == "WS" else (method, {})
        return await ask(self.gateway.url, sent, target, {**more, **self.proof(how, sent, target, body)}, body)


@asynccontextmanager
async def open_scene(folder: Path) -> AsyncIterator[Scene]:
    """Have everything that proves something."""
    assert claims()["iss"] == ISSUER
    lists = [part for name, text in LISTS.items() for part in (f"--{name[:-1]}", text)]
    scopes = [part for scope in SCOPES for part in ("--scope", scope)]
    data, out = folder / "data", folder / "out"
    out.mkdir()
    arguments = ("keys", "create", "tenant", "--signed", *scopes, *lists, "--data", str(data), "--json")
    signing = orjson.loads((await run_command(out, *arguments)).out)
    async with open_issuer() as issuer:
        issuer.tokens["opaque-token"] = CLAIMS
        env = {
            "AUTH": "on",
            "HEADGATE_LIMITS": "off",
            "HEADGATE_API_KEYS": f"tenant={KEY};scopes={'+'.join(SCOPES)};"
            + ";".join(f"{name}={text}" for name, text in LISTS.items()),
            "JWT_SECRET": private_key("HS256").decode(),
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": "headgate",
            "AUTH_INTROSPECTION_URL": issuer.url,
            "AUTH_INTROSPECTION_CLIENT_ID": CLIENT,
            "AUTH_INTROSPECTION_CLIENT_SECRET": SECRET,
        }
        async with open_gateway(data, env=env) as gateway:
            answer = await ask(gateway.url, "POST", "/auth/token", {"X-API-Key": KEY}, b"")
            yield Scene(gateway, issuer, signing, answer.json()["accessToken"])


async def test_each_proof_opens_what_its_holder_may_and_nothing_else(tmp_path: Path) -> None:
    """T32: right, wrong scope, another tenant's, in each way to show who one is; no secret is in the log (T33)."""
    async with open_scene(tmp_path) as scene:
        found = {
            (how, name): (await scene.ask(how, method, target)).status
            for how in PROOFS
            for name, (method, target, _) in ASKED.items()
        }
        assert found == {(how, name): status for how in PROOFS for name, (_, _, status) in ASKED.items()}
        lines = (await scene.ask("a key", "GET", "/metrics")).body.decode().splitlines()
        [asked] = [line for line in lines if line.startswith('headgate_introspection_requests_total{outcome="asked"}')]
        assert 1 <= float(asked.split()[1]) <= 3  # for each minute that the test takes, not for each request
        said = scene.gateway.log_text()
        for secret in (KEY, SECRET, "opaque-token", scene._signing["key"], scene._token, private_key("HS256").decode()):
            assert secret not in said


@pytest.mark.parametrize("limited", ["subjects=snapfs.ours", "durables=ours-*", "paths=/ours"])
async def test_an_administrator_of_some_things_does_not_see_what_all_did(tmp_path: Path, limited: str) -> None:
    """T32: the audit log shows every tenant's changes, so it is not for whom some are closed."""
    env = {"AUTH": "on", "HEADGATE_API_KEYS": f"some={KEY};scopes=admin;{limited}"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        answer = await ask(gateway.url, "GET", "/audit", {"X-API-Key": KEY})
        assert answer.problem(403)["code"] == "identity.not-allowed"
