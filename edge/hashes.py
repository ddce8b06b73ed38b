"""`POST /cache/batch`: is each of these files, as its stat describes it, known?

Source: S0.3 to S0.5 (wire).
"""

from typing import Final

import orjson

from edge.bodies import read_decoded_body
from edge.http import Request, Response
from edge.node import Node
from engine.events import MAX_BODY_BYTES
from engine.hashes import decode_entry, decode_probes

MISS: Final = b'{"status":"MISS","algo":null,"hash":null}'


async def post_cache_batch(node: Node, request: Request) -> Response:
    """Answer every probe, in order, with a hit or a miss."""
    probes = decode_probes(await read_decoded_body(request, MAX_BODY_BYTES))
    entries = await node.hashes.probe(probes)
    return Response(200, b"[" + b",".join([MISS if one is None else _hit(one) for one in entries]) + b"]")


def _hit(packed: bytes) -> bytes:
    entry = decode_entry(packed)
    return b'{"status":"HIT","algo":%s,"hash":%s}' % (orjson.dumps(entry.algo), orjson.dumps(entry.hash))
