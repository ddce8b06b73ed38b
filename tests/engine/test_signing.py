"""T29 for signed requests: what a signature covers, how long it counts, and that it counts once.

The counterpart is the library's own signer, with components and parameters of the test's choice.
"""

import datetime as dt
import random
from typing import Any, NamedTuple

import pytest
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, algorithms
from http_message_signatures.digests import ContentDigest

from engine.errors import Refused, Unavailable
from engine.keys import digest_of
from engine.signing import (
    AHEAD_S,
    COVERED,
    SeenSignatures,
    Signed,
    _Secret,
    check_content,
    read_key_id,
    secret_of,
    sign_request,
    verify_request,
)

NOW = 1_800_000_000
WINDOW_S = 60.0
SECRET = bytes.fromhex(secret_of("hg_5f3c9a1e7b2d4c68_" + "x" * 43))
TARGET = "/ingest?subject=snapfs.files&x=%2f"
BODY = b'{"events":[]}'


class Message(NamedTuple):
    """A request as the library takes it."""

    method: str
    url: str
    headers: dict[str, str]


def sign(
    *,
    covered: tuple[str, ...] = COVERED,
    body: bytes | None = BODY,
    method: str = "POST",
    target: str = TARGET,
    created: int | None = NOW,
    secret: bytes = SECRET,
    **more: Any,
) -> dict[str, str]:
    """The headers of a request that somebody signed in a way of their own, names in lower case."""
    message = Message(
        method, f"http://gateway:8000{target}", {"host": "gateway:8000", "date": "x", **more.pop("extra", {})}
    )
    signer = HTTPMessageSigner(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=_Secret(secret))
    at = dt.datetime.fromtimestamp(created, dt.UTC) if created is not None else None
    signer.sign(message, key_id="k1", created=at, covered_component_ids=covered, body=body, label="s", **more)
    headers = {name.lower(): value for name, value in message.headers.items()}
    return headers | ({"content-length": str(len(body))} if body else {})


def verify(headers: dict[str, str], *, method: str = "POST", target: str = TARGET, now: float = NOW) -> Signed:
    """Look at a request."""
    return verify_request(SECRET, method, target, headers, now, WINDOW_S)


def test_a_signed_request_is_good_within_its_window() -> None:
    """And its body is the one that was signed; any more components do no harm."""
    signed = verify(sign())
    check_content(signed, BODY)
    for covered in ((*COVERED, "@authority"), (*COVERED, "date", "host"), tuple(reversed(COVERED))):
        check_content(verify(sign(covered=covered)), BODY)
    check_content(verify(sign(body=None, method="GET"), method="GET"), b"")
    for now in (NOW + WINDOW_S, NOW - AHEAD_S):
        verify(sign(), now=now)
    with pytest.raises(Refused) as caught:
        check_content(signed, BODY + b" ")
    assert "content-digest" in caught.value.detail


def test_our_own_signature_is_one_to_others() -> None:
    """What `sign_request` makes, the library's verifier takes, and so do we; two of one second differ."""
    made = [sign_request("k1", SECRET, "POST", f"http://a:1{TARGET}", BODY, NOW, nonce) for nonce in ("n1", "n2")]
    assert made[0] != made[1]
    headers = {"host": "a:1", "content-length": "9", **{name.lower(): value for name, value in made[0].items()}}
    check_content(verify(headers), BODY)

    class Patient(HTTPMessageVerifier):
        def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
            pass

    other = Patient(signature_algorithm=algorithms.HMAC_SHA256, key_resolver=_Secret(SECRET))
    message = Message("POST", f"http://a:1{TARGET}", headers)
    [result] = other.verify(message, max_age=None, body=BODY)
    assert (result.parameters["keyid"], result.parameters["alg"], result.nonce) == ("k1", "hmac-sha256", "n1")


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    """The same without one."""
    return {one: text for one, text in headers.items() if one != name}


WRONG: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "another method": (sign(), {"method": "PUT"}, "not valid here"),
    "another path": (sign(), {"target": TARGET.replace("ingest", "ingesT")}, "not valid here"),
    "another query": (sign(), {"target": TARGET + "&more=1"}, "not valid here"),
    "no query": (sign(), {"target": "/ingest"}, "not valid here"),
    "another spelling of the path": (sign(), {"target": TARGET.replace("i", "%69", 1)}, "not valid here"),
    "another key": (sign(secret=b"x" * 32), {}, "not valid here"),
    "another digest": (sign() | {"content-digest": ContentDigest.create(b"x")}, {}, "not valid here"),
    "no digest of its body": (sign(body=None) | {"content-length": "13"}, {}, "content-digest"),
    "no digest of its chunks": (sign(body=None) | {"transfer-encoding": "chunked"}, {}, "content-digest"),
    "a digest that is not covered": (
        sign(body=None) | {"content-length": "13", "content-digest": ContentDigest.create(BODY)},
        {},
        "content-digest",
    ),
    "the method not covered": (sign(covered=("@path", "@query")), {}, "@method"),
    "the path not covered": (sign(covered=("@method", "@query")), {}, "@path"),
    "the query not covered": (sign(covered=("@method", "@path")), {}, "@query"),
    "nothing covered": (sign(covered=()), {}, "@method"),
    "too old": (sign(), {"now": NOW + WINDOW_S + 1}, "created"),
    "of tomorrow": (sign(), {"now": NOW - AHEAD_S - 1}, "created"),
    "expired": (
        sign(expires=dt.datetime.fromtimestamp(NOW + 1, dt.UTC)),
        {"now": NOW + 2},
        "expired",
    ),
    "no signature": (without(sign(), "signature"), {}, "Signature"),
    "two signatures": (
        {
            **sign(),
            "signature-input": sign()["signature-input"] + ", t=" + sign()["signature-input"][2:],
            "signature": sign()["signature"] + ", t=" + sign()["signature"][2:],
        },
        {},
        "",
    ),
    "another algorithm": (
        {**sign(), "signature-input": sign()["signature-input"].replace("hmac-sha256", "ed25519")},
        {},
        "",
    ),
    "another time": ({**sign(), "signature-input": sign()["signature-input"].replace(str(NOW), str(NOW + 1))}, {}, ""),
    "no time": (
        {**sign(), "signature-input": sign()["signature-input"].replace(f";created={NOW}", "")},
        {},
        "",
    ),
    "a time in words": (
        {**sign(), "signature-input": sign()["signature-input"].replace(f"created={NOW}", 'created="now"')},
        {},
        "",
    ),
    "a shorter signature": ({**sign(), "signature": "s=:AAAA:"}, {}, ""),
    "an empty signature": ({**sign(), "signature": "s=::"}, {}, ""),
    "no structured field": ({**sign(), "signature-input": "s=(", "signature": "s"}, {}, ""),
    "another label": ({**sign(), "signature": sign()["signature"].replace("s=", "t=")}, {}, ""),
    "another host, covered": (sign(covered=(*COVERED, "@authority")) | {"host": "evil"}, {}, "not valid here"),
    "no host": (without(sign(), "host"), {}, ""),
    "a covered header that is gone": (without(sign(covered=(*COVERED, "date")), "date"), {}, "date"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_signed_so_is_refused(name: str) -> None:
    """With 401, and what was expected; never with another exception."""
    headers, more, said = WRONG[name]
    with pytest.raises(Refused) as caught:
        verify(headers, **more)
    assert caught.value.kind.code == "identity.bad-signature"
    assert said in caught.value.detail
    assert SECRET.hex() not in caught.value.detail


def test_a_body_where_none_was_signed_is_refused() -> None:
    """HTTP/2 says no length: what comes all the same is another request."""
    signed = verify(sign(body=None))
    with pytest.raises(Refused):
        check_content(signed, b"{}")


def test_a_signature_counts_once_however_it_is_written() -> None:
    """Blanks, labels and the order of headers are not signed: a replay in other clothes is one all the same."""
    headers = sign()
    disguised = {
        **headers,
        "signature-input": headers["signature-input"].replace("s=(", "other=( ").replace("s=", "other=", 1),
        "signature": headers["signature"].replace("s=", "other="),
    }
    assert verify(headers).mark == verify(disguised).mark
    assert verify(headers).mark != verify(sign(nonce="n")).mark
    seen = SeenSignatures(WINDOW_S)
    seen.add(verify(headers).mark, NOW)
    with pytest.raises(Refused) as caught:
        seen.add(verify(disguised).mark, NOW + WINDOW_S + AHEAD_S - 1)
    assert "used before" in caught.value.detail


def test_what_is_remembered_is_bounded_and_outlives_its_signature() -> None:
    """Nothing is forgotten that would count again; overloaded, the next ones are told to come back."""
    seen = SeenSignatures(WINDOW_S, most=10)
    for number in range(10):
        seen.add(bytes([number]), NOW)
    with pytest.raises(Unavailable):
        seen.add(b"more", NOW)
    with pytest.raises(Unavailable):  # the oldest acceptable signature ends as this memory does, not before
        seen.add(b"more", NOW + WINDOW_S + AHEAD_S)
    seen.add(b"more", NOW + WINDOW_S + AHEAD_S + 0.001)
    assert len(seen) == 1


def test_noise_is_refused(chance: random.Random) -> None:
    """Any text in either header, any change of a good one: refused, and nothing else."""
    letters = 's=(";:@methodpathquerycreatedkeyid0123456789) ,\t\\"é'
    for _ in range(1000):
        headers = sign()
        name = chance.choice(["signature-input", "signature", "content-digest", "host"])
        text = list(headers[name])
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(text) + 1)
            text[place : place + chance.randrange(3)] = chance.choice(letters)
        if "".join(text) == headers[name] or (name == "host"):
            continue
        headers[name] = "".join(text)
        try:
            read_key_id(headers["signature-input"])
            signed = verify(headers)
        except Refused:
            continue
        assert signed.mark == verify(sign()).mark, headers  # only what means the same is taken


@pytest.mark.parametrize(
    "text", ["", "s=()", 's=();keyid=""', 's=();keyid="a b"', 's=();keyid="a";keyid="b"', "keyid=k"]
)
def test_a_key_that_is_not_named_once_is_none(text: str) -> None:
    """It is looked up before anything costly is done."""
    with pytest.raises(Refused):
        read_key_id(text)


def test_what_is_kept_of_a_key_is_not_the_key() -> None:
    """Nor its digest, by which bearers are known; and it is the same each time."""
    assert secret_of("k") == secret_of("k") != secret_of("l")
    assert len(secret_of("k")) == 64
    assert secret_of("k") != digest_of("k")
