"""The embedded log's files: its configuration says what it promises, and its secret is its own (S0.1, T5)."""

from pathlib import Path

import orjson
import pytest

from engine.endpoints import Endpoint
from engine.events import MAX_BODY_BYTES
from engine.nats_server import MAX_PAYLOAD_BYTES, USER, EmbeddedLog, find_binary


def write_ports(folder: Path, value: object, name: str = "nats-server_1.ports") -> None:
    """Write the file by which the server says where it listens."""
    (folder / name).write_bytes(value if isinstance(value, bytes) else orjson.dumps(value))


@pytest.mark.parametrize(
    ("durability", "says"), [("fsync", "sync_interval: always"), ("buffered", "sync_interval: 2m")]
)
def test_the_configuration_says_what_was_asked_for(tmp_path: Path, durability: str, says: str) -> None:
    """Loopback on free ports, a password, and the durability class; nobody else may read it."""
    log = EmbeddedLog(tmp_path / 'odd "name"' / "nats", durability)
    argv = log.prepare()
    assert argv == [find_binary(), "-c", str(log.folder / "nats-server.conf")]
    text = (log.folder / "nats-server.conf").read_text()
    assert says in text
    assert "listen: 127.0.0.1:-1\n" in text
    assert "http: 127.0.0.1:-1\n" in text
    assert f"max_payload: {MAX_PAYLOAD_BYTES}\n" in text
    assert MAX_PAYLOAD_BYTES > MAX_BODY_BYTES
    secret = (log.folder / "secret").read_text()
    assert f'password: "{secret}"' in text
    for path in (log.folder / "nats-server.conf", log.folder / "secret"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert log.folder.stat().st_mode & 0o777 == 0o700


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    """A restart keeps it, and two gateways have different ones."""
    log = EmbeddedLog(tmp_path / "one", "fsync")
    log.prepare()
    secret = (log.folder / "secret").read_text()
    assert len(secret) == 48
    log.prepare()
    assert (log.folder / "secret").read_text() == secret
    other = EmbeddedLog(tmp_path / "other", "fsync")
    other.prepare()
    assert (other.folder / "secret").read_text() != secret


def test_where_it_listens_is_what_the_running_server_says(tmp_path: Path) -> None:
    """Before it has said so it is not ready; what an earlier server said is forgotten at the start."""
    log = EmbeddedLog(tmp_path, "fsync")
    for ask in (log.endpoint, log.monitor_url):
        with pytest.raises(OSError, match="not ready"):
            ask()
    write_ports(tmp_path, {"nats": ["nats://127.0.0.1:5000"], "monitoring": ["http://127.0.0.1:5001"]})
    secret = "x" * 48
    (tmp_path / "secret").write_text(secret)
    assert log.endpoint() == Endpoint("127.0.0.1", 5000, {"user": USER, "pass": secret})
    assert log.monitor_url() == "http://127.0.0.1:5001"
    log.prepare()
    with pytest.raises(OSError, match="not ready"):
        log.endpoint()


@pytest.mark.parametrize(
    "value", [b"", b"{", b'{"nats":["nats://127.0', {}, {"nats": []}, {"nats": ["nats://127.0.0.1:1"]}], ids=repr
)
def test_a_file_that_is_being_written_says_nothing_yet(tmp_path: Path, value: object) -> None:
    """Cut short, or without one of the two ports, it is not ready; nothing else is raised."""
    write_ports(tmp_path, value)
    with pytest.raises(OSError, match="not ready"):
        EmbeddedLog(tmp_path, "fsync").endpoint()
