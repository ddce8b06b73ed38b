"""`POST /auth/token`: an API key for a short-lived token (wire, S0.27).

Rules of the file:
- It needs a key even while authentication is off: clients in the field take a 401 as "the key is wrong".
"""

from edge.guard import credential_of
from edge.http import Request, Response, json_response
from edge.node import Node
from engine.errors import Refused


async def post_token(node: Node, request: Request) -> Response:
    """Exchange a key for a token.

    Raises:
        Refused: there is no key, or it is not valid here.
    """
    credential = credential_of(request.headers)
    if credential is None:
        raise Refused("identity.no-credentials", "expected an API key: Authorization: Bearer <key>")
    token, expires_in_s = node.identity.exchange(credential)
    return json_response({"accessToken": token, "expiresIn": expires_in_s, "tokenType": "Bearer"})
