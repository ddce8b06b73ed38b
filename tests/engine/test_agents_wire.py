"""What remote scanners say: everything that a client in the field may send is taken, and nothing raises."""

import contextlib
import math
import random
from typing import Any

import orjson
import pytest

from engine.agents_wire import (
    MAX_ERROR_CHARS,
    MAX_REPORT_BYTES,
    MOST_CONCURRENCY,
    Said,
    Word,
    Working,
    encode_target,
    read_hello,
    read_report,
    read_said,
)
from engine.errors import Refused

HELLO: dict[str, Any] = {
    "type": "AGENT_HELLO",
    "agent_id": "nas-1",
    "agent_type": "scanner",
    "version": "1.2",
    "capabilities": ["scan.fs"],
    "root_path": "/mnt",
    "scanner_type": "fs",
    "max_concurrency": 3,
}


def test_the_introduction_of_the_issue_is_read_whole() -> None:
    """S0.27: each member of the wire's hello."""
    said = read_said(orjson.dumps(HELLO).decode())
    hello = read_hello(said.value)
    assert said.word is Word.HELLO
    assert (hello.agent_id, hello.agent_type, hello.version, hello.capabilities) == (
        "nas-1",
        "scanner",
        "1.2",
        ("scan.fs",),
    )
    assert (hello.root_path, hello.scanner_type, hello.max_concurrency, hello.running) == ("/mnt", "fs", 3, None)


def test_only_the_id_is_needed() -> None:
    """Missing members have defaults, unknown ones and wrong types are passed over."""
    hello = read_hello({"agent_id": "x"})
    assert (hello.agent_type, hello.max_concurrency, hello.capabilities) == ("scanner", 1, ())
    odd = read_hello(
        {"agent_id": 17, "version": 3, "capabilities": "scan.fs", "root_path": None, "max_concurrency": "4", "mood": {}}
    )
    assert (odd.agent_id, odd.version, odd.capabilities, odd.root_path, odd.max_concurrency) == ("17", "3", (), "", 4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, 1), (-5, 1), (None, 1), ("many", 1), (10**9, MOST_CONCURRENCY), (2.9, 2), (math.inf, 1), ([], 1), (True, 1)],
)
def test_an_odd_concurrency_is_a_usable_one(given: object, expected: int) -> None:
    """Never nothing at all, never without a bound."""
    assert read_hello({"agent_id": "x", "max_concurrency": given}).max_concurrency == expected


@pytest.mark.parametrize(
    "given", [None, "", " " * 200, "a/b", "a\\b", "..", ".", "a\nb", True, ["x"], {}, 1.5, "x" * 129]
)
def test_an_unusable_id_is_refused_with_its_name(given: object) -> None:
    """What no path of `/agents/{id}` could carry is said to be so."""
    with pytest.raises(Refused, match="agent_id") as refusal:
        read_hello({"agent_id": given})
    assert refusal.value.kind.code == "agents.bad-hello"


@pytest.mark.parametrize(
    "message",
    [
        "",
        "null",
        "[]",
        "17",
        '"AGENT_HELLO"',
        "{",
        '{"type":null}',
        '{"type":["PING"]}',
        '{"type":{"a":1}}',
        '{"type":"SCAN_PROGRESS"}',
        '{"kind":"PING"}',
        "[" * 100_000,
        '{"a":' * 5_000,
        b"\xff\xfe",
        b"\x00",
        '{"type":"PING","x":NaN}',
        '{"type":"\\ud800"}',
    ],
)
def test_what_cannot_be_understood_is_something_else(message: str | bytes) -> None:
    """No frame raises."""
    assert read_said(message).word is Word.OTHER


def test_a_binary_frame_counts_as_its_text() -> None:
    """Some clients send the bytes that their encoder gave them."""
    assert read_said(b'{"type":"PING","t":1}').word is Word.PING


def test_random_frames_never_raise(chance: random.Random) -> None:
    """Whatever the members hold, reading gives a value or the one refusal."""
    odd: list[Any] = [
        None,
        True,
        0,
        -1,
        1e308,
        "",
        "x" * 5000,
        [],
        {},
        [[[]]],
        {"a": {"b": []}},
        "\x00",
        "é",
        [None] * 500,
    ]
    names = [
        "type",
        "agent_id",
        "command_id",
        "took_s",
        "summary",
        "error",
        "running",
        "capabilities",
        "max_concurrency",
    ]
    for _ in range(3000):
        value = {name: chance.choice(odd) for name in chance.sample(names, chance.randrange(len(names)))}
        for word in (Word.COMPLETE, Word.ERROR):
            read_report(Said(word, value))
        with contextlib.suppress(Refused):
            read_hello(value)


def test_reports_are_read_and_bounded() -> None:
    """Summary and what else is said are kept; too much, or too deep, is left out and the scan ends all the same."""
    said = read_said(
        '{"type":"SCAN_COMPLETE","command_id":"c","root":"/x","took_s":2,"summary":{"files":1},"host":"h"}'
    )
    report = read_report(said)
    assert report is not None
    assert (report.command_id, report.is_complete, report.took_s, report.error) == ("c", True, 2.0, "")
    assert orjson.loads(report.body) == {"summary": {"files": 1}, "more": {"host": "h"}}
    for summary in ("x" * MAX_REPORT_BYTES, orjson.loads("[" * 200 + "]" * 200), orjson.loads("[" * 900 + "]" * 900)):
        large = read_report(Said(Word.COMPLETE, {"command_id": "c", "summary": summary}))
        assert large is not None
        assert (large.is_complete, large.body) == (True, b"")
    failed = read_report(Said(Word.ERROR, {"command_id": "c", "error": "e" * 10_000}))
    assert failed is not None
    assert (failed.is_complete, failed.error) == (False, "e" * MAX_ERROR_CHARS)
    silent = read_report(Said(Word.ERROR, {"command_id": "c"}))
    assert silent is not None
    assert silent.error
    assert read_report(Said(Word.ERROR, {"command_id": 7})) is None
    assert read_report(Said(Word.COMPLETE, {})) is None


def test_an_agent_may_say_what_it_has_in_hands() -> None:
    """Our own agent does; names that no path can carry are passed over."""
    running = [{"command_id": "a", "root": "/x"}, "b", {"command_id": "x/y"}, None, 7]
    assert read_hello({"agent_id": "x", "running": running}).running == (Working("a", "/x"), Working("b", ""))
    assert read_hello({"agent_id": "x", "running": "a"}).running is None


def test_an_order_has_the_shape_of_the_wire() -> None:
    """S0.27, wire: SCAN_TARGET, exactly."""
    assert orjson.loads(encode_target("c", "/x", "manual", None, {"force": False})) == {
        "type": "SCAN_TARGET",
        "command_id": "c",
        "target": {"root": "/x", "trigger_type": "manual", "schedule_id": None},
        "options": {"force": False},
    }
