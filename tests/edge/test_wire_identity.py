"""Who asks, on the wire: both lanes and WebSockets, keys and tokens, and what strangers are not told."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import trio

from actors.tree import Actor
from edge.serve_identity import open_identity
from engine.errors import Refused
from engine.keys_file import KeysFile
from engine.settings import load_settings
from tests.support.command import run_command
from tests.support.gateway import OWN_VARIABLES, Gateway, running_gateway
from tests.support.http import Answer, ask, open_connection
from tests.support.waiting import wait_until

KEY = "secret-of-the-scanner-1"
OTHER = "secret-of-the-agent-22"
STREAM = "/stream?subject=snapfs.files&durable=d1"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that asks everybody who they are."""
    env = {
        "AUTH": "on",
        "HEADGATE_API_KEYS": f"scanner={KEY},agent={OTHER};scopes=stream:read+admin",
        "CORS_ORIGINS": "https://app.example",
    }
    with running_gateway(tmp_path_factory.mktemp("identity") / "data", env=env) as running:
        yield running


@pytest.fixture(scope="module")
def open_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway as it starts on loopback without any setting."""
    with running_gateway(tmp_path_factory.mktemp("open") / "data") as running:
        yield running


async def exchange(url: str, key: str, prefix: str = "") -> Answer:
    """What a client in the field asks for a token."""
    return await ask(url, "POST", f"{prefix}/auth/token", {"Authorization": f"Bearer {key}"}, b"")


async def ingest(url: str, headers: dict[str, str]) -> Answer:
    """An empty ingest: it stores nothing."""
    return await ask(url, "POST", "/ingest", headers, b'{"events":[]}')


def bearer(token: str) -> dict[str, str]:
    """The header that carries it."""
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_key_is_exchanged_for_a_token(guarded: Gateway, prefix: str) -> None:
    """(wire) The token opens what its key opens, on both lanes, and is no key."""
    answer = await exchange(guarded.url, KEY, prefix)
    body = answer.json()
    assert (answer.status, body["expiresIn"], answer.header("cache-control")) == (200, 900, "no-store")
    token = body["accessToken"]
    assert (await ingest(guarded.url, bearer(token))).status == 200
    assert (await ask(guarded.url, "GET", "/actors", bearer(token))).problem(403)["scope"] == "admin"
    (await exchange(guarded.url, token)).problem(401)
    admin = (await exchange(guarded.url, OTHER)).json()["accessToken"]
    assert (await ask(guarded.url, "GET", "/actors", bearer(admin))).status == 200


async def test_an_open_gateway_still_knows_keys_from_others(open_gateway: Gateway) -> None:
    """(wire) The demo key gives a token and a wrong one a 401; afterwards whatever clients send is fine."""
    token = (await exchange(open_gateway.url, "demo-api-key-2024")).json()["accessToken"]
    (await exchange(open_gateway.url, "demo-api-key-2025")).problem(401)
    (await ask(open_gateway.url, "POST", "/auth/token", {}, b"")).problem(401)
    for headers in ({}, bearer(token), bearer("anything-at-all"), {"Authorization": "Basic eDp5"}):
        assert (await ingest(open_gateway.url, headers)).status == 200


HOSTILE = {
    "another scheme": {"Authorization": f"Basic {KEY}"},
    "no scheme": {"Authorization": KEY},
    "nothing behind it": {"Authorization": "Bearer"},
    "blanks behind it": {"Authorization": "Bearer   "},
    "two in one": {"Authorization": f"Bearer {KEY} {KEY}"},
    "a list": {"Authorization": f"Bearer {KEY},{KEY}"},
    "quoted": {"Authorization": f'Bearer "{KEY}"'},
    "not ASCII": {"Authorization": "Bearer sécret-of-the-scanner"},
    "as long as a head may be": {"Authorization": "Bearer " + "x" * 15_000},
    "the digest": {"X-API-Key": "0" * 64},
    "empty": {"X-API-Key": ""},
    "another case": {"X-API-Key": KEY.upper()},
    "a beginning": {"X-API-Key": KEY[:-1]},
    "two that differ": {"X-API-Key": KEY, "Authorization": f"Bearer {OTHER}"},
    "in the query alone": {},
    "a token that is not ours": {"Authorization": "Bearer hgt.YWJj.9999999999." + "A" * 43},
    "a cookie": {"Cookie": f"token={KEY}"},
    "proxy": {"Proxy-Authorization": f"Bearer {KEY}"},
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("target", [f"/ingest?token={KEY}&access_token={KEY}", f"/actors?api_key={OTHER}"])
async def test_what_is_no_credential_opens_nothing(guarded: Gateway, name: str, target: str) -> None:
    """On both lanes 401, though what would be good is remembered; neither the answer nor the log repeats what came."""
    for key in (KEY, OTHER):
        for good in (bearer(key), {"X-API-Key": key}):
            assert (await ingest(guarded.url, good)).status == 200
    method = "POST" if "ingest" in target else "GET"
    answer = await ask(guarded.url, method, target, HOSTILE[name], b"{}" if method == "POST" else None)
    answer.problem(401)
    said = answer.raw_head + answer.body + guarded.log_text().encode()
    assert KEY.encode() not in said
    assert OTHER.encode() not in said


async def test_two_authorization_headers_are_refused(guarded: Gateway) -> None:
    """Which of them would count is nobody's to guess."""
    pairs = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {OTHER}")]
    assert (await ask(guarded.url, "POST", "/ingest", pairs, b"{}")).status == 400
    pairs = [("X-API-Key", KEY), ("X-API-Key", KEY)]
    (await ask(guarded.url, "POST", "/ingest", pairs, b"{}")).problem(401)


@pytest.mark.parametrize("target", ["/ingest", "/actors"])
async def test_a_stranger_is_refused_before_the_body(guarded: Gateway, target: str) -> None:
    """401 comes while the body has not been sent: on both lanes, chunked or announced."""
    for framing in ("Content-Length: 5000000", "Transfer-Encoding: chunked"):
        async with open_connection(guarded.url) as connection:
            method = "GET" if target == "/actors" else "POST"
            await connection.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
            answer = await connection.read_answer(timeout_s=3)
            answer.problem(401)
            assert answer.header("connection") == "close"


async def test_credentials_of_one_request_do_not_stay_on_its_connection(guarded: Gateway) -> None:
    """On both lanes each request is looked at for itself."""
    async with open_connection(guarded.url) as connection:
        assert (await connection.request("GET", "/actors", bearer(OTHER))).status == 200
        assert (await connection.request("GET", "/actors", {"X-API-Key": OTHER}, b"{}")).status == 200
        assert (await connection.request("GET", "/actors")).status == 401
        assert (await connection.request("GET", "/actors", bearer(OTHER))).status == 200
        assert (await connection.request("GET", "/version")).status == 200


async def connect(gateway: Gateway, headers: dict[str, str], protocols: list[str] | None = None) -> str | None:
    """Open /stream and give the subprotocol that was chosen."""
    answer = await upgrade(gateway, headers, protocols)
    assert answer.status == 101, answer
    return answer.header("sec-websocket-protocol")


async def rejected(gateway: Gateway, headers: dict[str, str], protocols: list[str] | None = None) -> int:
    """The status with which /stream answers."""
    return (await upgrade(gateway, headers, protocols)).status


async def upgrade(gateway: Gateway, headers: dict[str, str], protocols: list[str] | None) -> Answer:
    """Ask for a WebSocket on /stream."""
    sent = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        **headers,
    }
    if protocols is not None:
        sent["Sec-WebSocket-Protocol"] = ", ".join(protocols)
    return await ask(gateway.url, "GET", STREAM, sent)


async def test_a_websocket_takes_its_token_from_the_header(guarded: Gateway) -> None:
    """As unmodified clients send it: no subprotocol is chosen."""
    token = (await exchange(guarded.url, OTHER)).json()["accessToken"]
    for headers in (bearer(OTHER), bearer(token), {"X-API-Key": OTHER}):
        assert await connect(guarded, headers) is None
    assert await rejected(guarded, {}) == 401
    assert await rejected(guarded, bearer("nobody-knows-this-key")) == 401


async def test_a_page_brings_its_token_in_the_subprotocol(guarded: Gateway) -> None:
    """Browsers cannot set headers; the one that is chosen is never the one with the secret."""
    token = (await exchange(guarded.url, OTHER)).json()["accessToken"]
    origin = {"Origin": "https://app.example"}
    for secret in (OTHER, token):
        chosen = await connect(guarded, origin, ["headgate.bearer", f"headgate.bearer.{secret}"])
        assert chosen == "headgate.bearer"
        chosen = await connect(guarded, origin, [f"headgate.bearer.{secret}", "headgate.bearer"])
        assert chosen == "headgate.bearer"
    assert await connect(guarded, {}, [f"headgate.bearer.{OTHER}"]) is None
    assert await rejected(guarded, {}, ["headgate.bearer", "headgate.bearer.wrong-wrong-wrong-wrong"]) == 401
    assert await rejected(guarded, {}, ["headgate.bearer"]) == 401
    assert await rejected(guarded, {}, [f"headgate.bearer.{OTHER}", f"headgate.bearer.{OTHER}"]) == 401
    assert await rejected(guarded, bearer(OTHER), [f"headgate.bearer.{OTHER}"]) == 401


ORIGINS = {
    "https://app.example": 101,
    "https://APP.example": 101,
    "{own}": 101,
    "https://evil.example": 403,
    "http://app.example": 403,
    "https://app.example.evil.example": 403,
    "https://app.example:444": 403,
    "null": 403,
    "": 403,
    "http://[": 403,
    "file://": 403,
}


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_websocket_of_another_origin_is_refused(guarded: Gateway, origin: str) -> None:
    """With a good credential too: a page uses what the browser has, not what its author has."""
    sent = origin.replace("{own}", guarded.url)
    assert await rejected(guarded, {**bearer(OTHER), "Origin": sent}) == ORIGINS[origin]


async def test_pages_of_others_do_nothing_on_an_open_gateway(open_gateway: Gateway) -> None:
    """Any page in the browser of who runs one could post to it: by its own address, or by a name that points here."""
    own = {"Origin": open_gateway.url}
    assert (await ingest(open_gateway.url, own)).status == 200
    for origin in ("https://evil.example", "null"):
        (await ingest(open_gateway.url, {"Origin": origin})).problem(403)
        assert await rejected(open_gateway, {"Origin": origin}) == 403
    rebound = [("Host", "evil.example"), ("Origin", "http://evil.example")]
    async with open_connection(open_gateway.url) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in rebound)
        await connection.send(f"POST /ingest HTTP/1.1\r\n{head}Content-Length: 2\r\n\r\n{{}}".encode())
        (await connection.read_answer()).problem(403)


async def test_credentials_are_counted(guarded: Gateway) -> None:
    """By two outcomes, and by nothing that a client chooses."""
    (await ingest(guarded.url, bearer("nobody-knows-this-key"))).problem(401)
    text = (await ask(guarded.url, "GET", "/metrics", bearer(OTHER))).body.decode()
    counts = dict(line.split() for line in text.splitlines() if line.startswith("headgate_identity_credentials"))
    assert set(counts) == {
        f'headgate_identity_credentials_total{{outcome="{one}"}}' for one in ("recognised", "refused")
    }
    assert all(float(count) >= 1 for count in counts.values())


async def test_keys_are_made_replaced_and_revoked_while_it_runs(guarded: Gateway, tmp_path: Path) -> None:
    """A new key opens within seconds, two are good during a rotation, a revoked one and its token end."""
    where = ("--data", str(guarded.data_dir), "--json")
    made = orjson.loads((await run_command(tmp_path, "keys", "create", "robot", *where)).out)
    assert made["scopes"] == ["agents:run", "ingest:write", "stream:read"]

    async def opens(key: str) -> bool:
        return (await ingest(guarded.url, bearer(key))).status == 200

    await wait_until(lambda: opens(made["key"]), "the new key opens")
    token = (await exchange(guarded.url, made["key"])).json()["accessToken"]
    turned = orjson.loads((await run_command(tmp_path, "keys", "rotate", "robot", *where)).out)
    await wait_until(lambda: opens(turned["key"]), "the second key opens")
    assert await opens(made["key"])
    assert await opens(token)
    ended = await run_command(tmp_path, "keys", "revoke", "robot", *where)
    assert (ended.code, "2 keys" in ended.err) == (2, True)
    assert (await run_command(tmp_path, "keys", "revoke", made["id"], *where)).code == 0

    async def is_shut() -> bool:
        return not await opens(made["key"]) and not await opens(token)

    await wait_until(is_shut, "the revoked key and its token open nothing")
    assert await opens(turned["key"])
    listed = (await run_command(tmp_path, "keys", "list", *where)).out
    assert [one["id"] for one in orjson.loads(listed)] == [turned["id"]]
    files = b"".join(one.read_bytes() for one in (guarded.data_dir / "identity").iterdir())
    for key in (made["key"], turned["key"]):
        assert key not in listed + guarded.log_text()
        assert key.encode() not in files
    assert {oct(one.stat().st_mode & 0o777) for one in (guarded.data_dir / "identity").iterdir()} == {"0o600"}


async def test_a_keys_file_that_is_none_changes_nothing(guarded: Gateway, tmp_path: Path) -> None:
    """Keys that were good stay good; the log says what is wrong; the command refuses to touch it."""
    where = ("--data", str(guarded.data_dir), "--json")
    key = orjson.loads((await run_command(tmp_path, "keys", "create", "tough", *where)).out)["key"]

    async def opens() -> bool:
        return (await ingest(guarded.url, bearer(key))).status == 200

    await wait_until(opens, "the new key opens")
    file = KeysFile(guarded.data_dir)
    await wait_until(lambda: not file.waiting(), "the gateway has recorded it, and writes the file no more")
    path = file.path
    good = path.read_bytes()
    path.write_bytes(b"{")
    await wait_until(lambda: "the keys cannot be read" in guarded.log_text(), "it is noticed")
    assert await opens()
    ended = await run_command(tmp_path, "keys", "list", *where)
    assert (ended.code, "keys.json" in ended.err) == (2, True)
    path.write_bytes(good)
    path.chmod(0o644)
    await wait_until(lambda: "others may read it" in guarded.log_text(), "it is noticed")
    path.chmod(0o600)


REFUSED = {
    "no credentials": ({}, "HEADGATE_API_KEYS"),
    "authentication off": ({"AUTH": "off"}, "AUTH"),
    "the demo key as the one": ({"API_GATEWAY_KEY": "demo-api-key-2024"}, "demo key"),
    "the demo key among others": (
        {"HEADGATE_API_KEYS": "a=secret-0123456789,b=demo-api-key-2024;scopes=admin"},
        "demo key",
    ),
    "a key that could be guessed": ({"HEADGATE_API_KEYS": "a=geheim"}, "HEADGATE_API_KEYS"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.example"])
def test_no_gateway_for_strangers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, name: str) -> None:
    """T33: on any address but loopback, without credentials or with the demo key, what to set is said."""
    env, said = REFUSED[name]
    for variable in list(os.environ):
        if OWN_VARIABLES.search(variable):
            monkeypatch.delenv(variable)
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)

    async def start() -> None:
        settings = load_settings({"host": host, "data": tmp_path})
        async with open_identity(settings, Actor("headgate", 0.0)):
            raise AssertionError("it started")

    with pytest.raises(Refused) as caught:
        trio.run(start)
    assert said in caught.value.detail
    assert not any(value in caught.value.detail for value in env.values() if value != "off")


async def test_the_command_ends_where_strangers_could_do_what_they_like(tmp_path: Path) -> None:
    """T33: the demo key on 0.0.0.0: one line, no ready line, not 0."""
    env, said = REFUSED["the demo key as the one"]
    arguments = ("serve", "--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path / "data"))
    (tmp_path / "out").mkdir()
    ended = await run_command(tmp_path / "out", *arguments, env=env)
    assert (ended.code, ended.out) == (1, "")
    [line] = ended.err.splitlines()
    assert said in line
    assert "demo-api-key" not in line


async def test_the_demo_key_ends_with_the_first_real_one(tmp_path: Path) -> None:
    """AUTH=on on loopback begins with the demo key, for whoever tries it out, and only until a key is made."""
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    gateway = Gateway(data, env={"AUTH": "on"})
    try:
        await gateway.start()
        assert (await ingest(gateway.url, bearer("demo-api-key-2024"))).status == 200
        assert (await run_command(out, "keys", "create", "real", "--data", str(data))).code == 0

        async def is_shut() -> bool:
            return (await ingest(gateway.url, bearer("demo-api-key-2024"))).status == 401

        await wait_until(is_shut, "the demo key opens nothing")
        gateway.signal(signal.SIGTERM)
        assert await gateway.wait_exit() == 0
    finally:
        with trio.CancelScope(shield=True):  # it has deadlines of its own
            await gateway.aclose()
