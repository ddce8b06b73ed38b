"""What /metrics says is true, is text that Prometheus' own parsers take, and never holds a client's words as labels."""

import uuid
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from edge.log_metrics import NAMED, REST, consumer_metrics
from tests.support.agent import open_agent
from tests.support.agent_v1 import open_agent_v1
from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.redis_server import needs_redis, open_redis_server
from tests.support.waiting import wait_until

OURS = ("headgate_", "process_")
NAMED_BY_OPERATORS = "durable"


async def scrape(gateway: Gateway) -> dict[str, Metric]:
    """Ask for both formats, parse them, and give the families by name."""
    plain = await ask(gateway.url, "GET", "/metrics")
    newer = await ask(gateway.url, "GET", "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    families = {one.name: one for one in parse_text(plain.body.decode())}
    parsed = parse_openmetrics(newer.body.decode())  # type: ignore[no-untyped-call]  # it publishes no types
    assert {one.name for one in parsed} == {name.removesuffix("_info") for name in families}
    return families


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample of this name whose labels are these."""
    [found] = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(found)


def label_values(families: dict[str, Metric]) -> set[tuple[str, str, str]]:
    """Every label value there is, but those that operators name."""
    return {
        (family.name, label, text)
        for family in families.values()
        for sample in family.samples
        for label, text in sample.labels.items()
        if label != NAMED_BY_OPERATORS
    }


async def test_every_family_explains_itself(gateway: Gateway) -> None:
    """A name of ours in base units, a type, and a sentence; no sample twice."""
    families = await scrape(gateway)
    assert len(families) > 50
    for name, family in families.items():
        assert name.startswith(OURS), name
        assert family.type != "unknown", name
        assert len(family.documentation) > 10, name
        assert family.documentation.endswith("."), (name, family.documentation)
        assert not name.endswith(("_ms", "_kb", "_mib")), name
        keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(keys) == len(set(keys)), name


async def test_the_figures_of_the_log_and_its_consumers_are_true(
    gateway: Gateway, own_subject: str, own_durable: str
) -> None:
    """Acks, frames, ages and lags are those of what was done in between."""
    before = await scrape(gateway)

    async def grown(name: str, **labels: str) -> float:
        return value(await scrape(gateway), name, **labels) - value(before, name, **labels)

    for count in (1, 3):
        events = [{"type": "note", "data": {}}] * count
        await post_json(gateway.url, f"/ingest?subject={own_subject}", {"events": events})
    assert await grown("headgate_ingest_events_total") == 4
    assert await grown("headgate_log_frame_events_sum") == 4
    frames = await grown("headgate_ingest_frames_total")
    assert await grown("headgate_log_ack_seconds_count") == frames == await grown("headgate_log_frame_events_count")
    assert await grown("headgate_log_ack_seconds_sum") > 0
    async with open_agent_v1(gateway.url, own_durable, subject=own_subject) as agent:
        await agent.credit(1)
        batch = await agent.receive()
        now = await scrape(gateway)
        assert value(now, "headgate_consumer_pending_messages", durable=own_durable) == 1
        assert value(now, "headgate_consumer_in_flight_messages", durable=own_durable) == 1
        assert value(now, "headgate_consumer_lag_seconds", durable=own_durable) > 0
        assert value(now, "headgate_mailbox_depth", actor="stream") == 1
        assert await grown("headgate_stream_age_seconds_count", wire="v1") == 1
        await agent.ack(batch)
    async with open_agent(gateway.url, f"{own_durable}-old", subject=own_subject) as old:
        await old.ack(await old.receive())
    await ask(gateway.url, "GET", f"/stream/pull?subject={own_subject}&durable={own_durable}&batch=10&wait=5")
    for wire in ("old", "http"):
        assert await grown("headgate_stream_age_seconds_count", wire=wire) == 1
    assert await grown("headgate_consumers", kind="durable") == 2


@needs_redis
async def test_each_tier_of_the_cache_has_its_own_figures(tmp_path: Path) -> None:
    """What memory knows is a hit of memory; what only Redis knows is one of Redis."""
    file = {"path": "/a", "size": 1, "mtime": 1}
    async with open_redis_server(tmp_path / "redis") as redis:
        env = {"REDIS_URL": redis.url}
        async with open_gateway(tmp_path / "data", env=env) as gateway:
            event = {"type": "file.upsert", "data": {**file, "algo": "xxh3_128", "hash": "0" * 32}}
            await post_json(gateway.url, "/ingest", {"events": [event]})
            await post_json(gateway.url, "/cache/batch", [file, {**file, "path": "/b"}])
            await gateway.restart()
            await post_json(gateway.url, "/cache/batch", [file])
            families = await scrape(gateway)
    hits = {tier: value(families, "headgate_hashes_tier_hits_total", tier=tier) for tier in ("memory", "redis")}
    assert hits == {"memory": 0, "redis": 1}
    for tier, count in (("memory", 1), ("redis", 1), ("catalog", 0)):
        assert value(families, "headgate_hashes_tier_seconds_count", tier=tier) == count


async def test_no_label_holds_what_a_client_sent(gateway: Gateway) -> None:
    """Whatever is asked for, by whatever name, the label values stay the same: paths and methods count as known."""
    secret = f"x{uuid.uuid4().hex}"
    body = b'{"events":[{"type":"%b","data":{}}]}' % secret.encode()

    async def be_odd() -> None:
        for method, target in (
            ("GET", f"/{secret}"),
            ("BREW", "/healthz"),
            ("GET", f"/consumers/{secret}"),
            ("POST", f"/ingest?subject=snapfs.{secret}"),
            ("GET", f"/stream/pull?subject=snapfs.files&durable={secret}-ephemeral"),
            ("POST", "/auth/token"),
        ):
            headers = {"X-API-Key": secret, "X-Request-Id": secret, "User-Agent": secret}
            await ask(gateway.url, method, target, headers, body if method == "POST" else None)
        async with open_agent_v1(gateway.url, None, subject=f"snapfs.{secret}") as agent:
            await agent.credit()
            await scrape(gateway)

    await be_odd()
    before = label_values(await scrape(gateway))
    secret = f"y{uuid.uuid4().hex}"
    await be_odd()
    after = await scrape(gateway)
    assert label_values(after) == before
    text = (await ask(gateway.url, "GET", "/metrics")).body.decode()
    named = [line for line in text.splitlines() if secret in line]
    assert all(f'durable="{secret}-ephemeral"' in line for line in named)


async def test_without_the_log_the_scrape_is_answered_all_the_same(tmp_path: Path) -> None:
    """What only the log knows is left out; what the gateway knows is there."""
    env = {"NATS_URL": "nats://127.0.0.1:9"}
    async with open_gateway(tmp_path / "data", env=env) as gateway:

        async def is_down() -> bool:
            return value(await scrape(gateway), "headgate_dependency_up", dependency="log") == 0

        await wait_until(is_down, "the log counts as away")
        families = await scrape(gateway)
        assert value(families, "headgate_ready") == 0
        assert "headgate_consumer_pending_messages" not in families


def test_only_so_many_durables_have_a_name() -> None:
    """Those with most to do; the others are one, and ephemeral ones are only counted."""

    def consumer(number: int, *, ephemeral: bool = False) -> dict[str, object]:
        return {
            "durable": f"d{number}",
            "ephemeral": ephemeral,
            "pending": number,
            "ack_pending": 1,
            "redelivered": 0,
            "lag_s": None if number % 2 else 1.0,
        }

    consumers = [consumer(number) for number in range(NAMED + 5)] + [consumer(10_000, ephemeral=True)]
    families = {one.name: one for one in consumer_metrics(consumers)}
    samples = families["headgate_consumer_pending_messages"].samples
    assert len(samples) == NAMED + 1
    assert {one.labels["durable"]: one.value for one in samples}[REST] == sum(range(5))
    assert len(families["headgate_consumer_lag_seconds"].samples) == NAMED // 2
    assert value(families, "headgate_consumers", kind="ephemeral") == 1
    assert not list(consumer_metrics(None))
