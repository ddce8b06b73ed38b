"""`POST /cache/batch`: is each of these files, as its stat describes it, known?

Source: S0.3 to S0.5 (wire).
"""

from typing import Final

import orjson

from edge.bodies import read_decoded_body
from edge.http import Request, Response
from edge.node import Node
from engine.events import MAX_BODY_BYTES
from engine.hashes import ALGORITHM_AT, SPELLED_OUT, VALUE_AT, decode_entry, decode_probes

MISS: Final = b'{"status":"MISS","algo":null,"hash":null}'
_HEADS: Final[dict[int, bytes]] = {}
"""The beginnings of hits, by their algorithm's number: as many as there are known ones."""


async def post_cache_batch(node: Node, request: Request) -> Response:
    """Answer every probe, in order, with a hit or a miss."""
    probes = decode_probes(await read_decoded_body(request, MAX_BODY_BYTES))
    entries = await node.hashes.probe(probes)
    return Response(200, b"[" + b",".join([MISS if one is None else _hit(one) for one in entries]) + b"]")


def _hit(packed: bytes) -> bytes:
    number, value = packed[ALGORITHM_AT], packed[VALUE_AT:]
    if number == SPELLED_OUT:
        entry = decode_entry(packed)
        return orjson.dumps({"status": "HIT", "algo": entry.algo, "hash": entry.hash})
    head = _HEADS.get(number)
    if head is None:
        head = _HEADS[number] = b'{"status":"HIT","algo":%s,"hash":"' % orjson.dumps(decode_entry(packed).algo)
    if value.isalnum():  # as hashes are; anything else is written the careful way
        return head + value + b'"}'
    return head[:-1] + orjson.dumps(value.decode()) + b"}"
