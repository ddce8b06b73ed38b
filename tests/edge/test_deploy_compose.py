"""compose.yaml: valid by the Compose Specification's schema, closed to strangers, and its wiring works.

Docker is not needed: the same processes are started with the commands, the configuration and the environment that
compose.yaml gives their containers.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine.settings import Settings, load_settings
from tests.support.compose_file import ROOT, healthcheck, longest_stop_s, make_environment, open_engines, read_compose
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.redis_server import needs_redis
from tests.support.waiting import wait_until

SCHEMA = ROOT / "tests" / "support" / "compose" / "compose-spec.json"
ENGINES = ("nats", "postgres", "redis")


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    """A fresh .env."""
    return make_environment()


@pytest.fixture(scope="module")
def compose(secrets: dict[str, str]) -> dict[str, Any]:
    """compose.yaml with that .env."""
    return read_compose(secrets)


def test_it_is_valid_by_the_specification_s_schema(compose: dict[str, Any]) -> None:
    """And the schema would find a word that it does not know."""
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(compose)
    compose["services"]["gateway"]["helthcheck"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(compose)
    del compose["services"]["gateway"]["helthcheck"]


def test_what_is_named_is_there(compose: dict[str, Any]) -> None:
    """Volumes, networks, configurations and services that others name, and files."""
    for service in compose["services"].values():
        assert {each.partition(":")[0] for each in service.get("volumes", [])} <= compose["volumes"].keys()
        assert set(service["networks"]) <= compose["networks"].keys()
        assert {each["source"] for each in service.get("configs", [])} <= compose["configs"].keys()
        for name, wish in service.get("depends_on", {}).items():
            assert wish == {"condition": "service_healthy"}
            assert "healthcheck" in compose["services"][name]
    for config in compose["configs"].values():
        assert (ROOT / config["file"]).is_file()
    assert compose["services"]["gateway"]["depends_on"].keys() == set(ENGINES)


def test_nothing_is_published_but_the_gateway_on_loopback(compose: dict[str, Any]) -> None:
    """The engines are on a network that leads nowhere, and no secret has a default."""
    assert compose["networks"]["engines"] == {"internal": True}
    for name in ENGINES:
        assert "ports" not in compose["services"][name]
        assert compose["services"][name]["networks"] == ["engines"]
    for name in ("gateway", "single"):
        assert all(port.startswith("127.0.0.1:") for port in compose["services"][name]["ports"])
    text = (ROOT / "compose.yaml").read_text()
    assert not re.findall(r"\$\{\w+(?!\w|:\?)[^}]*\}", re.sub(r"(?m)^ *#.*", "", text)), "a variable that may be empty"


def test_no_secret_is_like_another(secrets: dict[str, str]) -> None:
    """Long, random, and made of what is a word in an address and in the log server's configuration."""
    values = re.findall(r"s[0-9a-f]{48}", " ".join(secrets.values()))
    assert len(set(values)) == len(values) == 6
    again = re.findall(r"s[0-9a-f]{48}", " ".join(make_environment().values()))
    assert set(again).isdisjoint(values)


def test_every_variable_is_one_that_the_gateway_knows(compose: dict[str, Any]) -> None:
    """A misspelt one would be passed over in silence."""
    known = {field.alias for field in Settings.model_fields.values()}
    for name in ("gateway", "single"):
        assert compose["services"][name]["environment"].keys() <= known
    values = {
        name: compose["services"]["gateway"]["environment"][field.alias]
        for name, field in Settings.model_fields.items()
        if field.alias in compose["services"]["gateway"]["environment"]
    }
    settings = load_settings(values)
    assert not settings.has_own_database


def test_the_grace_period_is_longer_than_the_longest_stop(compose: dict[str, Any]) -> None:
    """Requests drain, what waits is flushed, connections close, the log stops, PostgreSQL stops."""
    longest_s = longest_stop_s(load_settings().drain_s)
    for name in ("gateway", "single"):
        assert float(compose["services"][name]["stop_grace_period"].rstrip("s")) > longest_s


async def readiness(gateway: Gateway) -> Any:
    """What `/readyz` says."""
    return (await ask(gateway.url, "GET", "/readyz")).json()


@needs_redis
async def test_the_wiring_works(tmp_path: Path, secrets: dict[str, str], compose: dict[str, Any]) -> None:
    """NATS on that configuration, PostgreSQL and Redis with those passwords: an event is stored, known and found.

    The image's health check says what `/readyz` says, and strangers are refused everywhere.
    """
    key = re.findall(r"me=(\w+)", secrets["HEADGATE_API_KEYS"])[0]
    headers = {"X-API-Key": key}
    async with open_engines(tmp_path, compose) as engines:
        # A container listens on all addresses, and there AUTH is on; here it listens on loopback.
        env = {"AUTH": "on", "HEADGATE_CATALOG": "on", **engines.gateway_environment(compose)}
        async with open_gateway(tmp_path / "data", env=env) as gateway:

            async def everything_is_up() -> bool:
                state = await readiness(gateway)
                return state["status"] == "ready" and {one["state"] for one in state["dependencies"].values()} == {"up"}

            await wait_until(everything_is_up, "every dependency is up", timeout_s=30)
            state = await readiness(gateway)
            assert state["durability"] == "fsync", "sync_interval: always is seen by its monitoring"
            assert state["dependencies"].keys() == {"log", "redis", "postgres"}
            assert not list((tmp_path / "data").glob("*/data-*")), "no engine of its own"
            event = {"path": "/a.exr", "size": 3, "mtime": 1.0, "algo": "xxh3_128", "hash": "aa"}
            body = {"events": [{"type": "file.upsert", "data": event}]}
            assert (await post_json(gateway.url, "/ingest", body)).status == 401
            answer = await post_json(gateway.url, "/ingest", body, headers)
            assert answer.json()["durability"] == "fsync", answer.body
            query = {"sql": "select path, current_user::text as me from files"}

            async def is_found() -> bool:
                found = await post_json(gateway.url, "/query/sql", query, headers)
                return bool(found.json()["rows"] == [{"path": "/a.exr", "me": "headgate_query"}])

            await wait_until(is_found, "the catalog has it", timeout_s=20)
            there = {"PORT": str(gateway.port), "HEADGATE_HOST": "0.0.0.0"}
            assert healthcheck(there) == 0
        assert healthcheck(there) == 1
        wrong = env | {"NATS_URL": env["NATS_URL"].replace(secrets["NATS_PASSWORD"], "wrong")}
        async with open_gateway(tmp_path / "wrong", env=wrong) as gateway:
            state = await readiness(gateway)
            assert state["status"] == "starting"
            assert state["dependencies"]["log"]["state"] == "down"
            assert healthcheck({"PORT": str(gateway.port)}) == 1


async def test_the_health_check_speaks_tls_where_the_gateway_does(tmp_path: Path) -> None:
    """By the gateway's own environment; the certificate names another host and is not looked at."""
    env = {"HEADGATE_TLS_SELF_SIGNED": "on"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        assert healthcheck(env | {"PORT": str(gateway.port)}) == 0
        assert healthcheck({"PORT": str(gateway.port)}) == 1
    assert healthcheck({"PORT": "none"}) == 1
