"""`/stream/dead`: what agents gave up on, and publishing it again.

Rules of the file:
- A page is bounded in letters and in bytes; `next` says where the following one begins.
"""

from typing import Final

from edge.consumers import read_count
from edge.http import Request, Response, json_response
from edge.node import Node
from engine.dead import Letter
from engine.errors import Refused
from engine.names import check_token

DEFAULT_LETTERS: Final = 20
MOST_LETTERS: Final = 100
MOST_ID: Final = 2**53


async def get_dead(node: Node, request: Request) -> Response:
    """Give a page of dead letters: `?durable=&after=&limit=`."""
    parameters = request.parameters()
    durable = parameters.get("durable", "")
    try:
        durable = durable and check_token(durable)
    except ValueError as problem:
        raise Refused("request.bad-parameter", f"durable: {problem} (it is {durable[:80]!r})") from None
    request.principal.check_durable(durable)  # whoever may use some must name one
    after = read_count(parameters, "after", 0, 0, MOST_ID)
    limit = read_count(parameters, "limit", DEFAULT_LETTERS, 1, MOST_LETTERS)
    found, following = await node.dead.list_all(durable, after, limit)
    return json_response({"dead": found, "next": following})


async def post_replay(node: Node, request: Request) -> Response:
    """Publish a letter's message again and remove the letter."""
    text = request.path_parameters["id"]
    letter_id = read_count({"id": text}, "id", 0, 1, MOST_ID)
    principal = request.principal

    def check(letter: Letter) -> None:
        request.facts.update(durable=letter.origin.durable, subject=letter.origin.subject)
        principal.check_durable(letter.origin.durable)
        principal.check_subject(letter.origin.subject)

    replayed = await node.dead.replay(letter_id, check)
    request.facts["seq"] = replayed["seq"]
    return json_response(replayed)
