"""What `POST /auth/token` takes and gives.

Rules of the file:
- Its twin under `/api` is the same and is not repeated.
"""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from edge.shapes import Operation, json_answer


class Token(Struct):
    """A short-lived token."""

    accessToken: str  # noqa: N815  # the wire's name
    expiresIn: Annotated[float, Meta(description="seconds")]  # noqa: N815  # the wire's name
    tokenType: Literal["Bearer"]  # noqa: N815  # the wire's name


OPERATIONS: Final[dict[str, Operation]] = {
    "POST /auth/token": Operation(
        "identity",
        "The key comes as `Authorization: Bearer` or `X-API-Key`; a body is not looked at. The token may do what its "
        "key may, for as long as the key is valid.",
        json_answer("The token.", Token),
        errors=("identity.no-credentials", "identity.bad-credentials", "identity.expired", "request.too-large"),
    ),
}
