"""POST /cache/batch as scanners in the field speak it, against the real gateway (S0.3 to S0.5, S0.7)."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, open_gateway
from tests.support.http import ask, post_json
from tests.support.ingest import ingest
from tests.support.nats_server import open_nats_server
from tests.support.redis_server import needs_redis, open_redis_server
from tests.support.waiting import wait_until

MISS = {"status": "MISS", "algo": None, "hash": None}
HIT = {"status": "HIT", "algo": "xxh3_128", "hash": "00112233445566778899aabbccddeeff"}
MAX_PROBES = 10_000

File = dict[str, Any]


def new_file(**more: object) -> File:
    """The stat of a file that no other test knows, by path only unless told otherwise."""
    return {"path": f"/cache/{uuid.uuid4().hex}", "size": 10, "mtime": 1_700_000_000, **more}


def upsert(file: File, **more: object) -> dict[str, Any]:
    """The event by which a scanner reports the file with its hash."""
    return {"type": "file.upsert", "data": {**file, "algo": HIT["algo"], "hash": HIT["hash"], **more}}


def delete(**data: object) -> dict[str, Any]:
    """The event by which a scanner reports that a file is gone."""
    return {"type": "file.delete", "data": data}


async def probe(gateway: Gateway, *files: File, prefix: str = "") -> list[Any]:
    """Ask for these files; the answers in order."""
    answer = await post_json(gateway.url, f"{prefix}/cache/batch", list(files))
    assert answer.status == 200, answer.body
    value: list[Any] = answer.json()
    assert isinstance(value, list)
    return value


async def publish(gateway: Gateway, *events: dict[str, Any]) -> None:
    """Ingest these events in one request."""
    answer = await ingest(gateway, "snapfs.files", {"events": list(events)})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_a_file_is_a_miss_before_its_upsert_and_a_hit_after_it(gateway: Gateway, prefix: str) -> None:
    """The answer has exactly status, algo and hash, the last two null on a miss (S0.3, S0.7)."""
    file = new_file()
    assert await probe(gateway, file, prefix=prefix) == [MISS]
    await publish(gateway, upsert(file))
    assert await probe(gateway, file, prefix=prefix) == [HIT]


async def test_the_answers_come_in_the_order_of_the_probes(gateway: Gateway) -> None:
    """Hits and misses interleaved, repeated and many, each in its place."""
    known = [new_file() for _ in range(50)]
    events = [upsert(file, algo="sha1", hash=f"{number:040x}") for number, file in enumerate(known)]
    await publish(gateway, *events)
    probes = [file for one in known for file in (one, new_file(), one)]
    answers = await probe(gateway, *probes)
    for number in range(50):
        hit = {"status": "HIT", "algo": "sha1", "hash": f"{number:040x}"}
        assert answers[3 * number : 3 * number + 3] == [hit, MISS, hit]


async def test_dev_and_inode_are_the_identity_where_both_are_set(gateway: Gateway) -> None:
    """A renamed file is a hit by (dev, inode, size, mtime); a zero is no inode (S0.4)."""
    chance = uuid.uuid4().int
    inode, dev = chance % 2**63 + 1, chance % 2**31 + 1
    file = new_file(inode=inode, dev=dev)
    await publish(gateway, upsert(file))
    renamed = new_file(inode=inode, dev=dev)
    other = [{**file, "inode": inode + 1}, {**file, "dev": dev + 1}, {**file, "size": 11}, {**file, "mtime": 1.0}]
    assert await probe(gateway, file, renamed, *other) == [HIT, HIT, MISS, MISS, MISS, MISS]

    by_path = new_file(inode=0, dev=dev)
    await publish(gateway, upsert(by_path))
    bare = {name: by_path[name] for name in ("path", "size", "mtime")}
    assert await probe(gateway, bare, {**bare, "inode": 0, "dev": 0}, {**bare, "inode": None, "dev": None}) == [HIT] * 3


async def test_only_the_whole_seconds_of_mtime_count(gateway: Gateway) -> None:
    """A float mtime and its whole seconds are the same moment; the next second is another (S0.4)."""
    file = new_file(mtime=1_700_000_000.75)
    await publish(gateway, upsert(file))
    moments = (1_700_000_000, 1_700_000_000.0, 1_700_000_000.999, 1_700_000_001)
    assert await probe(gateway, *({**file, "mtime": mtime} for mtime in moments)) == [HIT, HIT, HIT, MISS]


async def test_probes_and_events_meet_at_the_canonical_path(gateway: Gateway) -> None:
    """A Windows spelling and its canonical one are one file."""
    name = uuid.uuid4().hex
    file = new_file(path=f"C:\\show\\.\\{name}\\\\a.exr")
    await publish(gateway, upsert(file))
    spellings = (
        f"C:/show/{name}/a.exr",
        f"C:\\show\\{name}\\a.exr",
        f"C:/show//{name}/./a.exr",
        f"C:/show/{name}/b.exr",
    )
    assert await probe(gateway, *({**file, "path": path} for path in spellings)) == [HIT, HIT, HIT, MISS]


async def test_a_delete_evicts_with_everything_or_with_only_a_path(gateway: Gateway) -> None:
    """After `file.delete` a probe is a miss, even where the event named nothing but the path (S0.7)."""
    files = [new_file(), new_file(), new_file(inode=uuid.uuid4().int % 2**60 + 1, dev=5)]
    await publish(gateway, *(upsert(file) for file in files))
    assert await probe(gateway, *files) == [HIT] * 3
    await publish(gateway, delete(**files[0]), delete(path=files[1]["path"]), delete(path=files[2]["path"]))
    assert await probe(gateway, *files) == [MISS] * 3
    await publish(gateway, *(upsert(file) for file in files))
    assert await probe(gateway, *files) == [HIT] * 3


async def test_the_order_inside_a_request_decides(gateway: Gateway) -> None:
    """An upsert after a delete is a hit, a delete after an upsert a miss, in one request as in two."""
    first, second = new_file(), new_file()
    await publish(gateway, delete(path=first["path"]), upsert(first), upsert(second), delete(**second))
    assert await probe(gateway, first, second) == [HIT, MISS]


async def test_what_does_not_make_an_entry_is_no_error(gateway: Gateway) -> None:
    """Upserts without hash or with odd facts are stored and seed nothing; odd probes are misses."""
    file = new_file()
    await publish(
        gateway,
        {"type": "file.upsert", "data": file},
        upsert(file, hash=None),
        upsert(file, algo=""),
        upsert({**file, "size": "ten"}),
        upsert({**file, "mtime": None}),
        {"type": "dir.upsert", "data": upsert(file)["data"]},
    )
    odd: list[File] = [
        {},
        {"path": file["path"]},
        {**file, "size": -1},
        {**file, "mtime": 1e300},
        {**file, "path": None},
    ]
    odd += [{**file, "inode": "x", "dev": []}, {**file, "size": 2**63}, {**file, "unknown": {"a": 1}}]
    assert await probe(gateway, file, *odd) == [MISS] * (1 + len(odd))


async def test_nothing_asked_nothing_answered(gateway: Gateway) -> None:
    """An empty array is answered with an empty array."""
    assert await probe(gateway) == []


async def test_10000_probes_are_taken_and_one_more_is_not(gateway: Gateway) -> None:
    """The limit is exact (S0.5)."""
    file = new_file()
    assert await probe(gateway, *[file] * MAX_PROBES) == [MISS] * MAX_PROBES
    (await post_json(gateway.url, "/cache/batch", [file] * (MAX_PROBES + 1))).problem(413)


@pytest.mark.parametrize("value", [{}, 1, None, "x", [1], [None], [[]], {"probes": []}], ids=repr)
async def test_what_is_not_an_array_of_probes_is_422(gateway: Gateway, value: object) -> None:
    """JSON of another shape is refused, and the problem says what was expected."""
    assert "probe" in (await post_json(gateway.url, "/cache/batch", value)).problem(422)["detail"]


async def test_probes_that_are_not_json_are_400_with_the_byte_offset(gateway: Gateway) -> None:
    """The same answer as ingest gives."""
    answer = await ask(gateway.url, "POST", "/cache/batch", {"Content-Type": "application/json"}, b'[{"path":"a"},]')
    assert answer.problem(400)["offset"] == 14


async def test_an_entry_is_forgotten_after_its_time(tmp_path: Path) -> None:
    """SNAPFS_CACHE_TTL seconds after the upsert the file is a miss again (S0.25)."""
    async with open_gateway(tmp_path / "data", env={"SNAPFS_CACHE_TTL": "2"}) as gateway:
        file = new_file()
        await publish(gateway, upsert(file))
        assert await probe(gateway, file) == [HIT]

        async def is_forgotten() -> bool:
            return await probe(gateway, file) == [MISS]

        await wait_until(is_forgotten, "the entry is too old", timeout_s=4)


@asynccontextmanager
async def open_two_gateways(folder: Path) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways with data folders of their own on one log and one Redis."""
    async with open_nats_server(folder / "nats") as nats, open_redis_server(folder / "redis") as redis:
        env = {"NATS_URL": nats.url, "REDIS_URL": redis.url}
        async with open_gateway(folder / "one", env=env) as one, open_gateway(folder / "two", env=env) as two:
            yield one, two


@needs_redis
async def test_a_second_gateway_on_the_same_redis_answers_hit(tmp_path: Path) -> None:
    """What one gateway learned is a hit at the other, and what it forgot before that is none (S0.7, S0.22)."""
    async with open_two_gateways(tmp_path) as (one, two):
        files = [new_file(), new_file(inode=77, dev=3), new_file(), new_file(inode=78, dev=3)]
        await publish(one, *(upsert(file) for file in files))
        await publish(one, delete(**files[2]), delete(path=files[3]["path"]))
        assert await probe(one, *files, new_file()) == [HIT, HIT, MISS, MISS, MISS]
        assert await probe(two, *files, new_file()) == [HIT, HIT, MISS, MISS, MISS]


@needs_redis
async def test_a_delete_at_one_gateway_evicts_at_the_other(tmp_path: Path) -> None:
    """A file that the second gateway holds in its own tier is no hit there after the first one saw it deleted."""
    async with open_two_gateways(tmp_path) as (one, two):
        files = [new_file(), new_file(inode=77, dev=3), new_file()]
        await publish(one, *(upsert(file) for file in files))
        assert await probe(two, *files) == [HIT] * 3
        await publish(one, delete(**files[0]), delete(path=files[1]["path"]))
        assert await probe(one, *files) == [MISS, MISS, HIT]
        await wait_until_probed(two, files, [MISS, MISS, HIT])


async def wait_until_probed(gateway: Gateway, files: list[File], expected: list[Any]) -> None:
    """Wait until this gateway answers so."""

    async def is_so() -> bool:
        return await probe(gateway, *files) == expected

    await wait_until(is_so, f"the probes answer {[answer['status'] for answer in expected]}", timeout_s=5)


@needs_redis
async def test_a_redis_that_dies_fails_neither_ingest_nor_probes(tmp_path: Path) -> None:
    """Without its Redis the gateway answers from its own memory, and says in /readyz what is down."""
    async with (
        open_redis_server(tmp_path / "redis") as redis,
        open_gateway(tmp_path / "data", env={"REDIS_URL": redis.url}) as gateway,
    ):
        before, after = new_file(), new_file()
        await publish(gateway, upsert(before))
        assert await redis.command("DBSIZE") != b":0\r\n"
        redis.kill()
        await publish(gateway, upsert(after))
        assert await probe(gateway, before, after, new_file()) == [HIT, HIT, MISS]

        async def redis_state() -> str:
            state: str = (await ask(gateway.url, "GET", "/readyz")).json()["dependencies"]["redis"]["state"]
            return state

        async def is_down() -> bool:
            return await redis_state() == "down"

        async def is_up() -> bool:
            return await redis_state() == "up"

        await wait_until(is_down, "redis is reported down", timeout_s=10)
        assert (await ask(gateway.url, "GET", "/readyz")).status == 200
        await redis.start()
        await wait_until(is_up, "redis is reported up again", timeout_s=15)
        assert await probe(gateway, before, after) == [HIT, HIT]
