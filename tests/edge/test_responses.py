"""Responses as bytes: one framing, read by a strict reader, and no header from outside but the request's id."""

import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import h11
import pytest

from edge.http import Response, json_response
from edge.responses import SECURITY, encode_response, request_id_of
from engine.errors import KINDS


def read(data: bytes, method: str = "GET") -> tuple[h11.Response, bytes, h11.Connection]:
    """Read an answer strictly."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return response, body, client


def headers_of(response: h11.Response) -> dict[str, str]:
    """The headers, each of which is there once."""
    pairs = [(name.decode(), value.decode("latin-1")) for name, value in response.headers]
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


@pytest.mark.parametrize("status", sorted({200, *(kind.status for kind in KINDS.values())}))
def test_an_answer_has_exactly_its_headers(status: int) -> None:
    """Type, length, id, date and the security headers, once each, for every status of the table."""
    data = encode_response(Response(status, b'{"a":1}'), "id-1", stays=True, head_only=False)
    response, body, client = read(data)
    assert (response.status_code, response.reason.decode(), body) == (status, HTTPStatus(status).phrase, b'{"a":1}')
    headers = headers_of(response)
    date = parsedate_to_datetime(headers.pop("date"))
    assert date.tzinfo is not None
    assert headers == {"content-type": "application/json", "content-length": "7", "x-request-id": "id-1", **SECURITY}
    assert client.trailing_data == (b"", False)
    client.start_next_cycle()


def test_the_last_answer_of_a_connection_says_so() -> None:
    """`connection: close`, and the reader expects nothing more."""
    data = encode_response(Response(200, b"x"), "id-1", stays=False, head_only=False)
    response, body, client = read(data)
    assert (headers_of(response)["connection"], body) == ("close", b"x")
    with pytest.raises(h11.LocalProtocolError):
        client.start_next_cycle()


def test_head_is_told_the_length_and_sent_no_body() -> None:
    """The answer to HEAD has the headers of GET and ends with them."""
    answer = Response(200, b"x" * 100)
    data = encode_response(answer, "id-1", stays=True, head_only=True)
    response, body, client = read(data, "HEAD")
    assert (headers_of(response)["content-length"], body) == ("100", b"")
    client.start_next_cycle()
    assert encode_response(answer, "id-1", stays=True, head_only=False) == data + answer.body


def test_an_empty_answer_has_a_length() -> None:
    """No body is a body of no bytes, not one that ends with the connection."""
    response, body, _ = read(encode_response(Response(200), "id-1", stays=True, head_only=False))
    assert (headers_of(response)["content-length"], body) == ("0", b"")


def test_a_handlers_own_header_wins() -> None:
    """A header of the same name as one of ours, in any case, replaces it; others stand beside them."""
    answer = Response(200, b"", headers={"Cache-Control": "max-age=5", "Retry-After": "3"})
    headers = headers_of(read(encode_response(answer, "id-1", stays=True, head_only=False))[0])
    assert headers["cache-control"] == "max-age=5"
    assert headers["x-content-type-options"] == SECURITY["x-content-type-options"]
    assert headers["retry-after"] == "3"


def test_json_is_the_usual_answer() -> None:
    """A value, a status, and headers where there are some."""
    response = json_response({"a": [1, None]}, 503, {"Retry-After": "1"})
    assert (response.status, response.body, response.headers) == (503, b'{"a":[1,null]}', {"Retry-After": "1"})
    assert json_response([]).content_type == "application/json"


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "0" * 128])
def test_a_harmless_id_of_the_client_is_kept(given: str) -> None:
    """A client finds its own id in the answer and in the log."""
    assert request_id_of({"x-request-id": given}) == given


@pytest.mark.parametrize(
    "given", ["", " ", "a b", "a\tb", "é", "a\r\nX: 1", "a\n", "<a>", "a/b", "0" * 129, "a,b", "$(x)"]
)
def test_any_other_id_is_replaced(given: str) -> None:
    """Nothing that could break a header or a log line comes back."""
    made = request_id_of({"x-request-id": given})
    assert made != given
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", made)


def test_ids_that_are_made_up_are_different() -> None:
    """Each request has its own."""
    assert len({request_id_of({}) for _ in range(1000)}) == 1000
