"""`/consumers` and below: what reads the stream, and moving, pausing and removing it.

Rules of the file:
- A body is an object with the members that are named here; another member is refused, because it was meant to do
  something.
"""

from math import isfinite

import orjson

from edge.bodies import read_json_object
from edge.http import Request, Response, json_response
from edge.node import Node
from engine.errors import Refused
from engine.positions import POSITION_WORDS, parse_position

MOST_OFFSET = 1_000_000_000


async def get_consumers(node: Node, request: Request) -> Response:
    """Give a page of consumers, of those the principal may use: `?offset=`, and `next` where there are more."""
    offset = read_count(request.parameters(), "offset", 0, 0, MOST_OFFSET)
    found, after = await node.consumers.list_all(offset)
    shown = [one for one in found if request.principal.allows_durable(str(one["durable"]))]
    await _add_attached(node, shown)
    return json_response({"consumers": shown, "next": after})


async def get_consumer(node: Node, request: Request) -> Response:
    """Give one consumer."""
    return json_response(await node.consumers.show(request.path_parameters["durable"]))


async def post_reset(node: Node, request: Request) -> Response:
    """Move a consumer: `{"to":"all|new|last|seq:N|time:ISO"}`."""
    body = await read_json_object(request)
    check_members(body, "to")
    to = body.get("to")
    if not isinstance(to, str):
        raise Refused("request.wrong-shape", f"to: expected a text, {POSITION_WORDS}")
    request.facts["to"] = to
    position = parse_position(to, "to")
    return json_response(await node.consumers.reset(request.path_parameters["durable"], position))


async def post_pause(node: Node, request: Request) -> Response:
    """Deliver nothing for a while: `{"for_s":x}`."""
    body = await read_json_object(request)
    check_members(body, "for_s")
    for_s = body.get("for_s")
    if isinstance(for_s, bool) or not isinstance(for_s, int | float) or not isfinite(for_s) or for_s <= 0:
        raise Refused("request.wrong-shape", "for_s: expected a number of seconds above 0")
    request.facts["for_s"] = float(for_s)
    return json_response(await node.consumers.pause(request.path_parameters["durable"], min(float(for_s), 1e12)))


async def post_resume(node: Node, request: Request) -> Response:
    """Deliver again."""
    check_members(await read_json_object(request, may_be_empty=True))
    return json_response(await node.consumers.pause(request.path_parameters["durable"], 0.0))


async def delete_consumer(node: Node, request: Request) -> Response:
    """Remove a consumer; with sockets attached only by `?force=1`."""
    durable = request.path_parameters["durable"]
    force = request.parameters().get("force", "") in {"1", "true"}
    request.facts["force"] = force
    await node.consumers.remove(durable, force=force)
    node.pulls.forget(durable)
    return json_response({"durable": durable, "deleted": True})


async def _add_attached(node: Node, shown: list[dict[str, object]]) -> None:
    """Add the sockets that other workers have."""
    if node.mesh is None or not shown:
        return
    answers = await node.mesh.ask_all("attached", orjson.dumps([one["durable"] for one in shown]))
    for counts in map(orjson.loads, answers.values()):
        for one, count in zip(shown, counts, strict=True):
            one["attached"] = int(str(one["attached"])) + count


def check_members(body: dict[str, object], *names: str) -> None:
    """Refuse members that nobody asked for.

    Raises:
        Refused: naming the first of them, and those that are taken.
    """
    for name in body:
        if name not in names:
            known = ", ".join(names) or "none"
            raise Refused("request.wrong-shape", f"{name[:80]!r} is not a member here; expected {known}")


def read_count(parameters: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    """Read a whole number of a query.

    Raises:
        Refused: it is none, or out of range.
    """
    text = parameters.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
        raise Refused("request.bad-parameter", f"{name}: expected {least} to {most} (it is {text[:40]!r})")
    return int(text)
