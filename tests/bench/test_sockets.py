"""The load generator's readers understand what they are sent, whole and byte by byte."""

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

import pytest

from bench.agent import AgentSocket, count_arrivals
from bench.events import SENT_BASE_NS
from bench.http_load import Address, HttpSocket
from bench.nats_socket import Message, NatsSocket
from bench.workers import LoadFailedError, Tally

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx: y\r\n\r\nhello"
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


Client = TypeVar("Client", HttpSocket, AgentSocket, NatsSocket)


@contextmanager
def connected(
    connect: Callable[[Address], Client], greeting: bytes
) -> Iterator[tuple[Client, socket.socket, Callable[[bytes], object]]]:
    """A client, its peer, which has said `greeting`, and a way to send what is larger than the kernel's buffers."""
    with ThreadPoolExecutor(1) as elsewhere, socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> socket.socket:
            peer, _ = server.accept()
            peer.sendall(greeting)
            return peer

        accepted = elsewhere.submit(greet)
        try:
            client = connect(server.getsockname())
        except LoadFailedError:
            accepted.result().close()
            raise
        with accepted.result() as peer, closing(client):
            yield client, peer, lambda content: elsewhere.submit(peer.sendall, content)


def text_frame(content: bytes, first: int = 0x81) -> bytes:
    """A WebSocket frame as a server sends it, not masked."""
    size = len(content)
    if size < 126:
        return struct.pack("!BB", first, size) + content
    return (
        struct.pack("!BBH", first, 126, size) + content
        if size < 65536
        else struct.pack("!BBQ", first, 127, size) + content
    )


def test_http_answer_is_complete_with_its_last_byte() -> None:
    """Fed byte by byte, None until the end; two answers do not mix."""
    with connected(HttpSocket, b"") as (client, peer, _):
        for byte in ANSWER[:-1]:
            peer.sendall(bytes((byte,)))
            assert client.receive() is None
        peer.sendall(ANSWER[-1:])
        assert client.receive() == ANSWER
        peer.sendall(ANSWER)
        assert client.receive() == ANSWER


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_http_answer_that_cannot_be_counted_fails_the_run(said: bytes) -> None:
    """A closed connection and an answer without Content-Length are no figures."""
    with connected(HttpSocket, said) as (client, peer, _):
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(LoadFailedError):
            client.receive()


def test_agent_reads_frames_of_every_length_and_answers_pings() -> None:
    """Lengths of 7, 16 and 64 bits, fragments, a ping between; an acknowledgement is masked and names its batch."""
    batch = b"4f0c2b1e-7d3a-4c55-9a31-0d7e5b2f8c11"
    small = b'{"type":"events","batch":"%s","messages":[]}' % batch
    middle, large = small + b" " * 500, small + b" " * 5_000_000
    greeting = UPGRADED + text_frame(small) + text_frame(middle, 0x01)
    with connected(lambda address: AgentSocket(address, "durable"), greeting) as (agent, peer, send_large):
        assert agent.wait_message() == small
        peer.sendall(text_frame(b"hi", 0x89) + text_frame(middle, 0x80))
        assert agent.wait_message() == middle + middle
        assert agent.wait_message(0.0) is None
        send_large(text_frame(large))
        assert agent.wait_message() == large
        agent.acknowledge(small)
        agent.close()
        heard = b""
        while received := peer.recv(65536):
            heard += received
        assert heard.startswith(b"GET /stream?subject=snapfs.files&durable=durable&batch=100 HTTP/1.1\r\n")
        assert b"\x8a\x82\x00\x00\x00\x00hi\x81" in heard
        assert heard.endswith(b'{"type":"ack","batch":"%s"}' % batch)


def test_agent_fails_the_run_when_it_is_closed_or_refused() -> None:
    """A close frame and an answer other than 101 are no figures."""
    with (
        connected(lambda address: AgentSocket(address, "a"), UPGRADED + text_frame(b"\x03\xe9", 0x88)) as (
            agent,
            _,
            _,
        ),
        pytest.raises(LoadFailedError, match="closed the stream"),
    ):
        agent.wait_message()
    with (
        pytest.raises(LoadFailedError, match="no upgrade"),
        connected(lambda address: AgentSocket(address, "a"), b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ):
        pass


def test_arrivals_count_inside_the_window_from_the_intended_time() -> None:
    """An event sent inside the window has a latency even when it arrives later, but is then no work of the window."""
    content = b'{"type":"file.upsert","data":{"sent_ns":%d}}' % (SENT_BASE_NS + 1_000_000)
    tally = Tally()
    count_arrivals(tally, content * 2, 0, 2_000_000, 1_500_000)
    count_arrivals(tally, content, 0, 2_000_000, 9_000_000)
    assert tally.latencies_ms == [0.5, 0.5, 8.0]
    assert (tally.units, tally.requests) == (2, 1)


def test_nats_messages_come_whole_in_any_cut() -> None:
    """A message with and without a reply subject, a ping between them, fed byte by byte."""
    stream = b"MSG a.b 1 3\r\nxyz\r\nPING\r\nMSG a.b 1 $JS.ACK.1 2\r\n\r\n\r\n"
    with connected(NatsSocket, b"INFO {}\r\nPONG\r\n") as (client, peer, _):
        found = []
        for byte in stream:
            peer.sendall(bytes((byte,)))
            found += client.receive()
        assert found == [Message(b"a.b", b"", b"xyz"), Message(b"a.b", b"$JS.ACK.1", b"\r\n")]
        peer.sendall(b"-ERR 'Stale Connection'\r\n")
        with pytest.raises(LoadFailedError, match="Stale"):
            client.receive()
