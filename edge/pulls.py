"""`GET /stream/pull` and `POST /stream/settle`: the durables of the sockets for curl and cron jobs.

Rules of the file:
- A client that leaves while it waits is noticed, and what was pulled for it goes back at once.
- What is not confirmed is late or failed; nothing is confirmed by being unknown.
"""

from typing import Final

import orjson
import trio

from actors.pulls import Pulled
from edge.bodies import read_json_object
from edge.consumers import read_count
from edge.http import Request, Response, json_response
from edge.node import Node
from engine.errors import Fault, Refused
from engine.placement import home_of_durable
from engine.settle_words import BadFrame, Settle, read_settle
from engine.stream import BATCH_BYTES
from engine.stream_v1 import encode_events, read_options

MOST_WAIT_S: Final = 60.0
MOST_BYTES: Final = 8 * 1024 * 1024
SETTLE_BYTES: Final = 1024 * 1024
SETTLE_WITHIN_S: Final = 30.0
"""For another worker, which waits for the log's confirmation."""


async def get_pull(node: Node, request: Request) -> Response:
    """Wait for messages of a durable and hand them over, as one batch."""
    if request.method == "HEAD":
        raise Refused("request.wrong-method", "a pull takes messages, so it is no question for HEAD", allow="GET")
    parameters = request.parameters()
    options = read_options(parameters)
    if options.durable is None:
        raise Refused("request.bad-parameter", "durable: missing from the query")
    if options.is_exclusive:
        raise Refused("request.bad-parameter", "exclusive: a pull holds nothing alone; attach a socket for that")
    most_bytes = read_count(parameters, "max_bytes", BATCH_BYTES, 1, MOST_BYTES)
    wait_s = _read_wait(parameters.get("wait", ""))
    streams = node.stream_v1
    streams.check(options)
    request.principal.check_subject(options.subject)
    request.principal.check_durable(options.durable)
    name, made = await streams.ensure(options)
    facts = await streams.describe(name)
    gaps = await node.gaps.observe(name, options.start.sequence if made else 0)
    outcomes: list[Pulled | Fault] = []
    has_left = False

    async def pull() -> None:
        try:
            outcomes.append(await node.pulls.pull(options, facts, most_bytes, wait_s, gaps))
        except Fault as fault:
            outcomes.append(fault)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull)
        await request.wait_left()
        has_left = True
        nursery.cancel_scope.cancel()
    outcome = outcomes[0] if outcomes else None
    if isinstance(outcome, Fault):
        raise outcome
    if has_left or outcome is None:
        if outcome is not None and outcome.batch is not None:
            node.pulls.give_back(name, outcome.batch)
        raise trio.BrokenResourceError("the client left while it waited")
    return _answer(outcome)


async def post_settle(node: Node, request: Request) -> Response:
    """Settle messages of a batch: a settle frame with the durable's name beside the batch's."""
    body = await read_json_object(request, SETTLE_BYTES)
    durable = body.get("durable")
    if not isinstance(durable, str) or not durable:
        raise Refused("request.wrong-shape", "durable: expected the durable's name, a string")
    request.principal.check_durable(durable)
    words = read_settle({"confirm": True, **body})
    if isinstance(words, BadFrame):
        raise Refused("request.wrong-shape", words.message)
    settled = await _settle(node, durable, words, body)
    return json_response(settled if settled is not None else _all_late(words))


async def _settle(node: Node, durable: str, words: Settle, body: dict[str, object]) -> dict[str, object] | None:
    """Settle where the durable's batches are: here, or in another worker."""
    mesh = node.mesh
    if mesh is None or (home := home_of_durable(durable, mesh.count)) == mesh.index:
        return await node.pulls.settle(durable, words)
    said = orjson.dumps({"durable": durable, "words": {"confirm": True, **body}})
    found: dict[str, object] | None = orjson.loads(await mesh.ask(home, "settle", said, SETTLE_WITHIN_S))
    return found


def _answer(pulled: Pulled) -> Response:
    head = {
        "lease_s": round(pulled.lease_s, 3),
        "gaps": [{"from": one.first, "to": one.last, "reason": one.reason} for one in pulled.gaps],
        "pending": pulled.pending,
    }
    if pulled.batch is None:
        return json_response({"type": "events", "batch": None, **head, "messages": []})
    events = encode_events(pulled.batch, pulled.messages).encode()
    return Response(200, orjson.dumps(head)[:-1] + b"," + events[1:])


def _all_late(words: Settle) -> dict[str, object]:
    """Give the answer for a batch that is not outstanding here: whatever is said of it comes too late."""
    spans = sorted([*words.ack, *(one for one, _ in words.nak), *(one for one, _ in words.term), *words.progress])
    return {"type": "settled", "batch": words.batch, "confirmed": [], "late": spans}


def _read_wait(text: str) -> float:
    if not text:
        return 0.0
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0.0 <= wait_s <= MOST_WAIT_S:
        raise Refused("request.bad-parameter", f"wait: expected 0 to {MOST_WAIT_S:g} seconds (it is {text[:40]!r})")
    return wait_s
