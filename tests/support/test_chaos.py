"""The chaos proxy, tried on a real nats-server."""

from pathlib import Path

import pytest
import trio

from tests.support.chaos import open_chaos_proxy
from tests.support.nats_client import open_nats_client
from tests.support.nats_server import open_nats_server


async def test_the_proxy_passes_everything_and_drops_only_the_ack_it_was_told(tmp_path: Path) -> None:
    """A publish whose ack is dropped is stored all the same, and the next one is answered."""
    async with (
        open_nats_server(tmp_path / "nats") as server,
        open_chaos_proxy(server.url) as proxy,
        open_nats_client(proxy.url) as client,
    ):
        await client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "storage": "file"})
        assert await client.publish("s.a", b"x" * 200_000) == 1
        proxy.drop_next(1)
        with trio.move_on_after(0.3) as waited:
            await client.publish("s.a", b"two")
        assert waited.cancelled_caught
        assert len(proxy.dropped) == 1
        assert await client.publish("s.a", b"three") == 3
        assert [message.data[:5] for message in await client.read_stream("S")] == [b"xxxxx", b"two", b"three"]


async def test_the_proxy_holds_cuts_and_refuses(tmp_path: Path) -> None:
    """A held answer comes after the release; a cut connection ends; a refused one never speaks."""
    async with open_nats_server(tmp_path / "nats") as server, open_chaos_proxy(server.url) as proxy:
        async with open_nats_client(proxy.url) as client:
            proxy.hold()
            with trio.move_on_after(0.2) as waited:
                await client.api("INFO")
            assert waited.cancelled_caught
            proxy.release()
            assert (await client.api("INFO"))["streams"] == 0
            proxy.cut()
            with pytest.raises((OSError, trio.BrokenResourceError)):
                await client.api("INFO")
        proxy.is_refusing = True
        with pytest.raises(OSError, match="closed"):
            async with open_nats_client(proxy.url):
                pass
        assert proxy.connections_count == 2
