"""The dashboard and the alerts: every metric and label they name is a real gateway's, and the rules do what they say.

Rules of the file:
- What a gateway has is read from `/metrics` of one that runs everything: TLS, PostgreSQL, a WebSocket that was opened.
- Grafana and Prometheus are not needed; where `promtool` is there, it has a say.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import trio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from edge.client import Client, Event
from tests.support.compose_file import ROOT
from tests.support.gateway import Gateway, running_gateway
from tests.support.http import ask
from tests.support.tls import TestPair, make_pair, open_relay
from tests.support.waiting import wait_until

PROMETHEUS = ROOT / "edge" / "deploy" / "prometheus"
DASHBOARD = ROOT / "edge" / "deploy" / "grafana" / "headgate.json"
PROMETHEUS_ITS_OWN = {"up": {"job", "instance"}}
SCRAPED = {"job", "instance"}
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on PATH (Debian: apt-get install prometheus)"
)


def dashboard() -> dict[str, Any]:
    """The dashboard's JSON."""
    value: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return value


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Every PromQL expression with the name of who asks it, Grafana's variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in VARIABLES.items():
                text = text.replace(name, value)
            yield f"panel {panel['title']}", text
    for rule in rules():
        yield f"alert {rule['alert']}", rule["expr"]


def named(expression: str) -> Iterator[tuple[str, set[str], dict[str, str]]]:
    """Every metric in an expression, the labels asked of it, and those whose value is fixed."""

    def look(node: promql_parser.Expr, around: set[str]) -> Iterator[tuple[str, set[str], dict[str, str]]]:
        if isinstance(node, promql_parser.VectorSelector):
            matchers = node.matchers.matchers
            fixed = {one.name: one.value for one in matchers if str(one.op) == "MatchOp.Equal"}
            assert node.name is not None
            yield node.name, {one.name for one in matchers} | around, fixed
        elif isinstance(node, promql_parser.MatrixSelector):
            yield from look(node.vector_selector, around)
        elif isinstance(node, promql_parser.AggregateExpr):
            by = set(node.modifier.labels) if node.modifier is not None else set()
            yield from look(node.expr, around | by)
        elif isinstance(node, promql_parser.BinaryExpr):
            yield from look(node.lhs, around)
            yield from look(node.rhs, around)
        elif isinstance(node, promql_parser.ParenExpr):
            yield from look(node.expr, around)
        elif isinstance(node, promql_parser.Call):
            for argument in node.args:
                yield from look(argument, around)
        else:
            assert isinstance(node, promql_parser.NumberLiteral), node

    yield from look(promql_parser.parse(expression), set())


def complaints(asked: Iterator[tuple[str, str]], shown: dict[str, dict[str, set[str]]]) -> list[str]:
    """Say for every expression what it asks that no gateway answers.

    Args:
        asked: who asks, and what.
        shown: for each series' name its labels with the values they have.
    """
    found: list[str] = []
    for who, expression in asked:
        for name, labels, fixed in named(expression):
            if name in PROMETHEUS_ITS_OWN:
                continue
            if name not in shown:
                found.append(f"{who}: no gateway has {name}")
            elif missing := labels - SCRAPED - shown[name].keys():
                found.append(f"{who}: {name} has no label {', '.join(sorted(missing))}")
            for label, value in fixed.items():
                # A status is only there once it was answered, and what the log is worth is one word at a time.
                if label not in SCRAPED | {"code", "class"} and value not in shown.get(name, {}).get(label, {value}):
                    found.append(f"{who}: {name} never has {label}={value!r}")
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TestPair:
    """A certificate."""
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, pair: TestPair) -> Iterator[Gateway]:
    """A gateway with everything that has a metric."""
    env = {"HEADGATE_CATALOG": "on", "HEADGATE_LIMITS": "on", "HEADGATE_WORKERS": "2", **pair.env}
    with running_gateway(tmp_path_factory.mktemp("gateway") / "data", env=env) as running:
        yield running


async def read_shown(gateway: Gateway, pair: TestPair) -> dict[str, dict[str, set[str]]]:
    """For each series of `/metrics` its labels with their values, after an event went through."""
    async with Client(gateway.url, tls=pair.trusting()) as client:
        await client.publish([Event("t", {"n": 1})])
        async with client.stream(durable="seeing") as stream:
            async for batch in stream:
                await batch.ack(confirm=True)
                break
    async with open_relay(gateway.url, pair.trusting()) as url:

        async def read() -> str | None:
            text = (await ask(url, "GET", "/metrics")).body.decode()
            return text if 'headgate_consumer_lag_seconds{durable="seeing"}' in text else None

        text = await wait_until(read, "the metrics have the consumer", timeout_s=30, interval_s=0.5)
    assert text is not None
    shown: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = shown.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return shown


async def test_every_metric_and_label_is_one_that_a_gateway_has(gateway: Gateway, pair: TestPair) -> None:
    """Of every panel and every alert; and what is misspelt would be found."""
    shown = await read_shown(gateway, pair)
    assert complaints(expressions(), shown) == []
    wrong = [
        ("a", "rate(headgate_ingest_event_total[5m])"),
        ("b", "sum by (path) (rate(headgate_http_requests_total[5m]))"),
        ("c", 'headgate_dependency_up{dependency="lgo"} == 0'),
        ("d", '1 - (vector(0) or headgate_ready{node="x"})'),
    ]
    assert [one.partition(":")[0] for one in complaints(iter(wrong), shown)] == ["a", "b", "c", "d"]


async def test_what_it_stands_on_is_shown(gateway: Gateway, pair: TestPair) -> None:
    """Each dependency, the room on the disk, the certificate's life, the process."""
    shown = await read_shown(gateway, pair)
    assert shown["headgate_dependency_up"]["dependency"] == {"log", "disk", "postgres"}
    async with open_relay(gateway.url, pair.trusting()) as url:
        text = (await ask(url, "GET", "/metrics")).body.decode()

    def value(name: str) -> float:
        return float(re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[0])

    assert value('headgate_dependency_up{dependency="log"}') == 1
    disk = await trio.to_thread.run_sync(shutil.disk_usage, gateway.data_dir)
    assert 0 < value("headgate_disk_free_bytes") <= disk.total
    assert value("headgate_disk_limit_bytes") == 256 * 1024 * 1024
    assert 0 < value("headgate_tls_certificate_expires_timestamp_seconds") - time.time() <= 86_400
    assert value("process_resident_memory_bytes") > 10_000_000


def test_the_dashboard_is_one() -> None:
    """Panels with a title, an id of their own and a place of their own, on the data source that is chosen."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references)
            for target in panel["targets"]:
                assert "$job" in target["expr"], "only the gateways that are chosen"
                assert "$instance" in target["expr"]
    assert [variable["name"] for variable in dashboard()["templating"]["list"]] == ["datasource", "job", "instance"]


def test_every_alert_says_what_to_do_and_is_tried() -> None:
    """A severity, a summary, a description; and alerts_test.yaml has each."""
    tried = (PROMETHEUS / "alerts_test.yaml").read_text()
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["alert"] in tried


def test_the_scrape_names_the_job_that_alerts_and_dashboard_look_for() -> None:
    """And asks with a key: `/metrics` is not public."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    (scrape,) = config["scrape_configs"]
    assert scrape["job_name"] == "headgate"
    assert scrape["metrics_path"] == "/metrics"
    assert scrape["authorization"]["type"] == "Bearer"
    assert config["rule_files"] == ["alerts.yaml"]
    jobs = {fixed["job"] for _, text in expressions() for *_, fixed in named(text) if "job" in fixed}
    assert jobs == {"headgate"}


@needs_promtool
def test_prometheus_own_tool_takes_them(tmp_path: Path) -> None:
    """The configuration, the rules, and what the rules do with made-up series."""
    for path in PROMETHEUS.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "headgate.key").write_text("secret")
    for words in ("check config prometheus.yaml", "check rules alerts.yaml", "test rules alerts_test.yaml"):
        answer = subprocess.run(
            ["promtool", *words.split()], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
