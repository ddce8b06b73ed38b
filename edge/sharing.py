"""What one worker's hash cache tells the others': deletions, because a hit for a deleted file is a lie.

Known hashes are not told: another worker asks Redis or the catalog for them, and without both it is a miss, which
costs the scanner a hash and nobody an event.

Rules of the file:
- Nothing is missed in silence: who could not be told everything is told, as soon as it can be, to forget all it knows.
"""

import time

import orjson

from actors.hashes import HashCache
from actors.mesh import Mesh
from engine.placement import FIRST

DELETED = "deleted"
FORGET = "forget"


def share_deletions(mesh: Mesh, cache: HashCache) -> None:
    """Have a worker's cache tell the others what is deleted, and hear it from them."""

    def tell(tombstones: dict[bytes, int]) -> None:
        for other in list(mesh.told_less):
            if mesh.tell(other, FORGET):
                mesh.told_less.discard(other)
        if tombstones:
            body = orjson.dumps({path.hex(): at_us for path, at_us in tombstones.items()})
            mesh.tell_all(DELETED, body, least=FIRST)

    def hear(_: int, body: bytes) -> None:
        for path, at_us in orjson.loads(body).items():
            cache.table.bury(bytes.fromhex(path), at_us)

    def forget(_: int, __: bytes) -> None:
        cache.table.forget_before(time.time_ns() // 1000)

    cache.on_deletions = tell
    mesh.on_tell(DELETED, hear)
    mesh.on_tell(FORGET, forget)
