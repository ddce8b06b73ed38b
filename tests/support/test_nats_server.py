"""The tests' own NATS tools, tried on each other."""

from pathlib import Path

from tests.support.nats_client import open_nats_client
from tests.support.nats_server import open_nats_server


async def test_the_external_server_keeps_its_port_and_its_stream_over_a_kill(tmp_path: Path) -> None:
    """A NatsServer that was killed and started again is the same log at the same address."""
    async with open_nats_server(tmp_path / "nats", is_syncing_always=True) as server:
        assert (await server.varz())["jetstream"]["config"]["sync_always"] is True
        async with open_nats_client(server.url) as client:
            await client.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "storage": "file"})
            for number in range(1, 1202):
                assert await client.publish("s.a", b"%d" % number) == number
        url = server.url
        server.kill()
        await server.start()
        assert server.url == url
        async with open_nats_client(server.url) as client:
            messages = await client.read_stream("S")
            assert [message.sequence for message in messages] == list(range(1, 1202))
            assert [message.data for message in messages] == [b"%d" % number for number in range(1, 1202)]
            assert [message.data for message in await client.read_stream("S", after=1199)] == [b"1200", b"1201"]


async def test_an_external_server_syncs_at_intervals_unless_told(tmp_path: Path) -> None:
    """The control of T5: without `sync_interval: always` the monitoring does not claim it."""
    async with open_nats_server(tmp_path / "nats") as server:
        assert not (await server.varz())["jetstream"]["config"].get("sync_always")
