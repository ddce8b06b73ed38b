"""Every health path in its own shape, on the real gateway, well and unwell (X3, S1.16, S2.41, S4.30)."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import Answer, ask
from tests.support.nats_server import open_nats_server
from tests.support.waiting import wait_until

READY_PATHS = ("/readyz", "/ready", "/api/v1/health")
DRAFT_PATHS = ("/readyz", "/ready", "/health", "/api/v1/health")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DRAFT = {"Accept": "application/health+json"}


async def get(gateway: Gateway, path: str, headers: dict[str, str] | None = None) -> Answer:
    """Ask one path."""
    return await ask(gateway.url, "GET", path, headers or {})


async def wait_status(gateway: Gateway, path: str, status: int) -> Answer:
    """Wait until a path answers with this status."""

    async def answer_if_so() -> Answer | None:
        answer = await get(gateway, path)
        return answer if answer.status == status else None

    answer = await wait_until(answer_if_so, f"{path} says {status}", timeout_s=10)
    assert answer is not None
    return answer


@asynccontextmanager
async def open_gateway_without_log(folder: Path) -> AsyncIterator[Gateway]:
    """A gateway whose external log was there and went away."""
    async with open_nats_server(folder / "nats") as server:
        env = {"NATS_URL": server.url}
        async with open_gateway(folder / "data", env=env) as gateway:
            await wait_status(gateway, "/readyz", 200)
            server.kill()
            await wait_status(gateway, "/readyz", 503)
            yield gateway


async def test_a_well_gateway_says_so_in_every_shape(tmp_path: Path) -> None:
    """X3: one truth, five wordings, and the draft's format on request."""
    async with open_gateway(tmp_path / "data") as gateway:
        assert (await get(gateway, "/healthz")).json() == {"status": "ok"}
        assert (await get(gateway, "/ready")).json() == {"status": "ok"}
        events = {"mode": "inline", "ready": True, "lastError": None}
        assert (await get(gateway, "/health")).json() == {"status": "ok", "events": events}
        service = (await get(gateway, "/api/v1/health")).json()
        assert MOMENT.fullmatch(service.pop("timestamp"))
        assert service == {"success": True, "status": "healthy", "service": "api-gateway", "database": "off"}
        ready = (await get(gateway, "/readyz")).json()
        assert (ready["status"], ready["reasons"]) == ("ready", [])
        assert ready["dependencies"]["disk"]["free_mib"] > 0
        for path in DRAFT_PATHS:
            answer = await get(gateway, path, DRAFT)
            assert (answer.status, answer.header("content-type")) == (200, "application/health+json")
            draft = answer.json()
            assert (draft["status"], draft["serviceId"]) == ("pass", "headgate")
            assert {check["status"] for checks in draft["checks"].values() for check in checks} == {"pass"}


async def test_a_gateway_without_its_log_says_so_in_every_shape(tmp_path: Path) -> None:
    """S4.30: not ready is 503 and says why; alive is 200 all the same."""
    async with open_gateway_without_log(tmp_path) as gateway:
        for path in READY_PATHS:
            answer = await get(gateway, path)
            assert answer.status == 503, path
            assert answer.header("retry-after") == "1"
        assert (await get(gateway, "/healthz")).status == 200
        ready = (await get(gateway, "/ready")).json()
        assert ready["status"] == "unavailable"
        assert "the log is not reachable" in ready["reason"]
        assert ready["events"]["ready"] is False
        assert ready["events"]["lastError"]
        health = await get(gateway, "/health")
        assert (health.status, health.json()["status"]) == (200, "degraded")
        service = (await get(gateway, "/api/v1/health")).json()
        assert (service["success"], service["status"]) == (False, "unhealthy")
        assert "the log is not reachable" in service["error"]
        for path in DRAFT_PATHS:
            answer = await get(gateway, path, DRAFT)
            draft = answer.json()
            assert (answer.status, draft["status"]) == (503, "fail")
            assert draft["checks"]["log:downtime"][0]["status"] == "fail"


async def test_a_low_disk_is_not_ready_and_named(tmp_path: Path) -> None:
    """S4.30: the reason says how much there is and how much is expected."""
    async with open_gateway(tmp_path / "data", env={"HEADGATE_MIN_FREE_MIB": "1000000000"}) as gateway:
        ready = (await wait_status(gateway, "/readyz", 503)).json()
        assert ready["status"] == "unavailable"
        assert re.fullmatch(r"disk low: \d+ MiB are free, expected 1000000000 or more", ready["reasons"][0])
        assert ready["dependencies"]["disk"]["state"] == "down"


async def test_pending_migrations_are_not_ready_and_named(tmp_path: Path) -> None:
    """S2.41: before the database was brought up to date, requests should go elsewhere."""
    env = {"HEADGATE_CATALOG": "on", "DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:9/none"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:
        answer = await wait_status(gateway, "/readyz", 503)
        assert "migrations are pending" in " ".join(answer.json()["reasons"])
        assert b"secret" not in answer.body
        service = await get(gateway, "/api/v1/health")
        assert (service.status, service.json()["database"]) == (503, "disconnected")


async def test_health_paths_answer_head_and_refuse_post(tmp_path: Path) -> None:
    """A balancer may ask by HEAD; another method is told what is allowed."""
    async with open_gateway(tmp_path / "data") as gateway:
        for path in ("/healthz", "/health", *READY_PATHS):
            head = await ask(gateway.url, "HEAD", path)
            assert (head.status, head.body) == (200, b"")
            answer = await ask(gateway.url, "POST", path)
            assert answer.problem(405)["status"] == 405
            assert answer.header("allow") == "GET, HEAD"
