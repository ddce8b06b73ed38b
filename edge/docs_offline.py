"""The route table without a gateway, for its words alone: `headgate openapi` and the tests.

Rules of the file:
- Nothing of such a table can be called; only what is said about it is true.
"""

from typing import Any, cast

from edge.documents import asyncapi_of, openapi_of
from edge.guard import Guard
from edge.node import Node
from edge.routes import RouteTable
from edge.table import make_table


class _NoGateway:
    """Stands where the table asks for parts of a running gateway."""

    def __getattr__(self, name: str) -> "_NoGateway":
        return self


def bare_table() -> RouteTable:
    """Give the route table, bound to no gateway."""
    return make_table(cast("Node", _NoGateway()), cast("Guard", _NoGateway()))


def offline_documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the OpenAPI and the AsyncAPI document of this release."""
    table = bare_table()
    return openapi_of(table.routes), asyncapi_of(table.sockets.values())
