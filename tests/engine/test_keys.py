"""API keys: recognised by their digest, two at once while one is replaced, gone when revoked."""

import random

import pytest

from engine.identity import FIELD_SCOPES, SCOPES, Kind
from engine.keys import (
    DEMO_KEY,
    MOST_KEYS,
    KeyRecord,
    KeyRing,
    decode_keys,
    digest_of,
    encode_keys,
    keys_of_setting,
    make_key,
)


def record(key: str, *, key_id: str = "k1", name: str = "one", expires_at: float | None = None) -> KeyRecord:
    """A key's record."""
    return KeyRecord(key_id, name, digest_of(key), ("ingest:write",), expires_at=expires_at)


def test_a_key_is_recognised_and_nothing_else_is() -> None:
    """Not its digest, not its beginning, not another case, not the empty text."""
    ring = KeyRing((record("hg_secret_1234567"),))
    found = ring.recognise("hg_secret_1234567", 0)
    assert found is not None
    assert found.id == "k1"
    for other in ("", "hg_secret_123456", "hg_secret_12345678", "HG_SECRET_1234567", found.digest, "k1"):
        assert ring.recognise(other, 0) is None


def test_a_key_ends_when_it_expires() -> None:
    """At its second, not after it."""
    ring = KeyRing((record("a" * 20, expires_at=100.0),))
    assert ring.recognise("a" * 20, 99.9) is not None
    assert ring.recognise("a" * 20, 100.0) is None


def test_a_rotation_leaves_two_good_keys_until_the_first_expires() -> None:
    """Two keys of one name are good at once; afterwards the new one alone."""
    ring = KeyRing((record("old-old-old-old-old"),))
    ring = ring.with_key(record("new-new-new-new-new", key_id="k2")).ending("k1", 50.0)
    for now, good in ((49.0, {"old", "new"}), (50.0, {"new"})):
        keys = {"old": "old-old-old-old-old", "new": "new-new-new-new-new"}
        assert {name for name, key in keys.items() if ring.recognise(key, now)} == good
    assert {one.name for one in ring.records} == {"one"}
    assert ring.ending("k1", 60.0).records[0].expires_at == 50.0  # never prolonged
    assert [one.id for one in ring.without("k1").records] == ["k2"]


def test_an_id_is_there_once() -> None:
    """A repeated id is refused; of two rings the left one's stays."""
    with pytest.raises(ValueError, match="once"):
        KeyRing((record("a" * 20), record("b" * 20)))
    both = KeyRing((record("a" * 20),)) | KeyRing((record("b" * 20), record("c" * 20, key_id="k2")))
    assert [one.digest for one in both.records] == [digest_of("a" * 20), digest_of("c" * 20)]


def test_the_ring_is_bounded() -> None:
    """More keys than anybody needs are refused."""
    ring = KeyRing(tuple(record(f"key-{number:020}", key_id=f"k{number}") for number in range(MOST_KEYS)))
    with pytest.raises(ValueError, match=str(MOST_KEYS)):
        ring.with_key(record("one-more-one-more", key_id="more"))


def test_a_file_is_read_as_it_was_written(chance: random.Random) -> None:
    """And says nothing from which a key could be made."""
    key_id, key = make_key(chance.randbytes(40))
    ring = KeyRing((KeyRecord(key_id, "one", digest_of(key), ("admin",), ("a.>",), ("d*",), ("/p",), 1.5, 2.5),))
    text = encode_keys(ring)
    assert decode_keys(text) == (ring, [])
    assert key.encode() not in text
    assert key.rpartition("_")[2].encode() not in text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys":[{"id":"a"}]}',
        b'{"keys":[{"id":"a","name":"b","digest":"xx","scopes":[]}]}',
        b'{"keys":[],"more":1}',
        b'{"keys":[{"id":"a","name":"b","digest":"' + b"0" * 64 + b'","scopes":["bogus"]}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_keys_file_is_refused(text: bytes) -> None:
    """Nothing is guessed about who may do what."""
    with pytest.raises(ValueError, match="expected"):
        decode_keys(text)


def test_the_environments_keys() -> None:
    """Names, scopes and allow lists; without scopes those of the field."""
    ring = keys_of_setting(
        "a=secret-0123456789, b=secret-abcdefghij==;scopes=query:sql+filestore:write;subjects=x.>+y;durables=b-*"
    )
    first, second = (one.principal() for one in ring.records)
    assert (first.subject, first.scopes, first.subjects, first.kind) == ("a", FIELD_SCOPES, (), Kind.KEY)
    assert second.scopes == {"query:sql", "filestore:write", "filestore:read"}
    assert (second.subjects, second.durables) == (("x.>", "y"), ("b-*",))
    assert ring.recognise("secret-abcdefghij==", 0) is ring.records[1]
    assert keys_of_setting("") == KeyRing()
    admin = keys_of_setting(f"x={DEMO_KEY};scopes=admin").records[0].principal()
    assert admin.scopes == SCOPES


def test_keys_are_made_of_chance_alone(chance: random.Random) -> None:
    """256 bits of it, in characters that a header and a subprotocol carry."""
    made = {make_key(chance.randbytes(40)) for _ in range(100)}
    assert len({key for _, key in made}) == 100
    for key_id, key in made:
        assert key.startswith(f"hg_{key_id}_")
        assert len(key) == 3 + 16 + 1 + 43
        assert key.replace("_", "").replace("-", "").isalnum()
    with pytest.raises(ValueError, match="40"):
        make_key(b"short")
