"""The catalog's tables: any order, any repetition, any poison, and the answers for the cache (a real PostgreSQL)."""

import random
from pathlib import Path

from engine.catalog import Source, rows_of
from engine.catalog_store import CatalogStore
from engine.hashes import Probe, identity_of, path_of
from tests.support.catalog_model import messages_of, model_of, read_table
from tests.support.postgres import open_real_postgres


def source(sequence: int, payload: bytes) -> Source:
    """A message as the gateway stored it, a second after the one before it."""
    return Source(payload, True, sequence, 1_763_640_000_000_000 + sequence * 1_000_000)


async def test_rows_do_not_depend_on_order_or_repetition(tmp_path: Path, chance: random.Random) -> None:
    """Batches in any order, each perhaps twice, with poison among them: the table is what the log says."""
    messages = list(enumerate(messages_of(chance, 120, 40, 300), 1))
    model = model_of(messages)
    shuffled = [*messages, *chance.sample(messages, 60)]
    chance.shuffle(shuffled)
    async with open_real_postgres(tmp_path) as real:
        store = CatalogStore(real.databases.owner)
        epoch = await store.open_epoch("S", "then")
        while shuffled:
            size = chance.choice((1, 3, 20))
            batch, shuffled = shuffled[:size], shuffled[size:]
            written = await store.write(rows_of([source(*one) for one in batch], epoch), epoch)
            assert not written.refused
        rows = rows_of([source(*one) for one in messages], epoch)
        assert (rows.refused, rows.events) == (model.refused, model.events)
        assert model.refused
        assert await read_table(real.databases.owner) == model.files
        assert (await store.write(rows, epoch)).rows == 0, "nothing is written twice"
        await a_stream_made_again_is_newer(store)
        await what_postgresql_refuses_is_left_out(store)
        await the_cache_gets_its_answers(store)


async def a_stream_made_again_is_newer(store: CatalogStore) -> None:
    """A lost log begins at sequence 1 again, and its first event overwrites all that was before."""
    again = await store.open_epoch("S", "later")
    assert again > await store.open_epoch("S", "then")
    payload = b'{"events":[{"type":"file.delete","data":{"path":"/show/seq_1/file_1.exr"}}]}'
    first = rows_of([source(1, payload)], again)
    assert (await store.write(first, again)).rows == 1


async def what_postgresql_refuses_is_left_out(store: CatalogStore) -> None:
    """Should a row come through that PostgreSQL does not take, it alone is lost."""
    events = b",".join(b'{"type":"file.upsert","data":{"path":"/good/%d"}}' % number for number in range(50))
    rows = rows_of([source(900, b'{"events":[' + events + b"]}")], 99)
    spoilt = rows_of([source(901, b'{"events":[{"type":"file.upsert","data":{"path":"/bad"}}]}')], 99)
    [(key, (position, row))] = spoilt.files.items()
    rows.files[key] = position, row.replace(b"/bad", b"/b\0d")
    written = await store.write(rows, 99)
    assert written.rows == 50
    assert len(written.refused) == 1
    assert "0x00" in written.refused[0]


async def the_cache_gets_its_answers(store: CatalogStore) -> None:
    """By identity and by path, newest first, deletions beside them."""
    upsert = (
        b'{"events":[{"type":"file.upsert","data":{"path":"/c","size":1,"mtime":5.5,"inode":7,"dev":3,'
        b'"algo":"sha1","hash":"%s"}},{"type":"file.upsert","data":{"path":"/d","size":1,"mtime":5,"algo":"a","hash":"b"}},'
        b'{"type":"file.delete","data":{"path":"/gone"}}]}'
    )
    await store.write(rows_of([source(1000, upsert % b"new")], 99), 99)
    await store.write(rows_of([source(999, upsert % b"old")], 99), 99)
    by_inode, by_path = Probe("/x", None, None, None, None, 1, 5, 7, 3), Probe("/d", size=1, mtime=5)
    keys = [identity_of(one) for one in (by_inode, by_path)]
    paths = [path_of(one) for one in ("/c", "/gone", "/never")]
    known = await store.find([one for one in keys if one], [one for one in paths if one])
    stored_us = source(1000, b"").stored_us
    assert known.entries == {keys[0]: ("sha1", "new", stored_us), keys[1]: ("a", "b", stored_us)}
    assert known.deleted == {paths[1]: stored_us}
