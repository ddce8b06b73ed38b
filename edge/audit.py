"""`GET /audit`: who changed what.

Rules of the file:
- A page is bounded in records and in what is looked at for them; `next`, and a `Link`, say where the one after begins.
"""

from typing import Final
from urllib.parse import urlencode

import orjson

from edge.http import JSON, Request, Response, json_response
from edge.node import Node
from engine.audit import read_query
from engine.errors import Refused

NDJSON: Final = "application/x-ndjson"
_LINES: Final = frozenset({NDJSON, "application/ndjson"})


async def get_audit(node: Node, request: Request) -> Response:
    """Give a page of records: JSON, or a line each where `Accept` names NDJSON and no JSON."""
    if node.audit is None:
        raise Refused("request.not-implemented", "this gateway keeps no audit log: HEADGATE_AUDIT is off")
    request.principal.check_sees_all()
    parameters = request.parameters()
    query = read_query(parameters)
    page = await node.audit.find(query)
    headers = {"Vary": "Accept"}
    if page.following is not None:
        name = "before" if query.after is None else "after"
        following = {**{one: text for one, text in parameters.items() if one != name}, name: str(page.following)}
        headers["Link"] = f'<{request.path}?{urlencode(following)}>; rel="next"'
    records = [one.describe() for one in page.found]
    if wants_lines(request.headers.get("accept", "")):
        return Response(200, b"".join(orjson.dumps(one) + b"\n" for one in records), NDJSON, headers)
    return json_response({"records": records, "next": page.following}, headers=headers)


def wants_lines(accept: str) -> bool:
    """Say that an Accept header names NDJSON, and JSON not before it."""
    for one in accept.lower().split(","):
        name = one.partition(";")[0].strip()
        if name in _LINES:
            return True
        if name == JSON:
            return False
    return False
