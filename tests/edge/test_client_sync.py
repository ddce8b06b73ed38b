"""The client for scripts against a real gateway: the same words without `async`, and clean ends."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge.client import Credit, Event, GatewayRefused, GatewayUnreachable, Probe
from edge.client_portal import ClientClosed
from edge.client_sync import SyncClient
from tests.support.gateway import PROJECT_ROOT, Gateway, running_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One real gateway for the module; a test has a subject of its own."""
    with running_gateway(tmp_path_factory.mktemp("sync") / "data", env={"HEADGATE_CATALOG": "on"}) as running:
        yield running


def publish(client: SyncClient, subject: str, count: int) -> None:
    """Put so many messages on the log."""
    for number in range(count):
        client.publish(
            [Event("file.upsert", {"path": f"/{subject}/{number}"})], subject=subject, key=f"{subject}{number}"
        )


def test_publish_probe_and_ready_are_plain_calls(gateway: Gateway) -> None:
    """No `async`, no `await`, no Trio."""
    with SyncClient(gateway.url) as client:
        assert client.ready().is_ready
        event = Event("file.upsert", {"path": "/s", "size": 1, "mtime": 5, "algo": "x", "hash": "ff"})
        assert client.publish([event], key="sync-1").received == 1
        assert client.publish([event], key="sync-1").duplicate
        assert [answer.is_hit for answer in client.probe([Probe("/s", 1, 5), Probe("/t", 1, 5)])] == [True, False]


def test_the_catalog_is_asked_in_sql(gateway: Gateway) -> None:
    """With named parameters; a mistake is refused in PostgreSQL's words."""
    with SyncClient(gateway.url) as client:
        assert client.query("select :n::int + 1 as more", {"n": 41}).rows == [{"more": 42}]
        with pytest.raises(GatewayRefused, match="no_such_table"):
            client.query("select * from no_such_table")


def test_a_for_loop_is_an_agent(gateway: Gateway, own_subject: str, own_durable: str) -> None:
    """Batch after batch, mixed verdicts, confirmations, status; leaving the loop gives back what is held."""
    with SyncClient(gateway.url) as client:
        publish(client, own_subject, 4)
        seen: list[str] = []
        with client.stream(own_subject, durable=own_durable, credit=Credit(1, 10_000)) as stream:
            for batch in stream:
                seen += [event.data["path"] for event in batch.events()]
                assert batch.progress()
                assert batch.ack(confirm=True).confirmed == (0,)
                if len(seen) == 3:
                    break
            assert stream.status().lag.messages <= 1
            assert stream.statistics().connections == 1
        assert seen == [f"/{own_subject}/{number}" for number in range(3)]
        delivered = 0
        for batch in client.stream(own_subject, durable=own_durable):
            [first] = batch
            delivered = first.delivered
            break  # unanswered: it goes back at once
        with closing(iter(client.stream(own_subject, durable=own_durable))) as batches:
            again = next(batches)
            assert [message.delivered for message in again] == [delivered + 1]
            assert again.settle(term={0: "enough"}, confirm=True).confirmed == (0,)


def test_errors_are_raised_in_the_callers_thread(gateway: Gateway) -> None:
    """Refused is refused, out of the loop; a client that is closed says so."""
    with SyncClient(gateway.url) as client:
        with pytest.raises(GatewayRefused):
            next(iter(client.stream("no such subject", durable="d")))
        with pytest.raises(GatewayRefused):
            client.publish([Event("x", {})], subject="*")
    with pytest.raises(ClientClosed):
        client.ready()
    with SyncClient("http://127.0.0.1:1", give_up_s=0.1) as client, pytest.raises(GatewayUnreachable):
        client.probe([])


def test_nothing_is_left_behind(gateway: Gateway, own_subject: str) -> None:
    """Every client's thread ends with its block, also when a loop was left in the middle."""
    before = threading.active_count()
    for _ in range(3):
        with SyncClient(gateway.url) as client:
            publish(client, own_subject, 1)
            batches = iter(client.stream(own_subject, from_="all"))
            assert len(next(batches)) >= 1
        del batches  # closed after its client, which is late but no error
    assert threading.active_count() <= before + 1  # Trio keeps an idle worker thread for ten seconds


SCRIPT = """
import sys
from edge.client_sync import SyncClient
with SyncClient(sys.argv[1]) as client:
    try:
        for batch in client.stream(sys.argv[2], durable=sys.argv[3]):
            print([message.delivered for message in batch], flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
"""


def test_ctrl_c_ends_a_waiting_loop(gateway: Gateway, own_subject: str, own_durable: str, tmp_path: Path) -> None:
    """The loop is interrupted where it waits, the batch goes back, and the process ends as Python does."""
    (tmp_path / "script.py").write_text(SCRIPT)
    with SyncClient(gateway.url) as client:
        publish(client, own_subject, 1)
        process = subprocess.Popen(
            [sys.executable, tmp_path / "script.py", gateway.url, own_subject, own_durable],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(PROJECT_ROOT)},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "[1]\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
        assert out == "interrupted\n"
        assert process.returncode in (-signal.SIGINT, 130), err
        assert err.strip().endswith("KeyboardInterrupt")
        again = next(iter(client.stream(own_subject, durable=own_durable)))
        assert [message.delivered for message in again] == [2]
