"""Frames are counted by their heads alone: every flood has its limit, and what clients do has none that they meet."""

import random

import pytest

from engine.http2_floods import (
    ALLOWANCES,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    FRAMES_AT_ONCE,
    MOST_BLOCK_BYTES,
    MOST_FRAME_BYTES,
    MOST_SETTINGS_COUNT,
    PREFACE,
    FrameMeter,
)
from tests.support.http2 import frame

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION, UNKNOWN = 0, 1, 2, 3, 4, 6, 7, 8, 9, 0xEE
FLOODS = {
    "resets": frame(RST, 0, 1, bytes(4)),
    "controls": frame(PING, 0, 0, bytes(8)),
    "settings": frame(SETTINGS, 0, 0),
    "unknown": frame(UNKNOWN, 0, 0, b"x" * 50),
    "goaways": frame(GOAWAY, 0, 0, bytes(8)),
    "priorities": frame(PRIORITY, 0, 1, bytes(5)),
    "windows": frame(WINDOW, 0, 1, b"\0\0\0\1"),
    "empties": frame(DATA, 0, 1),
    "small": frame(DATA, 0, 1, b"x"),
    "continuations": frame(CONTINUATION, 0, 1),
}


def greeted() -> FrameMeter:
    """A meter that has seen the preface."""
    meter = FrameMeter(0.0)
    assert meter.take(PREFACE, 0, 0.0) == len(PREFACE)
    return meter


def feed(meter: FrameMeter, data: bytes, now: float = 0.0) -> None:
    """Have a meter take everything, until it has had enough."""
    at = 0
    while at < len(data) and meter.flood is None:
        at = meter.take(data, at, now)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_found_within_its_allowance(name: str) -> None:
    """A thousand and one frames of each kind at once are too many, and the reason says what and how many."""
    meter = greeted()
    feed(meter, FLOODS[name] * 1001)
    assert meter.flood is not None
    assert meter.flood.code == ENHANCE_YOUR_CALM
    assert "the limit is" in meter.flood.detail


@pytest.mark.parametrize("kind", sorted(set(ALLOWANCES) - {"windows"}))
def test_an_allowance_refills_with_time(kind: str) -> None:
    """At just its rate a kind never ends; a little above it does."""
    most, per_s = ALLOWANCES[kind]
    for factor, ends in ((1.0, False), (1.2, True)):
        meter, now = greeted(), 0.0
        for _ in range(int(most * 10)):
            now += 1 / (per_s * factor)
            meter.count(kind, now)
        assert (meter.flood is not None) is ends, (kind, factor)


def test_windows_are_opened_for_what_was_sent() -> None:
    """A client that takes a large body opens windows without end; one that takes nothing does not."""
    meter = greeted()
    for _ in range(10_000):
        meter.sent()
        feed(meter, FLOODS["windows"] * 2)
        assert meter.flood is None
    feed(meter, FLOODS["windows"] * 1001)
    assert meter.flood is not None


def test_a_header_block_ends_or_is_ended() -> None:
    """CVE-2024-27316: CONTINUATION frames add up; when a block began is known until it ends."""
    meter = greeted()
    seen = []
    for now, kind, flags in ((3.0, HEADERS, 0), (4.0, CONTINUATION, 0x4), (5.0, HEADERS, 0x4)):
        feed(meter, frame(kind, flags, 1, b"x" * 100), now)
        seen.append(meter.block_since)
    assert seen == [3.0, None, None]
    for count, ends in ((4, False), (1, True)):
        if count == 4:
            feed(meter, frame(HEADERS, 0, 5, b"x"))
        feed(meter, frame(CONTINUATION, 0, 5, b"x" * 16_000) * count)
        assert (str(MOST_BLOCK_BYTES) in str(meter.flood)) is ends


def test_a_long_frame_is_refused_by_its_head() -> None:
    """Nothing of sixteen megabytes is waited for: the nine bytes that announce them are enough."""
    meter = greeted()
    feed(meter, frame(DATA, 0, 1, length=MOST_FRAME_BYTES + 1))
    assert meter.flood is not None
    assert meter.flood.code == FRAME_SIZE_ERROR


def test_settings_are_counted_for_life() -> None:
    """However slowly they come, a thousand are the end: the library remembers each."""
    meter, now = greeted(), 0.0
    for _ in range(MOST_SETTINGS_COUNT // 50):
        now += 10.0
        feed(meter, frame(SETTINGS, 0, 0, bytes(6 * 50)), now)
        assert meter.flood is None
    feed(meter, frame(SETTINGS, 0, 0, bytes(6)), now + 10.0)
    assert meter.flood is not None


def test_any_split_counts_the_same(chance: random.Random) -> None:
    """Whole, byte by byte and cut anywhere: the same frames, the same verdict, and never more at once than said."""
    kinds = [DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION, UNKNOWN]
    for _ in range(50):
        data = PREFACE + b"".join(
            frame(chance.choice(kinds), chance.randrange(256), 1, bytes(chance.randrange(60)))
            for _ in range(chance.randrange(400))
        )
        verdicts = []
        for most in (1, 7, 1000, len(data)):
            meter, at = FrameMeter(0.0), 0
            while at < len(data):
                size = 1 if most == 1 else chance.randrange(1, most + 1)
                feed(meter, data[at : at + size])
                at += size
            verdicts.append((meter.flood, meter.block_since))
        assert len(set(verdicts)) == 1, verdicts
    meter = greeted()
    assert meter.take(frame(DATA, 1, 1) * 1000, 0, 0.0) == 9 * FRAMES_AT_ONCE
