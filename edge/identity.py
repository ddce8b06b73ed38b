"""`POST /auth/token`: an API key for a short-lived token (wire, S0.27).

Rules of the file:
- It needs a key even while authentication is off: clients in the field take a 401 as "the key is wrong".
"""

from edge.guard import credential_of
from edge.http import Request, Response, json_response
from edge.node import Node
from engine.errors import Refused
from engine.identity import Principal


def key_holder(node: Node, request: Request) -> Principal:
    """Say whose key a request for a token brings.

    Raises:
        Refused: it brings none, or it is not valid here.
    """
    return node.identity.find_key(_credential(request)).principal()


async def post_token(node: Node, request: Request) -> Response:
    """Exchange a key for a token.

    Raises:
        Refused: there is no key, or it is not valid here.
    """
    token, expires_in_s = node.identity.exchange(_credential(request))
    request.facts["expires_in_s"] = expires_in_s
    return json_response({"accessToken": token, "expiresIn": expires_in_s, "tokenType": "Bearer"})


def _credential(request: Request) -> str:
    credential = credential_of(request.headers)
    if credential is None:
        raise Refused("identity.no-credentials", "expected an API key: Authorization: Bearer <key>")
    return credential
